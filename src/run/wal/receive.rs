//! WAL as the server writes it: whole segments, and the one that is open in slices.

use std::time::{Duration, Instant};

use super::archive::Archive;
use crate::archive::wal::{Lsn, WalSegment, check_segment, is_segment_size};
use crate::error::{Error, ErrorKind, Result};
use crate::run::Context;
use crate::source::postgres::{Connection, Replication, Settings, WalNews, WalStream};
use crate::telemetry::{WarningCode, failpoint};

/// How often the server is told that somebody listens.
const REPORT: Duration = Duration::from_secs(10);

/// How long is waited after a failure: at first, and at the most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// A connection that lasted so long was well.
const WELL: Duration = Duration::from_mins(2);

/// What is to be received.
pub struct Request<'a> {
    /// `STACK/SOURCE`, for messages.
    pub name: String,
    /// The server.
    pub settings: &'a Settings,
    /// The slot that keeps WAL while nobody receives it. Made where there is none.
    pub slot: &'a str,
    /// How often what came is stored, if it is no whole segment.
    pub every: Duration,
    /// Where it goes.
    pub archives: &'a [Archive],
}

/// Receives until it is told to end. What passes is tried again for ever.
pub fn receive(request: &Request<'_>, cx: &Context) -> Result<()> {
    let mut pause = PAUSE.0;
    while !cx.reporter.is_cancelled() {
        let begun = Instant::now();
        match session(request, cx) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) if !passes(&error) => return Err(error),
            Err(error) => {
                let text = format!("{}: tried again in {} s", error.chain(), pause.as_secs());
                cx.reporter.warn(WarningCode::Other, request.name.clone(), text);
            }
        }
        if begun.elapsed() > WELL {
            pause = PAUSE.0;
        }
        wait(pause, cx);
        pause = (pause * 2).min(PAUSE.1);
    }
    Ok(())
}

/// Whether another attempt may go better, without anybody doing something.
fn passes(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Busy | ErrorKind::Failed)
}

