//! Every command through a store that fails, in every way stores fail: it is done, or it says
//! cleanly what it could not do. What was backed up before is still there, and the next run works.
//!
//! Part of every test run is a quarter of the table, each command with half of the faults that pass or that stay;
//! `BACKSTAY_CHAOS_SEEDS=1` runs the whole, a higher number the whole with other places to fail at.
//! `BACKSTAY_CHAOS_SHOW=1` shows what commands said that failed as they should.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::common::chaos::{Fault, Lasts};
use crate::common::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use crate::common::{Ran, Sandbox, assert_same_tree, noise};

/// A command line. `{id}` is a backup of the tree, `{newer}` a pinned one after it, `{out}` a name
/// that is not taken yet, `{age}` a public key, `{segment}` a file of WAL that is not archived yet.
struct Verb {
    line: &'static str,
    /// What it changes.
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It makes repositories where there are none.
    Init,
    /// It adds to a repository.
    Writes,
    /// It takes away from a repository.
    Removes,
    /// It repairs a repository from its copy.
    Mends,
    /// It changes nothing in a repository, but for holds.
    Reads,
}

const fn writes(line: &'static str) -> Verb {
    Verb { line, kind: Kind::Writes }
}

const fn removes(line: &'static str) -> Verb {
    Verb { line, kind: Kind::Removes }
}

const fn reads(line: &'static str) -> Verb {
    Verb { line, kind: Kind::Reads }
}

/// Every command that speaks to a store. A new one is a line here.
const VERBS: &[Verb] = &[
    Verb { line: "init", kind: Kind::Init },
    writes("backup demo/files --kind full"),
    writes("backup demo/files"),
    writes("backup demo/stream"),
    writes("copy --to other"),
    writes("pin {id}"),
    writes("key add-recipient {age} --repository main"),
    writes("key rotate --repository main"),
    removes(
        "key remove-recipient age1507vp5fp024wtsmdpgqckjd3drcp40glr9lxvs4zp9wmnkaq7qkq5xeck4 --yes --repository main",
    ),
    removes("unpin {newer}"),
    removes("delete {id} --yes"),
    removes("prune --yes"),
    reads("list"),
    reads("status"),
    reads("playbook history"),
    reads("show {id}"),
    reads("ls {id}"),
    reads("find below/two.txt"),
    reads("diff {id} {newer}"),
    reads("restore demo/files --to {out} --backup {id}"),
    reads("restore demo/stream --to {out}"),
    reads("verify --depth list"),
    reads("verify --depth stored"),
    reads("verify --depth content"),
    reads("verify --budget 1GiB --depth content"),
    writes("wal push {segment} --source demo/pg"),
    reads("wal get 000000010000000000000001 {out} --source demo/pg --system-id 7"),
    Verb { line: "verify --repair-from other --repository main", kind: Kind::Mends },
    reads("thaw {id}"),
    reads("key list"),
    reads("policy list"),
    reads("policy fetch demo"),
    reads("check"),
];

impl Verb {
    /// Whether it is about the WAL of a cluster, of which the other policies know nothing.
    fn is_wal(&self) -> bool {
        self.line.starts_with("wal ")
    }
}

/// How long a command may take before it counts as hanging. Far more than any of them needs.
const WATCHDOG: Duration = Duration::from_secs(240);

/// A cluster that nobody asks anything: its WAL is handed over.
const CLUSTER: &str = "  pg: { postgres_cluster: { connection: \"host=/nowhere user=nobody\" } }\n";

/// Commands under way at once: most of the time is spent waiting to try again.
const SIDE_BY_SIDE: usize = 6;

struct Bench {
    server: S3Server,
    sandbox: Sandbox,
    id: String,
    newer: String,
}

