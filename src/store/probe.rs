//! Does the store do what it says? Stores lie, so they are asked before they are trusted.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutMode, PutOptions};
use serde::Serialize;

use super::blocking::Store;
use super::layout;
use super::upload::{PART_SIZE, Upload};
use crate::error::{Error, ErrorKind, Result};
use crate::id;
use crate::telemetry::Reporter;

/// Creates that race for one key.
const RACERS: usize = 32;

/// How a single probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The store did what it should.
    Ok,
    /// The store did something a repository cannot live with unless it is told to.
    Weak,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was tried.
    pub what: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was seen, in a few words.
    pub detail: String,
}

/// Everything that was tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// In the order it was tried.
    pub findings: Vec<Finding>,
}

impl Probe {
    /// Tries the store under `probe/`. Everything written is removed again. An error means that
    /// the store cannot be used at all; a weak finding that it cannot be trusted.
    pub fn run(store: &Store) -> Result<Self> {
        let directory = format!("{}/{}", layout::PROBES, id::nonce());
        let mut probe = Self::default();
        let result = probe.all(store, &directory);
        let clean = store
            .list(&directory)
            .and_then(|left| left.iter().try_for_each(|object| store.delete(&object.key)));
        result?;
        match clean {
            Ok(()) => probe.add("delete", true, "objects are removed"),
            // A writer that may not delete is a good writer: prune uses other credentials.
            Err(error) => probe.add("delete", true, &format!("not permitted: {error}")),
        }
        Ok(probe)
    }

    /// The findings a repository cannot live with.
    pub fn weak(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.verdict == Verdict::Weak)
    }

    fn add(&mut self, what: &'static str, ok: bool, detail: &str) {
        let verdict = if ok { Verdict::Ok } else { Verdict::Weak };
        self.findings.push(Finding { what, verdict, detail: detail.to_owned() });
    }

    fn all(&mut self, store: &Store, directory: &str) -> Result<()> {
        self.write_and_read(store, directory)?;
        self.create_only(store, directory)?;
        self.race(store, directory);
        self.listing(store, directory)?;
        self.large(store, directory)
    }

    fn write_and_read(&mut self, store: &Store, directory: &str) -> Result<()> {
        let key = format!("{directory}/object");
        let body = Bytes::from(id::nonce());
        if !store.create_ours(&key, &body)? {
            let message =
                format!("failed to create {key} in {}: it is there already", store.name());
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let read = store.read(&key, 1 << 10).map_err(|error| error.into_error(store))?;
        self.add("read after write", read == body, "an object reads back as it was written");
        let middle = store.runtime().block_on(Store::read_range(
            store.objects().clone(),
            key.clone(),
            4..12,
        ));
        let ok = middle.is_ok_and(|bytes| bytes == body.slice(4..12));
        self.add("ranged read", ok, "8 bytes from the middle");
        Ok(())
    }

    fn create_only(&mut self, store: &Store, directory: &str) -> Result<()> {
        let key = format!("{directory}/object");
        let before = store.read(&key, 1 << 10).map_err(|error| error.into_error(store))?;
        let second = store.create(&key, "overwritten");
        let after = store.read(&key, 1 << 10).map_err(|error| error.into_error(store))?;
        let (ok, detail) = match (second.is_err(), before == after) {
            (true, true) => (true, "a second create of the same key is refused"),
            (false, _) => (false, "a second create of the same key was accepted"),
            (true, false) => (false, "a create was refused and overwrote the object all the same"),
        };
        self.add("create only", ok, detail);
        Ok(())
    }

    fn race(&mut self, store: &Store, directory: &str) {
        let path = Path::from(format!("{directory}/race"));
        let bodies: Vec<Bytes> = (0..RACERS).map(|_| Bytes::from(id::nonce())).collect();
        let race = join_all(bodies.iter().map(|body| {
            let (objects, path, body) = (Arc::clone(store.objects()), path.clone(), body.clone());
            async move {
                let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                objects.put_opts(&path, body.into(), options).await.is_ok()
            }
        }));
        let won: Vec<bool> = store.runtime().block_on(race);
        let winners = won.iter().filter(|won| **won).count();
        let kept = store
            .runtime()
            .block_on(async { store.objects().get(&path).await?.bytes().await })
            .unwrap_or_default();
        // A lost reply can hide the winner; two winners, or a loser's bytes, cannot be excused.
        let told_right = won.iter().zip(&bodies).all(|(won, body)| !won || *body == kept);
        let ok = winners <= 1 && told_right && bodies.contains(&kept);
        let detail = format!("{RACERS} creates of one key raced and {winners} won");
        self.add("create race", ok, &detail);
    }

    fn listing(&mut self, store: &Store, directory: &str) -> Result<()> {
        let listed = store.list(directory)?;
        let names: Vec<&str> =
            listed.iter().filter_map(|object| object.key.rsplit('/').next()).collect();
        let ok = names.contains(&"object") && names.contains(&"race");
        self.add("list after write", ok, &format!("{} of 2 objects are listed", names.len()));
        Ok(())
    }

    fn large(&mut self, store: &Store, directory: &str) -> Result<()> {
        use std::io::Write as _;
        let key = format!("{directory}/large");
        let body: Vec<u8> = (0..PART_SIZE + 1000).map(|i| (i % 251) as u8).collect();
        let mut upload = Upload::new(store, &key, &Reporter::silent());
        upload
            .write_all(&body)
            .map_err(|error| Error::io(format!("failed to write {key}"), error))?;
        upload.finish()?;
        let read =
            store.read(&key, 2 * PART_SIZE as u64).map_err(|error| error.into_error(store))?;
        self.add("multipart upload", read == body, "an object in two parts reads back");
        Ok(())
    }
}
