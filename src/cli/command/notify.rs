//! `backstay notify`

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::cli::ExitStatus;
use crate::cli::format::{self, Align, table};
use crate::cli::setup::App;
use crate::daemon::tell;
use crate::error::{Error, Result};
use crate::notify::ping::{Ping, Sign};
use crate::notify::text::Style;
use crate::notify::{Alert, Message, Notice, Receiver, Refused, What};
use crate::policy::{self, Language, Notify, Policy, Setting};
use crate::run::host_name;
use crate::secret;
use crate::store::Web;

/// See who is told of what, and try it.
///
/// Who is told stands in the policies under `notify`; the daemon tells them.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(ListArgs),
    Test(TestArgs),
}

/// List what fires, and what receivers said last.
#[derive(Debug, clap::Args)]
struct ListArgs {}

/// Send a message that says that it is a test.
///
/// To every receiver of the policies, or to some. What each answers is shown; where one does not
/// take the message, the exit code is 1. A dead man's switch only writes it down.
#[derive(Debug, clap::Args)]
struct TestArgs {
    /// Receivers: alertmanager, webhook, dingtalk, wecom, feishu, command, ping.
    #[arg(value_name = "RECEIVER")]
    receivers: Vec<String>,

    /// Only of this stack.
    #[arg(long, value_name = "STACK")]
    stack: Option<String>,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    if app.repository_url().is_some() {
        return Err(Error::usage("receivers stand in policies: notify takes no repository by URL"));
    }
    match &args.command {
        Command::List(_) => list(app),
        Command::Test(args) => test(app, args),
    }
}

#[derive(Serialize)]
struct Answer {
    stack: String,
    receiver: &'static str,
    result: &'static str,
    said: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hints: Vec<String>,
}

const KNOWN: [&str; 7] =
    ["alertmanager", "webhook", "dingtalk", "wecom", "feishu", "command", "ping"];

fn test(app: &App, args: &TestArgs) -> Result<ExitStatus> {
    for receiver in &args.receivers {
        if !KNOWN.contains(&receiver.as_str()) {
            return Err(Error::usage(format!("there is no receiver `{receiver}`"))
                .hint(policy::hint_at(receiver, KNOWN)));
        }
    }
    let set = app.policies(false)?;
    if let Some(stack) = &args.stack
        && !set.policies.iter().any(|policy| policy.stack == *stack)
    {
        let known = set.policies.iter().map(|policy| policy.stack.as_str());
        return Err(Error::not_found(format!("there is no policy of stack `{stack}`"))
            .hint(policy::hint_at(stack, known)));
    }
    let web = Web::new(app.runtime.handle().clone());
    let now = app.cx.clock.now();
    let wanted = |name: &str| {
        args.receivers.is_empty() || args.receivers.iter().any(|receiver| receiver == name)
    };
    let mut answers = Vec::new();
    for policy in &set.policies {
        if args.stack.as_ref().is_some_and(|stack| *stack != policy.stack) {
            continue;
        }
        let Some(notify) = &policy.notify else { continue };
        for receiver in Receiver::all(notify).iter().filter(|receiver| wanted(receiver.name())) {
            let outcome = receiver.deliver(&message(policy, notify, now), &web, now);
            answers.push(answer(policy, receiver.name(), outcome));
        }
        let switches =
            notify.ping.iter().flat_map(|ping| ping.url.iter().chain(ping.jobs.values()));
        for address in switches.filter(|_| wanted("ping")) {
            answers.push(answer(policy, "ping", ping(policy, address, &web, now)));
        }
    }
    if answers.is_empty() {
        return Err(Error::not_found("no policy names such a receiver")
            .hint("receivers stand in policies under `notify`"));
    }
    show(app, &answers)?;
    let all = answers.iter().all(|answer| answer.result == "delivered");
    Ok(if all { ExitStatus::Done } else { ExitStatus::Failed })
}

fn message(policy: &Policy, notify: &Notify, now: Timestamp) -> Message {
    let notice = Notice {
        alert: Alert::of(&policy.stack, What::Test),
        started: now,
        // An Alertmanager is to forget it soon; for the others it is over when they read it.
        resolved: None,
    };
    Message {
        notices: vec![notice],
        style: Style { language: notify.language, zone: policy.time_zone() },
        runbooks: notify.runbooks.clone(),
        host: host_name(),
    }
}