impl Bench {
    /// A bucket with a repository `base`, and sources that have changed since.
    fn new() -> Self {
        let (server, sandbox) = (S3Server::start(), Sandbox::new());
        let src = sandbox.path("src");
        fs::create_dir(src.join("below")).unwrap();
        fs::write(src.join("one.txt"), "one\n").unwrap();
        fs::write(src.join("below/two.txt"), "two\n").unwrap();
        fs::write(src.join("some.bin"), noise(1, 300_000)).unwrap();
        fs::write(sandbox.path("stream.bin"), noise(2, 100_000)).unwrap();
        let mut bench = Self { server, sandbox, id: String::new(), newer: String::new() };
        bench.policy("base", None);
        bench.run("base", "init").expect(0);
        let backup = |line: &str| {
            let ran = bench.run("base", line).expect(0);
            ran.stdout.trim().rsplit('@').next().unwrap().to_owned()
        };
        (bench.id, bench.newer) = (backup("backup demo/files"), backup("backup demo/files"));
        bench.run("base", "backup demo/stream").expect(0);
        bench.run("base", "pin {newer}").expect(0);
        let copied = Command::new("cp")
            .arg("-a")
            .args([&src, &bench.sandbox.path("before")])
            .status()
            .unwrap();
        assert!(copied.success());
        // The same, with the first segment of a cluster.
        bench.copy("base", "wal");
        bench.policy_with("wal", None, CLUSTER);
        let first = bench.segment(1);
        bench.run("wal", &format!("wal push {first} --source demo/pg")).expect(0);
        bench.segment(2);
        // The same, damaged, beside a copy that is whole.
        bench.copy("base", "hurt");
        bench.policy("hurt", None);
        bench.run("hurt", "copy --to other").expect(0);
        for (number, path) in bench.data("hurt").iter().enumerate() {
            if number % 2 == 0 {
                fs::remove_file(path).unwrap();
            } else {
                let mut bytes = fs::read(path).unwrap();
                bytes[0] ^= 1;
                fs::write(path, bytes).unwrap();
            }
        }
        // Two parts of an upload.
        fs::write(src.join("more.bin"), noise(3, 9 << 20)).unwrap();
        fs::write(src.join("below/two.txt"), "two, changed\n").unwrap();
        bench
    }

    /// Writes the policy of a repository. With a fault that stays there is no use in patience; one
    /// that passes must be outlived however slow this machine is.
    fn policy(&self, place: &str, lasts: Option<Lasts>) -> PathBuf {
        self.policy_with(place, lasts, "")
    }

    /// The same with more sources.
    fn policy_with(&self, place: &str, lasts: Option<Lasts>, sources: &str) -> PathBuf {
        let patience = match lasts {
            None => "",
            Some(Lasts::Passing) => ", timeout: 1s, retry_for: 2m",
            Some(Lasts::From(_)) => ", timeout: 2s, retry_for: 2s",
        };
        let (sandbox, endpoint) = (&self.sandbox, self.server.endpoint());
        let (public, writer) = (&sandbox.public, sandbox.path("writer.key"));
        let repository = |name: &str| {
            format!(
                "  {name}:\n    s3: {{ bucket: {BUCKET}, prefix: {place}/{name}, endpoint: \
                 \"{endpoint}\", region: us-east-1, allow_http: true, access_key_id: \
                 \"${{env:T_ACCESS}}\", secret_access_key: \"${{env:T_SECRET}}\"{patience} }}\n    \
                 encryption: {{ recipients: [{public}], writer_identity: \"${{file:{}}}\" }}\n",
                writer.display()
            )
        };
        let text = format!(
            "version: 1\nstack: demo\ntier: development\ntimezone: UTC\nrepositories:\n{}{}sources:\n  \
             files: {{ directory: {{ path: {} }} }}\n  stream: {{ command: {{ argv: [cat, {}] }} \
             }}\n{sources}jobs:\n  daily: {{ sources: all, kind: incremental, schedule: {{ cron: \"0 3 * * \
             *\" }}, keep: {{ for: 7d, at_least: 3 }} }}\n",
            repository("main"),
            repository("other"),
            sandbox.path("src").display(),
            sandbox.path("stream.bin").display(),
        );
        let path = sandbox.path(format!("{place}.yaml"));
        fs::write(&path, text).unwrap();
        path
    }

    /// A segment of 1 MiB of cluster 7, as PostgreSQL 17 begins it.
    fn segment(&self, number: u8) -> String {
        let mut wal = noise(u64::from(number), 1 << 20);
        wal[..4].copy_from_slice(&[0x16, 0xd1, 2, 0]);
        wal[4..8].copy_from_slice(&1u32.to_le_bytes());
        wal[8..16].copy_from_slice(&(u64::from(number) << 20).to_le_bytes());
        wal[24..32].copy_from_slice(&7u64.to_le_bytes());
        wal[32..36].copy_from_slice(&(1u32 << 20).to_le_bytes());
        let path = self.sandbox.path(format!("0000000100000000{number:08X}"));
        fs::write(&path, wal).unwrap();
        path.display().to_string()
    }

