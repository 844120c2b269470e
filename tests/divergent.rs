//! What a site writes that was cut off while another one became the active one.

use std::fs;
use std::path::PathBuf;

use crate::common::{Ran, Sandbox};

/// A stack with two sites, whose epochs lie at a third place.
struct Sites {
    sandbox: Sandbox,
    epoch: u64,
}

impl Sites {
    fn new() -> Self {
        let sandbox = Sandbox::ready(false);
        sandbox.write_policy(false, "");
        let path = sandbox.path("policy.yaml");
        let text = fs::read_to_string(&path).unwrap();
        let more = format!(
            "  third: {{ local: {{ path: {} }} }}\nsources:\n  db: {{ postgres_cluster: {{ connection: \"host=/nowhere dbname=x\", wal: {{ archive: {{ to: [main] }} }} }}, objectives: {{ rpo: 48h }} }}\n",
            sandbox.path("third").display()
        );
        let role = "role: { repository: third, site: \"${env:BACKSTAY_SITE}\" }\nsites: { a: null, b: null }\n";
        fs::write(&path, text.replace("sources:\n", &more) + role).unwrap();
        sandbox.run(&["init"]).expect(0);
        Self { sandbox, epoch: 0 }
    }

    fn at(&self, site: &str, args: &[&str]) -> Ran {
        let mut command = self.sandbox.command(args);
        // Each site remembers what it was told.
        command.env("BACKSTAY_STATE_DIR", self.sandbox.path(format!("state-{site}")));
        Ran::from(&command.env("BACKSTAY_SITE", site).output().unwrap())
    }

    fn third(&self) -> PathBuf {
        ["third", "away"]
            .map(|name| self.sandbox.path(name))
            .into_iter()
            .find(|p| p.exists())
            .unwrap()
    }

    /// An epoch begins, as the step `role` writes it.
    fn begin(&mut self, site: &str) {
        self.epoch += 1;
        let directory = self.third().join("demo/role");
        fs::create_dir_all(&directory).unwrap();
        let record = serde_json::json!({
            "role": 1, "epoch": self.epoch, "site": site, "time": jiff::Timestamp::now(), "run": "run/step",
            "fence": "proven", "by": { "host": "here", "pid": 1 }, "nonce": "x",
        });
        let key = directory.join(format!("{:08}.json", self.epoch));
        fs::write(key, record.to_string()).unwrap();
    }

    /// Nobody reaches the third place, or everybody does.
    fn cut_off(&self, cut: bool) {
        let (third, away) = (self.sandbox.path("third"), self.sandbox.path("away"));
        if cut { fs::rename(third, away).unwrap() } else { fs::rename(away, third).unwrap() }
    }

    /// Backs the files up as a site, with this content, and gives the id.
    fn back_up(&self, site: &str, content: &str) -> String {
        fs::write(self.sandbox.path("src/which"), content).unwrap();
        let ran = self.at(site, &["backup", "demo/files"]).expect(0);
        ran.stdout.trim().rsplit_once('@').unwrap().1.to_owned()
    }

    fn listed(&self) -> Vec<serde_json::Value> {
        let ran = self.at("b", &["list", "demo/files", "--output", "json"]).expect(0);
        ran.json().as_array().unwrap().clone()
    }

    /// What restoring gives.
    fn restored(&self, args: &[&str]) -> String {
        let _ = fs::remove_dir_all(self.sandbox.path("out"));
        self.at("b", &[&["restore"][..], args, &["--to", "out"]].concat()).expect(0);
        fs::read_to_string(self.sandbox.path("out/which")).unwrap()
    }
}

#[test]
fn a_backup_of_a_site_that_was_cut_off_is_listed_and_not_restored() {
    let mut sites = Sites::new();
    sites.begin("a");
    let good = sites.back_up("a", "good");
    // While site a reaches nobody, site b becomes the active one.
    sites.cut_off(true);
    sites.begin("b");
    let stale = sites.back_up("a", "stale");
    sites.cut_off(false);
    assert!(stale > good);

    let listed = sites.listed();
    let of = |id: &str| listed.iter().find(|line| line["backup"] == id).unwrap();
    assert_eq!((&of(&good)["epoch"], &of(&good)["site"]), (&1.into(), &"a".into()));
    assert!(of(&good)["divergent"].is_null());
    assert_eq!(of(&stale)["epoch"], 1, "it went on with what it remembered");
    let why = of(&stale)["divergent"].as_str().unwrap();
    assert!(why.contains("under epoch 1 of site a after epoch 2 of site b began"), "{why}");
    let text = sites.at("b", &["list", "demo/files"]).expect(0).stdout;
    assert!(text.contains("DIVERGENT"), "{text}");
    let shown = sites.at("b", &["show", &stale]).expect(0).stdout;
    assert!(shown.contains("divergent") && shown.contains("epoch 1 of site a"), "{shown}");

    // Neither the latest nor the newest of an instant.
    assert_eq!(sites.restored(&["demo/files"]), "good");
    let now = jiff::Timestamp::now().to_string();
    assert_eq!(sites.restored(&["demo/files", "--at", &now]), "good");
    // By its name it takes more than --yes.
    let by_name = format!("demo/files@{stale}");
    let ran = sites.at("b", &["restore", &by_name, "--to", "no", "--yes"]).expect(6);
    assert!(ran.stderr.contains("is divergent: it was written under epoch 1"), "{}", ran.stderr);
    assert!(!sites.sandbox.path("no").exists());
    assert_eq!(sites.restored(&[&by_name, "--allow-divergent"]), "stale");
    assert_eq!(sites.restored(&["demo/files", "--allow-divergent"]), "stale");

    // What holds is told from what counts.
    let status = sites.at("b", &["status", "demo/files", "--output", "json"]).expect(0).json();
    assert_eq!(status[0]["backup"], good.as_str(), "{status}");
    // Nothing is built on it.
    let ran = sites.at("b", &["backup", "demo/files", "--output", "json"]).expect(0);
    assert_eq!(ran.json()["backups"][0]["base"], good.as_str(), "{}", ran.stdout);
    assert!(ran.stderr.contains("is not built on"), "{}", ran.stderr);
}

