//! What a frontend answers.

use std::sync::Mutex;

use super::bucket::Repository;
use super::grammar::{Object, Statement, parse};
use super::job::{self, Job};
use super::model::{Database, World};
use super::wire::Answer;

type Said = Result<Answer, String>;

/// Carries a statement out, as frontend `number`.
pub fn answer(
    world: &Mutex<World>,
    number: usize,
    text: &str,
    (user, current): (&str, &mut Option<String>),
) -> Answer {
    let mut world = world.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    world.log.push(text.to_owned());
    if let Some(start) = world.faults.denied
        && text.starts_with(start)
    {
        return refuse(&world, "Access denied; you need (at least one of) the REPOSITORY privilege(s) on SYSTEM for this operation".into());
    }
    if let Some(start) = world.faults.no_reply_undone
        && text.starts_with(start)
    {
        world.faults.no_reply_undone = None;
        return Answer::Silence;
    }
    let statement = match parse(text, world.version()) {
        Ok(statement) => statement,
        Err(message) => return Answer::Error(1064, message),
    };
    if let Statement::InsertNothing(database, table) = &statement
        && !world.may_write(user, database)
    {
        return refuse(
            &world,
            format!(
                "Access denied; you need (at least one of) the INSERT privilege(s) on TABLE {table} for this operation"
            ),
        );
    }
    let said = carry_out(&mut world, number, statement, current);
    if let Some(start) = world.faults.no_reply
        && text.starts_with(start)
    {
        world.faults.no_reply = None;
        return Answer::Silence;
    }
    if let Some(start) = world.faults.halt_after
        && text.starts_with(start)
    {
        world.faults.halt_after = None;
        return Answer::Halt;
    }
    said.unwrap_or_else(|message| refuse(&world, message))
}

/// Older versions wrap what handlers say, newer ones do not and have another number.
fn refuse(world: &World, message: String) -> Answer {
    if world.version() < (3, 4) {
        Answer::Error(1064, format!("Unexpected exception: {message}"))
    } else {
        Answer::Error(5064, message)
    }
}

fn rows(columns: &[&str], rows: Vec<Vec<String>>) -> Answer {
    let columns = columns.iter().map(|column| (*column).to_owned()).collect();
    Answer::Rows(columns, rows.into_iter().map(|row| row.into_iter().map(Some).collect()).collect())
}

fn database<'a>(world: &'a World, name: &str) -> Result<&'a Database, String> {
    world.databases.get(name).ok_or_else(|| format!("Unknown database '{name}'"))
}

