//! What was measured, and the verdict: functions of values.

use jiff::Timestamp;

use super::evidence::{Finding, Rpo, RpoBasis, Rto, Severity, SourceResult, Verdict};
use super::journal::{Event, Line};

/// How much of a source is lost, from what its copy goes up to.
pub fn rpo(
    basis: RpoBasis,
    recovered_to: Option<Timestamp>,
    failed_at: Timestamp,
    target_seconds: u64,
) -> Rpo {
    let measured = recovered_to.filter(|_| basis != RpoBasis::None);
    // What was written after the failure is not missed.
    let seconds = measured.map(|to| failed_at.duration_since(to).as_secs_f64().max(0.0));
    Rpo {
        basis: if measured.is_some() { basis } else { RpoBasis::None },
        recovered_to,
        seconds,
        target_seconds,
        met: seconds.map(|seconds| seconds <= target_seconds as f64),
    }
}

/// The largest RPO that was measured, and how far what the copies go up to lies apart.
pub fn together(sources: &[SourceResult]) -> (Option<f64>, Option<f64>) {
    let worst = sources.iter().filter_map(|source| source.rpo.seconds).reduce(f64::max);
    let reached: Vec<Timestamp> = sources
        .iter()
        .filter(|source| source.rpo.seconds.is_some())
        .filter_map(|source| source.rpo.recovered_to)
        .collect();
    let skew = match (reached.iter().min(), reached.iter().max()) {
        (Some(first), Some(last)) if reached.len() > 1 => {
            Some(last.duration_since(*first).as_secs_f64())
        }
        _ => None,
    };
    (worst, skew)
}

/// How long the recovery took: from the journal, up to the end of `validate`. `failed_at` only where
/// somebody said when that was.
pub fn rto(
    lines: &[Line],
    failed_at: Option<Timestamp>,
    all_came_back: bool,
    target_seconds: u64,
) -> Rto {
    let validated = lines
        .iter()
        .rfind(|line| matches!(&line.event, Event::PhaseEnded { phase } if phase == "validate"));
    let declared = validated.filter(|_| all_came_back).map(|line| line.offset);
    let began = lines.first().map(|line| line.time);
    let before = failed_at
        .zip(began)
        .map(|(failed, began)| began.duration_since(failed).as_secs_f64().max(0.0));
    Rto {
        from_failure_seconds: declared.zip(before).map(|(declared, before)| declared + before),
        from_declaration_seconds: declared,
        // Nobody is waited for in a sandbox.
        technical_seconds: declared,
        waits_seconds: 0.0,
        target_seconds,
        met: declared.map(|seconds| seconds <= target_seconds as f64),
    }
}

/// What findings come to.
pub fn verdict(findings: &[Finding]) -> Verdict {
    match findings.iter().map(|finding| finding.severity).max() {
        Some(Severity::Failure | Severity::Objective) => Verdict::Fail,
        Some(Severity::Unproven) => Verdict::Inconclusive,
        Some(Severity::Finding) => Verdict::PassWithFindings,
        Some(Severity::Note) | None => Verdict::Pass,
    }
}

/// Whether nothing but objectives is missed.
pub fn only_objectives(findings: &[Finding]) -> bool {
    let worst = findings.iter().map(|finding| finding.severity).max();
    worst == Some(Severity::Objective)
}

/// The one in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length.is_multiple_of(2) => {
            Some(f64::midpoint(values[middle - 1], values[middle]))
        }
        _ => Some(values[middle]),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_is_not_measured_is_not_met() {
        let measured = rpo(RpoBasis::LastCommit, Some(at(100)), at(160), 60);
        assert_eq!((measured.seconds, measured.met), (Some(60.0), Some(true)));
        let old = rpo(RpoBasis::LastCommit, Some(at(100)), at(161), 60);
        assert_eq!(old.met, Some(false));
        let newer = rpo(RpoBasis::LastCommit, Some(at(200)), at(161), 60);
        assert_eq!(newer.seconds, Some(0.0));
        for nothing in
            [rpo(RpoBasis::None, Some(at(1)), at(2), 9), rpo(RpoBasis::LastCommit, None, at(2), 9)]
        {
            assert_eq!((nothing.basis, nothing.seconds, nothing.met), (RpoBasis::None, None, None));
        }
    }

    #[test]
    fn the_gravest_finding_decides() {
        let found = |severities: &[Severity]| -> Vec<Finding> {
            let one = |severity: &Severity| Finding {
                severity: *severity,
                code: "x".to_owned(),
                source: None,
                text: String::new(),
            };
            severities.iter().map(one).collect()
        };
        assert_eq!(verdict(&[]), Verdict::Pass);
        assert_eq!(verdict(&found(&[Severity::Note])), Verdict::Pass);
        assert_eq!(
            verdict(&found(&[Severity::Note, Severity::Finding])),
            Verdict::PassWithFindings
        );
        assert_eq!(
            verdict(&found(&[Severity::Unproven, Severity::Finding])),
            Verdict::Inconclusive
        );
        assert_eq!(verdict(&found(&[Severity::Unproven, Severity::Objective])), Verdict::Fail);
        assert!(only_objectives(&found(&[Severity::Unproven, Severity::Objective])));
        assert!(!only_objectives(&found(&[Severity::Failure, Severity::Objective])));
        assert!(!only_objectives(&[]));
    }

    #[test]
    fn the_middle_is_found() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }
}
