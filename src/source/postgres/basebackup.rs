//! A base backup as the server sends it: one archive a tablespace, then the manifest.
//!
//! Until 14 each of them is a copy of its own; from 15 on all of them are one copy whose messages
//! say what they are. Either way nothing is kept here: whoever reads, reads from the connection.

use std::io::{self, Read};

use super::replication::{BackupOptions, Replication};
use crate::archive::wal::Lsn;
use crate::error::{Error, Result};

const DOING: &str = "failed to stream the base backup";

/// A directory of the cluster that lies elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its number: the name of its link.
    pub oid: u32,
    /// Where it lies on the server.
    pub location: String,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The tar archive of the data directory itself.
    Base,
    /// The tar archive of a tablespace.
    Tablespace(Tablespace),
    /// The list of all files.
    Manifest,
}

/// A base backup that is under way. Reading it gives the bytes of the current part.
pub struct BaseBackup {
    session: Replication,
    /// Where replay of WAL must begin.
    pub start: Lsn,
    /// The timeline it was begun on.
    pub timeline: u32,
    /// The server's estimate of all parts together.
    pub estimate: u64,
    /// Parts still to come, until 14; from 15 on the server names them.
    announced: std::vec::IntoIter<Part>,
    /// From 15 on: the part that has begun and was not asked for yet.
    begun: Option<Part>,
    /// How much of the message at hand was read.
    at: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No copy is open.
    Between,
    /// Within a part.
    Reading,
    /// From 15 on: at the end of a part, with the copy still open.
    PartOver,
    /// All parts were read.
    Over,
}

impl Replication {
    /// Starts a base backup.
    pub fn base_backup(mut self, options: &BackupOptions) -> Result<BaseBackup> {
        let reporter = self.reporter.clone();
        let command = self.backup_command(options);
        self.busy = true;
        self.wire.command(&command)?;
        let doing = "failed to start a base backup";
        let begin = self.wire.rows(&reporter, doing)?;
        let read = || -> Option<(Lsn, u32)> {
            let row = begin.first()?;
            let column = |at: usize| row.get(at)?.as_deref();
            Some((column(0)?.parse().ok()?, column(1)?.parse().ok()?))
        };
        let (start, timeline) =
            read().ok_or_else(|| self.wire.nonsense("a backup without a beginning"))?;
        let (mut parts, mut estimate) = (Vec::new(), 0u64);
        for row in self.wire.rows(&reporter, doing)? {
            let column = |at: usize| row.get(at).and_then(Option::as_deref);
            let kib: u64 = column(2).and_then(|size| size.parse().ok()).unwrap_or(0);
            estimate = estimate.saturating_add(kib.saturating_mul(1024));
            parts.push(match column(0) {
                None => Part::Base,
                Some(oid) => Part::Tablespace(Tablespace {
                    oid: oid.parse().map_err(|_| self.wire.nonsense("a broken tablespace"))?,
                    location: column(1).unwrap_or_default().to_owned(),
                }),
            });
        }
        parts.push(Part::Manifest);
        Ok(BaseBackup {
            session: self,
            start,
            timeline,
            estimate,
            announced: parts.into_iter(),
            begun: None,
            at: 0,
            state: State::Between,
        })
    }
}

impl BaseBackup {
    /// Goes on to the next part. The one before must have been read to its end.
    pub fn next_part(&mut self) -> Result<Option<Part>> {
        if self.state == State::Reading {
            return Err(Error::failed("a part of the base backup was left before its end"));
        }
        if self.session.is_modern() {
            if self.state == State::Between {
                self.open_copy()?;
                self.state = State::PartOver;
                // The first message of the copy begins the first part.
                self.receive_modern()?;
            }
            let next = self.begun.take();
            if next.is_some() {
                self.state = State::Reading;
            }
            return Ok(next);
        }
        let next = self.announced.next();
        if next.is_some() {
            self.open_copy()?;
            self.state = State::Reading;
        } else {
            self.state = State::Over;
        }
        Ok(next)
    }