fn carry_out(
    world: &mut World,
    number: usize,
    statement: Statement,
    current: &mut Option<String>,
) -> Said {
    match statement {
        Statement::ShowFrontends => Ok(frontends(world)),
        Statement::ShowBackends => Ok(backends(world)),
        Statement::ShowRepositories => Ok(repositories(world)),
        Statement::ShowDatabases => {
            let own = ["_statistics_", "information_schema", "sys"].map(str::to_owned);
            let names = world.databases.keys().cloned().chain(own);
            Ok(rows(&["Database"], names.map(|name| vec![name]).collect()))
        }
        Statement::ShowConfig(like) => {
            let mut all = vec![("run_mode", world.run_mode.clone()), ("query_port", "9030".into())];
            all.retain(|(key, _)| like.as_deref().is_none_or(|like| like == *key));
            let row = |(key, value): (&str, String)| {
                vec![
                    key.to_owned(),
                    "[]".into(),
                    value,
                    "String".into(),
                    "false".into(),
                    String::new(),
                ]
            };
            let columns = ["Key", "AliasNames", "Value", "Type", "IsMutable", "Comment"];
            Ok(rows(&columns, all.into_iter().map(row).collect()))
        }
        Statement::Tables(name) => Ok(tables(world, &name)),
        Statement::MaterializedViews(name) => {
            let names = world.databases.get(&name).map(|db| db.materialized.keys().cloned());
            let list = names.into_iter().flatten().map(|name| vec![name]).collect();
            Ok(rows(&["TABLE_NAME"], list))
        }
        Statement::BackendConfig => {
            let row = ["10001", "upload_worker_count", "0"].map(str::to_owned).to_vec();
            Ok(rows(&["BE_ID", "NAME", "VALUE"], vec![row]))
        }
        Statement::Count(db, table) => {
            let table = database(world, &db)?
                .tables
                .get(&table)
                .ok_or_else(|| format!("Unknown table '{db}.{table}'"))?;
            let count: usize = table.partitions.values().map(|one| one.rows.len()).sum();
            Ok(rows(&["count(*)"], vec![vec![count.to_string()]]))
        }
        Statement::ShowPartitions(db, table) => partitions(world, &db, &table),
        Statement::ShowCreate(kind, db, name) => {
            let found = database(world, &db)?;
            let text = match kind {
                "table" => found.tables.get(&name).map(|table| table.definition(&name)),
                "view" => found.views.get(&name).cloned(),
                _ => found.materialized.get(&name).cloned(),
            };
            let text = text.ok_or_else(|| format!("Unknown table '{name}'"))?;
            Ok(rows(&["Table", "Create Table"], vec![vec![name, text]]))
        }
        Statement::CreateRepository { name, read_only, location, properties } => {
            if world.repositories.contains_key(&name) {
                return Err(format!(
                    "Failed to create repository: repository with same name already exist: {name}"
                ));
            }
            let (id, now) = (world.id(), World::time(world.now));
            let handle = world.runtime.handle().clone();
            let made =
                Repository::create(&handle, (id, &name, &location), read_only, &properties, &now)?;
            world.repositories.insert(name, made);
            Ok(Answer::Ok)
        }
        Statement::DropRepository(name) => {
            if world.slots.values().any(|job| job.repository == name && !job.is_done()) {
                return Err(
                    "Backup or restore job is running on this repository. Can not drop it".into()
                );
            }
            world.repositories.remove(&name).ok_or("Repository does not exist")?;
            Ok(Answer::Ok)
        }
        Statement::Backup { database, label, repository, objects, properties } => {
            submit_backup(world, &database, &label, &repository, objects, &properties)
        }
        Statement::Restore { database, label, repository, objects, properties } => {
            submit_restore(world, &database, &label, &repository, objects, &properties)
        }
        Statement::ShowBackup(db) => show_job(world, number, db, true),
        Statement::ShowRestore(db) => show_job(world, number, db, false),
        Statement::CancelBackup(db) => cancel(world, &db, true),
        Statement::CancelRestore(db) => cancel(world, &db, false),
        Statement::ShowSnapshot { repository, label, timestamp } => {
            show_snapshot(world, &repository, label, timestamp.as_deref())
        }
        Statement::CreateDatabase(name) => {
            if world.databases.contains_key(&name) {
                return Err(format!("Can't create database '{name}'; database exists"));
            }
            world.database(&name);
            Ok(Answer::Ok)
        }
        Statement::DropDatabase(name) => {
            if world.slots.get(&name).is_some_and(|job| !job.is_done()) {
                return Err(format!("There is a job running on database '{name}'"));
            }
            world.slots.remove(&name);
            let found = world.databases.remove(&name);
            found.ok_or_else(|| format!("Can't drop database '{name}'; database doesn't exist"))?;
            Ok(Answer::Ok)
        }
        Statement::RenameDatabase(from, to) => {
            if world.databases.contains_key(&to) {
                return Err(format!("Database name[{to}] is already used"));
            }
            let found = world.databases.remove(&from);
            let found = found.ok_or_else(|| format!("Unknown database '{from}'"))?;
            world.databases.insert(to, found);
            Ok(Answer::Ok)
        }
        Statement::AlterProperties { database: db, table, properties } => {
            database(world, &db)?;
            let found = world.databases.get_mut(&db).unwrap().tables.get_mut(&table);
            let found = found.ok_or_else(|| format!("Unknown table '{table}'"))?;
            for (key, value) in properties {
                match (key.as_str(), value.as_str()) {
                    ("dynamic_partition.enable", "false") => found.dynamic = false,
                    ("dynamic_partition.enable", "true") => found.dynamic = true,
                    _ => return Err(format!("Unknown properties: {key}")),
                }
            }
            Ok(Answer::Ok)
        }
        Statement::DropPartition(db, table, partition) => {
            database(world, &db)?;
            let table = world.databases.get_mut(&db).unwrap().tables.get_mut(&table);
            let removed = table.and_then(|table| table.partitions.remove(&partition));
            removed.ok_or_else(|| format!("Error in list of partitions to {partition}"))?;
            Ok(Answer::Ok)
        }
        Statement::Nothing(_) => Ok(rows(&["Nothing"], Vec::new())),
        Statement::ShowUsers => {
            Ok(rows(&["User"], world.users.iter().map(|user| vec![user.clone()]).collect()))
        }
        Statement::ShowRoles => {
            let row = |role: &String| vec![role.clone(), "false".into(), String::new()];
            Ok(rows(&["Name", "Builtin", "Comment"], world.roles.iter().map(row).collect()))
        }
        Statement::ShowGrants(whom) => {
            let grant = format!("GRANT SELECT ON TABLE `dw`.`orders` TO {whom}");
            Ok(rows(
                &["UserIdentity", "Catalog", "Grants"],
                vec![vec![whom, "default".into(), grant]],
            ))
        }
        Statement::CreateRole(role) => {
            world.roles.push(role);
            Ok(Answer::Ok)
        }
        Statement::CreateUser(user) => {
            world.users.push(user);
            Ok(Answer::Ok)
        }
        Statement::Grant(text) => {
            let user =
                text.rsplit_once(" TO ").map(|(_, user)| user.to_owned()).unwrap_or_default();
            let role = user.trim_start_matches("ROLE ").trim_matches('`').to_owned();
            let user = user.trim_start_matches("USER ").to_owned();
            if !world.users.contains(&user) && !world.roles.contains(&role) {
                return Err(format!(
                    "Getting analyzing error. Detail message: cannot find user {user}."
                ));
            }
            if let Some((right, _)) = text.trim_start_matches("GRANT ").rsplit_once(" TO ROLE ") {
                world.rights.insert((right.to_owned(), role));
            }
            world.grants.push(text);
            Ok(Answer::Ok)
        }
        Statement::Revoke(text) => {
            let (right, role) = text
                .trim_start_matches("REVOKE ")
                .rsplit_once(" FROM ROLE ")
                .ok_or("Getting syntax error. Detail message: no role.")?;
            if !world.roles.iter().any(|known| known == role) {
                return Err(format!(
                    "Getting analyzing error. Detail message: cannot find role {role}."
                ));
            }
            // What nobody has is taken away without a word.
            world.rights.remove(&(right.to_owned(), role.to_owned()));
            Ok(Answer::Ok)
        }
        Statement::InsertNothing(database_name, table) => {
            let found = database(world, &database_name)?.tables.contains_key(&table);
            if found { Ok(Answer::Ok) } else { Err(format!("Unknown table '{table}'")) }
        }
        Statement::CreateTable(..) => Err("No database selected".into()),
        Statement::Use(name) => {
            database(world, &name)?;
            *current = Some(name);
            Ok(Answer::Ok)
        }
        Statement::CreateView(name, text) => {
            let made = in_current(world, current.as_deref(), &text)?;
            made.views.insert(name, text);
            Ok(Answer::Ok)
        }
        Statement::CreateMaterialized(name, text) => {
            let made = in_current(world, current.as_deref(), &text)?;
            made.materialized.insert(name, text);
            Ok(Answer::Ok)
        }
        Statement::ShowCatalogs => {
            let row =
                |name: &str, kind: &str| vec![name.to_owned(), kind.to_owned(), String::new()];
            let list = vec![row("default_catalog", "Internal"), row("lake", "Iceberg")];
            Ok(rows(&["Catalog", "Type", "Comment"], list))
        }
        Statement::ShowCreateCatalog(name) => {
            let text =
                format!("CREATE EXTERNAL CATALOG `{name}` PROPERTIES (\"type\" = \"iceberg\")");
            Ok(rows(&["Catalog", "Create Catalog"], vec![vec![name, text]]))
        }
    }
}

