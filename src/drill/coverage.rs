//! What is proven of which source, in which scenario, and since when.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::evidence::{Evidence, Scenario, Verdict};

/// A source in a scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    /// The stack.
    pub stack: String,
    /// The source.
    pub source: String,
    /// What was supposed to have happened; none for a source that no drill brought back.
    pub scenario: Option<Scenario>,
    /// It was brought back without the rest of its stack, although the scenario is about all of it.
    pub partial: bool,
    /// When a drill that passed last brought it back.
    pub proven: Option<Timestamp>,
    /// When a drill last tried.
    pub tried: Option<Timestamp>,
    /// What that came to.
    pub verdict: Option<Verdict>,
}

/// What drills cover, by source and scenario. Sources that are `known` and in no drill are among it.
pub fn coverage<'a>(
    drills: impl Iterator<Item = &'a Evidence>,
    known: &[(String, String)],
) -> Vec<Covered> {
    let mut found: BTreeMap<(String, String, Option<Scenario>, bool), Covered> = BTreeMap::new();
    for evidence in drills {
        for source in &evidence.sources {
            let (scenario, partial) = (evidence.scenario, evidence.is_partial());
            let key = (evidence.stack.clone(), source.source.clone(), Some(scenario), partial);
            let one = found.entry(key).or_insert_with(|| Covered {
                stack: evidence.stack.clone(),
                source: source.source.clone(),
                scenario: Some(scenario),
                partial,
                proven: None,
                tried: None,
                verdict: None,
            });
            let passed = matches!(evidence.verdict, Verdict::Pass | Verdict::PassWithFindings);
            if passed && source.restored {
                one.proven = one.proven.max(Some(evidence.started));
            }
            if one.tried <= Some(evidence.started) {
                one.tried = Some(evidence.started);
                one.verdict = Some(evidence.verdict);
            }
        }
    }
    for (stack, source) in known {
        if !found.keys().any(|(a, b, ..)| a == stack && b == source) {
            let never = Covered {
                stack: stack.clone(),
                source: source.clone(),
                scenario: None,
                partial: false,
                proven: None,
                tried: None,
                verdict: None,
            };
            found.insert((stack.clone(), source.clone(), None, false), never);
        }
    }
    found.into_values().collect()
}
