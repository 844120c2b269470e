//! `backstay daemon`

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::SignedDuration;

use crate::cli::ExitStatus;
use crate::cli::setup::App;
use crate::daemon::board::Board;
use crate::daemon::engine::{Engine, Settings};
use crate::daemon::watch::Means;
use crate::error::{Error, IoContext as _, Result};
use crate::http::api::{Api, Opens};
use crate::http::server::{self, Shown};
use crate::http::tls::Certificate;
use crate::http::token::Token;
use crate::run::{HOST_LABEL, host_name};
use crate::store::Web;
use crate::telemetry::WarningCode;

/// Do what the policies say, when they say it.
///
/// Runs in the foreground until SIGTERM or Ctrl-C. What was due while nobody was there is caught up
/// with, once for each job. Changed policies are taken over within seconds; an invalid one is told
/// and the old one stays in force. Each run is a process of its own: `backstay logs RUN` shows what
/// it said.
///
/// Where the policies name a state in PostgreSQL, any number of daemons share it: each slot is done
/// by one of them, and what one that is gone was doing is taken over by another.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The most runs at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,

    /// What this host is called in `host:` of sources. Default: its name.
    #[arg(long, value_name = "LABEL", env = HOST_LABEL)]
    host: Option<String>,
    /// Show metrics and health at this address: /metrics, /healthz, /readyz.
    ///
    /// A port alone, or nothing, is one of the loopback device. Without the option nothing listens.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:9187", value_parser = address)]
    listen: Option<SocketAddr>,

    /// Answer the API and show the dashboard too, to who has the token in this file.
    ///
    /// 32 characters or more, such as `openssl rand -hex 32` gives, in a file that nobody else may
    /// read. `backstay status|runs|logs|cancel|trigger --remote URL` ask so from elsewhere.
    #[arg(long, value_name = "FILE", requires = "listen")]
    token_file: Option<PathBuf>,

    /// The certificate to show, with those that signed it, as PEM.
    #[arg(long, value_name = "FILE", requires = "listen", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,

    /// Its private key, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,

    /// Seconds between two looks into the repositories, where somebody is told or reads metrics.
    ///
    /// Each lists and reads all manifests, which a bucket counts as requests. After a run the next
    /// look comes sooner.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    watch: u32,

    /// Seconds that runs may go on when the daemon is told to end, before they are told too.
    ///
    /// They may take a minute more for it: whoever ends the daemon is to wait for so long.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    grace: u32,

    /// Seconds after which runs of a daemon that is silent are taken over.
    #[arg(long, hide = true, value_name = "SECONDS", default_value_t = 45)]
    silence: u32,
}

/// `HOST:PORT`, or a port of the loopback device.
fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse().map_err(|_| "write ADDRESS:PORT, such as 127.0.0.1:9187, or a port".to_owned())
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    if app.repository_url().is_some() {
        return Err(Error::usage("a daemon needs policies, and takes no repository by URL"));
    }
    let policies = std::path::absolute(app.policy_path()?)
        .doing(|| "failed to find the policies".to_owned())?;
    let directory = app.state_directory()?;
    let local = app.state()?;
    let _alone = local.only_daemon()?;
    let loaded = app.policies(false)?.policies;
    let ledger = app.ledger_of(&loaded)?;
    let opens = app.opens(&loaded)?;
    let (logs, kept) = (directory.join("runs"), directory.join("policies"));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&logs)
        .doing(|| format!("failed to create {}", logs.display()))?;
    let board = Board::default();
    let program = std::env::current_exe().doing(|| "failed to find this program".to_owned())?;
    let mut program: Vec<OsString> = vec![program.into()];
    program.extend(["--output", "json", "--no-progress"].map(Into::into));
    program.push("--state-dir".into());
    program.push(directory.into());
    let host = args.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(host_name);
    let door = Door {
        opens,
        logs: logs.clone(),
        program: program.clone(),
        host: host.clone(),
        board: board.clone(),
    };
    let settings = Settings {
        policies,
        kept,
        logs,
        program,
        host,
        most: args.jobs.into(),
        silence: SignedDuration::from_secs(args.silence.into()),
        grace: Duration::from_secs(args.grace.into()),
        means: Means {
            web: Web::new(app.runtime.handle().clone()),
            every: Duration::from_secs(args.watch.into()),
            is_read: args.listen.is_some(),
        },
        board: board.clone(),
    };
    if let Some(address) = args.listen {
        listen(app, args, address, door)?;
    }
    Engine::new(settings, (&*ledger, &local), app.cx.clock.clone(), app.cx.reporter.clone())?
        .run()?;
    Ok(ExitStatus::Done)
}

/// What those who ask over the network need.
struct Door {
    opens: Opens,
    logs: PathBuf,
    program: Vec<OsString>,
    host: String,
    board: Board,
}

fn listen(app: &App, args: &Args, address: SocketAddr, door: Door) -> Result<()> {
    let clock = app.cx.clock.clone();
    let certificate = match (&args.tls_certificate, &args.tls_key) {
        (Some(chain), Some(key)) => Some(Certificate::in_files(chain, key)?),
        _ => None,
    };
    let encrypted = certificate.is_some();
    let api = match &args.token_file {
        Some(_) if !encrypted && !address.ip().is_loopback() => {
            return Err(Error::usage(format!("the token would come to {address} in plain text"))
                .hint("give --tls-certificate FILE and --tls-key FILE, or listen at 127.0.0.1"));
        }
        Some(file) => Some(Arc::new(Api {
            token: Token::in_file(file)?,
            ledger: door.opens.clone(),
            logs: door.logs,
            program: door.program,
            host: door.host,
            board: door.board.clone(),
            clock: clock.clone(),
            looking: Mutex::new(()),
        })),
        None => None,
    };
    let what =
        if api.is_some() { "dashboard, metrics, health and API" } else { "metrics and health" };
    let shown = Shown {
        board: door.board,
        directory: app.state_directory()?,
        ledger: door.opens,
        clock,
        api,
        certificate,
    };
    let address = server::serve(address, app.runtime.handle(), shown)?;
    let scheme = if encrypted { "https" } else { "http" };
    app.cx.reporter.note(format!("{what}: {scheme}://{address}/"));
    if !address.ip().is_loopback() {
        app.cx.reporter.warn(
            WarningCode::Other,
            None,
            format!("whoever reaches {address} reads the names of stacks, jobs and sources"),
        );
    }
    Ok(())
}