    /// Runs a command, and kills it if it hangs.
    fn run(&self, place: &str, line: &str) -> Ran {
        let public = &self.sandbox.public;
        let out = format!("out-{place}-{}", backstay::id::nonce());
        let line = line.replace("{id}", &self.id).replace("{newer}", &self.newer);
        let line = line.replace("{out}", &out).replace("{age}", public);
        let segment = self.sandbox.path("000000010000000000000002");
        let line = line.replace("{segment}", segment.to_str().unwrap());
        let mut args: Vec<&str> = line.split(' ').collect();
        args.extend(["--identity", "recovery.key"]);
        let mut command = self.sandbox.command(&args);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().to_lowercase();
            if text.starts_with("aws_") || text.ends_with("_proxy") {
                command.env_remove(name);
            }
        }
        let output = |kind: &str| self.sandbox.path(format!("{out}.{kind}"));
        let mut child = command
            .env("BACKSTAY_POLICY", self.sandbox.path(format!("{place}.yaml")))
            .env("BACKSTAY_STATE_DIR", self.sandbox.path(format!("state-{place}")))
            .env("T_ACCESS", ACCESS_KEY)
            .env("T_SECRET", SECRET_KEY)
            .stdout(Stdio::from(fs::File::create(output("stdout")).unwrap()))
            .stderr(Stdio::from(fs::File::create(output("stderr")).unwrap()))
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > WATCHDOG {
                child.kill().unwrap();
                child.wait().unwrap();
                let said = fs::read_to_string(output("stderr")).unwrap();
                panic!("`{line}` hangs; it said:\n{said}");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let read = |kind: &str| String::from_utf8_lossy(&fs::read(output(kind)).unwrap()).into();
        let ran = Ran::from(&std::process::Output { status, stdout: vec![], stderr: vec![] });
        let ran = Ran { code: ran.code, stdout: read("stdout"), stderr: read("stderr") };
        // A restore that says it is done has restored.
        let restored = self.sandbox.path(&out);
        if ran.code == 0 && line.starts_with("restore demo/files") {
            assert_same_tree(&self.sandbox.path("before"), &restored);
        } else if ran.code == 0 && line.starts_with("restore demo/stream") {
            assert!(fs::read(&restored).unwrap() == noise(2, 100_000), "the stream differs");
        } else if ran.code == 0 && line.starts_with("wal get") {
            let archived = fs::read(self.sandbox.path("000000010000000000000001")).unwrap();
            assert!(fs::read(&restored).unwrap() == archived, "the segment differs");
        }
        ran
    }

    /// Copies repositories, behind the server's back.
    fn copy(&self, from: &str, place: &str) {
        let bucket = self.server.root.path().join(BUCKET);
        let copied =
            Command::new("cp").arg("-a").args([bucket.join(from), bucket.join(place)]).status();
        assert!(copied.unwrap().success());
    }

    /// The objects of the tree's backups.
    fn data(&self, place: &str) -> Vec<PathBuf> {
        let data = self.server.root.path().join(BUCKET).join(place);
        let mut found = Vec::new();
        for backup in fs::read_dir(data.join("main/demo/sources/files/data")).unwrap() {
            for object in fs::read_dir(backup.unwrap().path()).unwrap() {
                found.push(object.unwrap().path());
            }
        }
        found.sort();
        found
    }

    /// Whether every object is whole in a repository that is being repaired; `Err` if one is
    /// neither whole nor as it was.
    fn is_mended(&self, place: &str) -> Result<bool, String> {
        let mut all = true;
        for sound in self.data("base") {
            let bucket = self.server.root.path().join(BUCKET);
            let below = sound.strip_prefix(bucket.join("base")).unwrap();
            let read = |place: &str| fs::read(bucket.join(place).join(below)).ok();
            let now = read(place);
            if now != read("base") && now != read("hurt") {
                return Err(format!("{} is half repaired", below.display()));
            }
            all &= now == read("base");
        }
        Ok(all)
    }

    /// What lies in a repository, but for holds, which end by themselves.
    fn keys(&self, place: &str) -> Vec<String> {
        let mut keys = self.server.keys_below(place);
        keys.retain(|key| !key.contains("/hold/"));
        keys
    }

