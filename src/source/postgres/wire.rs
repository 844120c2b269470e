//! The PostgreSQL protocol, version 3.0, as bytes: messages in, messages out, and what the server
//! says when it does not want to.
//!
//! Spoken directly, because no maintained client knows the streaming half of it: base backups and
//! WAL. Follows "55.2. Message Flow", "55.4. Streaming Replication Protocol" and "55.7. Message
//! Formats" of PostgreSQL's documentation.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, BytesMut};
use postgres::error::SqlState;
use postgres_protocol::message::frontend;
use rustls::{ClientConnection, StreamOwned};

use super::conninfo::{Host, Place};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::telemetry::Reporter;

/// How long one look at the connection waits before whoever waits may look elsewhere.
const GLANCE: Duration = Duration::from_millis(100);

/// The longest message that is taken. The longest that servers send are 128 KiB of WAL.
const LIMIT: usize = 64 << 20;

const BUFFER: usize = 256 << 10;

/// The bytes below the messages.
pub(super) enum Stream {
    /// A socket of this machine.
    Unix(UnixStream),
    /// TCP as it is.
    Tcp(TcpStream),
    /// TCP within TLS.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// Connects to a place.
    pub(super) fn connect(host: &Host, patience: Duration) -> Result<Self> {
        let failed = || format!("failed to reach PostgreSQL at {host}");
        let explained = |error: io::Error| {
            let kind = error.kind();
            let error = Error::io(failed(), error).with_kind(ErrorKind::Unreachable);
            match (kind, &host.place) {
                (io::ErrorKind::ConnectionRefused, _) => error
                    .hint("is it running, and does it listen there (`listen_addresses`, `port`)?"),
                (io::ErrorKind::NotFound, Place::Socket(_)) => {
                    error.hint("there is no such socket: is it running?")
                }
                _ => error,
            }
        };
        let name = match (&host.place, host.address) {
            (Place::Socket(directory), _) => {
                let path = directory.join(format!(".s.PGSQL.{}", host.port));
                return UnixStream::connect(path).map(Self::Unix).map_err(explained);
            }
            (Place::Name(_), Some(address)) => address.to_string(),
            (Place::Name(name), None) => name.clone(),
        };
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in (name.as_str(), host.port).to_socket_addrs().map_err(explained)? {
            match TcpStream::connect_timeout(&address, patience) {
                Ok(stream) => {
                    keep_alive(&stream).map_err(explained)?;
                    return Ok(Self::Tcp(stream));
                }
                Err(error) => last = error,
            }
        }
        Err(explained(last))
    }

    pub(super) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        let patience = Some(patience);
        match self {
            Self::Unix(stream) => stream.set_read_timeout(patience),
            Self::Tcp(stream) => stream.set_read_timeout(patience),
            Self::Tls(stream) => stream.sock.set_read_timeout(patience),
        }
    }
}

