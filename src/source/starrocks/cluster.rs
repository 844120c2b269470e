//! The frontends of a cluster: whichever answers, and the leader where it matters.

use std::fmt;
use std::time::{Duration, Instant};

use super::rows::Rows;
use super::said::Failure;
use super::session::{Access, Session, Tls};
use super::sql;
use super::version::Version;
use crate::error::{Error, ErrorKind, Result};
use crate::policy::{ClusterLogin, StarRocks};
use crate::secret::SecretRef;
use crate::telemetry::Reporter;

/// How long frontends may all be away before a question is given up: a leader that restarts is back
/// by then.
const PATIENCE: Duration = Duration::from_mins(5);
/// The first pause before they are asked again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Where a frontend is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its host.
    pub host: String,
    /// The port of its MySQL protocol.
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How a cluster is reached.
#[derive(Debug, Clone)]
pub struct Login {
    /// Its frontends.
    pub targets: Vec<Target>,
    /// How somebody logs in.
    pub access: Access,
}

impl Login {
    /// As a policy says of a source. The password is read now.
    pub fn of(policy: &StarRocks) -> Result<Self> {
        Self::to(&ClusterLogin {
            frontends: policy.frontends.clone(),
            user: policy.user.clone(),
            password: policy.password.clone(),
            tls: policy.tls.clone(),
        })
    }

    /// The same of any cluster.
    pub fn to(policy: &ClusterLogin) -> Result<Self> {
        let target = |text: &String| {
            let (host, port) = StarRocks::address(text)
                .ok_or_else(|| Error::usage(format!("`{text}` is no frontend")))?;
            Ok(Target { host, port })
        };
        Ok(Self {
            targets: policy.frontends.iter().map(target).collect::<Result<_>>()?,
            access: Access {
                user: policy.user.clone(),
                password: policy.password.as_ref().map(SecretRef::resolve).transpose()?,
                tls: match policy.tls.as_ref().map(|tls| &tls.ca_file) {
                    None => Tls::Off,
                    Some(None) => Tls::Usual,
                    Some(Some(path)) => Tls::Trusting(path.clone()),
                },
            },
        })
    }
}

/// What frontends and backends say of themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The leader's version.
    pub version: Version,
    /// The same as it is written.
    pub version_text: String,
    /// `shared_nothing`, or `shared_data`.
    pub run_mode: String,
    /// Living frontends.
    pub frontends: usize,
    /// Living backends.
    pub backends: usize,
    /// All backends.
    pub all_backends: usize,
}

/// A cluster, with a connection to one of its frontends.
pub struct Cluster {
    login: Login,
    reporter: Reporter,
    session: Option<(Target, Session)>,
    /// The leader, once it is known; it need not be one of those in the policy.
    leader: Option<Target>,
    next: usize,
    patience: Duration,
}

impl Cluster {
    /// Connects to the first frontend that answers. One that is not there is not waited for.
    pub fn open(login: Login, reporter: &Reporter) -> Result<Self> {
        let mut cluster = Self {
            login,
            reporter: reporter.clone(),
            session: None,
            leader: None,
            next: 0,
            patience: Duration::ZERO,
        };
        cluster.connect().map_err(|failure| failure.into_error("connect to StarRocks"))?;
        cluster.patience = PATIENCE;
        Ok(cluster)
    }

    /// The frontend that is spoken to.
    pub fn target(&self) -> Option<&Target> {
        self.session.as_ref().map(|(target, _)| target)
    }

