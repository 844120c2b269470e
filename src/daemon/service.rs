//! What a service manager is told: the protocol of `sd_notify(3)`.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// The service manager, if there is one.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that all is well.
    watchdog: Option<Duration>,
    told: Instant,
}

impl ServiceManager {
    /// The one that started this process.
    pub fn from_environment() -> Self {
        let address = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let name = name.into_vec();
            match name.strip_prefix(b"@") {
                Some(rest) => SocketAddr::from_abstract_name(rest).ok(),
                None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(&name)).ok(),
            }
        });
        let socket = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        let micros = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        // Twice as often as it has to be.
        let watchdog = micros.map(|micros: u64| Duration::from_micros(micros / 2));
        Self { socket, watchdog, told: Instant::now() }
    }

    /// Work has begun.
    pub fn ready(&self) {
        self.tell("READY=1\n");
    }

    /// Work goes on.
    pub fn alive(&mut self) {
        if self.watchdog.is_some_and(|watchdog| self.told.elapsed() >= watchdog) {
            self.told = Instant::now();
            self.tell("WATCHDOG=1\n");
        }
    }

    /// Work ends.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\n");
    }

    fn tell(&self, message: &str) {
        if let Some((socket, address)) = &self.socket {
            // A manager that does not listen is none of our business.
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }
}
