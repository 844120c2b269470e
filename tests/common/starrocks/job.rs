//! Jobs, one step a tick.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::grammar::Object;
use super::model::{Table, World};
use super::restoring;

/// States of a backup, in their order.
pub type BackupState = &'static str;

const BACKUP: &[BackupState] = &[
    "PENDING",
    "SNAPSHOTING",
    "UPLOAD_SNAPSHOT",
    "UPLOADING",
    "SAVE_META",
    "UPLOAD_INFO",
    "FINISHED",
];
const RESTORE: &[&str] =
    &["PENDING", "SNAPSHOTING", "DOWNLOAD", "DOWNLOADING", "COMMIT", "COMMITTING", "FINISHED"];

/// A job.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: i64,
    pub backup: bool,
    pub database: String,
    pub label: String,
    pub stamp: String,
    pub repository: String,
    pub state: &'static str,
    pub status: String,
    pub objects: Vec<Object>,
    pub created: i64,
    pub finished: Option<i64>,
    /// Seconds.
    pub timeout: i64,
    pub trouble: String,
    pub replicas: u32,
    /// What was taken, or is put back: tables with the partitions that are meant.
    pub tables: BTreeMap<String, Table>,
    /// Files of tablets in the bucket: table, partition, index, tablet, files.
    pub uploaded: Vec<(String, String, i64, i64, Vec<String>)>,
    /// Tables that the restore made.
    pub made: Vec<String>,
    /// What `__info_` said when a restore was submitted.
    pub info: Value,
}

impl Job {
    pub fn new(backup: bool, database: &str, label: &str, repository: &str, now: i64) -> Self {
        Self {
            id: -1,
            backup,
            database: database.to_owned(),
            label: label.to_owned(),
            stamp: World::stamp(now),
            repository: repository.to_owned(),
            state: "PENDING",
            status: "[OK]".to_owned(),
            objects: Vec::new(),
            created: now,
            finished: None,
            timeout: 86_400,
            trouble: String::new(),
            replicas: 3,
            tables: BTreeMap::new(),
            uploaded: Vec::new(),
            made: Vec::new(),
            info: Value::Null,
        }
    }

    pub fn is_done(&self) -> bool {
        ["FINISHED", "CANCELLED"].contains(&self.state)
    }

    /// What a frontend that just began to lead knows of it.
    pub fn leader_changed(&mut self) {
        self.state = match self.state {
            "SNAPSHOTING" => "PENDING",
            "DOWNLOADING" => "DOWNLOAD",
            "COMMITTING" => "COMMIT",
            other => other,
        };
        if self.state == "PENDING" {
            self.id = -1;
        }
    }

    /// What a follower knows of it: only what is in the journal.
    pub fn replayed(&self) -> &'static str {
        match self.state {
            "SNAPSHOTING" => "PENDING",
            "DOWNLOADING" => "DOWNLOAD",
            "COMMITTING" => "COMMIT",
            other => other,
        }
    }

    pub fn cancel(&mut self, status: String, now: i64) {
        self.state = "CANCELLED";
        self.status = status;
        self.finished = Some(now);
    }
}

/// One tick for the job of a database.
pub fn tick(world: &mut World, database: &str) {
    world.now += 3000;
    let Some(mut job) = world.slots.remove(database) else { return };
    if !job.is_done() {
        step(world, &mut job);
    }
    let taken = world.faults.taken_in == Some(job.state);
    world.slots.insert(database.to_owned(), job);
    if taken {
        world.faults.taken_in = None;
        let mut other = Job::new(false, database, "of_somebody_else", "other", world.now);
        other.state = "FINISHED";
        world.slots.insert(database.to_owned(), other);
    }
}

fn step(world: &mut World, job: &mut Job) {
    if world.now > job.created + job.timeout * 1000 {
        let status = if job.backup {
            "[TIMEOUT, msg: ]".to_owned()
        } else {
            format!("[TIMEOUT, msg: restore job with label: {}  timeout.]", job.label)
        };
        undo(world, job);
        return job.cancel(status, world.now);
    }
    if world.faults.stuck_in == Some(job.state) {
        return;
    }
    let done = if job.backup { backup(world, job) } else { restoring::step(world, job) };
    match done {
        Err(status) => {
            undo(world, job);
            job.cancel(status, world.now);
        }
        Ok(false) => {}
        Ok(true) => {
            let states = if job.backup { BACKUP } else { RESTORE };
            let at = states.iter().position(|state| *state == job.state).unwrap();
            job.state = states[at + 1];
            if job.state == "FINISHED" {
                job.finished = Some(world.now);
            }
        }
    }
}

/// What a restore made goes away with it.
pub fn undo(world: &mut World, job: &Job) {
    if job.backup || ["COMMIT", "COMMITTING"].contains(&job.state) {
        return;
    }
    let Some(database) = world.databases.get_mut(&job.database) else { return };
    for name in &job.made {
        database.tables.remove(name);
    }
    for table in database.tables.values_mut() {
        table.state = "NORMAL";
    }
}

