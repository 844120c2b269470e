//! Processes with a network of their own that has nothing in it: what a throwaway server recovered
//! from production knows of production, it cannot reach.

use std::io;
use std::process::{Child, Command};

use nix::sched::{CloneFlags, unshare};

/// Starts a program, on request with a network of its own.
pub fn spawn(command: &mut Command, isolated: bool) -> io::Result<Child> {
    if isolated { inside(|| command.spawn())? } else { command.spawn() }
}

/// Does work on a thread whose network is empty; processes that it starts inherit that. Sockets in the
/// file system are none of the network's.
pub fn inside<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            Ok(work())
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread ended")))
    })
}

/// Why no process can have a network of its own here; `None` where it can.
pub fn impossible() -> Option<String> {
    let error = inside(|| ()).err()?;
    Some(match error.raw_os_error() {
        Some(1) => "this user may not make a network namespace: only root may".to_owned(),
        _ => format!("this system makes no network namespace: {error}"),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn nothing_is_reached_from_inside() {
        if impossible().is_some() {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        TcpStream::connect(address).unwrap();
        assert!(inside(|| TcpStream::connect(address).is_err()).unwrap());
        let inner = std::fs::read_link("/proc/self/ns/net").unwrap();
        let mut sleeping = spawn(Command::new("sleep").arg("100"), true).unwrap();
        let outer = std::fs::read_link(format!("/proc/{}/ns/net", sleeping.id())).unwrap();
        sleeping.kill().unwrap();
        sleeping.wait().unwrap();
        assert_ne!(inner, outer);
    }
}