/// The database that a view is made in, if what it is of is there.
fn in_current<'a>(
    world: &'a mut World,
    current: Option<&str>,
    text: &str,
) -> Result<&'a mut Database, String> {
    let of = text.rsplit_once("FROM ").ok_or("no FROM")?.1.trim_matches('`');
    let (db, table) = of.split_once("`.`").ok_or("names without a database")?;
    let known = database(world, db)?;
    let there = known.tables.contains_key(table)
        || known.views.contains_key(table)
        || known.materialized.contains_key(table);
    if !there {
        return Err(format!(
            "Getting analyzing error. Detail message: Unknown table '{db}.{table}'."
        ));
    }
    let current = current.ok_or("No database selected")?;
    world.databases.get_mut(current).ok_or_else(|| format!("Unknown database '{current}'"))
}

fn frontends(world: &World) -> Answer {
    let columns = [
        "Id",
        "Name",
        "IP",
        "EditLogPort",
        "HttpPort",
        "QueryPort",
        "RpcPort",
        "Role",
        "ClusterId",
        "Join",
        "Alive",
        "ReplayedJournalId",
        "LastHeartbeat",
        "IsHelper",
        "ErrMsg",
        "StartTime",
        "Version",
    ];
    let mut list = Vec::new();
    for (at, (port, alive)) in world.frontends.iter().enumerate() {
        let role = if at == world.leader { "LEADER" } else { "FOLLOWER" };
        let mut row = vec![
            at.to_string(),
            format!("fe{at}"),
            "127.0.0.1".into(),
            "9010".into(),
            "8030".into(),
        ];
        row.extend([port.to_string(), "9020".into(), role.into(), "1".into(), "true".into()]);
        row.extend([alive.to_string(), "1".into(), World::time(world.now), "true".into()]);
        row.extend([String::new(), World::time(world.now), world.version_text.clone()]);
        list.push(row);
    }
    // The first versions have no ids.
    if world.version() < (3, 5) {
        let list = list.into_iter().map(|row| row[1..].to_vec()).collect();
        return rows(&columns[1..], list);
    }
    rows(&columns, list)
}

