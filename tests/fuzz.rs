//! Readers of bytes that somebody else wrote, over a corpus and thousands of changes to it. The same
//! functions are cargo-fuzz's targets, in `fuzz/`.
//!
//! `BACKSTAY_FUZZ=SECONDS` goes on for so long with each reader (`make soak`), and `BACKSTAY_FUZZ_SEED`
//! begins elsewhere. Whatever one of them cannot stand is written to `target/fuzz/`: mend it, and put
//! the file into `fixtures/fuzz/READER/`.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[path = "../fuzz/targets.rs"]
mod targets;

/// Changes to the corpus that every run tries, for each reader.
const MUTATIONS: usize = 3000;

/// Those of policies, which take most of the time.
const OF_POLICIES: usize = 200;

/// The longest input that is tried.
const LONGEST: usize = 64 << 10;

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/fuzz").join(name);
    let mut files: Vec<PathBuf> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", directory.display());
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Fails with the input that `reader` cannot stand, which is kept.
fn stand(name: &str, reader: fn(&[u8]), data: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| reader(data))).is_ok() {
        return;
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    fs::create_dir_all(&directory).unwrap();
    let digest = backstay::archive::digest::sha256_hex(data);
    let path = directory.join(format!("{name}-{}", &digest[..12]));
    fs::write(&path, data).unwrap();
    panic!("the reader of `{name}` panicked at {what}: the input is in {}", path.display());
}

/// One to eight small changes, of the kinds that fuzzers make.
fn change(random: &mut fastrand::Rng, data: &mut Vec<u8>, others: &[(PathBuf, Vec<u8>)]) {
    const EDGES: [u64; 10] =
        [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, i64::MAX as u64, u64::MAX];
    for _ in 0..random.usize(1..=8) {
        let at = random.usize(..=data.len());
        let span = random.usize(1..=16).min(data.len() - at);
        match random.u8(..9) {
            0 if at < data.len() => data[at] ^= 1 << random.u8(..8),
            1 if at < data.len() => data[at] = random.u8(..),
            2 => data.insert(at, random.u8(..)),
            3 => drop(data.drain(at..at + span)),
            4 => {
                let again = data[at..at + span].to_vec();
                drop(data.splice(at..at, again));
            }
            5 => {
                let number = EDGES[random.usize(..EDGES.len())];
                let text = if random.bool() {
                    number.to_string().into_bytes()
                } else {
                    number.to_le_bytes().into()
                };
                let end = (at + text.len()).min(data.len());
                drop(data.splice(at..end, text));
            }
            6 => {
                let (_, other) = &others[random.usize(..others.len())];
                let from = random.usize(..=other.len());
                let to = (from + random.usize(..64)).min(other.len());
                drop(data.splice(at..at, other[from..to].iter().copied()));
            }
            7 if random.u8(..4) == 0 => data.truncate(at),
            // A digit for a digit: sizes and offsets.
            _ => {
                if let Some(byte) = data[at..].iter_mut().find(|byte| byte.is_ascii_digit()) {
                    *byte = random.u8(b'0'..=b'9');
                }
            }
        }
    }
    data.truncate(LONGEST);
}

fn try_all(name: &str) {
    let (_, reader) = targets::TARGETS.into_iter().find(|(known, _)| *known == name).unwrap();
    let corpus = corpus(name);
    for (path, data) in &corpus {
        stand(name, reader, data, &path.display().to_string());
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("BACKSTAY_FUZZ_SEED").unwrap_or(20_261_121);
    let until =
        number("BACKSTAY_FUZZ").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut tried = 0;
    let enough = if name == "policy" { OF_POLICIES } else { MUTATIONS };
    while until.map_or(tried < enough, |until| Instant::now() < until) {
        let (path, data) = &corpus[tried % corpus.len()];
        let mut data = data.clone();
        change(&mut random, &mut data, &corpus);
        stand(name, reader, &data, &format!("change {tried} of {}, seed {seed}", path.display()));
        tried += 1;
    }
    eprintln!("{name}: {} inputs and {tried} changes to them", corpus.len());
}

macro_rules! readers {
    ($($name:ident)*) => {
        $(#[test] fn $name() { try_all(stringify!($name)); })*

        #[test]
        fn every_reader_is_tried() {
            let names: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
            for name in names {
                let target = format!("fuzz/fuzz_targets/{name}.rs");
                assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(target).is_file(), "{name}");
            }
        }
    };
}

readers!(policy manifest index tar frames dead_list keys engine);