    /// Asks a question. One that no answer came to is asked again, of whoever is there.
    pub fn ask(&mut self, statement: &str) -> Result<Rows, Failure> {
        let until = Instant::now() + self.patience;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.submit(statement) {
                Err(Failure::Lost(cause)) => {
                    if Instant::now() >= until || self.reporter.is_cancelled() {
                        return Err(Failure::Lost(cause));
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                // A follower says so while nobody leads.
                Err(failure) if is_leaderless(&failure) && Instant::now() < until => {
                    self.session = None;
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                answer => return answer,
            }
        }
    }

    /// Sends a statement once. [`Failure::Lost`]: it may have been taken.
    pub fn submit(&mut self, statement: &str) -> Result<Rows, Failure> {
        let (target, session) = self.connect()?;
        let target = target.clone();
        let answer = session.query(statement, &target);
        if matches!(answer, Err(Failure::Lost(_))) {
            self.session = None;
            self.leader = None;
        }
        answer
    }

    /// Sends a statement whose names are of `database`. Both go over the same connection.
    pub fn submit_in(&mut self, database: &str, statement: &str) -> Result<Rows, Failure> {
        let (target, session) = self.connect()?;
        let target = target.clone();
        let answer = session
            .query(&sql::use_database(database), &target)
            .and_then(|_| session.query(statement, &target));
        if matches!(answer, Err(Failure::Lost(_))) {
            self.session = None;
            self.leader = None;
        }
        answer
    }

    /// Goes over to the leader: only it knows how far a restore is.
    pub fn follow_leader(&mut self) -> Result<()> {
        let frontends =
            self.ask(sql::FRONTENDS).map_err(|f| f.into_error("look for the leader"))?;
        let leads = |row: &super::rows::Row<'_>| row.text("Role").eq_ignore_ascii_case("LEADER");
        let Some(leader) = frontends.iter().find(leads) else { return Ok(()) };
        let host = leader.get("IP").or_else(|| leader.get("Host")).unwrap_or_default();
        let Some(port) = leader.number("QueryPort").and_then(|port| u16::try_from(port).ok())
        else {
            return Ok(());
        };
        let target = Target { host: host.to_owned(), port };
        if self.target() == Some(&target) {
            return Ok(());
        }
        self.leader = Some(target.clone());
        match Session::open(&target, &self.login.access) {
            Ok(session) => self.session = Some((target, session)),
            // It may have an address that only the cluster itself can reach.
            Err(_) => self.leader = None,
        }
        Ok(())
    }

    /// What the cluster says of itself.
    pub fn facts(&mut self) -> Result<Facts> {
        let doing = "look at the frontends";
        let frontends = self.ask(sql::FRONTENDS).map_err(|failure| failure.into_error(doing))?;
        let alive = |row: &super::rows::Row<'_>| row.text("Alive").eq_ignore_ascii_case("true");
        let leader = frontends.iter().find(|row| row.text("Role").eq_ignore_ascii_case("LEADER"));
        let version_text = leader
            .or_else(|| frontends.first())
            .map(|row| row.text("Version").to_owned())
            .unwrap_or_default();
        let version = Version::parse(&version_text).ok_or_else(|| {
            Error::unsupported(format!("`{version_text}` is no version of StarRocks"))
                .hint("is this really a frontend of StarRocks? `SHOW FRONTENDS` has no version")
        })?;
        let backends = self
            .ask(sql::BACKENDS)
            .map_err(|failure| failure.into_error("look at the backends"))?;
        let run_mode = match self.ask(sql::RUN_MODE) {
            Ok(rows) => rows.first().map(|row| row.text("Value").to_owned()).unwrap_or_default(),
            // Before 3.0 there was one mode, and no such setting.
            Err(Failure::Said(_)) if !version.has_roles() => String::new(),
            Err(failure) => return Err(failure.into_error("ask for the run mode")),
        };
        Ok(Facts {
            version,
            version_text,
            run_mode: if run_mode.is_empty() { "shared_nothing".to_owned() } else { run_mode },
            frontends: frontends.iter().filter(alive).count(),
            backends: backends.iter().filter(alive).count(),
            all_backends: backends.rows.len(),
        })
    }

    fn connect(&mut self) -> Result<&mut (Target, Session), Failure> {
        if self.session.is_none() {
            self.session = Some(self.first_that_answers()?);
        }
        self.session.as_mut().ok_or_else(|| Failure::Lost("no connection".to_owned()))
    }

    fn first_that_answers(&mut self) -> Result<(Target, Session), Failure> {
        let mut first = None;
        let count = self.login.targets.len();
        let targets = (0..count).map(|at| self.login.targets[(self.next + at) % count].clone());
        let targets: Vec<Target> = self.leader.take().into_iter().chain(targets).collect();
        for target in targets {
            match Session::open(&target, &self.login.access) {
                Ok(session) => {
                    let at = self.login.targets.iter().position(|known| *known == target);
                    self.next = at.unwrap_or(self.next);
                    return Ok((target, session));
                }
                // Whoever refuses the password here refuses it everywhere.
                Err(Failure::Said(text)) => return Err(Failure::Said(text)),
                Err(lost) => _ = first.get_or_insert(lost),
            }
        }
        self.next = (self.next + 1) % count.max(1);
        Err(first.unwrap_or_else(|| Failure::Lost("there is no frontend to ask".to_owned())))
    }
}

impl Facts {
    /// Whether this version, run in this mode, makes snapshots at all.
    pub fn check(&self) -> Result<()> {
        if self.version < Version::OLDEST {
            return Err(Error::unsupported(format!("StarRocks {} is too old", self.version))
                .hint("2.5 and later are backed up"));
        }
        if self.run_mode != "shared_nothing" {
            return Err(Error::unsupported(format!(
                "StarRocks runs in mode `{}`, in which it makes no snapshots of databases",
                self.run_mode
            ))
            .hint("its data lies in a bucket already: `ADMIN SET AUTOMATED CLUSTER SNAPSHOT ON` (3.4.2 and later)"));
        }
        if self.backends == 0 {
            return Err(Error::new(
                ErrorKind::Unreachable,
                format!("none of {} backends is alive", self.all_backends),
            )
            .hint("`SHOW BACKENDS` tells why"));
        }
        Ok(())
    }
}

fn is_leaderless(failure: &Failure) -> bool {
    ["node not ready", "no leader", "leader is not ready", "FE leader"]
        .iter()
        .any(|part| failure.has(part))
}
