//! A StarRocks cluster as its clients see it: frontends that speak the MySQL protocol, a strict
//! reading of the grammar, jobs that go from state to state, and the real layout in a real bucket.
//!
//! It knows exactly the statements that are documented in `docs/starrocks.md`; anything that a real
//! one would reject is rejected. Its daemon ticks when somebody looks, so that no test waits.

mod answer;
mod bucket;
pub mod fixture;
mod grammar;
mod job;
mod model;
mod restoring;
mod wire;

use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

pub use job::Job;
pub use model::World;

/// A cluster.
pub struct StarRocks {
    world: Arc<Mutex<World>>,
    frontends: Vec<Frontend>,
}

/// One frontend.
struct Frontend {
    port: u16,
    listener: Arc<Mutex<Option<TcpListener>>>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl StarRocks {
    /// A cluster of this version with so many frontends; the first leads.
    pub fn start(version: &str, frontends: usize) -> Self {
        let world = Arc::new(Mutex::new(World::new(version)));
        let mut cluster = Self { world, frontends: Vec::new() };
        for _ in 0..frontends {
            let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            cluster.world().frontends.push((port, true));
            cluster.frontends.push(Frontend {
                port,
                listener: Arc::new(Mutex::new(None)),
                connections: Arc::default(),
            });
            cluster.listen(cluster.frontends.len() - 1, listener);
        }
        cluster
    }

    fn listen(&self, number: usize, listener: TcpListener) {
        let frontend = &self.frontends[number];
        *frontend.listener.lock().unwrap() = Some(listener.try_clone().unwrap());
        let (world, connections) = (self.world.clone(), frontend.connections.clone());
        let open = frontend.listener.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let Ok(socket) = socket else { return };
                if open.lock().unwrap().is_none() {
                    return;
                }
                connections.lock().unwrap().push(socket.try_clone().unwrap());
                let world = world.clone();
                std::thread::spawn(move || wire::serve(socket, &world, number));
            }
        });
    }

    /// Everything about the cluster.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// `127.0.0.1:PORT` of each frontend.
    pub fn addresses(&self) -> Vec<String> {
        self.frontends.iter().map(|one| format!("127.0.0.1:{}", one.port)).collect()
    }

    /// Stops a frontend. If it led, another one leads, and what only it knew of jobs is lost.
    pub fn stop_frontend(&self, number: usize) {
        let frontend = &self.frontends[number];
        frontend.listener.lock().unwrap().take();
        self.world().frontend_stopped(number);
        for connection in frontend.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", frontend.port));
    }

    /// Starts it again, at its old port.
    pub fn start_frontend(&self, number: usize) {
        let port = self.frontends[number].port;
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", port)) {
                Ok(listener) => break listener,
                Err(_) => std::thread::yield_now(),
            }
        };
        self.world().frontends[number].1 = true;
        self.listen(number, listener);
    }

    /// Gives it a keystore; returns the certificate (PEM) that signed it.
    pub fn enable_tls(&self) -> String {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        self.world().tls = Some(Arc::new(config));
        pem
    }

    /// Every statement that arrived, in order.
    pub fn statements(&self) -> Vec<String> {
        self.world().log.clone()
    }
}

impl Drop for StarRocks {
    fn drop(&mut self) {
        for number in 0..self.frontends.len() {
            self.stop_frontend(number);
        }
    }
}