fn backends(world: &World) -> Answer {
    let row = |at: usize, alive: bool| {
        vec![(10001 + at).to_string(), "127.0.0.1".into(), alive.to_string(), "42".into()]
    };
    let all = world.backends + world.dead_backends;
    let list = (0..all).map(|at| row(at, at < world.backends)).collect();
    rows(&["BackendId", "IP", "Alive", "TabletNum"], list)
}

fn repositories(world: &World) -> Answer {
    let columns =
        ["RepoId", "RepoName", "CreateTime", "IsReadOnly", "Location", "Broker", "ErrMsg"];
    let row = |one: &Repository| {
        let trouble = one.trouble.clone().unwrap_or_else(|| "NULL".into());
        vec![
            one.id.to_string(),
            one.name.clone(),
            one.created.clone(),
            one.read_only.to_string(),
            one.location.clone(),
            String::new(),
            trouble,
        ]
    };
    rows(&columns, world.repositories.values().map(row).collect())
}

fn tables(world: &World, name: &str) -> Answer {
    let mut list = Vec::new();
    if let Some(db) = world.databases.get(name) {
        let row = |name: &String, kind: &str, engine: &str| {
            vec![name.clone(), kind.to_owned(), engine.to_owned()]
        };
        list.extend(db.tables.keys().map(|name| row(name, "BASE TABLE", "StarRocks")));
        list.extend(db.views.keys().map(|name| row(name, "VIEW", "")));
        list.extend(db.materialized.keys().map(|name| row(name, "VIEW", "StarRocks")));
        list.extend(db.external.iter().map(|(name, engine)| row(name, "BASE TABLE", engine)));
    }
    rows(&["TABLE_NAME", "TABLE_TYPE", "ENGINE"], list)
}

