//! Playbooks: what is done, step by step, to recover or to move.
//!
//! A playbook is read from top to bottom. Its phases follow each other; in a phase a step begins
//! when everything above it is done, or when what it `needs` is, or together with the other steps
//! of its `group`. A step may only need what is written above it, so that there are no cycles.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    action::{
        ApprovalAction, BackupAction, CommandAction, HaproxyAction, HttpAction, ManualAction,
        RecoveryPointsAction, RedisFlushAction, RestoreAction, RoleAction, SecretCheckAction,
        ServiceAction, SqlAction, TcpAction, WaitAction,
    },
    divergence::DivergenceAction,
    dns::DnsAction,
    execution::Retry,
    server_action::{NotifyAction, PostgresAction, StarRocksAction},
    value::Period,
};

/// What is done to recover or to move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Playbook {
    /// What it is for, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The ways in which it can be run; the first is taken where nobody says.
    pub modes: Vec<Mode>,
    /// The repository that its journal is written to: one that is there when a site is gone. The
    /// first of the policy if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// How many steps may go on at once.
    #[schemars(range(min = 1, max = 64))]
    pub parallel: u32,
    /// What happens when a critical step fails before the point of no return.
    pub on_failure: OnFailure,
    /// How often the daemon looks whether it could be carried out.
    #[serde(skip_serializing_if = "Preflight::is_default")]
    pub preflight: Preflight,
    /// Looks at what there is, and changes nothing.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub assess: IndexMap<String, Step>,
    /// Sees to it that what is left behind takes no writes any more.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub fence: IndexMap<String, Step>,
    /// Brings data and services back.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub recover: IndexMap<String, Step>,
    /// Sees to it that what was brought back does nothing by itself once it runs: schedulers, mailers,
    /// syncs, archiving.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub quiesce: IndexMap<String, Step>,
    /// Looks whether what was brought back is right.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub validate: IndexMap<String, Step>,
    /// Lets users in.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub cutover: IndexMap<String, Step>,
    /// Makes it final.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub commit: IndexMap<String, Step>,
    /// Protects what is in use now.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub reprotect: IndexMap<String, Step>,
    /// Is done at the end, whatever came of the rest.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub cleanup: IndexMap<String, Step>,
}

impl Default for Playbook {
    fn default() -> Self {
        Self {
            description: None,
            modes: vec![Mode::Graceful],
            repository: None,
            parallel: 4,
            on_failure: OnFailure::Stop,
            preflight: Preflight::default(),
            assess: IndexMap::new(),
            fence: IndexMap::new(),
            recover: IndexMap::new(),
            quiesce: IndexMap::new(),
            validate: IndexMap::new(),
            cutover: IndexMap::new(),
            commit: IndexMap::new(),
            reprotect: IndexMap::new(),
            cleanup: IndexMap::new(),
        }
    }
}

/// How often the daemon looks whether a playbook could be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Preflight {
    /// The pause between two looks; 30 minutes if left out. A playbook that was changed is looked at at
    /// once.
    pub every: Period,
}

impl Default for Preflight {
    fn default() -> Self {
        Self { every: Period::from_secs(30 * 60) }
    }
}

impl Preflight {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A way to run a playbook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// What is left is there and helps: nothing is lost.
    Graceful,
    /// What is left is gone, or does not answer.
    Ungraceful,
    /// In a sandbox, for practice: what fails is undone and cleaned up without asking.
    Drill,
}

impl Mode {
    /// The word, as in a policy.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Graceful => "graceful",
            Self::Ungraceful => "ungraceful",
            Self::Drill => "drill",
        }
    }
}

/// What happens when a critical step fails before the point of no return.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The run stops, and a person decides.
    #[default]
    Stop,
    /// What was done is undone.
    Undo,
}

/// A part of a playbook. They follow each other in this order.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Looks at what there is.
    Assess,
    /// Stops writes to what is left behind.
    Fence,
    /// Brings data and services back.
    Recover,
    /// Keeps what was brought back from acting by itself.
    Quiesce,
    /// Looks whether that is right.
    Validate,
    /// Lets users in.
    Cutover,
    /// Makes it final.
    Commit,
    /// Protects what is in use now.
    Reprotect,
    /// Is done whatever came of the rest.
    Cleanup,
}

