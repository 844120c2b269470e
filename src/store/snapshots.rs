//! Snapshots that StarRocks wrote into the directory of a source by itself.

use std::collections::BTreeMap;
use std::io::Read as _;

use bytes::Bytes;
use md5::{Digest as _, Md5};

use super::blocking::{BucketAddress, Listed};
use super::catalogue::SourceStore;
use super::lease::is_running;
use crate::archive::snapshot::{
    INFO, INFO_LIMIT, Info, META, REPOSITORY_INFO, repository_directory, snapshot_directory,
    split_digest,
};
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;
use crate::telemetry::Reporter;

/// What `__repo_info` may have.
const SMALL: u64 = 64 << 10;

/// The largest `__meta` that is read.
const META_LIMIT: u64 = 1 << 30;

/// Snapshots of one source.
#[derive(Debug, Clone)]
pub struct SnapshotStore {
    source: SourceStore,
}

/// One thing that is wrong with a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// The object or directory, relative to the source.
    pub object: String,
    /// What is wrong.
    pub problem: String,
}

/// What was found of a snapshot.
#[derive(Debug, Default)]
pub struct Examined {
    /// What it says of itself, if that could be read.
    pub info: Option<Info>,
    /// What is wrong with it.
    pub flaws: Vec<Flaw>,
    /// Objects below its directory.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl SnapshotStore {
    /// Those of this source.
    pub fn of(source: &SourceStore) -> Self {
        Self { source: source.clone() }
    }

    /// Whether a snapshot of this name was for another backup of this source, whose writer ran on the machine
    /// of the backup `own` and is gone.
    pub fn is_leftover(&self, label: &str, own: &BackupId) -> Result<bool> {
        let Some(backup) = super::layout::backup_of_label(label) else { return Ok(false) };
        let intents = self.source.intents()?;
        let writer = |wanted: &BackupId| {
            let mut all = intents.iter().map(|(intent, _)| intent);
            all.find(|intent| intent.backup == *wanted).map(|intent| intent.writer.clone())
        };
        let (Some(theirs), Some(ours)) = (writer(&backup), writer(own)) else { return Ok(false) };
        Ok(backup != *own && theirs.host == ours.host && !is_running(theirs.pid))
    }

    /// The bucket that they lie in. `None`: it is no bucket, and StarRocks cannot write there.
    pub fn bucket(&self) -> Option<&BucketAddress> {
        self.source.store().bucket()
    }

    /// The location that StarRocks is given: `s3://bucket/…`, without a slash at its end.
    pub fn location(&self) -> Option<String> {
        let bucket = self.bucket()?;
        let path = self.source.key(super::layout::SNAPSHOTS);
        Some(match bucket.prefix.as_str() {
            "" => format!("s3://{}/{path}", bucket.bucket),
            prefix => format!("s3://{}/{prefix}/{path}", bucket.bucket),
        })
    }

