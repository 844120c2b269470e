//! `service`: units of systemd, services of Docker Compose, or what Kubernetes scales; here or over ssh.

use std::collections::BTreeMap;
use std::time::Duration;

use super::program::{Ran, Surroundings, run};
use super::remote::on_host;
use crate::error::{Error, ErrorKind, Result};
use crate::playbook::action::{Action, Job, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::{Manager, Program, ServiceAction, ServiceVerb};
use crate::telemetry::failpoint;

/// The pause between two looks whether services are as they were told to be.
const LOOK: Duration = Duration::from_secs(1);

/// Starts or stops services.
pub struct Service(pub ServiceAction);

/// How many of each there are: for systemd and Compose 0 or 1.
type Counts = BTreeMap<String, u32>;

impl Service {
    fn command(&self, words: &[&str], job: &Job<'_>, expected: &[i32]) -> Result<Ran> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let host = self.0.host.as_deref();
        let words = on_host(host, words);
        let ran = run(&Program::Argv(words), &Surroundings::default(), job, expected, || {});
        ran.map_err(|error| match host {
            Some(host) => error.context(format!("on {host}")),
            None => error,
        })
    }

    /// How many of each run, or are to run.
    fn counts(&self, job: &Job<'_>) -> Result<Counts> {
        let mut counts = Counts::new();
        for name in &self.0.names {
            let count = match &self.0.manager {
                Manager::Systemd {} => {
                    // 3 is "not active", 4 "no such unit"; ssh has 255 for itself.
                    let ran =
                        self.command(&["systemctl", "is-active", name], job, &[0, 1, 2, 3, 4])?;
                    match ran.output.trim() {
                        "active" | "reloading" => 1,
                        "activating" | "deactivating" => return Err(changing(name)),
                        _ if ran.code == 4 => {
                            return Err(Error::not_found(format!("there is no unit {name}")));
                        }
                        _ => 0,
                    }
                }
                Manager::Compose { file } => {
                    let file = file.display().to_string();
                    let words =
                        ["docker", "compose", "-f", &file, "ps", "--status", "running", "-q", name];
                    let ran = self.command(&words, job, &[0])?;
                    ran.output.lines().filter(|line| !line.trim().is_empty()).count() as u32
                }
                Manager::Kubectl { namespace } => {
                    let path = "jsonpath={.spec.replicas}";
                    let words = ["kubectl", "-n", namespace, "get", name, "-o", path];
                    let ran = self.command(&words, job, &[0])?;
                    let said = ran.output.trim();
                    said.parse()
                        .map_err(|_| Error::failed(format!("{name} has `{said}` replicas")))?
                }
            };
            counts.insert(name.clone(), count);
        }
        Ok(counts)
    }

    /// How many of each there are to be.
    fn wanted(&self) -> Result<Counts> {
        let given = self.0.replicas.as_deref().map(parse).transpose()?.unwrap_or_default();
        let of = |name: &String| match self.0.verb {
            ServiceVerb::Stop => Ok(0),
            ServiceVerb::Check => Ok(1),
            ServiceVerb::Start => match &self.0.manager {
                Manager::Kubectl { .. } => given.get(name).copied().ok_or_else(|| {
                    Error::failed(format!("it is not said how many of {name} are to be started"))
                }),
                _ => Ok(1),
            },
        };
        self.0.names.iter().map(|name| Ok((name.clone(), of(name)?))).collect()
    }

    /// The first that is not as it is to be.
    fn wrong(&self, job: &Job<'_>) -> Result<Option<String>> {
        let (found, wanted) = (self.counts(job)?, self.wanted()?);
        let is_right = |found: u32, wanted: u32| match &self.0.manager {
            Manager::Kubectl { .. } if self.0.verb != ServiceVerb::Check => found == wanted,
            _ => (found > 0) == (wanted > 0),
        };
        Ok(wanted.iter().find_map(|(name, wanted)| {
            let found = found.get(name).copied().unwrap_or(0);
            (!is_right(found, *wanted)).then(|| format!("{name}: {found} run, {wanted} are wanted"))
        }))
    }

    /// Makes each what it is to be.
    fn set(&self, wanted: &Counts, job: &Job<'_>) -> Result<()> {
        let stops = wanted.values().all(|count| *count == 0);
        let mut names: Vec<&String> = self.0.names.iter().collect();
        if stops {
            names.reverse();
        }
        for name in names {
            let count = wanted.get(name).copied().unwrap_or(0);
            match &self.0.manager {
                Manager::Systemd {} => {
                    let verb = if count > 0 { "start" } else { "stop" };
                    self.command(&["systemctl", verb, name], job, &[0])?;
                }
                Manager::Compose { file } => {
                    let file = file.display().to_string();
                    let words: &[&str] = if count > 0 {
                        &["docker", "compose", "-f", &file, "up", "-d", "--no-deps", name]
                    } else {
                        &["docker", "compose", "-f", &file, "stop", name]
                    };
                    self.command(words, job, &[0])?;
                }
                Manager::Kubectl { namespace } => {
                    let replicas = format!("--replicas={count}");
                    let words = ["kubectl", "-n", namespace, "scale", name, &replicas];
                    self.command(&words, job, &[0])?;
                }
            }
        }
        Ok(())
    }
}

fn changing(name: &str) -> Error {
    Error::failed(format!("{name} is starting or stopping"))
}

fn parse(text: &str) -> Result<Counts> {
    let one = |part: &str| {
        let (name, count) = part.split_once('=')?;
        Some((name.trim().to_owned(), count.trim().parse().ok()?))
    };
    text.split(',')
        .filter(|part| !part.trim().is_empty())
        .map(|part| one(part).ok_or_else(|| Error::failed(format!("`{part}` is not NAME=NUMBER"))))
        .collect()
}

fn shown(counts: &Counts) -> String {
    let all: Vec<String> = counts.iter().map(|(name, count)| format!("{name}={count}")).collect();
    all.join(",")
}

impl Action for Service {
    fn preview(&self, job: &Job<'_>) -> Result<Preview> {
        let verb = match self.0.verb {
            ServiceVerb::Start => "starts",
            ServiceVerb::Stop => "stops",
            ServiceVerb::Check => "looks at",
        };
        let host = self.0.host.as_deref().map(|host| format!(" on {host}")).unwrap_or_default();
        let preview = Preview::of(format!("{verb} {}{host}", self.0.names.join(", ")));
        Ok(match self.counts(job) {
            Ok(_) => preview,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => preview.missing(error.chain()),
        })
    }

    fn before(&self, job: &Job<'_>) -> Result<Outputs> {
        Ok(Outputs::from([("replicas".to_owned(), shown(&self.counts(job)?))]))
    }

    fn observe(&self, job: &Job<'_>) -> Result<Observed> {
        Ok(match self.wrong(job)? {
            Some(_) => Observed::NotDone,
            None if self.0.verb == ServiceVerb::Stop => Observed::Done(job.before.clone()),
            None => Observed::Done(Outputs::new()),
        })
    }

    fn apply(&self, job: &Job<'_>) -> Result<Outputs> {
        if self.0.verb != ServiceVerb::Check {
            self.set(&self.wanted()?, job)?;
            failpoint::reach("playbook.mid_apply");
        }
        job.until(LOOK, || match self.wrong(job)? {
            None => Ok(()),
            Some(why) => Err(Error::failed(why)),
        })?;
        Ok(if self.0.verb == ServiceVerb::Stop { job.before.clone() } else { Outputs::new() })
    }

    fn undo(&self, job: &Job<'_>) -> Result<()> {
        // As they were: what did not run before is not started, and the other way round.
        let before = job.before.get("replicas").map(|text| parse(text)).transpose()?;
        match before {
            Some(before) => self.set(&before, job),
            None => Ok(()),
        }
    }
}
