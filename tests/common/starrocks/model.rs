//! What a cluster has.

use std::collections::BTreeMap;

use super::bucket::Repository;
use super::job::Job;

/// Bounds of a partition, as they are written.
pub type Bounds = Option<(String, String)>;

/// Everything about a cluster.
pub struct World {
    pub version_text: String,
    pub run_mode: String,
    pub user: String,
    pub password: String,
    pub databases: BTreeMap<String, Database>,
    pub repositories: BTreeMap<String, Repository>,
    /// The last job of each database, whatever kind it is.
    pub slots: BTreeMap<String, Job>,
    pub next_id: i64,
    /// Milliseconds.
    pub now: i64,
    /// Steps of the daemon whenever somebody looks at a job.
    pub ticks_a_look: u32,
    pub backends: usize,
    pub dead_backends: usize,
    /// Port, and whether it runs.
    pub frontends: Vec<(u16, bool)>,
    pub leader: usize,
    pub log: Vec<String>,
    pub faults: Faults,
    pub users: Vec<String>,
    pub roles: Vec<String>,
    pub grants: Vec<String>,
    /// Applications: user, password and the role that each has.
    pub accounts: BTreeMap<String, (String, String)>,
    /// Rights that roles have, as they were given: the right, and the role.
    pub rights: std::collections::BTreeSet<(String, String)>,
    pub runtime: tokio::runtime::Runtime,
    /// The keystore, if there is one.
    pub tls: Option<std::sync::Arc<rustls::ServerConfig>>,
}

/// What goes wrong.
#[derive(Debug, Default, Clone)]
pub struct Faults {
    /// A job stays in this state.
    pub stuck_in: Option<&'static str>,
    /// Uploads fail so often before they succeed.
    pub uploads_fail: u32,
    /// So many snapshots are cancelled because compaction was faster.
    pub merged: u32,
    /// No answer comes to the next statement that begins so, although it is carried out.
    pub no_reply: Option<&'static str>,
    /// The next statement that begins so is carried out, and nothing comes any more.
    pub halt_after: Option<&'static str>,
    /// Neither is it carried out.
    pub no_reply_undone: Option<&'static str>,
    /// The user may not see jobs.
    pub hidden: bool,
    /// Files that are left out of the next snapshot although it says that it is done.
    pub forget_files: u32,
    /// A partition that is dropped when the next job is submitted.
    pub drop_partition: Option<(String, String, String)>,
    /// Users without rights are told so, from statements that begin so.
    pub denied: Option<&'static str>,
    /// A frontend dies when a job reaches this state.
    pub die_in: Option<&'static str>,
    /// Somebody else's job takes the slot when a job reaches this state.
    pub taken_in: Option<&'static str>,
    /// So many labels are taken already.
    pub labels_taken: u32,
    /// Partitions of tables that look after them themselves are dropped by their age.
    pub scheduler: bool,
    /// Rows vanish on the way back.
    pub lose_rows: bool,
}

/// A database.
#[derive(Debug, Clone, Default)]
pub struct Database {
    pub id: i64,
    pub tables: BTreeMap<String, Table>,
    pub views: BTreeMap<String, String>,
    pub materialized: BTreeMap<String, String>,
    /// Tables of other engines.
    pub external: BTreeMap<String, String>,
}

/// A table.
#[derive(Debug, Clone, Default)]
pub struct Table {
    pub id: i64,
    /// Its columns, as they are written.
    pub columns: String,
    /// The column it is partitioned by, if it is.
    pub partition_by: Option<String>,
    pub by_list: bool,
    pub buckets: u32,
    pub replicas: u32,
    pub dynamic: bool,
    pub partitions: BTreeMap<String, Partition>,
    pub temporary: bool,
    /// `NORMAL`, or `RESTORE`.
    pub state: &'static str,
}

/// A partition.
#[derive(Debug, Clone, Default)]
pub struct Partition {
    pub id: i64,
    pub version: i64,
    pub replicas: u32,
    pub bounds: Bounds,
    pub rows: Vec<String>,
}

impl World {
    pub fn new(version: &str) -> Self {
        Self {
            version_text: version.to_owned(),
            run_mode: "shared_nothing".to_owned(),
            user: "backup".to_owned(),
            password: "pass'word\\1".to_owned(),
            databases: BTreeMap::new(),
            repositories: BTreeMap::new(),
            slots: BTreeMap::new(),
            next_id: 10_000,
            now: 1_795_000_000_000,
            ticks_a_look: 1,
            backends: 1,
            dead_backends: 0,
            frontends: Vec::new(),
            leader: 0,
            log: Vec::new(),
            faults: Faults::default(),
            users: vec!["'root'@'%'".into(), "'backup'@'%'".into(), "'analyst'@'%'".into()],
            roles: vec!["root".into(), "public".into(), "readers".into()],
            grants: Vec::new(),
            accounts: BTreeMap::new(),
            rights: std::collections::BTreeSet::new(),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap(),
            tls: None,
        }
    }

    /// Whether a user may write to a database: the one that backs up may everything.
    pub fn may_write(&self, user: &str, database: &str) -> bool {
        let Some((_, role)) = self.accounts.get(user) else { return user == self.user };
        self.rights.iter().any(|(right, whom)| {
            let (what, place) = right.split_once(" ON ").unwrap_or_default();
            whom == role
                && what.split(',').any(|one| one.trim() == "INSERT")
                && place == format!("ALL TABLES IN DATABASE {database}")
        })
    }