/// Whether the state is over; an error is the status that it is cancelled with.
fn backup(world: &mut World, job: &mut Job) -> Result<bool, String> {
    match job.state {
        "PENDING" => {
            job.id = world.id();
            job.tables = taken(world, job)?;
        }
        "SNAPSHOTING" if world.faults.merged > 0 => {
            world.faults.merged -= 1;
            return Err(
                "[OLAP_VERSION_ALREADY_MERGED, msg: make snapshot failed, version already merged]"
                    .into(),
            );
        }
        "UPLOADING" if world.faults.uploads_fail > 0 => {
            world.faults.uploads_fail -= 1;
            job.trouble = format!(
                "[{}: Fail to rename file, err: curlCode: 28, Timeout was reached]",
                job.id + 1
            );
            return Ok(false);
        }
        "UPLOADING" => match upload(world, job) {
            Ok(()) => job.trouble.clear(),
            Err(cause) => {
                job.trouble = format!("[{}: {cause}]", job.id + 1);
                return Ok(false);
            }
        },
        "SAVE_META" => {
            let repository = &world.repositories[&job.repository];
            let meta = restoring::meta(&job.tables);
            let directory = repository.snapshot(&job.label);
            if repository.put_named(&directory, "__meta", &meta).is_err() {
                return Ok(false);
            }
        }
        "UPLOAD_INFO" => {
            let repository = &world.repositories[&job.repository];
            let info = info(world, job).to_string();
            let directory = repository.snapshot(&job.label);
            let name = format!("__info_{}", job.stamp);
            if repository.put_named(&directory, &name, info.as_bytes()).is_err() {
                return Ok(false);
            }
        }
        _ => {}
    }
    Ok(true)
}

fn taken(world: &World, job: &Job) -> Result<BTreeMap<String, Table>, String> {
    let lost = |what: String| format!("[NOT_FOUND, msg: {what}]");
    let database = world
        .databases
        .get(&job.database)
        .ok_or_else(|| lost(format!("database {} has been dropped", job.database)))?;
    let mut tables = BTreeMap::new();
    for object in &job.objects {
        let table = database
            .tables
            .get(&object.table)
            .ok_or_else(|| lost(format!("table {} does not exist", object.table)))?;
        let mut table = table.clone();
        for partition in &object.partitions {
            if !table.partitions.contains_key(partition) {
                return Err(lost(format!(
                    "partition {partition} does not exist  in table{}",
                    object.table
                )));
            }
        }
        if !object.partitions.is_empty() {
            table.partitions.retain(|name, _| object.partitions.contains(name));
        }
        tables.insert(object.table.clone(), table);
    }
    Ok(tables)
}

fn upload(world: &mut World, job: &mut Job) -> Result<(), String> {
    job.uploaded.clear();
    let forget = std::mem::take(&mut world.faults.forget_files);
    let mut forgotten = 0;
    for (name, table) in job.tables.clone() {
        for (partition, one) in &table.partitions {
            let index = world.id();
            for bucket in 0..table.buckets {
                let tablet = world.id();
                let database = world.databases[&job.database].id;
                let repository = &world.repositories[&job.repository];
                let directory = format!(
                    "{}/__ss_content/__db_{database}/__tbl_{}/__part_{}/__idx_{index}/__{tablet}",
                    repository.snapshot(&job.label),
                    table.id,
                    one.id
                );
                let rows: Vec<&str> = one
                    .rows
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| *at as u32 % table.buckets == bucket)
                    .map(|(_, row)| row.as_str())
                    .collect();
                let head = format!("tablet {tablet} of {name}, version {}", one.version);
                let files = [
                    (format!("{tablet}.hdr"), head.into_bytes()),
                    (format!("0200000000{tablet}_0.dat"), rows.join("\n").into_bytes()),
                ];
                let mut names = Vec::new();
                // A tablet without rows has no segment.
                for (file, content) in files.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
                    if forgotten < forget && file.ends_with(".dat") {
                        forgotten += 1;
                        names.push(format!("{file}.{}", super::bucket::md5(&content)));
                        continue;
                    }
                    names.push(repository.put_named(&directory, &file, &content)?);
                }
                job.uploaded.push((name.clone(), partition.clone(), index, tablet, names));
            }
        }
    }
    Ok(())
}

fn info(world: &World, job: &Job) -> Value {
    let mut objects = serde_json::Map::new();
    for (name, table) in &job.tables {
        let mut partitions = serde_json::Map::new();
        for (partition, one) in &table.partitions {
            let mine = job.uploaded.iter().filter(|(t, p, ..)| t == name && p == partition);
            let mut tablets = serde_json::Map::new();
            let (mut order, mut index) = (Vec::new(), 0);
            for (_, _, idx, tablet, files) in mine {
                index = *idx;
                order.push(tablet.to_string());
                tablets.insert(tablet.to_string(), json!(files));
            }
            partitions.insert(
                partition.clone(),
                json!({"id": one.id, "version": one.version, "version_hash": 0,
                    "indexes": {name: {"id": index, "schema_hash": 1, "tablets": tablets, "tablets_order": order}},
                    "subPartitions": {}}),
            );
        }
        objects.insert(name.clone(), json!({"id": table.id, "partitions": partitions}));
    }
    json!({"name": job.label, "database": job.database, "id": world.databases[&job.database].id,
        "backup_time": job.created, "meta_version": 1, "starrocks_meta_version": 4,
        "backup_result": "succeed", "backup_objects": objects})
}