    /// One command through one fault, and what must be so afterwards. Returns what is wrong.
    fn cell(&self, verb: &Verb, fault: Fault, lasts: Lasts, seed: u64) -> Result<(), String> {
        let at = VERBS.iter().position(|other| other.line == verb.line).unwrap();
        let stays = if lasts == Lasts::Passing { "passing" } else { "staying" };
        let place = format!("{fault:?}-{stays}-{seed}-{at}").to_lowercase();
        match verb.kind {
            Kind::Init => {}
            Kind::Mends => self.copy("hurt", &place),
            _ if verb.is_wal() => self.copy("wal", &place),
            Kind::Writes | Kind::Removes | Kind::Reads => self.copy("base", &place),
        }
        let sources = if verb.is_wal() { CLUSTER } else { "" };
        self.policy_with(&place, Some(lasts), sources);
        let before = self.keys(&place);
        self.server.chaos.begin(&place, fault, lasts, seed);
        let ran = self.run(&place, verb.line);
        let hit = self.server.chaos.end(&place);
        let said = format!(
            "`{}` under {fault:?} {lasts:?} (seed {seed}) ended {}\n{}\n{}",
            verb.line, ran.code, ran.stdout, ran.stderr
        );
        check(&ran, &hit, fault, lasts, verb).map_err(|wrong| format!("{wrong}: {said}"))?;

        self.policy_with(&place, None, sources);
        let must = |line: &str| {
            let again = self.run(&place, line);
            let text = || {
                format!(
                    "afterwards `{line}` ended {}:\n{}\n{}\n{said}",
                    again.code, again.stdout, again.stderr
                )
            };
            if again.code == 0 { Ok(again.stdout.clone()) } else { Err(text()) }
        };
        // What was done needs not be done again.
        let again = |line: &str| if ran.code == 0 { Ok(String::new()) } else { must(line) };
        let all_sound = |at_least: usize| {
            let listed = must("list")?.lines().filter(|line| line.contains("demo/")).count();
            let verified = must("verify --depth content")?.matches("sound").count();
            if listed < at_least || verified != listed {
                return Err(format!("{listed} are listed and {verified} sound: {said}"));
            }
            Ok(())
        };
        match verb.kind {
            // Nothing was there to be damaged.
            Kind::Init => {
                must("init")?;
                must("backup demo/stream")?;
            }
            Kind::Reads => {
                if self.keys(&place) != before {
                    return Err(format!("the repository has changed: {said}"));
                }
                again(verb.line)?;
            }
            Kind::Writes => {
                let after = self.keys(&place);
                let lost: Vec<&String> = before.iter().filter(|key| !after.contains(key)).collect();
                if !lost.is_empty() {
                    return Err(format!("{lost:?} are gone: {said}"));
                }
                all_sound(3)?;
                again(verb.line)?;
            }
            Kind::Mends => {
                let mended = self.is_mended(&place).map_err(|wrong| format!("{wrong}: {said}"))?;
                if ran.code == 0 && !mended {
                    return Err(format!("something is not repaired: {said}"));
                }
                must(verb.line)?;
                if self.is_mended(&place) != Ok(true) {
                    return Err(format!("afterwards something is not repaired: {said}"));
                }
            }
            Kind::Removes => {
                all_sound(2)?;
                must("prune --yes")?;
                must("restore demo/stream --to {out}")?;
            }
        }
        let _ = fs::remove_dir_all(self.server.root.path().join(BUCKET).join(&place));
        Ok(())
    }
}

