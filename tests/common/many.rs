//! A bucket with as many small objects as one likes, none of which lies anywhere: what it lists and
//! gives follows from their numbers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Such a bucket.
pub struct Many {
    port: u16,
    over: Arc<AtomicBool>,
}

impl Many {
    /// Starts a server of one bucket with so many objects below `data/`.
    pub fn start(count: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let over = Arc::new(AtomicBool::new(false));
        let ends = over.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(socket) = socket else { return };
                std::thread::spawn(move || serve(&socket, count));
            }
        });
        Self { port, over }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Many {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn key(number: u64) -> String {
    format!("data/{:04}/{number:08}.json", number / 1000)
}

fn content(number: u64) -> String {
    format!("{{\"number\":{number}}}")
}

fn etag(number: u64) -> String {
    format!("\"{number:032x}\"")
}

fn serve(socket: &TcpStream, count: u64) -> Option<()> {
    socket.set_nodelay(true).ok()?;
    let (mut input, mut output) = (BufReader::new(socket.try_clone().ok()?), socket);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if input.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.trim().is_empty() {
                break;
            }
            lines.push(line.trim().to_owned());
        }
        let target = lines.first()?.split(' ').nth(1)?.to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let number = path.rsplit('/').next()?.strip_suffix(".json").and_then(|n| n.parse().ok());
        let answer = match number {
            Some(number) => format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Length: {0}\r\nContent-Range: bytes 0-{1}/{0}\r\nETag: {2}\r\n\
                 Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: application/json\r\n\r\n{3}",
                content(number).len(),
                content(number).len() - 1,
                etag(number),
                content(number)
            ),
            None if query.contains("list-type=2") => {
                let body = list(query, count);
                format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            }
            None => {
                let body = "<Error><Code>NotImplemented</Code><Message>no</Message></Error>";
                format!(
                    "HTTP/1.1 501 Not Implemented\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            }
        };
        output.write_all(answer.as_bytes()).ok()?;
    }
}

fn list(query: &str, count: u64) -> String {
    let token = query.split('&').find_map(|pair| pair.strip_prefix("continuation-token="));
    let first: u64 = token.and_then(|token| token.parse().ok()).unwrap_or(0);
    let end = (first + 1000).min(count);
    let mut body = String::from("<ListBucketResult><EncodingType>url</EncodingType>");
    body.push_str(&format!("<IsTruncated>{}</IsTruncated>", end < count));
    if end < count {
        body.push_str(&format!("<NextContinuationToken>{end}</NextContinuationToken>"));
    }
    for number in first..end {
        body.push_str(&format!(
            "<Contents><Key>{}</Key><Size>{}</Size><ETag>{}</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>",
            key(number),
            content(number).len(),
            etag(number).replace('"', "&quot;")
        ));
    }
    body.push_str("</ListBucketResult>");
    body
}
