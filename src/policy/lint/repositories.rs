//! Repositories: addresses, credentials, keys, locks.

use url::Url;

use super::Findings;
use crate::policy::{
    recipient::{RecipientError, check_person, check_recipient},
    redact::holds_key_material,
    repository::{Encryption, Prune, Repository, S3Repository, Storage},
};

pub(super) fn check(findings: &mut Findings<'_>) {
    let policy = findings.policy;
    if findings.names("repositories").is_empty() {
        findings.error_at_key(
            &["repositories"],
            "no repository",
            "add one: `repositories: { main: { s3: { bucket: NAME } } }`",
        );
    }
    for (name, repository) in &policy.repositories {
        let path = ["repositories", name.as_str()];
        match &repository.storage {
            Storage::Local(local) => {
                let at = [path[0], path[1], "local", "path"];
                super::sources::absolute(findings, &at, &local.path);
            }
            Storage::S3(s3) => check_s3(findings, &[path[0], path[1], "s3"], s3),
            Storage::Azure(azure) => {
                let at = [path[0], path[1], "azure"];
                check_prefix(findings, &at, &azure.prefix);
                if let Some(endpoint) = &azure.endpoint {
                    let at = [&at[..], &["endpoint"]].concat();
                    check_address(findings, &at, endpoint, azure.allow_http, true);
                }
            }
            Storage::Gcs(gcs) => {
                let at = [path[0], path[1], "gcs"];
                check_prefix(findings, &at, &gcs.prefix);
                if let Some(endpoint) = &gcs.endpoint {
                    let at = [&at[..], &["endpoint"]].concat();
                    check_address(findings, &at, endpoint, gcs.allow_http, false);
                }
            }
        }
        if let Some(encryption) = &repository.encryption {
            check_encryption(findings, name, encryption);
        } else if is_written_directly(findings, name) {
            findings.warning_at_key(
                &path,
                format!(
                    "repository `{name}` is not encrypted: whoever reads the store reads the data"
                ),
                "add `encryption: { recipients: [\"age1…\"] }`; `backstay key generate` makes a key",
            );
        }
        if repository.object_lock.is_some() && repository.s3().is_none() {
            let what = if repository.local().is_some() {
                "a local directory has no object lock"
            } else {
                "object lock works with S3-compatible stores only"
            };
            findings.error_at_key(
                &["repositories", name, "object_lock"],
                what,
                "remove `object_lock`, or use a bucket",
            );
        }
        check_class(findings, name, repository);
        check_prune(findings, name, repository);
        if repository.limits.connections == Some(0) {
            findings.error(
                &["repositories", name, "limits", "connections"],
                "no connections are allowed",
                "write 1 or more",
            );
        }
    }
    check_same_place(findings);
}

/// Whether backups are made into it, and not only copied (copies stay encrypted as they are).
fn is_written_directly(findings: &Findings<'_>, name: &str) -> bool {
    let policy = findings.policy;
    let default = policy.default_repository().is_some_and(|(default, _)| default == name);
    policy.sources.values().any(|source| match &source.repository {
        Some(repository) => repository == name,
        None => default,
    })
}

/// Checks a bucket that is written at `base`.
pub(super) fn check_s3(findings: &mut Findings<'_>, base: &[&str], s3: &S3Repository) {
    let at = |key| [base, &[key]].concat();
    if let Some(wrong) = bad_bucket(&s3.bucket) {
        findings.error(
            &at("bucket"),
            format!("bad bucket name `{}`: {wrong}", s3.bucket),
            "bucket names are 3 to 63 of a-z, 0-9, `-` and `.`; a path inside the bucket goes to `prefix`",
        );
    }
    check_prefix(findings, base, &s3.prefix);
    check_endpoint(findings, &at("endpoint"), s3);
    if let Some(file) = &s3.ca_file {
        super::sources::absolute(findings, &at("ca_file"), file);
    }
    match (&s3.access_key_id, &s3.secret_access_key) {
        (Some(_), None) => findings.error(
            &at("access_key_id"),
            "`access_key_id` without `secret_access_key`",
            "give both, or neither to use the environment's or the instance's credentials",
        ),
        (None, Some(_)) => findings.error(
            &at("secret_access_key"),
            "`secret_access_key` without `access_key_id`",
            "give both, or neither to use the environment's or the instance's credentials",
        ),
        (None, None) if s3.session_token.is_some() => findings.error(
            &at("session_token"),
            "`session_token` without `access_key_id` and `secret_access_key`",
            "temporary credentials have three parts: give all, or none",
        ),
        _ => {}
    }
}

