//! The way back: a merge, partition by partition.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::bucket::md5;
use super::job::Job;
use super::model::{Partition, Table, World};

/// `__meta`: a length, and JSON.
pub fn meta(tables: &BTreeMap<String, Table>) -> Vec<u8> {
    let mut map = serde_json::Map::new();
    for (name, table) in tables {
        let partitions: serde_json::Map<String, Value> = table
            .partitions
            .iter()
            .map(|(name, one)| (name.clone(), json!({"bounds": one.bounds})))
            .collect();
        map.insert(
            name.clone(),
            json!({"columns": table.columns, "partition_by": table.partition_by,
                "by_list": table.by_list, "buckets": table.buckets, "dynamic": table.dynamic,
                "partitions": partitions}),
        );
    }
    let text = json!({"tblNameMap": map}).to_string();
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn read_meta(bytes: &[u8]) -> Option<BTreeMap<String, Table>> {
    let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let value: Value = serde_json::from_slice(bytes.get(4..4 + length)?).ok()?;
    let mut tables = BTreeMap::new();
    for (name, table) in value["tblNameMap"].as_object()? {
        let mut made = Table {
            columns: table["columns"].as_str()?.to_owned(),
            partition_by: table["partition_by"].as_str().map(str::to_owned),
            by_list: table["by_list"].as_bool()?,
            buckets: table["buckets"].as_u64()? as u32,
            dynamic: table["dynamic"].as_bool()?,
            state: "RESTORE",
            ..Table::default()
        };
        for (name, partition) in table["partitions"].as_object()? {
            let bounds = serde_json::from_value(partition["bounds"].clone()).ok()?;
            made.partitions.insert(name.clone(), Partition { bounds, ..Partition::default() });
        }
        tables.insert(name.clone(), made);
    }
    Some(tables)
}

/// Whether the state is over; an error is the status that it is cancelled with.
pub fn step(world: &mut World, job: &mut Job) -> Result<bool, String> {
    match job.state {
        "PENDING" => pending(world, job)?,
        "DOWNLOADING" => match download(world, job) {
            Ok(()) => job.trouble.clear(),
            // Tasks are tried again until the job times out.
            Err(cause) => {
                job.trouble = format!("[{}: {cause}]", job.id + 1);
                return Ok(false);
            }
        },
        "COMMITTING" => commit(world, job)?,
        _ => {}
    }
    Ok(true)
}

fn common(message: impl std::fmt::Display) -> String {
    format!("[COMMON_ERROR, msg: {message}]")
}

fn pending(world: &mut World, job: &mut Job) -> Result<(), String> {
    job.id = world.id();
    // What a frontend made that no longer leads was in its memory only.
    let made = std::mem::take(&mut job.made);
    if let Some(database) = world.databases.get_mut(&job.database) {
        database.tables.retain(|name, _| !made.contains(name));
        database.tables.values_mut().for_each(|table| table.state = "NORMAL");
    }
    let repository = &world.repositories[&job.repository];
    let bytes = repository.one(&repository.snapshot(&job.label), "__meta");
    let bytes = bytes.map_err(|_| common("Failed to read backup meta from file"))?;
    let defined =
        read_meta(&bytes).ok_or_else(|| common("Failed to read backup meta from file"))?;
    let objects = job.objects.clone();
    for object in &objects {
        let mut table = defined[&object.table].clone();
        if !object.partitions.is_empty() {
            table.partitions.retain(|name, _| object.partitions.contains(name));
        }
        let name = object.alias.clone().unwrap_or_else(|| object.table.clone());
        if job.replicas as usize > world.backends {
            return Err(common(format!(
                "failed to find {} different hosts to create table: {name}",
                job.replicas
            )));
        }
        let there = world.databases.get(&job.database).and_then(|db| db.tables.get(&name)).cloned();
        match there {
            None => {
                table.id = world.id();
                table.replicas = job.replicas;
                for one in table.partitions.values_mut() {
                    world.next_id += 1;
                    (one.id, one.replicas) = (world.next_id, job.replicas);
                }
                job.made.push(name.clone());
            }
            Some(mut existing) => {
                check_existing(&name, &object.table, &existing, &table, job.replicas)?;
                for (partition, one) in &table.partitions {
                    if existing.partitions.contains_key(partition) {
                        continue;
                    }
                    if existing.partition_by.is_none() {
                        return Err(common(format!(
                            "No partition exist in single partitioned table {name}"
                        )));
                    }
                    world.next_id += 1;
                    let made =
                        Partition { id: world.next_id, replicas: job.replicas, ..one.clone() };
                    existing.partitions.insert(partition.clone(), made);
                }
                existing.state = "RESTORE";
                table = existing;
            }
        }
        let database = world
            .databases
            .get_mut(&job.database)
            .ok_or("[NOT_FOUND, msg: database has been dropped]")?;
        database.tables.insert(name, table);
    }
    Ok(())
}

fn check_existing(
    name: &str,
    of: &str,
    existing: &Table,
    table: &Table,
    replicas: u32,
) -> Result<(), String> {
    if existing.state != "NORMAL" {
        return Err(common(format!("Table {name}'s state is not NORMAL: {}", existing.state)));
    }
    if existing.temporary {
        return Err(common(format!("Do not support restoring table {name} with temp partitions")));
    }
    if existing.signature(name) != table.signature(of) {
        let why = if name == of { "short key column count" } else { "Table name" };
        return Err(common(format!(
            "Table {name} already exist but with different schema, errMsg: {why} is inconsistent"
        )));
    }
    for (partition, one) in &table.partitions {
        let Some(there) = existing.partitions.get(partition) else { continue };
        if there.bounds != one.bounds {
            return Err(common(format!(
                "Partition {partition} in table {name} has different range with partition in repository"
            )));
        }
        if there.replicas != replicas {
            return Err(common(format!(
                "Partition {partition} in table {name} has different replication num '{}' with partition in repository, which is {replicas}",
                there.replicas
            )));
        }
    }
    Ok(())
}

/// Rows of every partition, from files whose digests are right.
fn download(world: &World, job: &mut Job) -> Result<(), String> {
    let repository = &world.repositories[&job.repository];
    let root = repository.snapshot(&job.label);
    let info = job.info.clone();
    job.tables.clear();
    for object in &job.objects {
        let known = &info["backup_objects"][&object.table];
        let mut table = Table::default();
        for (name, partition) in known["partitions"].as_object().unwrap() {
            if !object.partitions.is_empty() && !object.partitions.contains(name) {
                continue;
            }
            let mut columns: Vec<Vec<String>> = Vec::new();
            for index in partition["indexes"].as_object().unwrap().values() {
                for tablet in index["tablets_order"].as_array().unwrap() {
                    let tablet = tablet.as_str().unwrap();
                    let directory = format!(
                        "{root}/__ss_content/__db_{}/__tbl_{}/__part_{}/__idx_{}/__{tablet}",
                        info["id"], known["id"], partition["id"], index["id"]
                    );
                    if repository.names(&directory)?.is_empty() {
                        return Err(format!("get nothing from remote path: {directory}"));
                    }
                    for file in index["tablets"][tablet].as_array().unwrap() {
                        let file = file.as_str().unwrap();
                        let bytes = repository
                            .read(&format!("{directory}/{file}"))
                            .ok_or_else(|| format!("file does not exist: {directory}/{file}"))?;
                        if md5(&bytes) != file.rsplit('.').next().unwrap() {
                            return Err(format!("invalid md5 of downloaded file: {file}"));
                        }
                        if file.contains(".dat.") {
                            let text = String::from_utf8(bytes).unwrap();
                            columns.push(text.lines().map(str::to_owned).collect());
                        }
                    }
                }
            }
            let longest = columns.iter().map(Vec::len).max().unwrap_or(0);
            let rows = (0..longest)
                .flat_map(|at| columns.iter().filter_map(move |rows| rows.get(at).cloned()))
                .collect();
            let version = partition["version"].as_i64().unwrap();
            table
                .partitions
                .insert(name.clone(), Partition { rows, version, ..Partition::default() });
        }
        job.tables.insert(object.table.clone(), table);
    }
    Ok(())
}

fn commit(world: &mut World, job: &mut Job) -> Result<(), String> {
    let lose = world.faults.lose_rows;
    let database = world
        .databases
        .get_mut(&job.database)
        .ok_or("[NOT_FOUND, msg: database has been dropped]")?;
    for object in &job.objects {
        let name = object.alias.as_ref().unwrap_or(&object.table);
        let table = database
            .tables
            .get_mut(name)
            .ok_or_else(|| format!("[NOT_FOUND, msg: table {name} has been dropped]"))?;
        for (partition, brought) in &job.tables[&object.table].partitions {
            let one = table.partitions.get_mut(partition).unwrap();
            (one.rows, one.version) = (brought.rows.clone(), brought.version);
            if lose {
                one.rows.pop();
            }
        }
        table.state = "NORMAL";
    }
    Ok(())
}
