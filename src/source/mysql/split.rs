//! A dump of several databases, taken apart while it passes by: one file per database, each of which
//! a client takes on its own and under any name.
//!
//! `mysqldump --databases` writes a beginning with settings of the session, then for each database
//! its tables, then, where there are views, each database once more with its views, then an end.
//! Every file gets the beginning; the lines that create a database and change to it are left out.

use std::io::{self, BufRead, Read};

use crate::error::{Error, Result};

const MARKER: &[u8] = b"-- Current Database: `";
const COMPLETED: &[u8] = b"-- Dump completed";
/// The longest line that can mean something here.
const LINE: usize = 8 << 10;
/// Most bytes before the first database.
const BEGINNING: usize = 64 << 10;
/// Read at once.
const STEP: usize = 256 << 10;

/// What a part of a dump holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The database.
    pub database: String,
    /// Its views; otherwise everything else.
    pub views: bool,
}

impl Part {
    /// Where it lies in a backup.
    pub fn path(&self) -> String {
        super::files::dump_path(self)
    }
}

/// A dump on its way.
pub struct Splitter<R> {
    input: R,
    buffer: Vec<u8>,
    start: usize,
    at_end: bool,
    /// What comes before the first database.
    beginning: Vec<u8>,
    /// The databases, in the order in which they come.
    databases: Vec<String>,
    /// How many parts began.
    parts: usize,
    at_line: bool,
    /// Within a routine, trigger or event, whose text may look like anything.
    in_body: bool,
    /// Before the first object of a part.
    heading: bool,
    completed: bool,
    /// A part was ended by the marker of the next.
    next: Option<Part>,
    out: Vec<u8>,
    given: usize,
}

impl<R: Read> Splitter<R> {
    /// Nothing was read yet.
    pub fn new(input: R, databases: Vec<String>) -> Self {
        Self {
            input,
            buffer: Vec::new(),
            start: 0,
            at_end: false,
            beginning: Vec::new(),
            databases,
            parts: 0,
            at_line: true,
            in_body: false,
            heading: false,
            completed: false,
            next: None,
            out: Vec::new(),
            given: 0,
        }
    }

    /// Reads on until the first database has begun, or nothing more comes.
    pub fn prime(&mut self) -> io::Result<()> {
        loop {
            let seen = self.buffer.windows(MARKER.len()).any(|some| some == MARKER);
            if seen || self.at_end || self.buffer.len() > BEGINNING + LINE {
                return Ok(());
            }
            self.fill()?;
        }
    }

    /// The next part. The one before was read to its end. `None`: that was the end of the dump.
    pub fn next_part(&mut self) -> Result<Option<Part>> {
        if self.parts == 0 {
            while self.next.is_none() {
                if !self.step().map_err(|error| Error::io("failed to read the dump", error))? {
                    return Ok(None);
                }
                let some = std::mem::take(&mut self.out);
                self.beginning.extend(some);
                if self.beginning.len() > BEGINNING {
                    return Err(Error::failed("the dump has no beginning"));
                }
            }
        }
        let Some(part) = self.next.take() else { return Ok(None) };
        self.parts += 1;
        (self.heading, self.given) = (true, 0);
        self.out.clone_from(&self.beginning);
        Ok(Some(part))
    }

    /// Whether the dump said that it is complete, after everything else.
    pub fn is_complete(&self) -> bool {
        self.completed
    }

    /// Which part the marker of `database` begins. Databases come in the order in which they were
    /// asked for, and twice where there are views.
    fn expected(&self) -> Option<Part> {
        let begun = self.parts + usize::from(self.next.is_some());
        let database = self.databases.get(begun % self.databases.len().max(1))?;
        let views = begun >= self.databases.len();
        (begun < 2 * self.databases.len()).then(|| Part { database: database.clone(), views })
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let length = self.buffer.len();
        self.buffer.resize(length + STEP, 0);
        let read = self.input.read(&mut self.buffer[length..]);
        self.buffer.truncate(length + read.as_ref().map_or(0, |read| *read));
        self.at_end = read? == 0;
        Ok(())
    }

    /// Moves some bytes on to `out`, or finds the marker of the next part. False: there is no more.
    fn step(&mut self) -> io::Result<bool> {
        loop {
            let have = &self.buffer[self.start..];
            let end = have.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let known = end.is_some() || self.at_end || have.len() >= LINE;
            // The middle of a long line goes on as it is; the begin of one is waited for.
            if have.is_empty() && self.at_end {
                return Ok(false);
            }
            if (!self.at_line && !have.is_empty()) || known {
                let length = end.unwrap_or(have.len());
                let line = have[..length].to_vec();
                let begins = std::mem::replace(&mut self.at_line, end.is_some());
                self.start += length;
                if begins && line.len() < LINE {
                    return self.line(line).map(|()| true);
                }
                if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                    self.completed = false;
                }
                self.out.extend(line);
                return Ok(true);
            }
            self.fill()?;
        }
    }

    fn line(&mut self, line: Vec<u8>) -> io::Result<()> {
        let text = line.trim_ascii_end();
        if let Some(delimiter) = text.strip_prefix(b"DELIMITER ") {
            self.in_body = delimiter != b";";
        }
        if !self.in_body {
            if let Some(name) = text.strip_prefix(MARKER) {
                let name = String::from_utf8_lossy(name.strip_suffix(b"`").unwrap_or(name));
                let name = name.replace("``", "`");
                let expected = self.expected().filter(|part| part.database == name);
                let odd = || {
                    io::Error::other(format!(
                        "the dump has database `{name}` where another was to come"
                    ))
                };
                self.next = Some(expected.ok_or_else(odd)?);
                return Ok(());
            }
            let heads = text.starts_with(b"CREATE DATABASE ") || text.starts_with(b"USE `");
            if self.heading && heads {
                // `USE` is the last of them.
                self.heading = !text.starts_with(b"USE `");
                return Ok(());
            }
            if text.starts_with(COMPLETED) {
                self.completed = true;
            } else if !text.is_empty() {
                self.completed = false;
            }
        }
        self.out.extend(line);
        Ok(())
    }
}