/// A class whose objects are not thawed in time makes an objective of no worth.
fn check_class(findings: &mut Findings<'_>, name: &str, repository: &Repository) {
    let Some(class) = repository.storage_class else { return };
    let at = ["repositories", name, "storage_class"];
    if repository.s3().is_none() {
        findings.error_at_key(
            &at,
            "only buckets of S3-compatible stores have these storage classes",
            "remove `storage_class`, or use a bucket",
        );
        return;
    }
    let Some(thaw) = class.thaws_within() else { return };
    let policy = findings.policy;
    let rto = |source: &&String| policy.objectives_of(source).rto;
    let of = |source: &&String| policy.repository_of(source).is_some_and(|(home, _)| home == name);
    let strictest = policy.sources.keys().filter(of).min_by_key(rto);
    match strictest {
        Some(source) if rto(&source) < thaw => findings.error(
            &at,
            format!(
                "objects of class {} are thawed for up to {thaw}, and the RTO of {source} is {}",
                class.name(),
                rto(&source)
            ),
            "choose a class that is read at once, such as `glacier_ir`, or copy to a repository with this class",
        ),
        Some(_) => {}
        None => findings.warning(
            &at,
            format!("objects of class {} are thawed for up to {thaw} before they can be read", class.name()),
            "recovery from these copies begins that much later",
        ),
    }
}

fn check_prefix(findings: &mut Findings<'_>, base: &[&str], prefix: &str) {
    let mut parts = prefix.split('/');
    if !prefix.is_empty() && parts.any(|part| matches!(part, "" | "." | "..")) {
        findings.error(
            &[base, &["prefix"]].concat(),
            format!("bad prefix `{prefix}`"),
            "write it without slashes at the ends, and without empty parts, `.` and `..`",
        );
    }
}

fn check_prune(findings: &mut Findings<'_>, name: &str, repository: &Repository) {
    let prune = &repository.prune;
    let at = |key| ["repositories", name, "prune", key];
    if prune.grace.is_some_and(|grace| grace < Prune::SHORTEST_GRACE) {
        findings.error(
            &at("grace"),
            "a grace period under 24h",
            "who reads without the right to write relies on it: write 24h or more",
        );
    }
    let given = prune.access_key_id.is_some();
    if given != prune.secret_access_key.is_some() {
        let key = if given { "access_key_id" } else { "secret_access_key" };
        findings.error(
            &at(key),
            "credentials for prune have two parts",
            "give `access_key_id` and `secret_access_key`, or neither",
        );
    } else if given && repository.s3().is_none() {
        findings.error(
            &at("access_key_id"),
            "only S3-compatible stores take other credentials for prune",
            "remove them; prune works with the rights of its user, or those of the repository",
        );
    }
}

fn bad_bucket(bucket: &str) -> Option<&'static str> {
    let alphanumeric = |byte: Option<u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    if bucket.contains("://") || bucket.contains('/') {
        return Some("it is not an address or a path");
    }
    if !(3..=63).contains(&bucket.len()) {
        return Some("it has the wrong length");
    }
    if bucket.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some("capital letters are not allowed");
    }
    if bucket.contains('_') {
        return Some("`_` is not allowed");
    }
    if !bucket.bytes().all(|byte| alphanumeric(Some(byte)) || b"-.".contains(&byte)) {
        return Some("it has a character that is not allowed");
    }
    if !alphanumeric(bucket.bytes().next()) || !alphanumeric(bucket.bytes().last()) {
        return Some("it must start and end with a letter or digit");
    }
    if bucket.contains("..") || bucket.parse::<std::net::Ipv4Addr>().is_ok() {
        return Some("it has two dots in a row, or looks like an IP address");
    }
    None
}

fn check_endpoint(findings: &mut Findings<'_>, path: &[&str], s3: &S3Repository) {
    let Some(endpoint) = &s3.endpoint else { return };
    check_address(findings, path, endpoint, s3.allow_http, false);
}

/// Checks the address of a server. `with_path`: an account may stand in its path.
fn check_address(
    findings: &mut Findings<'_>,
    path: &[&str],
    endpoint: &str,
    allow_http: bool,
    with_path: bool,
) {
    let url = match Url::parse(endpoint) {
        Ok(url) if url.has_host() && matches!(url.scheme(), "http" | "https") => url,
        _ => {
            findings.error(
                path,
                "the endpoint is not an address",
                "write `https://HOST` or `https://HOST:PORT`",
            );
            return;
        }
    };
    if url.password().is_some() || !url.username().is_empty() {
        findings.error(
            path,
            "the endpoint has credentials in it",
            "take them out: `access_key_id` and `secret_access_key` are for them, as references",
        );
    } else if (url.path() != "/" && !with_path) || url.query().is_some() || url.fragment().is_some()
    {
        findings.error(
            path,
            "the endpoint has a path in it",
            "write only `https://HOST[:PORT]`; `bucket` and `prefix` are keys of their own",
        );
    } else if url.scheme() == "http" && !allow_http {
        findings.error(
            path,
            "the endpoint has no TLS",
            "write https://, or add `allow_http: true` if anyone on the network may watch and alter",
        );
    }
}