    /// The source's own name for a key of the store.
    fn path_of<'a>(&self, key: &'a str) -> &'a str {
        key.strip_prefix(&self.source.key("")).unwrap_or(key)
    }

    /// Objects of a snapshot, by path relative to the source.
    pub fn objects(&self, repository: &str, label: &str) -> Result<Vec<Listed>> {
        let directory = self.source.key(&snapshot_directory(repository, label));
        let mut listed = self.source.store().list(&directory)?;
        for object in &mut listed {
            object.key = self.path_of(&object.key).to_owned();
        }
        Ok(listed)
    }

    /// What tells StarRocks which repository it is.
    pub fn repository_info(&self, repository: &str) -> Result<Option<Bytes>> {
        let path = format!("{}/{REPOSITORY_INFO}", repository_directory(repository));
        self.source.store().read_if_exists(&self.source.key(&path), SMALL)
    }

    /// Brings what tells StarRocks which repository it is from another place.
    pub fn copy_repository_info(&self, from: &Self, repository: &str) -> Result<()> {
        let path = format!("{}/{REPOSITORY_INFO}", repository_directory(repository));
        let info = from.repository_info(repository)?.ok_or_else(|| {
            Error::damaged(format!("{path} is missing in {}", from.source.store().name()))
                .hint("without it StarRocks knows the repository by no name")
        })?;
        if self.source.store().create_ours(&self.source.key(&path), &info)? {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!("{path} in {} is that of another repository", self.source.store().name()),
        ))
    }

    /// Looks whether a snapshot is whole: exactly one `__info_` and `__meta` with the digests that
    /// their names say, and every file of every tablet. With `deep` all of it is read.
    pub fn examine(
        &self,
        repository: &str,
        label: &str,
        timestamp: Option<&str>,
        deep: bool,
        reporter: &Reporter,
    ) -> Result<Examined> {
        let root = format!("{}/", snapshot_directory(repository, label));
        let listed = self.objects(repository, label)?;
        let mut found = Examined {
            objects: listed.len() as u64,
            bytes: listed.iter().fold(0, |sum, object| sum.saturating_add(object.size)),
            ..Examined::default()
        };
        let mut names: BTreeMap<&str, u64> = BTreeMap::new();
        for object in &listed {
            let name = object.key.strip_prefix(&root).unwrap_or(&object.key);
            names.insert(name, object.size);
            if is_partial(name) {
                found.flaw(&root, name, "is the rest of an upload that did not end");
            }
        }
        let info = self.one(&root, &names, INFO, INFO_LIMIT, &mut found)?;
        self.one(&root, &names, META, META_LIMIT, &mut found)?;
        if let Some((name, bytes)) = info {
            match Info::parse(&bytes, &format!("{root}{name}")) {
                Ok(info) => {
                    check_info(&root, &name, &info, label, timestamp, &mut found);
                    check_tablets(&root, &names, &info, &mut found);
                    found.info = Some(info);
                }
                Err(error) => found.flaw(&root, &name, &error.chain()),
            }
        }
        if deep {
            for object in &listed {
                let Some((_, digest)) = split_digest(&object.key) else { continue };
                if self.digest_of(&object.key, object.size, reporter)? != digest {
                    found.flaw(
                        "",
                        &object.key,
                        "was altered: it has another MD5 than its name says",
                    );
                }
                reporter.progress().add_file();
            }
        }
        Ok(found)
    }

    /// The MD5 of an object's bytes.
    pub fn digest_of(&self, path: &str, size: u64, reporter: &Reporter) -> Result<String> {
        let mut object = self.source.open(path, size, reporter).whole();
        let mut digest = Md5::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            reporter.check()?;
            let read = object
                .read(&mut buffer)
                .map_err(|error| Error::io(format!("failed to read {path}"), error))?;
            if read == 0 {
                return Ok(hex::encode(digest.finalize()));
            }
            digest.update(&buffer[..read]);
            reporter.progress().add_bytes(read as u64);
        }
    }

    /// The one object whose name begins so, with its content, if that is what its name says.
    fn one(
        &self,
        root: &str,
        names: &BTreeMap<&str, u64>,
        prefix: &str,
        limit: u64,
        found: &mut Examined,
    ) -> Result<Option<(String, Bytes)>> {
        let is =
            |name: &&&str| name.starts_with(prefix) && !name.contains('/') && !is_partial(name);
        let mut matching = names.keys().filter(is);
        let (Some(name), None) = (matching.next(), matching.next()) else {
            let count = names.keys().filter(is).count();
            let problem = if count == 0 {
                "is missing: the snapshot was never finished, or lost it".to_owned()
            } else {
                format!("is there {count} times: StarRocks takes none of them")
            };
            found.flaw(root, prefix, &problem);
            return Ok(None);
        };
        let path = format!("{root}{name}");
        let Some((_, digest)) = split_digest(name) else {
            found.flaw(root, name, "has no MD5 in its name");
            return Ok(None);
        };
        match self.source.store().read_if_exists(&self.source.key(&path), limit) {
            Ok(Some(bytes)) if hex::encode(Md5::digest(&bytes)) == digest => {
                Ok(Some(((*name).to_owned(), bytes)))
            }
            Ok(Some(_)) => {
                found.flaw(root, name, "was altered: it has another MD5 than its name says");
                Ok(None)
            }
            Ok(None) => {
                found.flaw(root, name, "is missing");
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::Damaged => {
                found.flaw(root, name, &error.chain());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Examined {
    fn flaw(&mut self, root: &str, name: &str, problem: &str) {
        self.flaws.push(Flaw { object: format!("{root}{name}"), problem: problem.to_owned() });
    }
}

fn check_info(
    root: &str,
    name: &str,
    info: &Info,
    label: &str,
    timestamp: Option<&str>,
    found: &mut Examined,
) {
    let stamp = split_digest(name).and_then(|(name, _)| name.strip_prefix(INFO));
    if info.name != label {
        found.flaw(root, name, &format!("is of the snapshot `{}`", info.name.escape_debug()));
    }
    if timestamp.is_some() && stamp != timestamp {
        found.flaw(root, name, "has another timestamp than the backup recorded");
    }
    if info.backup_result != "succeed" {
        let result = info.backup_result.escape_debug();
        found.flaw(root, name, &format!("says that the backup ended with `{result}`"));
    }
}

/// Whether it is what an upload leaves that did not end.
fn is_partial(name: &str) -> bool {
    name.strip_suffix(".part").is_some()
}

/// Every file that `__info_` names has to be there, and every tablet has one.
fn check_tablets(root: &str, names: &BTreeMap<&str, u64>, info: &Info, found: &mut Examined) {
    // Newer versions may call the directory of a physical partition otherwise: then the tablet's
    // own id tells.
    let mut by_tablet: BTreeMap<&str, &str> = BTreeMap::new();
    for name in names.keys() {
        let Some((directory, _)) = name.rsplit_once('/') else { continue };
        if let Some(tablet) = directory.rsplit('/').next().and_then(|last| last.strip_prefix("__"))
        {
            by_tablet.insert(tablet, directory);
        }
    }
    for (tablet, place, files) in info.tablets() {
        if files.is_empty() {
            found.flaw(root, &place, "should hold a tablet, and has no file");
        }
        for file in files {
            let there = names.contains_key(format!("{place}/{file}").as_str())
                || by_tablet
                    .get(tablet)
                    .is_some_and(|other| names.contains_key(format!("{other}/{file}").as_str()));
            if !there {
                found.flaw(root, &format!("{place}/{file}"), "is missing");
            }
        }
    }
}