fn partitions(world: &mut World, db: &str, table: &str) -> Said {
    if world.faults.scheduler
        && let Some(found) = world.databases.get_mut(db).and_then(|db| db.tables.get_mut(table))
        && found.dynamic
        && found.partitions.len() > 1
    {
        // What is old goes, and only the youngest stays.
        let last = found.partitions.pop_last().unwrap();
        found.partitions.clear();
        found.partitions.insert(last.0, last.1);
    }
    let found = database(world, db)?.tables.get(table);
    let found = found.ok_or_else(|| format!("Unknown table '{table}'"))?;
    let range = if found.by_list { "List" } else { "Range" };
    let mut columns = vec![
        "PartitionId",
        "PartitionName",
        "VisibleVersion",
        "VisibleVersionTime",
        "VisibleVersionHash",
        "State",
        "PartitionKey",
        range,
        "DistributionKey",
        "Buckets",
        "ReplicationNum",
        "StorageMedium",
        "CooldownTime",
        "LastConsistencyCheckTime",
        "DataSize",
    ];
    let newer = world.version() >= (3, 3);
    if newer {
        columns.push("StorageSize");
    }
    columns.extend(["IsInMemory", "RowCount"]);
    let row = |(name, one): (&String, &super::model::Partition)| {
        let mut row = vec![
            one.id.to_string(),
            name.clone(),
            one.version.to_string(),
            World::time(world.now),
            "0".into(),
            "NORMAL".into(),
        ];
        row.extend([
            found.partition_by.clone().unwrap_or_default(),
            String::new(),
            "id".into(),
            found.buckets.to_string(),
            one.replicas.to_string(),
        ]);
        row.extend(["HDD".into(), "9999-12-31 23:59:59".into(), "NULL".into(), "1KB".into()]);
        if newer {
            row.push("1KB".into());
        }
        row.extend(["false".into(), one.rows.len().to_string()]);
        row
    };
    Ok(rows(&columns, found.partitions.iter().map(row).collect()))
}

fn check_slot(world: &World, db: &str) -> Result<(), String> {
    if world.slots.get(db).is_some_and(|job| !job.is_done()) {
        return Err("Can only run one backup or restore job of a database at same time".into());
    }
    Ok(())
}

fn timeout(value: &str) -> Result<i64, String> {
    let seconds: i64 = value.parse().map_err(|_| format!("Invalid timeout format: {value}"))?;
    if seconds < 600 { Err("timeout must be at least 10 min".into()) } else { Ok(seconds) }
}

fn submit_backup(
    world: &mut World,
    db: &str,
    label: &str,
    repository: &str,
    mut objects: Vec<Object>,
    properties: &[(String, String)],
) -> Said {
    if let Some((database, table, partition)) = world.faults.drop_partition.take() {
        let table = world.databases.get_mut(&database).unwrap().tables.get_mut(&table).unwrap();
        table.partitions.remove(&partition);
    }
    let analyzing =
        |message: String| format!("Getting analyzing error. Detail message: {message}.");
    let found = database(world, db)?;
    if label.is_empty() {
        return Err("Incorrect label name ''".into());
    }
    let Some(known) = world.repositories.get(repository) else {
        return Err(analyzing(format!("Repository [{repository}] does not exist")));
    };
    if objects.is_empty() {
        if found.tables.is_empty() {
            return Err(format!("Database: {db} is empty"));
        }
        let names = found.tables.keys().chain(found.views.keys()).chain(found.external.keys());
        let all =
            |name: &String| Object { table: name.clone(), partitions: Vec::new(), alias: None };
        objects = names.map(all).collect();
    }
    for (at, object) in objects.iter().enumerate() {
        let name = &object.table;
        if objects[..at].iter().any(|other| other.table == *name) {
            return Err(analyzing(format!("Duplicated table: {name}")));
        }
        if found.views.contains_key(name) || found.external.contains_key(name) {
            return Err(if world.version() < (3, 4) {
                format!("Table '{name}' is not a OLAP table")
            } else {
                format!("Table: {name} can not support backup restore, type: VIEW")
            });
        }
        let Some(table) = found.tables.get(name) else {
            return Err(analyzing(format!("Incorrect table name '{name}'")));
        };
        if table.by_list && world.version() < (3, 4) {
            return Err(analyzing(
                "List partition table does not support backup/restore job".into(),
            ));
        }
        if table.temporary {
            return Err("Do not support backing up table with temp partitions".into());
        }
        if let Some(missing) = object.partitions.iter().find(|p| !table.partitions.contains_key(*p))
        {
            return Err(analyzing(format!("partition[{missing}] does not exist  in table{name}")));
        }
    }
    let mut seconds = 86_400;
    for (key, value) in properties {
        match key.as_str() {
            "timeout" => seconds = timeout(value)?,
            "type" => panic!("`type` is never to be sent"),
            other => return Err(format!("Unknown backup job properties: [{other}]")),
        }
    }
    check_slot(world, db)?;
    if known.read_only {
        return Err(format!("Repository {repository} is read only"));
    }
    if world.faults.labels_taken > 0 {
        world.faults.labels_taken -= 1;
        return Err(format!("Snapshot with name '{label}' already exist in repository"));
    }
    let names = known.names(&known.root())?;
    if names.iter().any(|name| *name == format!("__ss_{label}")) {
        return Err(format!("Snapshot with name '{label}' already exist in repository"));
    }
    let mut job = Job::new(true, db, label, repository, world.now);
    (job.objects, job.timeout) = (objects, seconds);
    world.slots.insert(db.to_owned(), job);
    Ok(Answer::Ok)
}