    fn open_copy(&mut self) -> Result<()> {
        let wire = &mut self.session.wire;
        match wire.receive(&self.session.reporter, DOING)? {
            b'H' => {
                self.at = usize::MAX;
                Ok(())
            }
            tag => Err(wire.unexpected(tag, DOING)),
        }
    }

    /// Makes the next bytes of the part ready; `false` at its end.
    fn more(&mut self) -> Result<bool> {
        if self.session.is_modern() {
            return self.receive_modern();
        }
        let wire = &mut self.session.wire;
        match wire.receive(&self.session.reporter, DOING)? {
            b'd' => {
                self.at = 0;
                Ok(true)
            }
            b'c' => {
                self.state = State::Between;
                Ok(false)
            }
            tag => Err(wire.unexpected(tag, DOING)),
        }
    }

    fn receive_modern(&mut self) -> Result<bool> {
        loop {
            let wire = &mut self.session.wire;
            match wire.receive(&self.session.reporter, DOING)? {
                b'd' => {}
                b'c' => {
                    self.state = State::Over;
                    return Ok(false);
                }
                tag => return Err(wire.unexpected(tag, DOING)),
            }
            let (kind, rest) = wire.body().split_first().unwrap_or((&0, &[]));
            match kind {
                b'd' if self.state == State::Reading => {
                    self.at = 1;
                    return Ok(true);
                }
                b'n' => {
                    let part = archive(rest);
                    self.begun = Some(part.ok_or_else(|| wire.nonsense("a nameless archive"))?);
                }
                b'm' => self.begun = Some(Part::Manifest),
                // How far the server is: what arrives tells the same.
                b'p' => continue,
                _ => return Err(wire.nonsense("an unknown piece of a base backup")),
            }
            self.state = State::PartOver;
            return Ok(false);
        }
    }

    /// After the last part: where WAL must reach, and on which timeline.
    pub fn finish(mut self) -> Result<(Replication, Lsn, u32)> {
        let reporter = self.session.reporter.clone();
        let wire = &mut self.session.wire;
        let rows = wire.rows(&reporter, DOING)?;
        let read = || -> Option<(Lsn, u32)> {
            let row = rows.first()?;
            let column = |at: usize| row.get(at)?.as_deref();
            Some((column(0)?.parse().ok()?, column(1)?.parse().ok()?))
        };
        let (stop, timeline) = read().ok_or_else(|| wire.nonsense("a backup without an end"))?;
        wire.end(&reporter, DOING)?;
        self.session.busy = false;
        Ok((self.session, stop, timeline))
    }
}

impl Read for BaseBackup {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.state != State::Reading || out.is_empty() {
                return Ok(0);
            }
            let left = self.session.wire.body().get(self.at..).unwrap_or_default();
            if !left.is_empty() {
                let count = left.len().min(out.len());
                out[..count].copy_from_slice(&left[..count]);
                self.at += count;
                return Ok(count);
            }
            // What was read is over, also if this fails.
            self.at = usize::MAX;
            self.more().map_err(Error::into_io)?;
        }
    }
}

/// An archive by its name and place: `base.tar`, or the number of a tablespace.
fn archive(body: &[u8]) -> Option<Part> {
    let mut texts = body.split(|&b| b == 0).map(String::from_utf8_lossy);
    let (name, location) = (texts.next()?, texts.next()?);
    let stem = name.split('.').next()?;
    if stem == "base" {
        return Some(Part::Base);
    }
    Some(Part::Tablespace(Tablespace { oid: stem.parse().ok()?, location: location.into_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_by_their_names() {
        assert_eq!(archive(b"base.tar\0\0"), Some(Part::Base));
        let elsewhere = Tablespace { oid: 16385, location: "/srv/fast".into() };
        assert_eq!(archive(b"16385.tar\0/srv/fast\0"), Some(Part::Tablespace(elsewhere)));
        assert_eq!(archive(b"x"), None);
    }
}