fn ping(policy: &Policy, address: &Setting, web: &Web, now: Timestamp) -> Result<String, Refused> {
    let ping = Ping {
        stack: policy.stack.clone(),
        job: policy.jobs.keys().next().cloned().unwrap_or_default(),
        source: String::new(),
        run: crate::id::run_id(now),
        sign: Sign::Log,
        said: "a test of Backstay: nothing is wrong".to_owned(),
        at: now,
    };
    ping.send(address, web)
}

fn answer(policy: &Policy, receiver: &'static str, outcome: Result<String, Refused>) -> Answer {
    let stack = policy.stack.clone();
    match outcome {
        Ok(said) => Answer { stack, receiver, result: "delivered", said, hints: Vec::new() },
        Err(refused) => Answer {
            stack,
            receiver,
            result: "failed",
            said: secret::mask(&refused.error.chain()),
            hints: refused.error.hints().to_vec(),
        },
    }
}

fn show(app: &App, answers: &[Answer]) -> Result<()> {
    if app.printer.is_json() {
        return app.printer.json(&answers);
    }
    for answer in answers {
        let Answer { stack, receiver, result, said, hints } = answer;
        app.printer.data(format!("{stack} {receiver}: {result}: {said}"))?;
        for hint in hints {
            app.printer.hint(hint);
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Listed {
    alerts: Vec<Firing>,
    receivers: Vec<Said>,
}

#[derive(Serialize)]
struct Firing {
    name: &'static str,
    severity: &'static str,
    since: Timestamp,
    summary: String,
    description: String,
    runbook: String,
}

#[derive(Serialize)]
struct Said {
    stack: String,
    receiver: String,
    result: &'static str,
    total: u64,
    last: Timestamp,
    #[serde(rename = "said")]
    words: String,
}

fn list(app: &App) -> Result<ExitStatus> {
    let state = app.state()?;
    let style = Style { language: Language::En, zone: TimeZone::UTC };
    let firing = |notice: Notice| Firing {
        name: notice.alert.what.name(),
        severity: notice.alert.what.severity().word(),
        since: notice.started,
        summary: style.summary(&notice.alert),
        description: style.description(&notice.alert),
        runbook: notice.alert.runbook(None),
    };
    let rows = state.alerts()?;
    let fires = rows.iter().filter(|row| row.resolved.is_none()).filter_map(tell::read);
    let listed = Listed {
        alerts: fires.map(firing).collect(),
        receivers: state
            .notification_totals()?
            .into_iter()
            .map(|total| Said {
                stack: total.stack,
                receiver: total.receiver,
                result: total.result.word(),
                total: total.total,
                last: total.last,
                words: total.said,
            })
            .collect(),
    };
    if app.printer.is_json() {
        app.printer.json(&listed)?;
        return Ok(ExitStatus::Done);
    }
    if listed.alerts.is_empty() {
        app.printer.talk("nothing fires, as far as the daemon told its receivers");
    }
    let head = [("SINCE", Align::Left), ("SEVERITY", Align::Left), ("ALERT", Align::Left)];
    let rows: Vec<Vec<String>> = listed
        .alerts
        .iter()
        .map(|one| vec![format::time(one.since), one.severity.to_owned(), one.summary.clone()])
        .collect();
    show_table(app, &head, &rows)?;
    let head = [
        ("STACK", Align::Left),
        ("RECEIVER", Align::Left),
        ("RESULT", Align::Left),
        ("TIMES", Align::Right),
        ("LAST", Align::Left),
        ("SAID", Align::Left),
    ];
    let rows: Vec<Vec<String>> = listed
        .receivers
        .iter()
        .map(|one| {
            let (result, total) = (one.result.to_owned(), one.total.to_string());
            let (stack, receiver, said) =
                (one.stack.clone(), one.receiver.clone(), one.words.clone());
            vec![stack, receiver, result, total, format::time(one.last), said]
        })
        .collect();
    show_table(app, &head, &rows)?;
    Ok(ExitStatus::Done)
}

fn show_table(app: &App, head: &[(&str, Align)], rows: &[Vec<String>]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    for line in table(head, rows) {
        app.printer.data(line)?;
    }
    Ok(())
}
