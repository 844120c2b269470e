//! A repository in a bucket, reached with the properties that the client gave.

use backstay::store::{Location, S3Location, Store};
use md5::{Digest as _, Md5};

/// A repository as a cluster knows it.
pub struct Repository {
    pub id: i64,
    pub name: String,
    pub location: String,
    pub read_only: bool,
    pub created: String,
    pub trouble: Option<String>,
    store: Store,
}

const KNOWN: &[&str] = &[
    "aws.s3.access_key",
    "aws.s3.secret_key",
    "aws.s3.endpoint",
    "aws.s3.region",
    "aws.s3.use_instance_profile",
    "aws.s3.iam_role_arn",
    "aws.s3.enable_path_style_access",
    "aws.s3.enable_ssl",
];

pub fn md5(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

impl Repository {
    /// Connects, adopts what lies there, or makes it.
    pub fn create(
        runtime: &tokio::runtime::Handle,
        (id, name, location): (i64, &str, &str),
        read_only: bool,
        properties: &[(String, String)],
        now: &str,
    ) -> Result<Self, String> {
        let first = name.chars().next().unwrap_or(' ');
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.len() > 64 || !name.chars().all(word) || !first.is_ascii_alphabetic() {
            return Err(format!("Incorrect repository name '{name}'"));
        }
        if let Some((key, _)) = properties.iter().find(|(key, _)| !KNOWN.contains(&key.as_str())) {
            return Err(format!("unknown property {key}"));
        }
        let get = |key: &str| properties.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        let rest = location
            .strip_prefix("s3://")
            .or_else(|| location.strip_prefix("s3a://"))
            .ok_or_else(|| format!("Invalid location {location}"))?;
        assert!(!rest.ends_with('/'), "older versions make two slashes of one at the end");
        let (bucket, prefix) = rest.split_once('/').ok_or("no path")?;
        let (Some(key), Some(secret)) = (get("aws.s3.access_key"), get("aws.s3.secret_key")) else {
            return Err("Failed to create repository: no credentials".into());
        };
        assert_eq!(get("aws.s3.enable_path_style_access").as_deref(), Some("true"));
        let place = Location::S3(S3Location {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: get("aws.s3.endpoint"),
            region: get("aws.s3.region"),
            access_key_id: Some(key.into()),
            secret_access_key: Some(secret.into()),
            allow_http: get("aws.s3.enable_ssl").as_deref() == Some("false"),
            http_is_meant: true,
            retry_for: Some(std::time::Duration::from_secs(2)),
            ..S3Location::default()
        });
        let failed = |error: backstay::error::Error| {
            format!("Failed to create repository: {}", error.chain())
        };
        let store = place.connect(runtime, false).map_err(failed)?;
        let mut made = Self {
            id,
            name: name.to_owned(),
            location: location.to_owned(),
            read_only,
            created: now.to_owned(),
            trouble: None,
            store,
        };
        let info = format!("{}/__repo_info", made.root());
        match made.read(&info) {
            Some(bytes) => {
                let known: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                if known["name"] != name {
                    return Err(format!(
                        "Failed to create repository: it is called {}",
                        known["name"]
                    ));
                }
                made.created = known["create_time"].as_str().unwrap().to_owned();
            }
            None if read_only => {
                return Err("Failed to create repository: it does not exist".to_owned());
            }
            None => {
                let body = format!("{{\"name\":\"{name}\",\"create_time\":\"{now}\"}}");
                made.put(&info, body.as_bytes())?;
            }
        }
        Ok(made)
    }

    pub fn root(&self) -> String {
        format!("__starrocks_repository_{}", self.name)
    }

    pub fn snapshot(&self, label: &str) -> String {
        format!("{}/__ss_{label}", self.root())
    }

    pub fn put(&self, path: &str, bytes: &[u8]) -> Result<(), String> {
        self.store.put_unique(path, bytes.to_vec()).map(drop).map_err(|error| error.to_string())
    }

    /// Writes a file under its name with the digest behind, and returns that name.
    pub fn put_named(&self, directory: &str, name: &str, bytes: &[u8]) -> Result<String, String> {
        let name = format!("{name}.{}", md5(bytes));
        self.put(&format!("{directory}/{name}"), bytes)?;
        Ok(name)
    }

    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.store.read_if_exists(path, 1 << 30).ok().flatten().map(|bytes| bytes.to_vec())
    }

    /// Names right below a directory of the repository.
    pub fn names(&self, directory: &str) -> Result<Vec<String>, String> {
        let listed = self.store.list(directory).map_err(|error| error.chain())?;
        let mut names: Vec<String> = listed
            .iter()
            .filter_map(|object| object.key.strip_prefix(directory)?.strip_prefix('/'))
            .map(|rest| rest.split('/').next().unwrap().to_owned())
            .collect();
        names.dedup();
        Ok(names)
    }

    /// The one file whose name begins so, if its content is what its name says.
    pub fn one(&self, directory: &str, prefix: &str) -> Result<Vec<u8>, String> {
        let names = self.names(directory)?;
        let matching: Vec<&String> = names.iter().filter(|name| name.starts_with(prefix)).collect();
        let [name] = matching.as_slice() else {
            return Err(format!(
                "Expected one file with path: {directory}/{prefix}. get: {}",
                matching.len()
            ));
        };
        let bytes = self.read(&format!("{directory}/{name}")).ok_or("gone")?;
        let remote = name.rsplit('.').next().unwrap();
        if md5(&bytes) != remote {
            return Err(format!("md5sum does not equal. local: {}, remote: {remote}", md5(&bytes)));
        }
        Ok(bytes)
    }

    /// Timestamps of a snapshot.
    pub fn stamps(&self, label: &str) -> Result<Vec<String>, String> {
        let names = self.names(&self.snapshot(label))?;
        Ok(names
            .iter()
            .filter_map(|name| name.strip_prefix("__info_"))
            .map(|name| match name.ends_with(".part") {
                true => format!("Invalid: {name}"),
                false => name.split('.').next().unwrap().to_owned(),
            })
            .collect())
    }
}