/// A server that is gone without a word is noticed after two minutes.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt as set;
    stream.set_nodelay(true)?;
    set::set_socket_keepalive(stream, true)?;
    set::set_tcp_keepidle(stream, Duration::from_mins(1))?;
    set::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    set::set_tcp_keepcnt(stream, 6)?;
    Ok(())
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(out),
            Self::Tcp(stream) => stream.read(out),
            Self::Tls(stream) => stream.read(out),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.flush(),
            Self::Tcp(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// A row as text; `NULL` is `None`.
pub(super) type Row = Vec<Option<String>>;

/// Messages over a stream.
pub(super) struct Wire {
    stream: Stream,
    place: String,
    input: Box<[u8]>,
    start: usize,
    end: usize,
    /// The kind of the message received last.
    tag: u8,
    /// Its body, as a part of `input`.
    body: std::ops::Range<usize>,
    /// The setting `server_version`, as the server announced it.
    pub(super) version: String,
    /// What a request to cancel needs to say.
    pub(super) key: Option<(i32, i32)>,
}

impl Wire {
    pub(super) fn new(stream: Stream, host: &Host) -> Self {
        Self {
            stream,
            place: host.to_string(),
            input: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            tag: 0,
            body: 0..0,
            version: String::new(),
            key: None,
        }
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// From here on, no single look at the connection takes long.
    pub(super) fn glance(&self) -> Result<()> {
        self.stream.set_patience(GLANCE).doing(|| format!("failed to talk to {}", self.place))
    }

    /// Sends what `write` puts together.
    pub(super) fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<()> {
        let mut message = BytesMut::new();
        write(&mut message)
            .and_then(|()| self.stream.write_all(&message))
            .and_then(|()| self.stream.flush())
            .map_err(|error| self.lost(error))
    }

    /// Sends a piece of a copy.
    pub(super) fn send_copy(&mut self, data: &[u8]) -> Result<()> {
        self.send(|out| {
            out.reserve(data.len() + 5);
            out.put_u8(b'd');
            out.put_u32(data.len() as u32 + 4);
            out.put_slice(data);
            Ok(())
        })
    }

    /// Sends a command, without waiting for what comes of it.
    pub(super) fn command(&mut self, command: &str) -> Result<()> {
        self.send(|out| frontend::query(command, out))
    }

    /// The body of the message received last.
    pub(super) fn body(&self) -> &[u8] {
        &self.input[self.body.clone()]
    }

    /// What the server complained of, if its last message was a complaint.
    pub(super) fn complaint(&self) -> Option<Complaint> {
        (self.tag == b'E').then(|| Complaint::parse(self.body()))
    }

    /// Looks for the next message; `None` if none came within a glance. Settings are dealt with here; an
    /// error of the server is an error.
    pub(super) fn poll(&mut self, doing: &str) -> Result<Option<u8>> {
        loop {
            let Some(tag) = self.next()? else { return Ok(None) };
            match tag {
                b'E' => return Err(Complaint::parse(self.body()).into_error(doing)),
                // Remarks are in the server's log, for who has to know.
                b'N' | b'A' => {}
                b'S' => {
                    let mut words = self.body().split(|&b| b == 0);
                    if words.next() == Some(b"server_version")
                        && let Some(version) = words.next()
                    {
                        self.version = String::from_utf8_lossy(version).into_owned();
                    }
                }
                tag => return Ok(Some(tag)),
            }
        }
    }

    /// Waits for the next message, as long as nobody gives up.
    pub(super) fn receive(&mut self, reporter: &Reporter, doing: &str) -> Result<u8> {
        loop {
            reporter.check()?;
            if let Some(tag) = self.poll(doing)? {
                return Ok(tag);
            }
        }
    }

    /// Waits for the next message until `deadline`.
    pub(super) fn receive_before(&mut self, deadline: Instant, doing: &str) -> Result<u8> {
        loop {
            if let Some(tag) = self.poll(doing)? {
                return Ok(tag);
            }
            if Instant::now() > deadline {
                return Err(Error::new(
                    ErrorKind::Unreachable,
                    format!("{doing}: {} does not answer", self.place),
                )
                .hint("look for a firewall, or set `connect_timeout` higher"));
            }
        }
    }

    /// One message, if a whole one is there or comes within a glance.
    fn next(&mut self) -> Result<Option<u8>> {
        loop {
            let have = &self.input[self.start..self.end];
            let mut want = 5;
            if let [tag, length @ ..] = have
                && let Some(length) = length.first_chunk::<4>()
            {
                let length = u32::from_be_bytes(*length) as usize;
                if !(4..=LIMIT).contains(&length) {
                    return Err(self.nonsense("a message of impossible length"));
                }
                want = length + 1;
                if have.len() >= want {
                    let tag = *tag;
                    self.tag = tag;
                    self.body = self.start + 5..self.start + want;
                    self.start += want;
                    return Ok(Some(tag));
                }
            }
            if !self.fill(want)? {
                return Ok(None);
            }
        }
    }

    /// Reads once, after making room for `want` bytes. `false` if nothing came.
    fn fill(&mut self, want: usize) -> Result<bool> {
        if self.start > 0 && (self.start == self.end || self.start + want > self.input.len()) {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if want > self.input.len() {
            let mut larger = vec![0; want.next_power_of_two()];
            larger[..self.end].copy_from_slice(&self.input[..self.end]);
            self.input = larger.into_boxed_slice();
        }
        match self.stream.read(&mut self.input[self.end..]) {
            Ok(0) => Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => {
                self.end += read;
                Ok(true)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => Ok(true),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(false),
                _ => Err(self.lost(error)),
            },
        }
    }

    fn lost(&self, error: io::Error) -> Error {
        let message = format!("the connection to PostgreSQL at {} was lost", self.place);
        let found = Error::new(ErrorKind::Unreachable, message);
        match error.kind() {
            // What it was is said already.
            io::ErrorKind::UnexpectedEof => found.hint("its log says why"),
            _ => found.with_source(error),
        }
    }

    /// An error for what no server should say.
    pub(super) fn nonsense(&self, what: &str) -> Error {
        Error::failed(format!("PostgreSQL at {} sent {what}", self.place))
            .hint("is it a PostgreSQL server, or a pooler that does not know replication?")
    }

    /// Runs one command whose rows fit in memory.
    pub(super) fn query(
        &mut self,
        command: &str,
        reporter: &Reporter,
        doing: &str,
    ) -> Result<Vec<Row>> {
        self.command(command)?;
        let rows = self.rows(reporter, doing)?;
        self.end(reporter, doing)?;
        Ok(rows)
    }

    /// The rows of one result, up to its end.
    pub(super) fn rows(&mut self, reporter: &Reporter, doing: &str) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        loop {
            match self.receive(reporter, doing)? {
                b'T' => {}
                b'D' => {
                    let row = row(self.body());
                    rows.push(row.ok_or_else(|| self.nonsense("a broken row"))?);
                }
                b'C' | b'I' => return Ok(rows),
                tag => return Err(self.unexpected(tag, doing)),
            }
        }
    }

    /// Everything up to the server being ready for the next command.
    pub(super) fn end(&mut self, reporter: &Reporter, doing: &str) -> Result<()> {
        loop {
            match self.receive(reporter, doing)? {
                b'Z' => return Ok(()),
                b'C' | b'I' | b'T' | b'D' => {}
                tag => return Err(self.unexpected(tag, doing)),
            }
        }
    }

    /// An error for a message that has no place here.
    pub(super) fn unexpected(&self, tag: u8, doing: &str) -> Error {
        let tag = char::from(tag).escape_default();
        self.nonsense(&format!("a message `{tag}` out of turn")).context(doing.to_owned())
    }
}

/// A data row, all columns as text.
fn row(mut body: &[u8]) -> Option<Row> {
    let (count, rest) = body.split_first_chunk::<2>()?;
    body = rest;
    (0..u16::from_be_bytes(*count))
        .map(|_| {
            let (length, rest) = body.split_first_chunk::<4>()?;
            let length = i32::from_be_bytes(*length);
            let Ok(length) = usize::try_from(length) else {
                body = rest;
                return Some(None);
            };
            let (value, rest) = rest.split_at_checked(length)?;
            body = rest;
            Some(Some(String::from_utf8_lossy(value).into_owned()))
        })
        .collect()
}

/// An error or a remark of the server.
pub(super) struct Complaint {
    code: String,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl Complaint {
    pub(super) fn parse(body: &[u8]) -> Self {
        let mut found =
            Self { code: String::new(), message: String::new(), detail: None, hint: None };
        for field in body.split(|&b| b == 0) {
            let Some((kind, text)) = field.split_first() else { continue };
            let text = String::from_utf8_lossy(text).into_owned();
            match kind {
                b'C' => found.code = text,
                b'M' => found.message = text,
                b'D' => found.detail = Some(text),
                b'H' => found.hint = Some(text),
                _ => {}
            }
        }
        found
    }

    /// The code, to branch on.
    pub(super) fn state(&self) -> SqlState {
        SqlState::from_code(&self.code)
    }

    /// What was said, with its code.
    pub(super) fn said(&self) -> String {
        let mut text = format!("{} ({})", self.message, self.code);
        if let Some(detail) = &self.detail {
            text.push_str(": ");
            text.push_str(detail);
        }
        text
    }

    fn into_error(self, doing: &str) -> Error {
        let state = self.state();
        let kind = if state == SqlState::INSUFFICIENT_PRIVILEGE {
            ErrorKind::Denied
        } else if [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW]
            .contains(&state)
        {
            ErrorKind::Unreachable
        } else if state == SqlState::UNDEFINED_FILE {
            ErrorKind::NotFound
        } else {
            ErrorKind::Failed
        };
        let error = Error::new(kind, doing).with_source(self.said());
        match self.hint {
            Some(hint) => error.hint(format!("the server says: {hint}")),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::net::UnixStream;

    use super::*;

    fn wire() -> (UnixStream, Wire) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let host = Host { place: Place::Socket("/s".into()), address: None, port: 5432 };
        let wire = Wire::new(Stream::Unix(ours), &host);
        wire.glance().unwrap();
        (theirs, wire)
    }

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let (mut theirs, mut wire) = wire();
        let long = vec![7; 300 << 10];
        let mut bytes = b"D\0\0\0\x06hi".to_vec();
        bytes.push(b'd');
        bytes.extend((long.len() as u32 + 4).to_be_bytes());
        bytes.extend(&long);
        let writer = std::thread::spawn(move || {
            for piece in bytes.chunks(999) {
                theirs.write_all(piece).unwrap();
            }
            theirs
        });
        let silent = Reporter::silent();
        assert_eq!(wire.receive(&silent, "reading").unwrap(), b'D');
        assert_eq!(wire.body(), b"hi");
        assert_eq!(wire.receive(&silent, "reading").unwrap(), b'd');
        assert_eq!(wire.body(), long);
        drop(writer.join().unwrap());
        let error = wire.receive(&silent, "reading").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
    }

    #[test]
    fn an_impossible_length_is_refused() {
        let (mut theirs, mut wire) = wire();
        theirs.write_all(b"HTTP/1.1 400 Bad Request").unwrap();
        let error = wire.receive(&Reporter::silent(), "reading").unwrap_err();
        assert!(error.to_string().contains("impossible length"), "{error}");
    }

    #[test]
    fn what_the_server_says_is_told() {
        let (mut theirs, mut wire) = wire();
        let body = b"SERROR\0C42501\0Mmust be a superuser\0HGrant it.\0\0";
        theirs.write_all(b"E").unwrap();
        theirs.write_all(&(body.len() as u32 + 4).to_be_bytes()).unwrap();
        theirs.write_all(body).unwrap();
        let error = wire.receive(&Reporter::silent(), "failed to start").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_eq!(error.chain(), "failed to start: must be a superuser (42501)");
        assert_eq!(error.hints(), ["the server says: Grant it."]);
    }

    #[test]
    fn rows_are_text_or_nothing() {
        let body = b"\0\x02\xff\xff\xff\xff\0\0\0\x01x";
        assert_eq!(row(body).unwrap(), [None, Some("x".to_owned())]);
        assert!(row(b"\0\x01\0\0\0\x09x").is_none());
    }
}
