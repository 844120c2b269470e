//! Two StarRocks clusters: brought into step, failed over, and back, by playbooks.

use std::fs;

use crate::common::Ran;
use crate::common::starrocks::StarRocks;
use crate::common::starrocks::fixture::Fixture;

const RIGHT: &str = "INSERT, UPDATE, DELETE ON ALL TABLES IN DATABASE dw";

struct Two {
    site: Fixture,
    b: StarRocks,
}

impl Two {
    fn new() -> Self {
        let two = Self { site: Fixture::new("3.3.5-6d81f75"), b: StarRocks::start("3.3.6-0", 1) };
        for (cluster, has) in [(&two.site.cluster, true), (&two.b, false)] {
            let mut world = cluster.world();
            world.roles.push("etl".into());
            world.accounts.insert("loader".into(), ("load-load".into(), "etl".into()));
            if has {
                world.rights.insert((RIGHT.into(), "etl".into()));
            }
        }
        two.write();
        two
    }

    /// Both clusters are sources of one policy, each with a repository; a snapshot of either is restored
    /// into the other.
    fn write(&self) {
        self.site.write_policy("");
        let path = self.site.sandbox.path("policy.yaml");
        let text = fs::read_to_string(&path).unwrap();
        let (a, b) = (&self.site.cluster.addresses()[0], &self.b.addresses()[0]);
        let source = text.find("  warehouse:\n").unwrap();
        let jobs = text.find("jobs:\n").unwrap();
        let standby = text[source..jobs]
            .replace("  warehouse:\n", "  standby:\n    repository: offsite\n")
            .replace(a.as_str(), b);
        let (head, _) = text.split_at(jobs);
        let login = |address: &str, user: &str, variable: &str| {
            format!(
                "{{ frontends: [\"{address}\"], user: {user}, password: \"${{env:{variable}}}\" }}"
            )
        };
        let owner = |address: &str| login(address, "backup", "OWNER");
        let loader = |address: &str| login(address, "loader", "LOADER");
        let rights = format!("rights: [\"{RIGHT}\"], of: [ROLE etl]");
        let key = self.site.sandbox.path("recovery.key");
        let key = key.display();
        let over = |from: &str, to: &str, source: &str, into: &str| {
            format!(
                "    fence:\n      \
                 fence: {{ starrocks: {{ fence: {{ cluster: {from_owner}, {rights} }} }} }}\n      \
                 proof: {{ starrocks: {{ prove_fenced: {{ cluster: {from_loader}, table: dw.orders }} }} }}\n    \
                 recover:\n      \
                 last: {{ backup: {{ sources: [{source}] }} }}\n      \
                 swap: {{ restore: {{ source: {source}, backup: \"{{{{last.backups}}}}\", to: server, options: [--into, {into}, --database, dw, --swap], identity: [{key}] }} }}\n    \
                 validate:\n      \
                 same: {{ starrocks: {{ compare: {{ cluster: {from_owner}, with: {to_owner}, tables: [dw.orders, dw.customers] }} }} }}\n    \
                 cutover:\n      \
                 active: {{ starrocks: {{ activate: {{ cluster: {to_owner}, {rights} }} }}, point_of_no_return: true }}\n      \
                 name: {{ command: {{ apply: {{ shell: \"echo {into} >> $NAME\" }}, repeatable: true }} }}\n      \
                 tell: {{ notify: {{ text: \"{into} is written to now\" }} }}\n    \
                 reprotect:\n      again: {{ backup: {{ sources: [{into}] }} }}\n",
                from_owner = owner(from),
                from_loader = loader(from),
                to_owner = owner(to),
            )
        };
        let text = format!(
            "{head}{standby}jobs:\n  daily: {{ sources: all, kind: full, schedule: {{ cron: \"0 3 * * *\" }}, keep: {{ for: 8w, at_least: 3 }} }}\n\
             notify:\n  command: {{ argv: [sh, -c, \"cat >> $TOLD\"] }}\n\
             playbooks:\n  sync:\n    recover:\n      \
             snapshot: {{ backup: {{ sources: [warehouse] }} }}\n      \
             bring: {{ restore: {{ source: warehouse, backup: \"{{{{snapshot.backups}}}}\", to: server, options: [--into, standby, --database, dw=dw], identity: [{key}] }} }}\n    \
             validate:\n      same: {{ starrocks: {{ compare: {{ cluster: {a_o}, with: {b_o}, tables: [dw.orders, dw.customers] }} }} }}\n      \
             lag: {{ command: {{ apply: {{ shell: \"test {{{{bring.lag}}}} -lt 3600 && echo {{{{bring.lag}}}} > $LAG\" }}, repeatable: true }} }}\n  \
             failover:\n    on_failure: undo\n{failover}  failback:\n    on_failure: undo\n{failback}",
            a_o = owner(a),
            b_o = owner(b),
            failover = over(a, b, "warehouse", "standby"),
            failback = over(b, a, "standby", "warehouse"),
        );
        fs::write(path, text).unwrap();
    }