/// What a command may end with and say when the store fails.
fn check(
    ran: &Ran,
    hit: &[String],
    fault: Fault,
    lasts: Lasts,
    verb: &Verb,
) -> Result<(), &'static str> {
    let all = format!("{}{}", ran.stdout, ran.stderr);
    for markup in ["<?xml", "<Error", "<Code", "<html"] {
        if all.contains(markup) {
            return Err("raw XML is shown");
        }
    }
    if all.contains("panicked") || all.contains("RUST_BACKTRACE") {
        return Err("it panicked");
    }
    if all.contains(SECRET_KEY) || all.contains("AGE-SECRET-KEY-1") {
        return Err("a secret is shown");
    }
    let done = ran.code == 0;
    // 1 to 125 would be the end of WAL to a server that recovers.
    let failed = if verb.line.starts_with("wal get") { 126 } else { 1 };
    // A network that fails is no damage, and no mistake of whoever typed the command.
    let unlisted = if verb.kind == Kind::Mends { "is missing" } else { "does not list it" };
    let lost = fault == Fault::LaggingList && all.contains(unlisted);
    // A lease that is not listed seems to be somebody else's.
    let busy = fault == Fault::LaggingList && ran.code == 75;
    if !(done || ran.code == failed || busy || ran.code == 5 && lost) {
        return Err("an exit code for something else");
    }
    if !done && hit.is_empty() {
        return Err("it failed without a fault");
    }
    let may_fail = match fault {
        // Nobody can do anything about credentials but a person.
        Fault::Expired => true,
        // A store that does not list what it took is refused, by init and by every backup.
        Fault::LaggingList => verb.kind != Kind::Reads,
        // What was done is recognised, for good.
        Fault::OwnWrite => false,
        _ => lasts != Lasts::Passing,
    };
    if !done && !may_fail {
        return Err("trying again would have helped");
    }
    let names = |key: &String| {
        let name = key.rsplit('/').next().unwrap_or_default();
        !name.is_empty() && all.contains(name)
    };
    let refused = busy || (fault == Fault::LaggingList && all.contains("cannot be trusted"));
    if !(done || refused || hit.iter().any(names)) {
        return Err("no object is named");
    }
    if !done && !all.contains("error:") {
        return Err("no error is shown");
    }
    if !done && std::env::var_os("BACKSTAY_CHAOS_SHOW").is_some() {
        eprintln!("--- {} under {fault:?} {lasts:?} ends {}\n{all}", verb.line, ran.code);
    }
    Ok(())
}

/// All commands through one fault.
fn through(fault: Fault) {
    let seeds = std::env::var("BACKSTAY_CHAOS_SEEDS").map(|text| text.parse().unwrap());
    let bench = Bench::new();
    let mut cells = Vec::new();
    for seed in 0..*seeds.as_ref().unwrap_or(&1) {
        for (number, verb) in VERBS.iter().enumerate() {
            let mut hasher = DefaultHasher::new();
            (seed, verb.line, format!("{fault:?}")).hash(&mut hasher);
            let first = (hasher.finish() % 13) as u32 + 1;
            let both = [Lasts::Passing, Lasts::From(first)];
            match &seeds {
                Ok(_) => cells.extend(both.map(|lasts| (verb, lasts, seed))),
                Err(_) => match (number + fault as usize) % 4 {
                    0 => cells.push((verb, both[0], seed)),
                    2 => cells.push((verb, both[1], seed)),
                    _ => {}
                },
            }
        }
    }
    cells.reverse();
    let (cells, wrong) = (Mutex::new(cells), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                loop {
                    let next = cells.lock().unwrap().pop();
                    let Some((verb, lasts, seed)) = next else { return };
                    if let Err(report) = bench.cell(verb, fault, lasts, seed) {
                        wrong.lock().unwrap().push(report);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of them:\n\n{}", wrong.len(), wrong.join("\n\n---\n"));
}

#[test]
fn replies_that_are_lost() {
    through(Fault::LostReply);
}

#[test]
fn storms_of_503() {
    through(Fault::SlowDown);
}

#[test]
fn conflicts() {
    through(Fault::Conflict);
}

#[test]
fn creates_that_meet_their_own_write() {
    through(Fault::OwnWrite);
}

#[test]
fn bodies_that_are_cut_off() {
    through(Fault::Truncated);
}

#[test]
fn bodies_that_stop() {
    through(Fault::Stalled);
}

#[test]
fn servers_that_say_nothing() {
    through(Fault::Silent);
}

#[test]
fn errors_under_a_200() {
    through(Fault::ErrorBody);
}

#[test]
fn listings_that_lag() {
    through(Fault::LaggingList);
}

#[test]
fn credentials_that_expire() {
    through(Fault::Expired);
}

/// The table has every command there is, but for those that speak to no store or only have others do so.
#[test]
fn every_command_is_in_the_table() {
    let help = crate::common::Sandbox::new().run_bare(&["--help"]).expect(0).stdout;
    let (_, commands) = help.split_once("Commands:").unwrap();
    let names = commands
        .lines()
        .skip(1)
        .take_while(|line| !line.trim().is_empty())
        .filter_map(|line| line.split_whitespace().next());
    let elsewhere = [
        "schema",
        "plan",
        "daemon",
        "role",
        "drill",
        "runs",
        "logs",
        "cancel",
        "trigger",
        "state",
        "notify",
        "sync",
        "completions",
        "man",
        "help",
    ];
    for name in names {
        let known = VERBS.iter().any(|verb| verb.line.split(' ').next() == Some(name));
        assert!(known || elsewhere.contains(&name), "`{name}` is in no line of VERBS");
    }
}
