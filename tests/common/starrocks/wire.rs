//! The server's side of the MySQL protocol, as far as StarRocks has it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;

use sha1::{Digest as _, Sha1};

use super::model::World;

/// What a statement gives.
pub enum Answer {
    Ok,
    Rows(Vec<String>, Vec<Vec<Option<String>>>),
    Error(u16, String),
    /// The connection ends without a word.
    Silence,
    /// No word comes until the client is gone.
    Halt,
}

const SCRAMBLE: &[u8; 20] = b"abcdefghijklmnopqrst";

/// A connection, plain or within TLS.
trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

struct Packets {
    socket: Box<dyn Stream>,
    raw: TcpStream,
    sequence: u8,
}

impl Packets {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut head = [0; 4];
        self.socket.read_exact(&mut head)?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
        self.sequence = head[3].wrapping_add(1);
        let mut body = vec![0; length];
        self.socket.read_exact(&mut body)?;
        Ok(body)
    }

    fn write(&mut self, body: &[u8]) -> io::Result<()> {
        let length = (body.len() as u32).to_le_bytes();
        self.socket.write_all(&[length[0], length[1], length[2], self.sequence])?;
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.write_all(body)?;
        self.socket.flush()
    }

    fn ok(&mut self) -> io::Result<()> {
        self.write(&[0, 0, 0, 0, 0, 0, 0])
    }

    fn error(&mut self, code: u16, message: &str) -> io::Result<()> {
        let mut body = vec![0xff];
        body.extend(code.to_le_bytes());
        body.extend(b"#HY000");
        body.extend(message.as_bytes());
        self.write(&body)
    }

    fn eof(&mut self) -> io::Result<()> {
        self.write(&[0xfe, 0, 0, 0, 0])
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        // Others hold the socket as well.
        let _ = self.raw.shutdown(std::net::Shutdown::Both);
    }
}

fn lenenc(out: &mut Vec<u8>, text: &[u8]) {
    match text.len() {
        small @ 0..=250 => out.push(small as u8),
        middle @ 251..=65535 => {
            out.push(0xfc);
            out.extend((middle as u16).to_le_bytes());
        }
        large => {
            out.push(0xfd);
            out.extend(&(large as u32).to_le_bytes()[..3]);
        }
    }
    out.extend(text);
}

/// Serves one connection of frontend `number` until it ends.
pub fn serve(socket: TcpStream, world: &Mutex<World>, number: usize) {
    let _ = socket.set_nodelay(true);
    let Ok(raw) = socket.try_clone() else { return };
    let _ = run(&mut Packets { socket: Box::new(socket), raw, sequence: 0 }, world, number);
}

fn run(packets: &mut Packets, world: &Mutex<World>, number: usize) -> io::Result<()> {
    let tls = world.lock().unwrap().tls.clone();
    packets.write(&greeting(tls.is_some()))?;
    let mut response = packets.read()?;
    if let Some(config) = tls
        && response.len() == 32
    {
        let connection = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
        let raw = packets.raw.try_clone()?;
        packets.socket = Box::new(rustls::StreamOwned::new(connection, raw));
        response = packets.read()?;
    }
    let (user, proof) = login(&response).ok_or(io::ErrorKind::InvalidData)?;
    let allowed = {
        let world = world.lock().unwrap();
        let known = if user == world.user {
            Some(&world.password)
        } else {
            world.accounts.get(&user).map(|(password, _)| password)
        };
        known.is_some_and(|password| proof == expected(password))
    };
    if !allowed {
        return packets
            .error(1045, &format!("Access denied for user '{user}' (using password: YES)"));
    }
    packets.ok()?;
    let mut current = None;
    loop {
        packets.sequence = 0;
        let command = packets.read()?;
        match command.first() {
            // COM_QUIT
            Some(1) => return Ok(()),
            // COM_PING
            Some(14) => packets.ok()?,
            // COM_QUERY
            Some(3) => {
                let statement = String::from_utf8_lossy(&command[1..]).into_owned();
                let answer =
                    super::answer::answer(world, number, &statement, (&user, &mut current));
                match answer {
                    Answer::Ok => packets.ok()?,
                    Answer::Error(code, message) => packets.error(code, &message)?,
                    Answer::Silence => return Ok(()),
                    Answer::Halt => drop(packets.read()?),
                    Answer::Rows(columns, rows) => send_rows(packets, &columns, &rows)?,
                }
            }
            Some(other) => packets.error(1064, &format!("Unsupported command({other})"))?,
            None => return Ok(()),
        }
    }
}

fn send_rows(
    packets: &mut Packets,
    columns: &[String],
    rows: &[Vec<Option<String>>],
) -> io::Result<()> {
    packets.write(&[columns.len() as u8])?;
    for column in columns {
        let mut body = Vec::new();
        for text in ["def", "", "", "", column.as_str(), column.as_str()] {
            lenenc(&mut body, text.as_bytes());
        }
        body.extend([0x0c, 33, 0, 0xff, 0xff, 0, 0, 253, 0, 0, 0, 0, 0]);
        packets.write(&body)?;
    }
    packets.eof()?;
    for row in rows {
        let mut body = Vec::new();
        for value in row {
            match value {
                None => body.push(0xfb),
                Some(text) => lenenc(&mut body, text.as_bytes()),
            }
        }
        packets.write(&body)?;
    }
    packets.eof()
}

/// LONG_FLAG, CONNECT_WITH_DB, PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH, CONNECT_ATTRS; neither
/// transactions nor several statements, and the old end of rows.
fn greeting(tls: bool) -> Vec<u8> {
    let tls = if tls { 0x800 } else { 0 };
    let capabilities: u32 = tls | 0x4 | 0x8 | 0x200 | 0x8000 | 0x8_0000 | 0x10_0000;
    let bits = capabilities.to_le_bytes();
    let mut body = vec![10];
    body.extend(b"5.1.0\0");
    body.extend(7u32.to_le_bytes());
    body.extend(&SCRAMBLE[..8]);
    body.extend([0, bits[0], bits[1], 33, 0, 0, bits[2], bits[3], 21]);
    body.extend([0; 10]);
    body.extend(&SCRAMBLE[8..]);
    body.push(0);
    body.extend(b"mysql_native_password\0");
    body
}

/// The user, and the proof of the password.
fn login(response: &[u8]) -> Option<(String, Vec<u8>)> {
    let rest = response.get(32..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let user = String::from_utf8_lossy(&rest[..end]).into_owned();
    let rest = &rest[end + 1..];
    let length = usize::from(*rest.first()?);
    Some((user, rest.get(1..1 + length)?.to_vec()))
}

fn expected(password: &str) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let once = Sha1::digest(password.as_bytes());
    let twice = Sha1::digest(once);
    let mut mixed = Sha1::new();
    mixed.update(SCRAMBLE);
    mixed.update(twice);
    once.iter().zip(mixed.finalize()).map(|(a, b)| a ^ b).collect()
}