/// The bytes of the part that was begun last.
impl<R: Read> Read for Splitter<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.given == self.out.len() {
            self.given = 0;
            self.out.clear();
            if self.next.is_some() || !self.step()? {
                return Ok(0);
            }
        }
        let mut some = &self.out[self.given..];
        let read = some.fill_buf()?.len().min(to.len());
        to[..read].copy_from_slice(&some[..read]);
        self.given += read;
        Ok(read)
    }
}

impl<R: Read> crate::source::Arriving for Splitter<R> {}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// Gives a few bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let read = self.0.len().min(self.1).min(to.len());
            to[..read].copy_from_slice(&self.0[..read]);
            self.0 = &self.0[read..];
            Ok(read)
        }
    }

    const DUMP: &str = "-- MariaDB dump\n/*!40101 SET NAMES utf8mb4 */;\n\n--\n-- Current Database: `a``b`\n--\n\nCREATE DATABASE /*!32312 IF NOT EXISTS*/ `a``b`;\n\nUSE `a``b`;\nCREATE TABLE t (x int);\nINSERT INTO t VALUES (1);\nDELIMITER ;;\nCREATE PROCEDURE p() BEGIN\n-- Current Database: `b`\n-- Dump completed\nEND ;;\nDELIMITER ;\n\n--\n-- Current Database: `b`\n--\n\nCREATE DATABASE `b`;\n\nUSE `b`;\n\n--\n-- Current Database: `a``b`\n--\n\nUSE `a``b`;\nCREATE VIEW v AS SELECT 1;\n\n--\n-- Current Database: `b`\n--\n\nUSE `b`;\n/*!40101 SET X */;\n\n-- Dump completed on 2026-11-21\n";

    fn split(dump: &str, step: usize) -> Result<(Vec<(Part, String)>, bool)> {
        let databases = vec!["a`b".to_owned(), "b".to_owned()];
        let mut splitter = Splitter::new(Slow(dump.as_bytes(), step), databases);
        splitter.prime().unwrap();
        let mut parts = Vec::new();
        while let Some(part) = splitter.next_part()? {
            let mut text = String::new();
            splitter.read_to_string(&mut text).map_err(|error| Error::io("read", error))?;
            parts.push((part, text));
        }
        Ok((parts, splitter.is_complete()))
    }

    #[test]
    fn each_database_is_a_file_of_its_own() {
        for step in [1, 7, 100, 1 << 20] {
            let (parts, complete) = split(DUMP, step).unwrap();
            assert!(complete);
            let names: Vec<(&str, bool)> =
                parts.iter().map(|(part, _)| (part.database.as_str(), part.views)).collect();
            assert_eq!(names, [("a`b", false), ("b", false), ("a`b", true), ("b", true)]);
            assert!(
                parts
                    .iter()
                    .all(|(_, text)| text.starts_with("-- MariaDB dump\n/*!40101 SET NAMES"))
            );
            assert!(
                parts
                    .iter()
                    .all(|(_, text)| !text.contains("USE ") && !text.contains("CREATE DATABASE"))
            );
            let first = &parts[0].1;
            assert!(
                first.contains("INSERT INTO t VALUES (1);") && first.contains("END ;;"),
                "{first}"
            );
            assert!(
                first.contains("-- Current Database: `b`\n-- Dump completed\nEND"),
                "a body as it is"
            );
            assert!(parts[2].1.contains("CREATE VIEW v") && !parts[0].1.contains("CREATE VIEW"));
        }
    }

    #[test]
    fn a_dump_that_was_cut_off_is_not_complete() {
        for cut in 0..DUMP.len() - 40 {
            if let Ok((_, complete)) = split(&DUMP[..cut], 64) {
                assert!(!complete, "cut at {cut}");
            }
        }
        let (_, complete) = split(&format!("{DUMP}INSERT INTO t VALUES (2);\n"), 64).unwrap();
        assert!(!complete, "something came after the end");
        assert!(split(&DUMP.replace("`b`\n--\n\nCREATE", "`c`\n--\n\nCREATE"), 64).is_err());
    }

    #[test]
    fn long_lines_pass_in_pieces() {
        let row = "x".repeat(1 << 20);
        let dump = DUMP.replace("(1);", &format!("('{row}\\n-- Current Database: `b`');"));
        let (parts, complete) = split(&dump, 100_000).unwrap();
        assert!(complete && parts.len() == 4);
        assert!(parts[0].1.contains(&format!("('{row}\\n-- Current")));
    }
}
