//! What `check` looks at: whether a base backup would work, whether WAL is archived, and the
//! statement that mends what is missing.

use jiff::{SignedDuration, Timestamp};

use super::source::Server;
use crate::error::Result;
use crate::source::postgres::{Connection, ServerWal, server_wal};
use crate::source::{ProbeNote, SourceContext, SourceProbe};

/// Clocks that differ by more than this make times in commands and listings misleading.
const CLOCKS: SignedDuration = SignedDuration::from_secs(10);

/// Looks. Changes nothing.
pub(super) fn probe(
    server: &mut Server,
    connection: &str,
    archives: bool,
    cx: &SourceContext,
) -> Result<SourceProbe> {
    let role = if server.standby { "standby" } else { "primary" };
    let mut notes = vec![ProbeNote::fact(format!(
        "PostgreSQL {} at {}, {role}, cluster {}, timeline {}",
        server.session.version(),
        server.host,
        server.identity.system_id,
        server.identity.timeline
    ))];
    if !server.judged {
        notes.push(ProbeNote::warning(
            "its pages have no checksums: damage on its disks goes unnoticed; with the server stopped: pg_checksums --enable",
        ));
    }
    for (name, needed) in [("max_wal_senders", 2), ("max_replication_slots", 1)] {
        let free: u64 = server.session.show(name)?.parse().unwrap_or(0);
        if free < needed {
            notes.push(ProbeNote::fault(format!(
                "`{name}` is {free} and a base backup needs {needed}: ALTER SYSTEM SET {name} = 10, and restart"
            )));
        }
    }
    if server.session.show("wal_level")? == "minimal" {
        notes.push(ProbeNote::fault(
            "`wal_level` is minimal: ALTER SYSTEM SET wal_level = replica, and restart",
        ));
    }
    if server.standby && server.session.show("full_page_writes")? != "on" {
        notes.push(ProbeNote::fault(
            "`full_page_writes` is off: a standby cannot be backed up without it",
        ));
    }
    if server.session.major() >= 17 && server.session.show("summarize_wal")? != "on" {
        notes.push(ProbeNote::warning(
            "`summarize_wal` is off, so that every base backup is a full: ALTER SYSTEM SET summarize_wal = on, and SELECT pg_reload_conf()",
        ));
    }
    match &mut server.sql {
        None => notes.push(ProbeNote::warning(
            "this role has no database to log in to: a page that looks damaged cannot be read again, and nothing can be said of archiving",
        )),
        Some(sql) => {
            notes.extend(elsewhere(sql)?);
            notes.extend(slots(sql)?);
            notes.extend(synchronous(sql)?);
            let wal = server_wal(connection)?;
            notes.extend(archiving(&wal, archives));
            notes.extend(clocks(wal.now, cx.clock.now()));
        }
    }
    Ok(SourceProbe { notes })
}

/// Configuration that a base backup does not bring. Who may not see where it lies is told nothing.
fn elsewhere(sql: &mut Connection) -> Result<Option<ProbeNote>> {
    let query = "SELECT pg_catalog.string_agg(f.setting, ', ' ORDER BY f.name) FROM pg_catalog.pg_settings f, \
        pg_catalog.pg_settings d WHERE d.name = 'data_directory' AND f.setting <> '' \
        AND f.name IN ('config_file', 'hba_file', 'ident_file') \
        AND NOT pg_catalog.starts_with(f.setting, d.setting OPERATOR(pg_catalog.||) '/')";
    let row = sql.text(query, "failed to ask where the configuration lies")?.into_iter().next();
    let Some(files) = row.and_then(|row| row.into_iter().next()).flatten() else { return Ok(None) };
    Ok(Some(ProbeNote::warning(format!(
        "its configuration lies outside of its data directory, and in no base backup: {files}; add a `directory` source for it"
    ))))
}

/// Slots that keep WAL which nobody fetches, or that lost theirs.
fn slots(sql: &mut Connection) -> Result<Vec<ProbeNote>> {
    let query = "SELECT slot_name, active::text, wal_status, \
        pg_catalog.pg_size_pretty(pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() \
            THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn)) \
        FROM pg_catalog.pg_replication_slots WHERE NOT temporary ORDER BY slot_name";
    let rows = sql.text(query, "failed to look at replication slots")?;
    let limit = sql.value(
        "SELECT pg_catalog.current_setting('max_slot_wal_keep_size')",
        "failed to look at max_slot_wal_keep_size",
    )?;
    let mut notes = Vec::new();
    for row in rows {
        let [Some(name), Some(active), status, kept] = &row[..] else { continue };
        let drop = format!("SELECT pg_drop_replication_slot('{}')", name.replace('\'', "''"));
        if status.as_deref() == Some("lost") {
            notes.push(ProbeNote::warning(format!(
                "slot `{name}` lost the WAL it needs: who uses it must be made anew, and then {drop}"
            )));
        } else if let (false, Some(kept)) = (active == "true" || active == "t", kept) {
            let bound = match limit.as_str() {
                "-1" => "without a limit, until the disk is full (max_slot_wal_keep_size = -1)"
                    .to_owned(),
                limit => format!("at most {limit}"),
            };
            notes.push(ProbeNote::warning(format!(
                "nobody uses slot `{name}`, for which the server keeps {kept} of WAL, {bound}: {drop}"
            )));
        }
    }
    Ok(notes)
}

