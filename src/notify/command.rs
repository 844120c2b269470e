//! Programs: the JSON of a message on their standard input.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process_group};

use super::message::Message;
use super::receiver::{Refused, text_of};
use crate::error::{Error, IoContext as _, Result};
use crate::policy::NotifyCommand;
use crate::secret;

/// How often a program is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How long what a program that ended said is waited for.
const LINGER: Duration = Duration::from_secs(1);

/// How much of what a program says is kept.
const SAID: u64 = 4096;

pub(super) fn deliver(
    command: &NotifyCommand,
    message: &Message,
    now: Timestamp,
) -> Result<String, Refused> {
    Ok(run(command, message.json(now))?)
}

fn run(command: &NotifyCommand, body: String) -> Result<String> {
    let (name, arguments) =
        command.argv.split_first().ok_or_else(|| Error::usage("no program is named"))?;
    let mut program = Command::new(name);
    program.args(arguments).process_group(0);
    program.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    for (variable, value) in &command.environment {
        program.env(variable, text_of(value)?);
    }
    if let Some(directory) = &command.directory {
        program.current_dir(directory);
    }
    let mut child = program.spawn().doing(|| format!("failed to start `{name}`"))?;
    let stdin = child.stdin.take();
    let stderr = child.stderr.take();
    // In threads of their own: a program that reads nothing, or says much, must not hold us up.
    std::thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            let _ = stdin.write_all(body.as_bytes());
        }
    });
    let words = std::thread::spawn(move || {
        let mut said = Vec::new();
        if let Some(mut stderr) = stderr {
            let _ = stderr.by_ref().take(SAID).read_to_end(&mut said);
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        }
        said
    });
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().doing(|| format!("failed to wait for `{name}`"))? {
            break status;
        }
        if begun.elapsed() > command.timeout.get() {
            kill(&mut child);
            return Err(Error::failed(format!("`{name}` took longer than {}", command.timeout)));
        }
        std::thread::sleep(LOOK);
    };
    if status.success() {
        return Ok(format!("`{name}` ended with {status}"));
    }
    // What it started may still hold its standard error open: that is not waited for long.
    let ended = Instant::now();
    while !words.is_finished() && ended.elapsed() < LINGER {
        std::thread::sleep(LOOK / 10);
    }
    let said = if words.is_finished() { words.join().unwrap_or_default() } else { Vec::new() };
    let said = String::from_utf8_lossy(&said);
    let last = secret::mask(said.trim().lines().last().unwrap_or_default());
    let colon = if last.is_empty() { "" } else { ": " };
    Err(Error::failed(format!("`{name}` ended with {status}{colon}{last}")))
}

fn kill(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}