fn check_encryption(findings: &mut Findings<'_>, name: &str, encryption: &Encryption) {
    let path = ["repositories", name, "encryption"];
    let recipients = [path[0], path[1], path[2], "recipients"];
    if encryption.recipients.is_empty() {
        findings.error(
            &recipients,
            "no recipient: nobody could restore",
            "add the public key that `backstay key generate` prints, and keep its secret off this host",
        );
    }
    for (index, recipient) in encryption.recipients.iter().enumerate() {
        let index_text = index.to_string();
        let at = [path[0], path[1], path[2], "recipients", &index_text];
        check_key(findings, &at, check_person(recipient));
        if encryption.recipients[..index].contains(recipient) {
            findings.warning(&at, "this recipient is given twice", "remove one");
        }
    }
    if encryption.recipients.len() == 1 {
        findings.warning(
            &recipients,
            "a single recipient: if its secret is lost, so is every backup",
            "add a second one whose secret lies elsewhere, such as in a safe",
        );
    }
    if let Some(key) = &encryption.repository_key {
        check_key(findings, &[path[0], path[1], path[2], "repository_key"], check_recipient(key));
    }
    if encryption.identity.is_some() {
        findings.warning_at_key(
            &[path[0], path[1], path[2], "identity"],
            "a recovery identity on the backup host: who takes this host can read every backup",
            "remove it and give `--identity FILE` when restoring; `writer_identity` is enough for backups",
        );
    }
}

fn check_key(findings: &mut Findings<'_>, path: &[&str], checked: Result<(), RecipientError>) {
    let Err(error) = checked else {
        return;
    };
    let hint = match error {
        RecipientError::Identity => {
            "treat it as leaked: make a new key with `backstay key generate`, keep the secret off this host, and write its public key here"
        }
        RecipientError::Checksum | RecipientError::Length | RecipientError::Character => {
            "copy it again from the output of `backstay key generate`, or `age-keygen -y FILE`"
        }
        _ => "write an X25519 recipient as `backstay key generate` makes it: age1…",
    };
    findings.error(path, error.to_string(), hint);
}

/// Two names for one place would copy backups onto themselves.
fn check_same_place(findings: &mut Findings<'_>) {
    let repositories: Vec<(&String, &Repository)> = findings.policy.repositories.iter().collect();
    for (index, (name, one)) in repositories.iter().enumerate() {
        let same = repositories[..index].iter().find(|(_, other)| place(one) == place(other));
        if let Some((other, _)) = same {
            findings.error_at_key(
                &["repositories", name],
                format!("repository `{name}` is the same place as `{other}`"),
                "give it another bucket, prefix or path, or remove it",
            );
        }
    }
}

fn place(repository: &Repository) -> (String, String, String) {
    match &repository.storage {
        Storage::Local(local) => {
            let components: std::path::PathBuf = local.path.components().collect();
            (String::new(), String::new(), components.display().to_string())
        }
        Storage::S3(s3) => (
            s3.endpoint
                .clone()
                .unwrap_or_else(|| "aws".to_owned())
                .trim_end_matches('/')
                .to_lowercase(),
            s3.bucket.clone(),
            s3.prefix.clone(),
        ),
        Storage::Azure(azure) => {
            (format!("azure {}", azure.account), azure.container.clone(), azure.prefix.clone())
        }
        Storage::Gcs(gcs) => {
            (format!("gcs {:?}", gcs.endpoint), gcs.bucket.clone(), gcs.prefix.clone())
        }
    }
}

/// Whether two repositories lie in one bucket, or on one machine's disks.
pub(super) fn share_fate(one: &Repository, other: &Repository) -> bool {
    match (&one.storage, &other.storage) {
        (Storage::S3(_), Storage::S3(_))
        | (Storage::Azure(_), Storage::Azure(_))
        | (Storage::Gcs(_), Storage::Gcs(_)) => {
            let ((endpoint, bucket, _), (other_endpoint, other_bucket, _)) =
                (place(one), place(other));
            endpoint == other_endpoint && bucket == other_bucket
        }
        (Storage::Local(_), Storage::Local(_)) => true,
        _ => false,
    }
}

/// Secret keys in places where no rule of their own finds them.
pub(super) fn check_key_material(findings: &mut Findings<'_>, path: &[&str], text: &str) {
    if holds_key_material(text) {
        findings.error(
            path,
            "a secret key is written here",
            "treat it as leaked: make a new one, and refer to it with ${file:PATH}",
        );
    }
}