/// Commits that wait for a single standby stop when it does.
fn synchronous(sql: &mut Connection) -> Result<Vec<ProbeNote>> {
    let query = "SELECT pg_catalog.current_setting('synchronous_standby_names'), \
        (SELECT count(*) FROM pg_catalog.pg_stat_replication WHERE sync_state IN ('sync', 'quorum', 'potential'))::text";
    let row = sql.text(query, "failed to look at synchronous standbys")?.into_iter().next();
    let Some([Some(names), count]) = row.as_deref() else { return Ok(Vec::new()) };
    if names.trim().is_empty() {
        return Ok(Vec::new());
    }
    Ok(match count.as_deref().unwrap_or("0") {
        "0" => vec![ProbeNote::warning(format!(
            "`synchronous_standby_names` is {names} and no such standby is connected: commits wait, or will"
        ))],
        "1" => vec![ProbeNote::warning(
            "commits wait for one synchronous standby: losing it stops them until another is there, or ALTER SYSTEM SET synchronous_standby_names = '', and SELECT pg_reload_conf()",
        )],
        _ => Vec::new(),
    })
}

/// Whether WAL is archived, and by us. Pure.
fn archiving(wal: &ServerWal, archives: bool) -> Vec<ProbeNote> {
    let mut notes = Vec::new();
    if !archives {
        notes.push(ProbeNote::warning(
            "the policy has no `wal`: base backups bring what makes them consistent, and nothing in between can be recovered to",
        ));
        return notes;
    }
    let set =
        "ALTER SYSTEM SET archive_command = 'backstay wal push %p', and SELECT pg_reload_conf()";
    if let Some(why) = wal.unconfigured() {
        notes.push(ProbeNote::fault(match wal.archive_mode.as_str() {
            "off" => format!("{why}: ALTER SYSTEM SET archive_mode = on, {set}, and restart"),
            _ => format!("{why}: {set}"),
        }));
        return notes;
    }
    if let Some(library) = wal.archive_library.as_deref().filter(|library| !library.is_empty()) {
        notes.push(ProbeNote::fault(format!(
            "`archive_library` {library} archives in place of `archive_command`: ALTER SYSTEM RESET archive_library, {set}"
        )));
    } else if let Some(command) = &wal.archive_command
        && !command.contains("wal push")
    {
        notes.push(ProbeNote::warning(format!(
            "`archive_command` does not look like ours: {command}; `backstay check --archive` sees where WAL goes"
        )));
    }
    if wal.fails() {
        let name = wal.last_failed.as_ref().map_or("", |failed| &failed.name);
        notes.push(ProbeNote::fault(format!(
            "the last attempt to archive failed, for {name}: the server's log says why, and it keeps WAL until it succeeds"
        )));
    }
    if wal.archive_timeout == 0 && !wal.standby {
        notes.push(ProbeNote::warning(
            "`archive_timeout` is 0: a quiet server keeps its last transactions to itself; ALTER SYSTEM SET archive_timeout = 60, and SELECT pg_reload_conf()",
        ));
    }
    notes
}

fn clocks(server: Timestamp, here: Timestamp) -> Option<ProbeNote> {
    let apart = server.duration_since(here);
    (apart.abs() > CLOCKS).then(|| {
        let side = if apart.is_negative() { "behind" } else { "ahead of" };
        ProbeNote::warning(format!(
            "the server's clock is {} s {side} this host's: `--at` goes by the server's",
            apart.abs().as_secs()
        ))
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::source::postgres::Archived;

    fn wal() -> ServerWal {
        ServerWal::sample()
    }

    fn said(wal: &ServerWal) -> String {
        let notes = archiving(wal, true);
        notes.iter().map(|note| note.text.as_str()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn each_finding_says_what_mends_it() {
        assert_eq!(said(&wal()), "");
        let off = ServerWal { archive_mode: "off".into(), ..wal() };
        assert!(said(&off).contains("archive_mode = on"));
        let copies = ServerWal { archive_command: Some("cp %p /wal/%f".into()), ..wal() };
        assert!(said(&copies).contains("cp %p /wal/%f"));
        let library = ServerWal { archive_library: Some("basic_archive".into()), ..wal() };
        assert!(said(&library).contains("RESET archive_library"));
        let slow = ServerWal { archive_timeout: 0, ..wal() };
        assert!(said(&slow).contains("archive_timeout = 60"));
        let failed = Archived { name: "000000010000000000000009".into(), time: wal().now };
        let fails = ServerWal { last_failed: Some(failed), ..wal() };
        assert!(said(&fails).contains("000000010000000000000009"));
        assert!(archiving(&wal(), false)[0].text.contains("no `wal`"));
    }

    #[test]
    fn clocks_that_differ_are_told() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(clocks(at(0), at(9)).is_none());
        assert!(clocks(at(0), at(30)).unwrap().text.contains("30 s behind"));
        assert!(clocks(at(30), at(0)).unwrap().text.contains("30 s ahead"));
    }
}