impl Phase {
    /// All, in order.
    pub const ALL: [Self; 9] = [
        Self::Assess,
        Self::Fence,
        Self::Recover,
        Self::Quiesce,
        Self::Validate,
        Self::Cutover,
        Self::Commit,
        Self::Reprotect,
        Self::Cleanup,
    ];

    /// The key in a policy.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Assess => "assess",
            Self::Fence => "fence",
            Self::Recover => "recover",
            Self::Quiesce => "quiesce",
            Self::Validate => "validate",
            Self::Cutover => "cutover",
            Self::Commit => "commit",
            Self::Reprotect => "reprotect",
            Self::Cleanup => "cleanup",
        }
    }
}

/// One thing that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Written", into = "Written")]
#[schemars(with = "Written")]
pub struct Step {
    /// What is done.
    pub action: ActionSpec,
    /// What it is for, for people.
    pub description: Option<String>,
    /// Steps written above that must be done; everything above if `None`.
    pub needs: Option<Vec<String>>,
    /// Neighbours of the same group begin together.
    pub group: Option<String>,
    /// When it has taken too long, and failed.
    pub timeout: Option<Period>,
    /// How often it is tried again.
    pub retry: Option<Retry>,
    /// Whether the run stops where it fails.
    pub critical: bool,
    /// The modes in which it is done; all if empty.
    pub modes: Vec<Mode>,
    /// It is only done where this holds.
    pub when: Option<Condition>,
    /// Once it begins, nothing is undone any more.
    pub point_of_no_return: bool,
}

/// What an output of another step has to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// `STEP.OUTPUT`.
    pub output: String,
    /// It is this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<String>,
    /// It is anything but this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_not: Option<String>,
}

impl Condition {
    /// Whether it holds for the output's value.
    pub fn holds(&self, found: &str) -> bool {
        self.is.as_ref().is_none_or(|wanted| wanted == found)
            && self.is_not.as_ref().is_none_or(|unwanted| unwanted != found)
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.output)?;
        if let Some(wanted) = &self.is {
            write!(f, " is `{wanted}`")?;
        }
        if let Some(unwanted) = &self.is_not {
            write!(f, " is not `{unwanted}`")?;
        }
        Ok(())
    }
}