    fn run(&self, args: &[&str]) -> Ran {
        let mut command = self.site.command(&[&["playbook"], args].concat());
        let sandbox = &self.site.sandbox;
        command.env("OWNER", &self.site.cluster.world().password).env("LOADER", "load-load");
        for (name, file) in [("NAME", "name"), ("TOLD", "told"), ("LAG", "lag")] {
            command.env(name, sandbox.path(file));
        }
        Ran::from(&command.output().unwrap())
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.site.sandbox.path(name)).unwrap_or_default()
    }
}

fn rows(cluster: &StarRocks) -> Vec<String> {
    cluster.world().rows("dw", "orders")
}

#[test]
fn brought_into_step_failed_over_and_back() {
    let two = Two::new();
    let a = &two.site.cluster;
    // A snapshot at A, restored at B; how far behind it is, is told by the snapshot.
    two.run(&["check", "sync", "failover"]);
    two.run(&["run", "sync", "--yes"]).expect(0);
    assert_eq!(rows(&two.b), rows(a));
    assert!(two.read("lag").trim().parse::<u64>().unwrap() < 3600);
    // What is written afterwards comes with the failover, because A is fenced first.
    a.world().load("dw", "orders", "p20260102", &["5,e"]);
    let before = rows(a);
    two.run(&["run", "failover", "--yes"]).expect(0);
    assert_eq!(rows(&two.b), before);
    assert!(!a.world().may_write("loader", "dw"), "A refuses");
    assert!(two.b.world().may_write("loader", "dw"), "B takes writes");
    assert_eq!(two.read("name"), "standby\n");
    assert!(two.read("told").contains("standby is written to now"), "{}", two.read("told"));
    // And back, with what was written at B meanwhile.
    two.b.world().load("dw", "orders", "p20260103", &["6,f"]);
    let before = rows(&two.b);
    assert_ne!(before, rows(a));
    two.run(&["run", "failback", "--yes"]).expect(0);
    assert_eq!(rows(a), before);
    assert!(a.world().may_write("loader", "dw") && !two.b.world().may_write("loader", "dw"));
}

#[test]
fn a_cluster_that_still_takes_writes_is_not_failed_over() {
    let two = Two::new();
    two.run(&["run", "sync", "--yes"]).expect(0);
    // Somebody gave the right by another way, which the fence does not reach.
    two.site
        .cluster
        .world()
        .rights
        .insert(("INSERT ON ALL TABLES IN DATABASE dw".into(), "etl".into()));
    let ran = two.run(&["run", "failover", "--yes"]).expect(1);
    assert!(ran.stderr.contains("the cluster still lets loader write"), "{}", ran.stderr);
    // Taken back: A is as it was, and B takes no writes.
    let rights = format!("{:?}", two.site.cluster.world().rights);
    assert!(rights.contains(RIGHT), "{rights}");
    assert!(!two.b.world().may_write("loader", "dw"));
    assert_eq!(two.read("name"), "");
}
