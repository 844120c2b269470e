//! Steps that make a site the active one: why the site before takes no writes.

use std::collections::BTreeSet;

use super::{Findings, StepOf, is_address, is_host};
use crate::policy::{
    action::{Port, RoleAction},
    playbook::ActionSpec,
    server_action::{PostgresAction, StarRocksAction},
    value::is_valid_name,
};

/// More places than this to look from are a slip, and each is waited for.
const MOST_VANTAGE_POINTS: usize = 20;

impl StepOf<'_> {
    pub(super) fn check_role(&self, findings: &mut Findings<'_>, role: &RoleAction) {
        findings.reference(&self.path(&["role", "to"]), &role.to, "sites", "site");
        if findings.policy.role.is_none() {
            findings.error_at_key(
                &self.path(&["role"]),
                "the policy does not say where epochs are recorded",
                "add `role: { repository: NAME }` at the top, best of a third place",
            );
        }
        if let Some(unsettled) = &role.unsettled {
            let source = self.source_of(unsettled, "approved_by").map(|step| &step.action);
            if !source.is_some_and(|action| matches!(action, ActionSpec::Approval(_))) {
                findings.error(
                    &self.path(&["role", "unsettled"]),
                    "nobody agrees to this",
                    "write `\"{{STEP.approved_by}}\"` of a step above that is an `approval`",
                );
            }
        }
        match (&role.proof, &role.attested) {
            (Some(proof), None) => {
                if !role.vantage_points.is_empty() {
                    findings.error_at_key(
                        &self.path(&["role", "vantage_points"]),
                        "a server that refused a write can be reached",
                        "remove it: vantage points are for what people attest",
                    );
                }
                let source = self.source_of(proof, "proof").map(|step| &step.action);
                let proves = |action: &ActionSpec| {
                    matches!(
                        action,
                        ActionSpec::Postgres(PostgresAction::ProveFenced { .. })
                            | ActionSpec::Starrocks(StarRocksAction::ProveFenced { .. })
                    )
                };
                if !source.is_some_and(proves) {
                    findings.error(
                        &self.path(&["role", "proof"]),
                        "this proves nothing",
                        "write `\"{{STEP.proof}}\"` of a step above that is `postgres: { prove_fenced: … }` or `starrocks: { prove_fenced: … }`",
                    );
                }
            }
            (None, Some(attested)) => {
                let source = self.source_of(attested, "approved_by").map(|step| &step.action);
                let enough = |action: &ActionSpec| matches!(action, ActionSpec::Approval(approval) if approval.of >= 2);
                if !source.is_some_and(enough) {
                    findings.error(
                        &self.path(&["role", "attested"]),
                        "two people have to attest that the site before takes no writes",
                        "write `\"{{STEP.approved_by}}\"` of a step above that is `approval: { of: 2 }`",
                    );
                }
                self.check_unreachable(findings, role);
                self.check_vantage_points(findings, role);
            }
            _ => findings.error_at_key(
                &self.path(&["role"]),
                "exactly one of `proof` and `attested` is needed",
                "a site is made the active one when the one before is known to take no writes",
            ),
        }
    }

    fn check_unreachable(&self, findings: &mut Findings<'_>, role: &RoleAction) {
        if role.unreachable.is_empty() && role.vantage_points.is_empty() {
            findings.error_at_key(
                &self.path(&["role", "attested"]),
                "nothing looks whether the site before can be reached",
                "add `vantage_points: { here: { tcp: HOST:PORT }, NAME: { host: USER@HOST, tcp: HOST:PORT } }`",
            );
        }
        for (index, text) in role.unreachable.iter().enumerate() {
            let source = self.source_of(text, "state").map(|step| &step.action);
            let closed = |action: &ActionSpec| matches!(action, ActionSpec::Tcp(tcp) if tcp.expect == Port::Closed);
            if !source.is_some_and(closed) {
                findings.error(
                    &self.path(&["role", "unreachable", &index.to_string()]),
                    "this does not show that the site before cannot be reached",
                    "write `\"{{STEP.state}}\"` of a step `tcp: { address: …, expect: closed }`",
                );
            }
        }
    }

    fn check_vantage_points(&self, findings: &mut Findings<'_>, role: &RoleAction) {
        let points = &role.vantage_points;
        let at = self.path(&["role", "vantage_points"]);
        if points.len() > MOST_VANTAGE_POINTS {
            findings.error_at_key(
                &at,
                format!("{} vantage points", points.len()),
                format!("at most {MOST_VANTAGE_POINTS} are taken: each has to answer"),
            );
        }
        for (name, point) in points {
            let path = |key| [&at[..], &[name.as_str(), key]].concat();
            if !is_valid_name(name) {
                findings.error_at_key(
                    &[&at[..], &[name.as_str()]].concat(),
                    "bad name of a vantage point",
                    "1 to 64 of a-z, 0-9, `.`, `_` and `-`, the first a letter or digit",
                );
            }
            if !is_address(&point.tcp) {
                findings.error(
                    &path("tcp"),
                    "this is no address of a port",
                    "write HOST:PORT of the site before, such as db.site-a:5432",
                );
            }
            let bad = |host: &str| host.is_empty() || !is_host(host);
            if point.host.as_deref().is_some_and(bad) {
                findings.error(&path("host"), "this is no host", "write HOST or USER@HOST");
            }
        }
        let hosts: BTreeSet<Option<&str>> =
            points.values().map(|point| point.host.as_deref()).collect();
        let example = "`vantage_points: { here: { tcp: HOST:PORT }, NAME: { host: USER@HOST, tcp: HOST:PORT } }`";
        match hosts.len() {
            0 => findings.warning_at_key(
                &self.path(&["role", "attested"]),
                "people attest this, and it is looked from nowhere else whether the site before can be reached",
                format!("add {example}: where its own link is cut a host sees a site that is well as gone"),
            ),
            1 => findings.warning_at_key(
                &at,
                "it is looked from one host alone whether the site before can be reached",
                format!("name another one, on another way to it: {example}"),
            ),
            _ => {}
        }
    }
}
