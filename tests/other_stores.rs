//! One suite for every kind of store: what a repository does there from `init` to its last deletion,
//! through the program.

use std::fs;

use crate::common::azurite::{self, Azurite};
use crate::common::s3::{self, Dialect, S3Server};
use crate::common::{Ran, Sandbox, assert_same_tree, odd_tree};

/// A sandbox whose repository `main` is described by these lines.
fn sandbox(storage: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    odd_tree(&sandbox.path("src"));
    policy(&sandbox, storage);
    sandbox
}

fn policy(sandbox: &Sandbox, storage: &str) {
    let text = format!(
        "version: 1\nstack: demo\ntier: development\ntimezone: UTC\nrepositories:\n  main:\n    {storage}\n    \
         encryption: {{ recipients: [{}], writer_identity: \"${{file:{}}}\" }}\n  copy:\n    local: {{ path: \
         {} }}\nsources:\n  files: {{ directory: {{ path: {} }} }}\njobs:\n  daily: {{ sources: all, kind: \
         incremental, schedule: {{ cron: \"0 3 * * *\" }}, keep: {{ for: 7d, at_least: 1 }} }}\n  offsite: {{ \
         copy: {{ to: copy }}, schedule: {{ after: [daily] }}, keep: {{ for: 7d, at_least: 1 }} }}\n",
        sandbox.public,
        sandbox.path("writer.key").display(),
        sandbox.path("copy").display(),
        sandbox.path("src").display()
    );
    fs::write(sandbox.path("policy.yaml"), text).unwrap();
}

fn run(sandbox: &Sandbox, args: &[&str]) -> Ran {
    let mut args = args.to_vec();
    args.extend(["--identity", "recovery.key"]);
    let mut command = sandbox.command(&args);
    // Quick grace: the second prune deletes.
    command.env("BACKSTAY_TUNING", "linger=0");
    Ran::from(&command.output().unwrap())
}

/// From the first to the last thing that a repository does.
fn conforms(sandbox: &Sandbox, keys: &dyn Fn() -> Vec<String>) {
    let init = run(sandbox, &["init", "main", "--output", "json"]).expect(0).json();
    let findings = init[0]["probe"]["findings"].as_array().unwrap();
    // Creates never overwrite, thirty-two at once neither: proven before anything is trusted.
    for what in
        ["create only", "create race", "ranged read", "list after write", "multipart upload"]
    {
        let found = findings.iter().find(|found| found["what"] == what);
        assert_eq!(found.unwrap()["verdict"], "ok", "{init}");
    }
    assert!(keys().iter().all(|key| !key.contains("probe/")), "{:?}", keys());
    assert_eq!(init[0]["created"], true);
    // Once more, and the one for copies.
    run(sandbox, &["init"]).expect(0);
    run(sandbox, &["check"]).expect(0);
    run(sandbox, &["backup", "demo/files"]).expect(0);
    // More than one part.
    let mut random = vec![0; 18 << 20];
    fastrand::Rng::with_seed(7).fill(&mut random);
    fs::write(sandbox.path("src/large"), &random).unwrap();
    fs::write(sandbox.path("src/plain.txt"), "changed\n").unwrap();
    let second = run(sandbox, &["backup", "demo/files"]).expect(0).stdout;
    assert!(second.contains("-incr-"), "{second}");
    let listed = run(sandbox, &["list", "--repository", "main"]).expect(0).stdout;
    assert_eq!(listed.lines().count(), 3, "{listed}");
    run(sandbox, &["verify", "--depth", "content", "--repository", "main"]).expect(0);
    run(sandbox, &["restore", "demo/files", "--to", "out"]).expect(0);
    assert_same_tree(&sandbox.path("src"), &sandbox.path("out"));
    run(sandbox, &["copy", "--to", "copy", "demo/files"]).expect(0);
    run(sandbox, &["restore", "demo/files", "--to", "again", "--repository", "copy"]).expect(0);
    assert_same_tree(&sandbox.path("src"), &sandbox.path("again"));
    let second = second.trim().rsplit('@').next().unwrap();
    run(sandbox, &["pin", second, "--repository", "main"]).expect(0);
    run(sandbox, &["unpin", second, "--repository", "main"]).expect(0);
    run(sandbox, &["delete", second, "--last", "--yes", "--repository", "main"]).expect(0);
    let listed = run(sandbox, &["list", "--repository", "main"]).expect(0).stdout;
    assert_eq!(listed.lines().count(), 2, "{listed}");
    run(sandbox, &["prune", "--yes", "--repository", "main"]).expect(0);
    run(sandbox, &["policy", "list", "--repository", "main"]).expect(0);
}

