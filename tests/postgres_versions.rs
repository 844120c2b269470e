//! Versions that are supported and not run by every test: the same road, once.

use crate::common::Sandbox;
use crate::common::postgres::Server;
use crate::postgres_wal::Archiving;

/// A full, an incremental, WAL, and a moment to come back to.
#[test]
fn clusters_of_other_versions_come_back_too() {
    for major in [13, 14, 16] {
        let Some(this) = Archiving::start(major, false) else { return };
        let server = &this.server;
        server.sql("postgres", "CREATE TABLE ledger AS SELECT generate_series(1, 20000) AS n");
        this.run(&["backup", "demo/pg"]).expect(0);
        server.sql("postgres", "UPDATE ledger SET n = n + 1 WHERE n < 100");
        let ran = this.run(&["backup", "demo/pg"]).expect(0);
        assert!(ran.stdout.contains("-incr-"), "{major}: {}", ran.stderr);
        server.sql("postgres", "INSERT INTO ledger VALUES (1000000)");
        let lsn = server.value("postgres", "SELECT pg_current_wal_insert_lsn()");
        server.sql("postgres", "DELETE FROM ledger");
        this.archive();
        let sum = "SELECT sum(n) FROM ledger";
        let copy = this.recover(&["--lsn", &lsn]);
        assert_eq!(copy.value("postgres", sum), (200_010_000 + 99 + 1_000_000).to_string());
        let copy = this.recover(&["--latest"]);
        assert_eq!(copy.value("postgres", "SELECT count(*) FROM ledger"), "0");
    }
}

/// The oldest server, by the programs of one that knows it; it goes into a newer one.
#[test]
fn a_database_of_the_oldest_server_goes_into_a_new_one() {
    let (Some(old), Some(new)) = (Server::start(10), Server::start(17)) else { return };
    old.create_database("shop");
    old.sql(
        "shop",
        "CREATE ROLE seller; CREATE TABLE t (n int PRIMARY KEY); ALTER TABLE t OWNER TO seller;
         INSERT INTO t SELECT generate_series(1, 1000)",
    );
    let sandbox = Sandbox::new();
    let source = format!(
        "  pg: {{ postgres_dump: {{ connection: '{}', programs: {}, checksums: true }} }}\n",
        old.connection("shop").replace('\'', "''"),
        new.tool("pg_dump").parent().unwrap().display()
    );
    sandbox.write_policy(false, &source);
    sandbox.run(&["init"]).expect(0);
    sandbox.run(&["check"]).expect(0);
    sandbox.run(&["backup", "demo/pg"]).expect(0);
    let shown = sandbox.run(&["show", "demo/pg"]).expect(0).stdout;
    assert!(shown.contains("PostgreSQL 10."), "{shown}");
    let target = new.connection("postgres");
    sandbox.run(&["restore", "demo/pg", "--to", &target, "--database", "shop=shop"]).expect(0);
    assert_eq!(new.value("shop", "SELECT sum(n) FROM t"), "500500");
    let owner = "SELECT tableowner FROM pg_tables WHERE tablename = 't'";
    assert_eq!(new.value("shop", owner), "seller");
}
