//! Who is told, and how often they may be.

use std::time::Duration;

use indexmap::IndexMap;
use jiff::Timestamp;
use secrecy::ExposeSecret as _;

use super::message::Message;
use super::{alertmanager, command, robot, webhook};
use crate::error::{Error, Result};
use crate::policy::{
    AlertSeverity, Alertmanager, Notify, NotifyCommand, Robot, Setting, Webhook, Wecom,
};
use crate::secret::{self, SecretRef};
use crate::store::{Reply, Web};

/// The longest piece of an answer that is shown.
const SHOWN: usize = 200;

/// Who is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receiver {
    /// A Prometheus Alertmanager.
    Alertmanager(Alertmanager),
    /// A web hook.
    Webhook(Webhook),
    /// A robot of a DingTalk group.
    Dingtalk(Robot),
    /// A robot of a WeCom group.
    Wecom(Wecom),
    /// A robot of a Feishu group.
    Feishu(Robot),
    /// A program.
    Command(NotifyCommand),
}

/// How a receiver wants to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// What fires is told again after this time, for as long as it fires. `None`: as the policy
    /// has it.
    pub repeat: Option<Duration>,
    /// What is over is told again for so long, as often as what fires.
    pub linger: Duration,
    /// The most messages a minute.
    pub per_minute: Option<usize>,
}

/// A receiver did not take a message.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub error: Error,
    /// It wants to be left alone for so long.
    pub retry_after: Option<Duration>,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { error, retry_after: None }
    }
}

/// How an Alertmanager is called.
const ALERTMANAGER: &str = "alertmanager";

/// How often an Alertmanager hears of what fires: it forgets what it does not hear of for long.
pub const RESEND: Duration = Duration::from_mins(1);

/// For how long it hears that something is over: one that is restarted forgets what it did not write
/// down yet, and its neighbours of a cluster may have been away.
pub const LINGER: Duration = Duration::from_mins(5);

impl Receiver {
    /// The receivers of a policy. Dead man's switches are not among them: they hear of runs, and
    /// not of alerts.
    pub fn all(notify: &Notify) -> Vec<Self> {
        let found = [
            notify.alertmanager.clone().map(Self::Alertmanager),
            notify.webhook.clone().map(Self::Webhook),
            notify.dingtalk.clone().map(Self::Dingtalk),
            notify.wecom.clone().map(Self::Wecom),
            notify.feishu.clone().map(Self::Feishu),
            notify.command.clone().map(Self::Command),
        ];
        found.into_iter().flatten().collect()
    }

    /// Its name: the key in the policy.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Alertmanager(_) => ALERTMANAGER,
            Self::Webhook(_) => "webhook",
            Self::Dingtalk(_) => "dingtalk",
            Self::Wecom(_) => "wecom",
            Self::Feishu(_) => "feishu",
            Self::Command(_) => "command",
        }
    }

    /// It is told of what is at least so bad.
    pub const fn severity(&self) -> AlertSeverity {
        match self {
            Self::Alertmanager(one) => one.severity,
            Self::Webhook(one) => one.severity,
            Self::Dingtalk(one) | Self::Feishu(one) => one.severity,
            Self::Wecom(one) => one.severity,
            Self::Command(one) => one.severity,
        }
    }

    /// How it wants to be told. The rates are what the vendors document: a robot that sends more is
    /// silenced for ten minutes.
    pub const fn manner(&self) -> Manner {
        let per_minute = match self {
            Self::Dingtalk(_) | Self::Wecom(_) => Some(20),
            Self::Feishu(_) => Some(100),
            Self::Alertmanager(_) | Self::Webhook(_) | Self::Command(_) => None,
        };
        let (repeat, linger) = match self {
            Self::Alertmanager(_) => (Some(RESEND), LINGER),
            _ => (None, Duration::ZERO),
        };
        Manner { repeat, linger, per_minute }
    }

    /// The longest that receivers of this name hear that something is over.
    pub fn linger_of(name: &str) -> Duration {
        if name == ALERTMANAGER { LINGER } else { Duration::ZERO }
    }

    /// Tells it, and says what it answered.
    pub fn deliver(&self, message: &Message, web: &Web, now: Timestamp) -> Result<String, Refused> {
        match self {
            Self::Alertmanager(one) => alertmanager::deliver(one, message, web, now),
            Self::Webhook(one) => webhook::deliver(one, message, web, now),
            Self::Dingtalk(one) => robot::dingtalk(one, message, web, now),
            Self::Wecom(one) => robot::wecom(one, message, web),
            Self::Feishu(one) => robot::feishu(one, message, web, now),
            Self::Command(one) => command::deliver(one, message, now),
        }
    }
}

/// The text of a setting.
pub(super) fn text_of(setting: &Setting) -> Result<String> {
    match setting {
        Setting::Plain(text) => Ok(text.clone()),
        Setting::Secret(reference) => secret_of(reference),
    }
}

/// The text of a secret.
pub(super) fn secret_of(reference: &SecretRef) -> Result<String> {
    Ok(reference.resolve()?.expose_secret().to_owned())
}

/// The headers of a request with JSON.
pub(super) fn headers_of(more: &IndexMap<String, Setting>) -> Result<Vec<(String, String)>> {
    let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    for (name, value) in more {
        headers.push((name.clone(), text_of(value)?));
    }
    Ok(headers)
}

/// What an answer says, in one short line.
pub(super) fn shown(reply: &Reply) -> String {
    let body: Vec<&str> = reply.body.split_whitespace().collect();
    let body: String = body.join(" ").chars().take(SHOWN).collect();
    let body = secret::mask(&body);
    if body.is_empty() { reply.status.to_string() } else { format!("{} {body}", reply.status) }
}

/// An answer whose status says that the message was taken.
pub(super) fn taken(reply: Reply) -> Result<Reply, Refused> {
    if reply.is_success() {
        return Ok(reply);
    }
    let error = Error::failed(format!("it answered {}", shown(&reply)));
    let error = match reply.status {
        401 | 403 => error.hint("its address, headers or secret are wrong, or it does not know us"),
        404 => error.hint("its address is wrong"),
        _ => error,
    };
    // Whoever says nothing of it is left alone for a while too.
    let retry_after = match reply.status {
        429 => Some(reply.retry_after.unwrap_or(Duration::from_mins(1))),
        _ => reply.retry_after,
    };
    Err(Refused { error, retry_after })
}