    /// The version, as in (3, 4).
    pub fn version(&self) -> (u32, u32) {
        let mut numbers = self.version_text.split(['.', '-']).map(|n| n.parse().unwrap_or(0));
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    pub fn id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }

    /// Makes a database.
    pub fn database(&mut self, name: &str) -> &mut Database {
        let id = self.id();
        self.databases
            .entry(name.to_owned())
            .or_insert_with(|| Database { id, ..Database::default() })
    }

    /// Makes a table, partitioned by `dt` if it has named partitions.
    pub fn table(&mut self, database: &str, name: &str, partitions: &[&str]) {
        let id = self.id();
        let mut table = Table {
            id,
            columns: "  `id` bigint(20) NOT NULL COMMENT \"\",\n  `dt` date NOT NULL COMMENT \"\""
                .into(),
            partition_by: (!partitions.is_empty()).then(|| "dt".to_owned()),
            buckets: 2,
            replicas: 1,
            state: "NORMAL",
            ..Table::default()
        };
        let names = if partitions.is_empty() { vec![name] } else { partitions.to_vec() };
        for name in names {
            let id = self.id();
            let bounds =
                (!partitions.is_empty()).then(|| (format!("{name}-0"), format!("{name}-1")));
            let one = Partition { id, version: 1, replicas: 1, bounds, rows: Vec::new() };
            table.partitions.insert(name.to_owned(), one);
        }
        self.database(database);
        self.databases.get_mut(database).unwrap().tables.insert(name.to_owned(), table);
    }

    /// Loads rows into a partition.
    pub fn load(&mut self, database: &str, table: &str, partition: &str, rows: &[&str]) {
        let one = self.partition(database, table, partition);
        one.rows.extend(rows.iter().map(|row| (*row).to_owned()));
        one.version += 1;
    }

    /// Empties a partition: a new one takes its place.
    pub fn truncate(&mut self, database: &str, table: &str, partition: &str) {
        let id = self.id();
        let one = self.partition(database, table, partition);
        (one.id, one.version, one.rows) = (id, 1, Vec::new());
    }

    pub fn partition(&mut self, database: &str, table: &str, partition: &str) -> &mut Partition {
        let database = self.databases.get_mut(database).expect("a database");
        let table = database.tables.get_mut(table).expect("a table");
        table.partitions.get_mut(partition).expect("a partition")
    }

    /// All rows of a table, in the order of its partitions.
    pub fn rows(&self, database: &str, table: &str) -> Vec<String> {
        let table = &self.databases[database].tables[table];
        table.partitions.values().flat_map(|one| one.rows.clone()).collect()
    }

    /// The leader is gone, or a follower.
    pub fn frontend_stopped(&mut self, number: usize) {
        self.frontends[number].1 = false;
        if self.leader == number {
            let next = self.frontends.iter().position(|(_, alive)| *alive);
            self.leader = next.unwrap_or(number);
            for job in self.slots.values_mut() {
                job.leader_changed();
            }
        }
    }

    /// `yyyy-MM-dd HH:mm:ss`.
    pub fn time(millis: i64) -> String {
        jiff::Timestamp::from_millisecond(millis)
            .unwrap()
            .to_zoned(jiff::tz::TimeZone::UTC)
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string()
    }

    /// `yyyy-MM-dd-HH-mm-ss-SSS`.
    pub fn stamp(millis: i64) -> String {
        let zoned =
            jiff::Timestamp::from_millisecond(millis).unwrap().to_zoned(jiff::tz::TimeZone::UTC);
        format!("{}-{:03}", zoned.strftime("%Y-%m-%d-%H-%M-%S"), millis.rem_euclid(1000))
    }
}

impl Table {
    /// The statement that makes it.
    pub fn definition(&self, name: &str) -> String {
        let mut text = format!(
            "CREATE TABLE `{name}` (\n{}\n) ENGINE=OLAP \nDUPLICATE KEY(`id`)\n",
            self.columns
        );
        if let Some(column) = &self.partition_by {
            let kind = if self.by_list { "LIST" } else { "RANGE" };
            text.push_str(&format!("PARTITION BY {kind}(`{column}`)\n("));
            let list: Vec<String> = self
                .partitions
                .iter()
                .map(|(name, one)| {
                    let (from, to) = one.bounds.clone().unwrap_or_default();
                    format!("PARTITION {name} VALUES [(\"{from}\"), (\"{to}\"))")
                })
                .collect();
            text.push_str(&list.join(",\n"));
            text.push_str(")\n");
        }
        let dynamic = if self.dynamic { "\"dynamic_partition.enable\" = \"true\",\n" } else { "" };
        text.push_str(&format!(
            "DISTRIBUTED BY HASH(`id`) BUCKETS {} \nPROPERTIES (\n{dynamic}\"replication_num\" = \"{}\"\n);",
            self.buckets, self.replicas
        ));
        text
    }

    /// What two tables have to agree on, the name included.
    pub fn signature(&self, name: &str) -> String {
        format!("{name}|{}|{:?}|{}", self.columns, self.partition_by, self.by_list)
    }
}
