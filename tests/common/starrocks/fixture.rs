//! A cluster, buckets and a sandbox with a policy that backs the one up into the others.

use std::fs;
use std::process::Command;

use super::StarRocks;
use crate::common::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use crate::common::{Ran, Sandbox};

/// The directory of the source in its bucket.
pub const PLACE: &str = "site/sr/sources/warehouse";

/// Everything that a test needs.
pub struct Fixture {
    pub cluster: StarRocks,
    pub bucket: S3Server,
    pub offsite: S3Server,
    pub sandbox: Sandbox,
}

impl Fixture {
    /// A cluster of this version with two databases, and a repository that exists.
    pub fn new(version: &str) -> Self {
        Self::with(version, 1, "")
    }

    /// The same with so many frontends, and further settings of the source.
    pub fn with(version: &str, frontends: usize, settings: &str) -> Self {
        let fixture = Self {
            cluster: StarRocks::start(version, frontends),
            bucket: S3Server::start(),
            offsite: S3Server::start(),
            sandbox: Sandbox::new(),
        };
        {
            let mut world = fixture.cluster.world();
            world.table("dw", "orders", &["p20260101", "p20260102", "p20260103"]);
            world.load("dw", "orders", "p20260101", &["1,a", "2,b", "3,c"]);
            world.load("dw", "orders", "p20260102", &["4,d"]);
            world.table("dw", "customers", &[]);
            world.load("dw", "customers", "customers", &["ann", "bob"]);
            let view = "CREATE VIEW `v` AS SELECT `id` FROM `dw`.`orders`".to_owned();
            world.database("dw").views.insert("v".into(), view);
            let view = "CREATE MATERIALIZED VIEW `mv` AS SELECT `id` FROM `dw`.`orders`".to_owned();
            world.database("dw").materialized.insert("mv".into(), view);
            world.table("mart", "daily", &[]);
            world.load("mart", "daily", "daily", &["x"]);
        }
        fixture.write_policy(settings);
        fixture.run(&["init"]).expect(0);
        fixture.run(&["init", "offsite"]);
        fixture
    }

    /// Writes the policy.
    pub fn write_policy(&self, settings: &str) {
        let sandbox = &self.sandbox;
        fs::write(sandbox.path("password"), &self.cluster.world().password).unwrap();
        let s3 = |server: &S3Server| {
            format!(
                "s3: {{ bucket: {BUCKET}, prefix: site, endpoint: \"{}\", region: us-east-1, allow_http: true, \
                 access_key_id: \"${{env:T_ACCESS}}\", secret_access_key: \"${{env:T_SECRET}}\" }}",
                server.endpoint()
            )
        };
        let encryption = format!(
            "encryption: {{ recipients: [{}], writer_identity: \"${{file:{}}}\" }}",
            sandbox.public,
            sandbox.path("writer.key").display()
        );
        let frontends = self.cluster.addresses().join("\", \"");
        let text = format!(
            "version: 1\nstack: sr\ntier: development\ntimezone: UTC\nrepositories:\n  \
             main:\n    {}\n    {encryption}\n  offsite:\n    {}\n    {encryption}\n\
             sources:\n  warehouse:\n    starrocks:\n      frontends: [\"{frontends}\"]\n      \
             user: backup\n      password: \"${{file:{}}}\"\n      timeout: 1h\n      storage: {{ access_key_id: \"${{env:T_ACCESS}}\", \
             secret_access_key: \"${{env:T_SECRET}}\" }}\n{settings}\
             jobs:\n  daily: {{ sources: all, kind: incremental, schedule: {{ cron: \"0 3 * * *\" }}, keep: {{ for: 1s, at_least: 1 }} }}\n  \
             copies: {{ copy: {{ to: offsite }}, schedule: {{ after: [daily] }}, keep: {{ for: 8w, at_least: 3 }} }}\n",
            s3(&self.bucket),
            s3(&self.offsite),
            sandbox.path("password").display(),
        );
        fs::write(sandbox.path("policy.yaml"), text).unwrap();
    }

    /// The program, with credentials.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.command(args);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().to_lowercase();
            if text.starts_with("aws_") || text.ends_with("_proxy") {
                command.env_remove(name);
            }
        }
        command.env("T_ACCESS", ACCESS_KEY).env("T_SECRET", SECRET_KEY);
        command.env("BACKSTAY_TUNING", "grace=0,window=60,silence=0.2,linger=0");
        command
    }

    /// Runs it, and asserts that no secret is in what is printed.
    pub fn run(&self, args: &[&str]) -> Ran {
        let ran = Ran::from(&self.command(args).output().unwrap());
        let password = self.cluster.world().password.clone();
        for secret in [SECRET_KEY, &password, "AGE-SECRET-KEY-1"] {
            let told = ran.stdout.contains(secret) || ran.stderr.contains(secret);
            assert!(!told, "a secret is shown:\n{}\n{}", ran.stdout, ran.stderr);
        }
        ran
    }

    /// The same with the recovery key.
    pub fn run_with_key(&self, args: &[&str]) -> Ran {
        self.run(&[args, &["--identity", "recovery.key"]].concat())
    }

    /// Backs up, and returns the backup's id.
    #[track_caller]
    pub fn backup(&self, more: &[&str]) -> String {
        let ran = self.run(&[&["backup", "sr/warehouse"], more].concat()).expect(0);
        ran.stdout.trim().rsplit('@').next().unwrap().to_owned()
    }

    /// The manifest of a backup.
    pub fn manifest(&self, backup: &str) -> serde_json::Value {
        let path = format!("{BUCKET}/{PLACE}/commits/{backup}.json");
        serde_json::from_slice(&fs::read(self.bucket.root.path().join(path)).unwrap()).unwrap()
    }

    /// Labels in the manifest.
    pub fn labels(&self, backup: &str) -> Vec<String> {
        let manifest = self.manifest(backup);
        let list = manifest["snapshots"]["list"].as_array().unwrap().clone();
        list.iter().map(|one| one["label"].as_str().unwrap().to_owned()).collect()
    }

    /// Keys of snapshots in the bucket.
    pub fn snapshot_keys(&self) -> Vec<String> {
        self.bucket.keys_below(&format!("{PLACE}/starrocks"))
    }

    /// The file behind a key of the bucket.
    pub fn file(&self, key: &str) -> std::path::PathBuf {
        self.bucket.root.path().join(BUCKET).join(key)
    }

    /// Statements that begin so.
    pub fn sent(&self, start: &str) -> Vec<String> {
        self.cluster.statements().into_iter().filter(|text| text.starts_with(start)).collect()
    }
}
