//! Targets of recovery of which nobody can say beforehand whether WAL leads there.

use crate::postgres_wal::Archiving;

#[test]
fn a_transaction_of_which_nothing_tells_is_said_to_be_one() {
    let Some(this) = Archiving::start(17, true) else { return };
    let server = &this.server;
    this.run(&["backup", "demo/pg"]).expect(0);
    let xid = server.value("postgres", "SELECT pg_current_xact_id()");
    this.run(&["backup", "demo/pg"]).expect(0);
    server.sql("postgres", "CREATE TABLE later (n int)");
    this.archive();
    let target = this.sandbox.path("out").display().to_string();
    let first = this.run(&["list", "--output", "json"]).expect(0).json();
    let first = first[0]["backup"].as_str().unwrap().to_owned();
    let plan = |xid: &str| {
        let args = ["restore", "demo/pg", "--to", &target, "--backup", &first, "--dry-run"];
        this.sandbox.run_with_key(&[&args[..], &["--xid", xid]].concat()).expect(0).stderr
    };
    // The second backup knows that it had begun by then, and WAL leads there.
    assert!(!plan(&xid).contains("nothing tells"), "{}", plan(&xid));
    let beyond = (xid.parse::<u64>().unwrap() + 100_000).to_string();
    let said = plan(&beyond);
    assert!(
        said.contains(&format!("nothing tells that transaction {beyond} is in the WAL")),
        "{said}"
    );
    assert!(said.contains("archived at"), "{said}");
}