/// Makes the kinds of actions, and the step as it is written: the action is a key beside the others.
macro_rules! actions {
    ($($(#[doc = $doc:literal])+ $key:ident: $variant:ident($spec:ty),)+) => {
        /// What a step does.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ActionSpec {
            $($(#[doc = $doc])+ $variant($spec),)+
        }

        impl ActionSpec {
            /// The keys of which exactly one is written.
            pub const KINDS: &'static [&'static str] = &[$(stringify!($key)),+];

            /// The key in a policy.
            pub const fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => stringify!($key),)+
                }
            }
        }

        #[derive(Clone, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default, rename = "Step")]
        struct Written {
            $(
                $(#[doc = $doc])+
                ///
                /// Exactly one action is needed.
                #[serde(skip_serializing_if = "Option::is_none")]
                $key: Option<$spec>,
            )+
            /// What it is for, for people.
            #[serde(skip_serializing_if = "Option::is_none")]
            description: Option<String>,
            /// Steps written above that must be done; everything above if left out.
            #[serde(skip_serializing_if = "Option::is_none")]
            needs: Option<Vec<String>>,
            /// Neighbours of the same group begin together.
            #[serde(skip_serializing_if = "Option::is_none")]
            group: Option<String>,
            /// When it has taken too long, and failed.
            #[serde(skip_serializing_if = "Option::is_none")]
            timeout: Option<Period>,
            /// How often it is tried again; never if left out.
            #[serde(skip_serializing_if = "Option::is_none")]
            retry: Option<Retry>,
            /// Whether the run stops where it fails.
            critical: bool,
            /// The modes in which it is done; all if left out.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            modes: Vec<Mode>,
            /// It is only done where this holds.
            #[serde(skip_serializing_if = "Option::is_none")]
            when: Option<Condition>,
            /// Once it begins, nothing is undone any more.
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            point_of_no_return: bool,
        }

        impl Default for Written {
            fn default() -> Self {
                Self {
                    $($key: None,)+
                    description: None,
                    needs: None,
                    group: None,
                    timeout: None,
                    retry: None,
                    critical: true,
                    modes: Vec::new(),
                    when: None,
                    point_of_no_return: false,
                }
            }
        }

        impl TryFrom<Written> for Step {
            type Error = &'static str;

            fn try_from(written: Written) -> Result<Self, Self::Error> {
                let kinds = [$(written.$key.map(ActionSpec::$variant)),+];
                let mut kinds = kinds.into_iter().flatten();
                let (Some(action), None) = (kinds.next(), kinds.next()) else {
                    return Err("a step has exactly one action");
                };
                Ok(Self {
                    action,
                    description: written.description,
                    needs: written.needs,
                    group: written.group,
                    timeout: written.timeout,
                    retry: written.retry,
                    critical: written.critical,
                    modes: written.modes,
                    when: written.when,
                    point_of_no_return: written.point_of_no_return,
                })
            }
        }

        impl From<Step> for Written {
            fn from(step: Step) -> Self {
                let mut written = Self {
                    description: step.description,
                    needs: step.needs,
                    group: step.group,
                    timeout: step.timeout,
                    retry: step.retry,
                    critical: step.critical,
                    modes: step.modes,
                    when: step.when,
                    point_of_no_return: step.point_of_no_return,
                    ..Self::default()
                };
                match step.action {
                    $(ActionSpec::$variant(spec) => written.$key = Some(spec),)+
                }
                written
            }
        }
    };
}

actions! {
    /// Runs a program of yours.
    command: Command(CommandAction),
    /// Waits.
    wait: Wait(WaitAction),
    /// Asks a person to do something by hand, and waits until somebody attests that it is done.
    manual: Manual(ManualAction),
    /// Waits until people approve.
    approval: Approval(ApprovalAction),
    /// Waits until a port takes connections.
    tcp: Tcp(TcpAction),
    /// Waits until a page answers as expected.
    http: Http(HttpAction),
    /// Waits until a query of PostgreSQL answers as expected.
    sql: Sql(SqlAction),
    /// Looks whether secrets are those that were backed up.
    secret_check: SecretCheck(SecretCheckAction),
    /// Starts or stops services, or looks whether they run.
    service: Service(ServiceAction),
    /// Sends servers behind an HAProxy to work or to rest.
    haproxy: Haproxy(HaproxyAction),
    /// Tells what an old primary of PostgreSQL has that the new one has not.
    divergence: Divergence(DivergenceAction),
    /// Changes what a name stands for.
    dns: Dns(DnsAction),
    /// Empties databases of a Redis.
    redis_flush: RedisFlush(RedisFlushAction),
    /// Does something to a PostgreSQL server.
    postgres: Postgres(PostgresAction),
    /// Tells where sources would be restored to, and how much would be lost.
    recovery_points: RecoveryPoints(RecoveryPointsAction),
    /// Does something to a StarRocks cluster, or looks at it.
    starrocks: Starrocks(StarRocksAction),
    /// Tells those whom the policy's `notify` names.
    notify: Notify(NotifyAction),
    /// Makes a site the active one.
    role: Role(RoleAction),
    /// Restores a source.
    restore: Restore(RestoreAction),
    /// Backs sources up.
    backup: Backup(BackupAction),
}

/// A step and where it stands in its playbook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its phase.
    pub phase: Phase,
    /// The step.
    pub step: &'a Step,
    /// The steps that must be done before it begins; what these need is left out.
    pub needs: Vec<&'a str>,
}

