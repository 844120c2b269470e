//! One database, or one table, out of a base backup.

use std::fs;

use crate::common::postgres::ALL;
use crate::postgres_wal::Archiving;

#[test]
fn a_dropped_table_comes_back_beside_the_database_in_use() {
    for major in ALL {
        let Some(this) = Archiving::start(major, true) else { continue };
        this.server.sql_each("postgres", &["CREATE DATABASE shop", "CREATE ROLE seller LOGIN"]);
        this.server.sql("shop", "CREATE TABLE orders AS SELECT generate_series(1, 500) AS n");
        this.server.sql("shop", "ALTER TABLE orders OWNER TO seller; CREATE TABLE more (n int)");
        this.run(&["backup", "demo/pg"]).expect(0);
        this.server.sql("shop", "INSERT INTO orders SELECT generate_series(501, 510)");
        let now = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
        let at = this.server.value("shop", now);
        std::thread::sleep(std::time::Duration::from_millis(50));
        this.server.sql("shop", "DROP TABLE orders; INSERT INTO more VALUES (1)");
        this.archive();

        let scratch = this.sandbox.path("scratch");
        fs::create_dir(&scratch).unwrap();
        this.give(&scratch);
        let programs = this.server.tool("postgres").parent().unwrap().display().to_string();
        let restore = |more: &[&str]| {
            let mut args = vec!["restore", "demo/pg", "--to", "server", "--programs", &programs];
            args.extend(["--scratch", scratch.to_str().unwrap(), "--at", &at]);
            args.extend(more);
            this.sandbox.run_with_key(&args)
        };
        let dry = restore(&["--database", "shop=shop_before", "--dry-run"]).expect(0);
        assert!(dry.stderr.contains("would: dump shop=shop_before from there"), "{}", dry.stderr);
        let ran = restore(&["--database", "shop=shop_before"]).expect(0);
        assert!(ran.stderr.contains("restored `shop` as `shop_before`"), "{}", ran.stderr);
        assert!(ran.stderr.contains("510 rows in 2 tables"), "{}", ran.stderr);
        let count = "SELECT count(*) FROM orders";
        assert_eq!(this.server.value("shop_before", count), "510");
        let owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'orders'";
        assert_eq!(this.server.value("shop_before", owner), "seller");
        // What is in use stays as it is.
        assert_eq!(this.server.value("shop", "SELECT count(*) FROM more"), "1");
        assert_eq!(this.server.value("shop", "SELECT to_regclass('orders') IS NULL"), "t");
        restore(&["--database", "shop=only", "--table", "orders"]).expect(0);
        assert_eq!(this.server.value("only", count), "510");
        assert_eq!(this.server.value("only", "SELECT to_regclass('more') IS NULL"), "t");

        let wrong = restore(&["--database", "shup=x"]);
        assert!(wrong.code != 0 && wrong.stderr.contains("no database `shup`"), "{}", wrong.stderr);
        // It is there, with content.
        let live = restore(&["--database", "shop"]);
        assert!(live.code != 0 && live.stderr.contains("is not empty"), "{}", live.stderr);
        assert!(fs::read_dir(&scratch).unwrap().next().is_none());
    }
}

#[test]
fn what_does_not_go_together_is_said() {
    let Some(this) = Archiving::start(17, false) else { return };
    this.run(&["backup", "demo/pg"]).expect(0);
    let said = |args: &[&str]| {
        let mut all = vec!["restore", "demo/pg", "--to", "server"];
        all.extend(args);
        this.run(&all).expect(2).stderr
    };
    assert!(said(&[]).contains("only databases of it to a server"));
    assert!(said(&["--database", "x"]).contains("--scratch DIR"));
    let scratch = ["--database", "x", "--scratch", "/tmp"];
    assert!(
        said(&[&scratch[..], &["--standby"]].concat()).contains("--standby goes with a directory")
    );
    assert!(said(&[&scratch[..], &["--path", "x"]].concat()).contains("--path picks files"));
}