#[test]
fn azure_blob_storage_conforms() {
    let Some(azurite) = Azurite::start() else { return };
    let sandbox = Sandbox::new();
    let key = sandbox.path("account.key");
    let storage = |container: &str, key: &std::path::Path| {
        format!(
            "azure: {{ container: {container}, prefix: deep/repo, account: {}, endpoint: \"{}\", allow_http: \
             true, access_key: \"${{file:{}}}\" }}",
            azurite::ACCOUNT,
            azurite.endpoint(),
            key.display()
        )
    };
    fs::write(&key, azurite::KEY).unwrap();
    let bench = self::sandbox(&storage(azurite::CONTAINER, &key));
    conforms(&bench, &Vec::new);
    policy(&bench, &storage("missing", &key));
    let missing = run(&bench, &["list", "--repository", "main"]);
    assert!(missing.code == 1, "{}", missing.stderr);
    fs::write(&key, "bm90IHRoZSBrZXk=").unwrap();
    policy(&bench, &storage(azurite::CONTAINER, &key));
    let denied = run(&bench, &["list", "--repository", "main"]);
    assert!(denied.code == 1 && !denied.stderr.contains("bm90"), "{}", denied.stderr);
    // Without a policy.
    let url = format!(
        "az://{}/deep/repo?account={}&endpoint={}",
        azurite::CONTAINER,
        azurite::ACCOUNT,
        azurite.endpoint()
    );
    let mut command = bench.bare(&["list", "--repository", &url]);
    command.env("AZURE_STORAGE_ACCOUNT_KEY", azurite::KEY);
    assert!(Ran::from(&command.output().unwrap()).expect(0).stdout.contains("demo/files"));
}

#[test]
fn google_cloud_storage_conforms() {
    let server = S3Server::start_as(Dialect::Gcs);
    let sandbox = Sandbox::new();
    let key = sandbox.path("account.json");
    // No token is asked for: there is nobody to ask.
    fs::write(
        &key,
        "{\"disable_oauth\": true, \"client_email\": \"\", \"private_key\": \"\", \"private_key_id\": \"\"}",
    )
    .unwrap();
    let storage = format!(
        "gcs: {{ bucket: {}, prefix: deep/repo, endpoint: \"{}\", allow_http: true, service_account_key: \
         \"${{file:{}}}\" }}",
        s3::BUCKET,
        server.endpoint(),
        key.display()
    );
    conforms(&self::sandbox(&storage), &|| server.keys());
    let creates =
        server.seen().iter().filter(|seen| seen.create.as_deref() == Some("goog")).count();
    assert!(creates > 32, "creates were not conditional: {creates}");
}

fn s3_compatible(server: &S3Server, profile: &str, dir: &Sandbox) -> String {
    fs::write(dir.path("id"), s3::ACCESS_KEY).unwrap();
    fs::write(dir.path("secret"), s3::SECRET_KEY).unwrap();
    format!(
        "s3: {{ bucket: {}, prefix: repo, endpoint: \"{}\", allow_http: true, profile: {profile}, \
         virtual_hosted: false, access_key_id: \"${{file:{}}}\", secret_access_key: \"${{file:{}}}\" }}",
        s3::BUCKET,
        server.endpoint(),
        dir.path("id").display(),
        dir.path("secret").display()
    )
}

#[test]
fn oss_cos_and_obs_conform() {
    for (profile, dialect, sent) in [
        ("oss", Dialect::Oss { versions: false }, Some("oss")),
        ("cos", Dialect::Cos { versions: false }, Some("cos")),
        ("obs", Dialect::S3, None),
    ] {
        let server = S3Server::start_as(dialect);
        let dir = Sandbox::new();
        conforms(&self::sandbox(&s3_compatible(&server, profile, &dir)), &|| server.keys());
        let creates = server.seen().iter().filter(|seen| seen.create.as_deref() == sent).count();
        assert!(creates > 32, "{profile}: creates were not conditional: {creates}");
    }
}

#[test]
fn where_a_create_overwrites_is_no_repository() {
    for (profile, dialect, name) in [
        ("oss", Dialect::Oss { versions: true }, "OSS"),
        ("cos", Dialect::Cos { versions: true }, "COS"),
    ] {
        let server = S3Server::start_as(dialect);
        let dir = Sandbox::new();
        let bench = sandbox(&s3_compatible(&server, profile, &dir));
        let refused = run(&bench, &["init", "main"]);
        assert!(refused.code == 1, "{}", refused.stderr);
        assert!(refused.stderr.contains("keeps versions"), "{}", refused.stderr);
        assert!(
            refused.stderr.contains(&format!("{name} lets a create overwrite")),
            "{}",
            refused.stderr
        );
        assert_eq!(server.keys(), [""; 0]);
    }
    // Without its profile such a store is found out: it knows nothing of `If-None-Match`.
    let server = S3Server::start_as(Dialect::Oss { versions: false });
    let dir = Sandbox::new();
    let storage = s3_compatible(&server, "obs", &dir);
    let refused = run(&sandbox(&storage), &["init", "main"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("cannot be trusted"),
        "{}",
        refused.stderr
    );
}
