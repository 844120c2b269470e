//! Changing a plain repository from inside, with digests that fit afterwards: what a reader
//! trusts must be checked by more than its digest.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use backstay::archive::digest::sha256_hex;
use backstay::archive::frame::FrameWriter;
use serde_json::{Value, json};

/// One backup of a plain local repository, taken apart.
pub struct Doctor {
    /// The source's directory.
    pub dir: PathBuf,
    /// The backup's id.
    pub id: String,
    /// Its manifest.
    pub manifest: Value,
}

impl Doctor {
    /// The backup `id` of `demo/files` below `repo`.
    pub fn open(repo: &Path, id: &str) -> Self {
        let dir = repo.join("demo/sources/files");
        let manifest =
            serde_json::from_slice(&fs::read(dir.join(format!("commits/{id}.json"))).unwrap())
                .unwrap();
        Self { dir, id: id.to_owned(), manifest }
    }

    /// The plain bytes of an object.
    pub fn plain(&self, path: &str) -> Vec<u8> {
        zstd::stream::decode_all(&fs::read(self.dir.join(path)).unwrap()[..]).unwrap()
    }

    /// The entries of the index.
    pub fn index(&self) -> Vec<Value> {
        let path = self.manifest["index"]["path"].as_str().unwrap();
        let plain = String::from_utf8(self.plain(path)).unwrap();
        plain.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// One entry of the index.
    pub fn entry(&self, path: &str) -> Value {
        self.index().into_iter().find(|entry| entry["path"] == path).unwrap()
    }

    /// Replaces the index by these entries.
    pub fn set_index(&mut self, entries: &[Value]) {
        let mut plain = "{\"backstay_index\":1}\n".to_owned();
        for entry in entries {
            plain.push_str(&format!("{entry}\n"));
        }
        self.manifest["index"]["entries"] = json!(entries.len());
        self.set_index_plain(plain.as_bytes());
    }

    /// Replaces the plain bytes of the index.
    pub fn set_index_plain(&mut self, plain: &[u8]) {
        let path = self.manifest["index"]["path"].as_str().unwrap().to_owned();
        self.replace(&path, &frames(plain));
    }

    /// Changes the entries that `change` returns `true` for.
    pub fn edit(&mut self, mut change: impl FnMut(&mut Value)) {
        let mut entries = self.index();
        entries.iter_mut().for_each(&mut change);
        self.set_index(&entries);
    }

    /// Replaces the stored bytes of an object and what the manifest says of it.
    pub fn replace(&mut self, path: &str, stored: &[u8]) {
        fs::write(self.dir.join(path), stored).unwrap();
        fix(&mut self.manifest, path, stored.len(), &sha256_hex(stored));
    }

    /// The path of the own segment with this number.
    pub fn segment(&self, number: u32) -> String {
        format!("data/{}/{number:06}.tar.zst", self.id)
    }

    /// Writes SHA256SUMS and the manifest so that all digests fit.
    pub fn save(&mut self) {
        let mut objects = vec![self.manifest["index"].clone()];
        objects.extend(self.manifest.get("large").filter(|large| !large.is_null()).cloned());
        let segments = self.manifest["segments"].as_array().unwrap().clone();
        objects.extend(segments.iter().filter_map(|segment| segment.get("dead").cloned()));
        objects.extend(segments);
        let mut sums = String::new();
        for object in objects {
            let (path, sha256) =
                (object["path"].as_str().unwrap(), object["sha256"].as_str().unwrap());
            sums.push_str(&format!("{sha256}  {path}\n"));
        }
        let path = self.manifest["sums"]["path"].as_str().unwrap().to_owned();
        self.replace(&path, sums.as_bytes());
        let commit = self.dir.join(format!("commits/{}.json", self.id));
        fs::write(commit, serde_json::to_vec_pretty(&self.manifest).unwrap()).unwrap();
    }
}

fn fix(value: &mut Value, path: &str, size: usize, sha256: &str) {
    match value {
        Value::Object(map) => {
            if map.get("path").is_some_and(|found| found == path) {
                map.insert("size".into(), json!(size));
                map.insert("sha256".into(), json!(sha256));
            }
            map.values_mut().for_each(|value| fix(value, path, size, sha256));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| fix(value, path, size, sha256)),
        _ => {}
    }
}

/// Plain bytes as the writer packs them.
pub fn frames(plain: &[u8]) -> Vec<u8> {
    let mut writer = FrameWriter::new(Vec::new(), 3).unwrap();
    writer.write_all(plain).unwrap();
    writer.finish().unwrap().0
}