fn submit_restore(
    world: &mut World,
    db: &str,
    label: &str,
    repository: &str,
    mut objects: Vec<Object>,
    properties: &[(String, String)],
) -> Said {
    let Some(known) = world.repositories.get(repository) else {
        return Err(format!(
            "Getting analyzing error. Detail message: Repository [{repository}] does not exist."
        ));
    };
    let (mut stamp, mut seconds, mut replicas) = (None, 86_400, 3);
    for (key, value) in properties {
        match key.as_str() {
            "backup_timestamp" => stamp = Some(value.clone()),
            "timeout" => seconds = timeout(value)?,
            "replication_num" => {
                replicas =
                    value.parse().map_err(|_| format!("Invalid meta version format: {value}"))?;
            }
            other => return Err(format!("Unknown restore job properties: [{other}]")),
        }
    }
    let stamp = stamp.ok_or("Missing backup_timestamp property")?;
    let info = known.one(&known.snapshot(label), &format!("__info_{stamp}")).map_err(|error| {
        format!("Failed to get info of snapshot '{label}' because: {error}. Maybe specified wrong backup timestamp")
    })?;
    let info: serde_json::Value =
        serde_json::from_slice(&info).map_err(|error| error.to_string())?;
    if !world.databases.contains_key(db) {
        if world.version() < (3, 4) {
            return Err(format!("Unknown database '{db}'"));
        }
        world.database(db);
    }
    check_slot(world, db)?;
    let tables = info["backup_objects"].as_object().unwrap();
    if objects.is_empty() {
        let all =
            |name: &String| Object { table: name.clone(), partitions: Vec::new(), alias: None };
        objects = tables.keys().map(all).collect();
    }
    for object in &objects {
        let Some(table) = tables.get(&object.table) else {
            return Err(format!("Table {} does not exist in snapshot {label}", object.table));
        };
        for partition in &object.partitions {
            if table["partitions"].get(partition).is_none() {
                return Err(format!(
                    "Partition {partition} of table {} does not exist in snapshot {label}",
                    object.table
                ));
            }
        }
    }
    let mut job = Job::new(false, db, label, repository, world.now);
    (job.objects, job.timeout, job.stamp, job.replicas, job.info) =
        (objects, seconds, stamp, replicas, info);
    world.slots.insert(db.to_owned(), job);
    Ok(Answer::Ok)
}

