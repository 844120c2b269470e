//! PostgreSQL's own programs: found in the right version, and run with nothing secret on their
//! command line.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::conninfo::{Host, Settings, variables};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::source::command::{Pipeline, Stage};

/// One program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Where it is.
    pub path: PathBuf,
    /// Its major version: 15.
    pub major: u32,
    /// Its version as it says it: `15.18 (Debian 15.18-0+deb12u1)`.
    pub version: String,
}

/// Which versions will do.
#[derive(Debug, Clone, Copy)]
pub struct Needed {
    /// The oldest major version that will do.
    pub least: u32,
    /// The one that is taken where there are several; otherwise the oldest that will do.
    pub best: u32,
}

impl Tool {
    /// Finds the program `name`: in `given` if that is given, otherwise where distributions
    /// install it, and in the PATH.
    pub fn find(name: &str, given: Option<&Path>, needed: Needed) -> Result<Self> {
        let places = match given {
            Some(directory) => vec![directory.to_path_buf()],
            None => places(),
        };
        let found: Vec<Self> = places
            .iter()
            .map(|place| place.join(name))
            .filter(|path| is_program(path))
            .filter_map(|path| Self::ask(path, name))
            .collect();
        let fits = found.iter().filter(|tool| tool.major >= needed.least);
        let best = fits.min_by_key(|tool| (tool.major != needed.best, tool.major));
        best.cloned().ok_or_else(|| missing(name, given, needed, &found))
    }

    fn ask(path: PathBuf, name: &str) -> Option<Self> {
        let output = Command::new(&path).arg("--version").stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let version = text.trim().strip_prefix(&format!("{name} (PostgreSQL) "))?.to_owned();
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        Some(Self { path, major: digits.parse().ok()?, version })
    }

    /// A run of it, with what it needs to reach `database` on `host`.
    pub fn pipeline(
        &self,
        settings: &Settings,
        host: &Host,
        arguments: Vec<String>,
    ) -> Result<Pipeline> {
        let mut argv = vec![self.path.display().to_string()];
        argv.extend(arguments);
        Ok(Pipeline {
            stages: vec![Stage { argv }],
            environment: settings.environment(host)?,
            without: variables().map(str::to_owned).collect(),
            ..Pipeline::default()
        })
    }
}

fn missing(name: &str, given: Option<&Path>, needed: Needed, found: &[Tool]) -> Error {
    let Needed { least, .. } = needed;
    // A data directory is for one version alone; a client knows the older ones too.
    let serves = ["postgres", "initdb", "pg_amcheck"].contains(&name);
    let wanted = if serves { least.to_string() } else { format!("{least} or newer") };
    let error = match found.iter().max_by_key(|tool| tool.major) {
        Some(newest) => Error::new(
            ErrorKind::Unsupported,
            format!(
                "{} is {name} {}, and this needs {wanted}",
                newest.path.display(),
                newest.version
            ),
        ),
        None => Error::new(
            ErrorKind::NotFound,
            match given {
                Some(directory) => format!("there is no {name} in {}", directory.display()),
                None => format!("there is no {name} here"),
            },
        ),
    };
    error.hint(if serves {
        format!("install postgresql-{least}, or name the directory: --programs /usr/lib/postgresql/{least}/bin")
    } else {
        format!("install postgresql-client-{wanted}, or name its directory: `programs: /usr/lib/postgresql/{least}/bin`")
    })
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Where programs may be. Debian's `/usr/bin` has wrappers, which come last.
fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    for (parent, prefix) in
        [("/usr/lib/postgresql", ""), ("/usr", "pgsql-"), ("/opt/homebrew/opt", "postgresql@")]
    {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| {
                let name = entry.file_name();
                let rest = name.to_str().and_then(|name| name.strip_prefix(prefix));
                rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            })
            .map(|entry| entry.path().join("bin"))
            .collect();
        found.sort();
        places.extend(found);
    }
    places.push("/usr/local/pgsql/bin".into());
    places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    places
}

/// All that a run writes to its standard output, which is small.
pub(super) fn output_of(
    pipeline: &Pipeline,
    reporter: &crate::telemetry::Reporter,
    most: u64,
) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let mut running = pipeline.start(false, true, reporter)?;
    let mut bytes = Vec::new();
    if let Some(output) = running.take_output() {
        output
            .take(most + 1)
            .read_to_end(&mut bytes)
            .doing(|| format!("failed to read from {}", pipeline.name()))?;
    }
    if bytes.len() as u64 > most {
        return Err(Error::failed(format!("{} wrote more than {most} bytes", pipeline.name())));
    }
    running.finish()?;
    Ok(bytes)
}