#[test]
fn a_site_that_comes_back_finds_itself_fenced_and_remembers_it() {
    let mut sites = Sites::new();
    sites.begin("a");
    sites.at("a", &["backup", "demo/files"]).expect(0);
    sites.begin("b");
    let fenced = "site a of stack demo is fenced: site b is active since epoch 2";
    for args in [&["backup", "demo/files"][..], &["prune", "--yes"], &["copy", "--to", "third"]] {
        let ran = sites.at("a", args).expect(1);
        assert!(ran.stderr.contains(fenced), "{args:?}\n{}", ran.stderr);
    }
    let status = sites.at("a", &["status", "demo/files"]).expect(0);
    assert!(status.stderr.contains(fenced), "{}", status.stderr);
    let shown = sites.at("a", &["role", "show"]).expect(0).stdout;
    assert!(
        shown.contains("site b is active since epoch 2; this host's site a is FENCED"),
        "{shown}"
    );
    let shown = sites.at("b", &["role", "show", "--output", "json"]).expect(0).json();
    assert_eq!(shown[0]["fenced"], false);
    assert_eq!(shown[0]["epochs"].as_array().unwrap().len(), 2);
    // Also when nobody can be asked: it was so when it was last asked.
    sites.cut_off(true);
    let ran = sites.at("a", &["backup", "demo/files"]).expect(1);
    assert!(ran.stderr.contains(fenced) && ran.stderr.contains("last asked"), "{}", ran.stderr);
    let shown = sites.at("a", &["role", "show"]).expect(1);
    assert!(shown.stdout.contains("FENCED"), "{}", shown.stdout);
    sites.at("b", &["backup", "demo/files"]).expect(0);
}

/// A segment of cluster 7 as PostgreSQL 17 begins it.
fn segment(sites: &Sites, number: u64, filling: u8) -> String {
    let mut wal = vec![0; 16 << 20];
    wal[..4].copy_from_slice(&[0x16, 0xd1, 2, 0]);
    wal[4..8].copy_from_slice(&1u32.to_le_bytes());
    wal[8..16].copy_from_slice(&(number << 24).to_le_bytes());
    wal[24..32].copy_from_slice(&7u64.to_le_bytes());
    wal[32..36].copy_from_slice(&(16u32 << 20).to_le_bytes());
    wal[4096] = filling;
    let path = sites.sandbox.path(format!("0000000100000000{number:08X}"));
    fs::write(&path, wal).unwrap();
    path.display().to_string()
}

#[test]
fn wal_of_a_site_that_was_cut_off_ends_the_way() {
    let mut sites = Sites::new();
    sites.begin("a");
    sites.at("a", &["wal", "push", &segment(&sites, 1, 1)]).expect(0);
    sites.cut_off(true);
    sites.begin("b");
    sites.at("a", &["wal", "push", &segment(&sites, 2, 2)]).expect(0);
    sites.at("a", &["wal", "push", &segment(&sites, 3, 3)]).expect(0);
    sites.cut_off(false);
    let ran = sites.at("a", &["wal", "push", &segment(&sites, 4, 4)]);
    assert!((1..=125).contains(&ran.code) && ran.stderr.contains("is fenced"), "{}", ran.stderr);

    let status = sites.at("b", &["wal", "status", "--offline", "--output", "json"]);
    let timeline = status.json()[0]["repositories"][0]["wal"]["timelines"][0].clone();
    assert_eq!((&timeline["files"], &timeline["divergent"]), (&3.into(), &2.into()), "{timeline}");
    assert_eq!(timeline["last"], "000000010000000000000001");
    let text = sites.at("b", &["wal", "status", "--offline"]).stdout;
    assert!(text.contains("DIVERGENT: 2 files"), "{text}");

    let get = |number: u64, more: &[&str]| {
        let name = format!("0000000100000000{number:08X}");
        let words = ["wal", "get", &name, "got", "--system-id", "7"];
        sites.at("b", &[&words[..], more].concat())
    };
    get(1, &[]).expect(0);
    // To a server that recovers that is where WAL ends.
    let ran = get(2, &[]).expect(1);
    assert!(ran.stderr.contains("was written under epoch 1 of site a"), "{}", ran.stderr);
    get(2, &["--allow-divergent"]).expect(0);

    // Where the newer timeline branched off behind it, it is the past of that one too.
    let history = sites.sandbox.path("00000002.history");
    fs::write(&history, "1\t0/3000000\tno recovery target specified\n").unwrap();
    let history = history.display().to_string();
    sites.at("b", &["wal", "push", &history, "--system-id", "7"]).expect(0);
    get(2, &[]).expect(0);
    get(3, &[]).expect(1);
}
