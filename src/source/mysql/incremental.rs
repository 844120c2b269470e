//! The incremental: what an earlier backup has, and the binary logs since.

use super::binlog::{BINLOG, Log, logs};
use super::client::{Client, literal};
use super::files::{DUMPS, FACTS, Position};
use super::look;
use super::source::{MysqlSource, directory, file, is_encrypted};
use super::tools::Credentials;
use crate::archive::entry::EntryType;
use crate::archive::manifest::RecoveryPoint;
use crate::error::Result;
use crate::source::{Captured, Earlier, EntrySink, SourceContext};

/// Keeps everything that `earlier` has, and adds every log that was begun since and is closed now.
pub fn archive(
    source: &MysqlSource,
    cx: &SourceContext,
    sink: &mut dyn EntrySink,
    earlier: &Earlier,
) -> Result<Captured> {
    let mut client = Client::open(&source.settings()?)?;
    let refuse = |why: String| earlier.refusal.refuse(why);
    let points = &earlier.manifest.recovery_points;
    let Some(from) = points.last().and_then(|point| point.binlog.clone()) else {
        return Err(refuse("it has no position in a binary log".to_owned()));
    };
    let server = client.server().name();
    if earlier.manifest.server.as_deref() != Some(server.as_str()) {
        return Err(refuse(format!("the server is {server} now")));
    }
    if let Some(why) = broken(&mut client, &from)? {
        return Err(refuse(why));
    }
    if cx.dry_run {
        return Ok(Captured::default());
    }
    let tools = source.tools(&client)?;
    let encrypted = is_encrypted(&mut client)?;
    let credentials = Credentials::write(client.settings(), &tools, encrypted)?;
    let now = cx.clock.now().as_second();
    for path in [".", DUMPS, FACTS, BINLOG] {
        sink.entry(directory(path, now))?;
    }
    earlier.each(&mut |entry| {
        if entry.kind != EntryType::File {
            return Ok(());
        }
        match sink.earlier(&entry.path)? {
            Some(kept) => sink.keep(&kept),
            None => Err(refuse(format!("`{}` cannot be referred to", entry.display_path()))),
        }
    })?;
    cx.reporter.phase("archiving binary logs");
    client.execute("FLUSH BINARY LOGS", "failed to begin a new binary log")?;
    let position = look::position(&mut client)?;
    let taken = look::now(&mut client)?;
    let Some(position) = position else {
        return Err(refuse("the server writes no binary log any more".to_owned()));
    };
    // Closed, all of them: none of these ever changes.
    let all = logs(&mut client)?;
    let since = all.iter().skip_while(|(name, _)| *name != from.file);
    for (name, size) in since.take_while(|(name, _)| *name != position.file) {
        let mut log = Log::open(name, &tools, &credentials, source.config.timeout, &cx.reporter)?;
        sink.file(file(&format!("{BINLOG}/{name}"), now), Some(*size), &mut log)?;
    }
    let time = taken.parse().unwrap_or_else(|_| cx.clock.now());
    Ok(Captured {
        server: Some(server),
        since: points.first().cloned(),
        recovery: Some(RecoveryPoint { binlog: Some(position), ..RecoveryPoint::at(time) }),
        ..Captured::default()
    })
}

/// Why the server's logs do not go on where the earlier backup ends. `None`: they do.
fn broken(client: &mut Client, from: &Position) -> Result<Option<String>> {
    const DOING: &str = "failed to look for a gap in the binary logs";
    if !look::writes_log(client)? {
        return Ok(Some("the server writes no binary log any more".to_owned()));
    }
    let all = logs(client)?;
    let Some((_, size)) = all.iter().find(|(name, _)| *name == from.file) else {
        let oldest = all.first().map_or("none", |(name, _)| name.as_str());
        return Ok(Some(format!(
            "there is a gap: the binary logs from {} on are gone from the server, whose oldest is {oldest} (keep them longer: binlog_expire_logs_seconds)",
            from.file
        )));
    };
    let other = format!(
        "there is a gap: {} is not the log any more that it was (RESET MASTER?)",
        from.file
    );
    if *size < from.position {
        return Ok(Some(other));
    }
    let same = if client.server().mariadb {
        let query = format!(
            "SELECT COALESCE(BINLOG_GTID_POS({}, {}), '')",
            literal(&from.file),
            from.position
        );
        client.value(&query, DOING)? == from.gtid
    } else if from.gtid.is_empty() {
        true
    } else {
        let query = format!("SELECT GTID_SUBSET({}, @@GLOBAL.gtid_executed)", literal(&from.gtid));
        client.value(&query, DOING)? == "1"
    };
    Ok((!same).then_some(other))
}