fn show_job(world: &mut World, number: usize, db: Option<String>, backup: bool) -> Said {
    let names: Vec<String> = match db {
        Some(db) => {
            database(world, &db)?;
            vec![db]
        }
        None => world.databases.keys().cloned().collect(),
    };
    for name in &names {
        for _ in 0..world.ticks_a_look {
            job::tick(world, name);
        }
    }
    if let Some(state) = world.faults.die_in
        && names.iter().any(|name| world.slots.get(name).is_some_and(|job| job.state == state))
    {
        world.faults.die_in = None;
        for job in world.slots.values_mut() {
            job.leader_changed();
        }
        return Ok(Answer::Silence);
    }
    // Only a restore is shown as this very frontend knows it.
    let replayed = !backup && number != world.leader;
    let time = |at: Option<i64>| at.map_or_else(|| "NULL".to_owned(), World::time);
    let mut list = Vec::new();
    for name in &names {
        let Some(job) = world.slots.get(name).filter(|job| job.backup == backup) else { continue };
        if world.faults.hidden {
            continue;
        }
        let state = if replayed { job.replayed() } else { job.state };
        let objects: Vec<&str> = job.objects.iter().map(|one| one.table.as_str()).collect();
        let progress = if state.ends_with("LOADING") { "[10: 1/2], [11: 0/2]" } else { "" };
        let created = World::time(job.created);
        let tail = [
            String::new(),
            progress.to_owned(),
            job.trouble.clone(),
            job.status.clone(),
            job.timeout.to_string(),
        ];
        let mut row = vec![job.id.to_string(), job.label.clone()];
        if backup {
            row.extend([
                job.database.clone(),
                state.into(),
                format!("[{}]", objects.join("], [")),
                created,
            ]);
            row.extend(["NULL".to_owned(), "NULL".to_owned(), time(job.finished)]);
        } else {
            row.extend([
                job.stamp.clone(),
                job.database.clone(),
                state.into(),
                "false".into(),
                job.replicas.to_string(),
                objects.join(", "),
                created,
            ]);
            row.extend([
                "NULL".to_owned(),
                "NULL".to_owned(),
                "NULL".to_owned(),
                time(job.finished),
            ]);
        }
        row.extend(tail);
        list.push(row);
    }
    Ok(if backup {
        rows(
            &[
                "JobId",
                "SnapshotName",
                "DbName",
                "State",
                "BackupObjs",
                "CreateTime",
                "SnapshotFinishedTime",
                "UploadFinishedTime",
                "FinishedTime",
                "UnfinishedTasks",
                "Progress",
                "TaskErrMsg",
                "Status",
                "Timeout",
            ],
            list,
        )
    } else {
        rows(
            &[
                "JobId",
                "Label",
                "Timestamp",
                "DbName",
                "State",
                "AllowLoad",
                "ReplicationNum",
                "RestoreObjs",
                "CreateTime",
                "MetaPreparedTime",
                "SnapshotFinishedTime",
                "DownloadFinishedTime",
                "FinishedTime",
                "UnfinishedTasks",
                "Progress",
                "TaskErrMsg",
                "Status",
                "Timeout",
            ],
            list,
        )
    })
}

fn cancel(world: &mut World, db: &str, backup: bool) -> Said {
    let now = world.now;
    let none = if backup {
        "No backup job is currently running"
    } else {
        "No restore is currently running"
    };
    let Some(mut job) = world.slots.get(db).filter(|job| job.backup == backup).cloned() else {
        return Err(none.into());
    };
    if job.is_done() {
        return Err(format!(
            "Failed to cancel job: Job with label {} can not be cancelled. state: {}",
            job.label, job.state
        ));
    }
    let status = if backup {
        "[COMMON_ERROR, msg: user cancelled]".to_owned()
    } else {
        format!("[COMMON_ERROR, msg: user cancelled, current state: {}]", job.state)
    };
    job::undo(world, &job);
    job.cancel(status, now);
    world.slots.insert(db.to_owned(), job);
    Ok(Answer::Ok)
}

fn show_snapshot(
    world: &World,
    repository: &str,
    label: Option<String>,
    timestamp: Option<&str>,
) -> Said {
    let known = world
        .repositories
        .get(repository)
        .ok_or_else(|| format!("Repository [{repository}] does not exist"))?;
    assert!(timestamp.is_none(), "not asked so");
    let labels = match label {
        Some(label) => vec![label],
        None => known
            .names(&known.root())?
            .iter()
            .filter_map(|name| name.strip_prefix("__ss_").map(str::to_owned))
            .collect(),
    };
    let mut list = Vec::new();
    for label in labels {
        let row = match known.stamps(&label) {
            Ok(stamps) if stamps.is_empty() => {
                vec![label, String::new(), "ERROR: no snapshot".into()]
            }
            Ok(stamps) => vec![label, stamps.join("\n"), "OK".into()],
            Err(error) => vec![label, String::new(), format!("ERROR: Failed to get info: {error}")],
        };
        list.push(row);
    }
    let mut columns = vec!["Snapshot", "Timestamp", "Status"];
    if world.version() >= (4, 2) {
        columns.extend(["ClusterId", "FinishTime", "TTL", "ExpireTime"]);
        for row in &mut list {
            row.extend(std::iter::repeat_n(String::new(), 4));
        }
    }
    Ok(rows(&columns, list))
}