fn wait(time: Duration, cx: &Context) {
    let begun = Instant::now();
    while begun.elapsed() < time && !cx.reporter.is_cancelled() {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Who sends, and from where on.
struct Start {
    session: Replication,
    system_id: u64,
    segment_size: u64,
    segment: WalSegment,
}

/// One connection, for as long as it lasts.
fn session(request: &Request<'_>, cx: &Context) -> Result<()> {
    let mut start = begin(request, cx)?;
    loop {
        let Start { session, system_id, segment_size, segment } = start;
        let from = segment.start(segment_size);
        cx.reporter.note(format!(
            "{}: receiving from {from} of timeline {} on, slot {}",
            request.name, segment.timeline, request.slot
        ));
        let stream = session.start_wal(Some(request.slot), from, segment.timeline)?;
        let mut receiver = Receiver {
            request,
            cx,
            system_id,
            segment_size,
            segment,
            buffer: Vec::with_capacity(segment_size as usize),
            sliced: 0,
            durable: from,
            tried: Instant::now(),
            told: Instant::now(),
            behind: false,
        };
        let Some(stream) = receiver.run(stream)? else { return Ok(()) };
        let (session, next) = stream.next_timeline()?;
        let Some((timeline, at)) = next else {
            return Err(Error::failed("the timeline ended, and the server names no next one"));
        };
        start = switch(request, session, (system_id, segment_size), (timeline, at), cx)?;
    }
}

fn begin(request: &Request<'_>, cx: &Context) -> Result<Start> {
    let mut sql = Connection::open(request.settings)?;
    let host = sql.server().host.clone();
    let mut session = Replication::open(request.settings, &host, &cx.reporter)?;
    let identity = session.identify()?;
    let segment_size = session.show_bytes("wal_segment_size")?;
    if !is_segment_size(segment_size) {
        return Err(Error::unsupported(format!("WAL segments of {segment_size} bytes")));
    }
    let mut slot = look_at(&mut sql, request.slot)?;
    if slot.is_none() {
        make(request, &mut session, cx)?;
        slot = look_at(&mut sql, request.slot)?;
    }
    let slot = slot.ok_or_else(|| Error::failed("the slot that was made is gone"))?;
    let timeline = if session.major() >= 15 {
        session.read_slot(request.slot)?.map_or(identity.timeline, |(_, timeline)| timeline)
    } else {
        identity.timeline
    };
    let mut segment = WalSegment::of(timeline, slot, segment_size);
    let last = WalSegment::of(timeline, identity.position, segment_size).number;
    // What every repository has need not come again.
    while segment.number < last && has(request.archives, identity.system_id, segment, segment_size)?
    {
        segment.number += 1;
    }
    gap(request, identity.system_id, segment, segment_size, cx)?;
    if timeline > 1 {
        history(request, &mut session, identity.system_id, timeline)?;
    }
    Ok(Start { session, system_id: identity.system_id, segment_size, segment })
}

fn make(request: &Request<'_>, session: &mut Replication, cx: &Context) -> Result<()> {
    session.create_slot(request.slot, false)?;
    cx.reporter.note(format!(
        "{}: made the replication slot {}: from now on the server keeps all WAL that is not received",
        request.name, request.slot
    ));
    if session.show("max_slot_wal_keep_size")? == "-1" {
        let text = "nothing limits what a slot keeps, and without a receiver it fills the server's disk: ALTER SYSTEM SET max_slot_wal_keep_size = '20GB', and SELECT pg_reload_conf()";
        cx.reporter.warn(WarningCode::Other, request.name.clone(), text.to_owned());
    }
    Ok(())
}

/// Where a slot is to go on from. `None`: there is none of the name.
fn look_at(sql: &mut Connection, slot: &str) -> Result<Option<Lsn>> {
    let doing = "failed to look at the replication slot";
    let rows = sql.query(
        "SELECT slot_type::text, restart_lsn::text, active, pg_catalog.pg_is_in_recovery(), \
                pg_catalog.current_setting('server_version_num')::int >= 130000 AND \
                (pg_catalog.to_jsonb(s) ->> 'wal_status') = 'lost' \
         FROM pg_catalog.pg_replication_slots AS s WHERE slot_name = $1",
        &[&slot],
        doing,
    )?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (kind, at): (String, Option<String>) = (row.get(0), row.get(1));
    let (active, lost): (bool, Option<bool>) = (row.get(2), row.get(4));
    let conflict = |text: String| Error::new(ErrorKind::Conflict, text);
    if kind != "physical" {
        return Err(conflict(format!("the replication slot {slot} is a {kind} one"))
            .hint("give another name with --slot"));
    }
    if lost == Some(true) {
        return Err(conflict(format!(
            "the replication slot {slot} was invalidated: WAL that nobody received is gone"
        ))
        .hint(format!("SELECT pg_drop_replication_slot('{slot}'), and start again"))
        .hint("then take a base backup: recovery does not get over the hole"));
    }
    if active {
        return Err(Error::new(
            ErrorKind::Busy,
            format!("somebody receives through the replication slot {slot} already"),
        ));
    }
    at.map(|at| at.parse()).transpose()
}

fn has(archives: &[Archive], system_id: u64, segment: WalSegment, size: u64) -> Result<bool> {
    for archive in archives.iter().filter(|archive| archive.required) {
        if archive.wal.digest(system_id, &segment.name(size))?.is_none() {
            return Ok(false);
        }
    }
    Ok(archives.iter().any(|archive| archive.required))
}

/// Says what lies between what is archived and what comes.
fn gap(
    request: &Request<'_>,
    system_id: u64,
    first: WalSegment,
    size: u64,
    cx: &Context,
) -> Result<()> {
    for archive in request.archives {
        let stored = archive.wal.list(system_id, first.timeline)?;
        let numbers = stored.iter().filter_map(|file| WalSegment::parse(&file.name, size));
        let Some(newest) = numbers.map(|segment| segment.number).max() else { continue };
        if newest + 1 < first.number {
            let name = |number| WalSegment { number, ..first }.name(size);
            let text = format!(
                "`{}` has no WAL between {} and {}: unless archive_command still brings it, take a base backup",
                archive.name,
                name(newest),
                name(first.number)
            );
            cx.reporter.warn(WarningCode::Other, request.name.clone(), text);
        }
    }
    Ok(())
}

/// Archives how a timeline came to be: without that nobody knows where it branched off.
fn history(
    request: &Request<'_>,
    session: &mut Replication,
    system_id: u64,
    timeline: u32,
) -> Result<()> {
    let (name, content) = session.timeline_history(timeline)?;
    for archive in request.archives {
        archive.wal.put(system_id, &name, content.as_bytes())?;
    }
    Ok(())
}

/// The server follows another timeline: on with that, from the segment in which it began.
fn switch(
    request: &Request<'_>,
    mut session: Replication,
    (system_id, segment_size): (u64, u64),
    (timeline, at): (u32, Lsn),
    cx: &Context,
) -> Result<Start> {
    cx.reporter
        .note(format!("{}: the server follows timeline {timeline} from {at} on", request.name));
    history(request, &mut session, system_id, timeline)?;
    let segment = WalSegment::of(timeline, at, segment_size);
    Ok(Start { session, system_id, segment_size, segment })
}

/// What comes, and where it is.
struct Receiver<'a> {
    request: &'a Request<'a>,
    cx: &'a Context,
    system_id: u64,
    segment_size: u64,
    segment: WalSegment,
    /// What of the segment came.
    buffer: Vec<u8>,
    /// How much of that is stored in slices.
    sliced: usize,
    /// What the server may forget.
    durable: Lsn,
    /// When slices were stored last, or tried to be.
    tried: Instant,
    /// When the server heard of us last.
    told: Instant,
    /// A slice could not be stored, which was said.
    behind: bool,
}

impl Receiver<'_> {
    /// `None`: it was told to end, and what came is stored. Otherwise the timeline ended.
    fn run(&mut self, mut stream: WalStream) -> Result<Option<WalStream>> {
        self.report(&mut stream)?;
        loop {
            let mut asked = false;
            match stream.news()? {
                WalNews::Data { .. } => self.take(&mut stream)?,
                WalNews::Alive { asks, .. } => asked = asks,
                WalNews::Silence => {}
                WalNews::TimelineEnd => {
                    self.slice();
                    return Ok(Some(stream));
                }
            }
            let ending = self.cx.reporter.is_cancelled();
            if ending || self.tried.elapsed() >= self.request.every {
                asked |= self.slice();
            }
            if asked || ending || self.told.elapsed() > REPORT {
                self.report(&mut stream)?;
            }
            if ending {
                return Ok(None);
            }
        }
    }

    fn take(&mut self, stream: &mut WalStream) -> Result<()> {
        let size = self.segment_size as usize;
        let mut at = 0;
        loop {
            let Some(bytes) = stream.data().get(at..).filter(|bytes| !bytes.is_empty()) else {
                return Ok(());
            };
            let count = bytes.len().min(size - self.buffer.len());
            self.buffer.extend_from_slice(&bytes[..count]);
            at += count;
            if self.buffer.len() == size {
                self.whole()?;
                // It may forget what is stored: the end of a segment is a good moment to say so.
                self.told = Instant::now().checked_sub(REPORT).unwrap_or_else(Instant::now);
            }
        }
    }

    /// Stores a whole segment wherever it has to be. What fails is tried again from the slot on:
    /// until then the server keeps it.
    fn whole(&mut self) -> Result<()> {
        let (id, size) = (self.system_id, self.segment_size);
        check_segment(&self.buffer, id, self.segment, size)?;
        let name = self.segment.name(size);
        failpoint::reach("wal.receive");
        self.everywhere(&name, |archive, buffer| archive.wal.put(id, &name, buffer).map(drop))?;
        self.buffer.clear();
        self.sliced = 0;
        self.segment.number += 1;
        self.durable = self.segment.start(size);
        self.tried = Instant::now();
        Ok(())
    }

    /// Stores what came since the last slice. What fails is in the next one. Whether there is more
    /// that the server may forget.
    fn slice(&mut self) -> bool {
        self.tried = Instant::now();
        let from = self.sliced;
        if self.buffer.len() == from {
            return false;
        }
        let (id, name) = (self.system_id, self.segment.name(self.segment_size));
        let stored = self.everywhere(&name, |archive, buffer| {
            archive.wal.put_slice(id, &name, from as u64, &buffer[from..]).map(drop)
        });
        match stored {
            Ok(()) => {
                self.sliced = self.buffer.len();
                let start = self.segment.start(self.segment_size);
                self.durable = Lsn(start.0 + self.sliced as u64);
                self.behind = false;
                true
            }
            Err(error) => {
                if !std::mem::replace(&mut self.behind, true) {
                    let text = format!("{}: it is kept, and tried again", error.chain());
                    self.cx.reporter.warn(WarningCode::Other, self.request.name.clone(), text);
                }
                false
            }
        }
    }

    /// An error if a repository that must have it does not.
    fn everywhere(
        &self,
        name: &str,
        store: impl Fn(&Archive, &[u8]) -> Result<()> + Sync,
    ) -> Result<()> {
        let archives = self.request.archives;
        let results: Vec<Result<()>> = std::thread::scope(|scope| {
            let (store, buffer) = (&store, &self.buffer[..]);
            let threads: Vec<_> =
                archives.iter().map(|one| scope.spawn(move || store(one, buffer))).collect();
            let ended = |_| Err(Error::failed("the thread that stores WAL is gone"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(ended)).collect()
        });
        let mut worst = None;
        for (archive, result) in archives.iter().zip(results) {
            let Err(error) = result else { continue };
            let error = error.context(format!("failed to store {name} in `{}`", archive.name));
            if archive.required {
                worst.get_or_insert(error);
            } else if !self.behind {
                self.cx.reporter.warn(WarningCode::Other, name.to_owned(), error.chain());
            }
        }
        worst.map_or(Ok(()), Err)
    }

    fn report(&mut self, stream: &mut WalStream) -> Result<()> {
        self.told = Instant::now();
        // Commits may wait for us: nothing is promised that is not durable.
        let time = self.cx.clock.now().as_microsecond();
        stream.report(self.durable, self.durable, time)
    }
}