impl Playbook {
    /// The steps of a phase.
    pub const fn phase(&self, phase: Phase) -> &IndexMap<String, Step> {
        match phase {
            Phase::Assess => &self.assess,
            Phase::Fence => &self.fence,
            Phase::Recover => &self.recover,
            Phase::Quiesce => &self.quiesce,
            Phase::Validate => &self.validate,
            Phase::Cutover => &self.cutover,
            Phase::Commit => &self.commit,
            Phase::Reprotect => &self.reprotect,
            Phase::Cleanup => &self.cleanup,
        }
    }

    /// All steps in the order in which they are written, each with what it needs. A name that is
    /// not written above is left out of that: the linter refuses it.
    pub fn placed(&self) -> Vec<Placed<'_>> {
        let mut placed: Vec<Placed<'_>> = Vec::new();
        // What nobody needs yet, of the phases before and of this one.
        let mut before: Vec<&str> = Vec::new();
        for phase in Phase::ALL {
            let steps = self.phase(phase);
            if steps.is_empty() {
                continue;
            }
            let first = placed.len();
            let mut group: Option<(&str, Vec<&str>)> = None;
            for (name, step) in steps {
                let ends = ends_of(&placed[first..]);
                let above = if ends.is_empty() { before.clone() } else { ends };
                let needs = match (&step.needs, &step.group) {
                    (Some(named), _) => {
                        let known = |named: &&str| placed.iter().any(|one| one.name == *named);
                        let mut needs: Vec<&str> =
                            named.iter().map(String::as_str).filter(known).collect();
                        let inside =
                            |named: &&str| placed[first..].iter().any(|o| o.name == *named);
                        if !needs.iter().any(inside) {
                            needs.extend(
                                before.iter().filter(|name| !named.iter().any(|n| n == *name)),
                            );
                        }
                        needs
                    }
                    (None, Some(own)) => match &group {
                        Some((same, needs)) if same == own => needs.clone(),
                        _ => above,
                    },
                    (None, None) => above,
                };
                group = step.group.as_deref().map(|own| (own, needs.clone()));
                placed.push(Placed { name, phase, step, needs });
            }
            before = ends_of(&placed[first..]);
        }
        placed
    }
}

/// The steps that no other one of these needs.
fn ends_of<'a>(steps: &[Placed<'a>]) -> Vec<&'a str> {
    let needed = |name: &str| steps.iter().any(|other| other.needs.contains(&name));
    steps.iter().map(|one| one.name).filter(|name| !needed(name)).collect()
}

/// What of a run every step may use, as `{{run.NAME}}`.
pub const OF_RUN: [&str; 4] = ["id", "mode", "at", "stack"];

/// What a text uses: the names in its `{{…}}`; `None` for one that does not end.
pub fn uses(text: &str) -> Vec<Option<&str>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("{{") {
        let Some((name, more)) = after.split_once("}}") else {
            found.push(None);
            break;
        };
        found.push(Some(name.trim()));
        rest = more;
    }
    found
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn needs(text: serde_json::Value) -> Vec<String> {
        let playbook: Playbook = serde_json::from_value(text).unwrap();
        let line = |one: &Placed<'_>| format!("{}:{}", one.name, one.needs.join(","));
        playbook.placed().iter().map(line).collect()
    }

    fn wait(more: &serde_json::Value) -> serde_json::Value {
        let mut step = serde_json::json!({ "wait": { "for": "1s" } });
        step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        step
    }

    #[test]
    fn a_playbook_reads_from_top_to_bottom() {
        let plain = || wait(&serde_json::json!({}));
        let grouped = || wait(&serde_json::json!({ "group": "g" }));
        let after = |names: &[&str]| wait(&serde_json::json!({ "needs": names }));
        assert_eq!(
            needs(serde_json::json!({
                "assess": { "a": plain(), "b": plain() },
                "recover": { "c": grouped(), "d": grouped(), "e": plain(), "f": after(&["c"]), "g": plain() },
                "cutover": { "h": after(&["a"]), "i": after(&[]), "j": plain() }
            })),
            ["a:", "b:a", "c:b", "d:b", "e:c,d", "f:c", "g:e,f", "h:a,g", "i:g", "j:h,i"]
        );
    }
}
