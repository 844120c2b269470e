//! Every metric there is, and the text that Prometheus reads.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What a metric does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Goes up only, over restarts too.
    Counter,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// The word in the text.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// Its labels. Each has as many values as the policies have names.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
}

/// A job and a source. What is not of one source has an empty one, which is none to Prometheus.
/// The job is not called `job`: that is what Prometheus calls the target that it reads from.
const JOB: &[&str] = &["stack", "job_name", "source"];
const JOB_ALONE: &[&str] = &["stack", "job_name"];
const SOURCE: &[&str] = &["stack", "source"];
const REPOSITORY: &[&str] = &["stack", "repository"];
const PLAYBOOK: &[&str] = &["stack", "playbook"];
const DRILL: &[&str] = &["stack", "drill"];

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

/// Every metric, in the order of the page.
pub const METRICS: &[Metric] = &[
    gauge("backstay_build_info", &["version"], "The program; always 1."),
    gauge(
        "backstay_policies_valid",
        &[],
        "Whether the files of the policies are valid as they are now; those in force are.",
    ),
    gauge(
        "backstay_policies_loaded_timestamp_seconds",
        &[],
        "When the policies in force were loaded.",
    ),
    gauge(
        "backstay_policies_digest",
        &[],
        "A number made of the files of the policies in force: where two daemons have the same ones they show the same.",
    ),
    gauge(
        "backstay_daemon_heartbeat_timestamp_seconds",
        &[],
        "When this daemon last wrote to the state that it is there: what it holds there is renewed by that.",
    ),
    gauge(
        "backstay_state_up",
        &[],
        "Whether the runs could be read from the state; where not, this page says nothing of them.",
    ),
    gauge(
        "backstay_job_expected_interval_seconds",
        JOB_ALONE,
        "The longest time between two runs by the schedule.",
    ),
    gauge(
        "backstay_job_next_run_timestamp_seconds",
        JOB_ALONE,
        "When the job is due next by its own schedule.",
    ),
    gauge("backstay_job_last_start_timestamp_seconds", JOB, "When a run began last."),
    gauge("backstay_job_last_success_timestamp_seconds", JOB, "When a run succeeded last."),
    gauge("backstay_job_never_succeeded", JOB, "1 where no run has succeeded yet."),
    gauge(
        "backstay_job_last_outcome",
        &["stack", "job_name", "source", "outcome"],
        "1 for what the last run came to that was not skipped, 0 for what it did not.",
    ),
    gauge(
        "backstay_job_last_start_delay_seconds",
        JOB,
        "How much later than due the last run began.",
    ),
    gauge("backstay_job_running", JOB, "1 while a run goes on."),
    gauge("backstay_job_waiting", JOB, "Runs that are due and wait."),
    counter(
        "backstay_job_runs_total",
        &["stack", "job_name", "source", "outcome"],
        "Runs that are over.",
    ),
    Metric {
        name: "backstay_job_run_duration_seconds",
        kind: Kind::Histogram,
        labels: JOB_ALONE,
        help: "How long runs took.",
    },
    gauge(
        "backstay_playbook_ready",
        PLAYBOOK,
        "1 where nothing was missing to carry it out as it is now, when that was last looked at.",
    ),
    gauge(
        "backstay_playbook_preflight_timestamp_seconds",
        PLAYBOOK,
        "When it was last looked at whether it could be carried out.",
    ),
    gauge(
        "backstay_playbook_estimate_seconds",
        PLAYBOOK,
        "How long it would take by earlier runs, without the time that people take.",
    ),
    gauge(
        "backstay_playbook_loss_seconds",
        PLAYBOOK,
        "How much of what was written would be lost if it were carried out.",
    ),
    gauge(
        "backstay_drill_last_verdict",
        &["stack", "drill", "verdict"],
        "1 for what the last drill of a name came to, 0 for what it did not.",
    ),
    gauge("backstay_drill_last_timestamp_seconds", DRILL, "When the last drill of a name began."),
    gauge(
        "backstay_drill_last_pass_timestamp_seconds",
        DRILL,
        "When the last one that passed began.",
    ),
    gauge(
        "backstay_drill_rto_seconds",
        DRILL,
        "How long the last drill took from the declaration until the last check was over, where all came back.",
    ),
    gauge(
        "backstay_drill_rpo_seconds",
        DRILL,
        "The largest loss of a source that the last drill measured.",
    ),
    gauge(
        "backstay_drill_overdue",
        DRILL,
        "1 where none has passed for longer than the schedule of the drill allows.",
    ),
    gauge("backstay_rpo_target_seconds", SOURCE, "How much may be lost."),
    gauge("backstay_rto_target_seconds", SOURCE, "How long recovery may take."),
    gauge(
        "backstay_rto_last_measured_seconds",
        SOURCE,
        "How long the last recovery took that `backstay verify --depth restore` proved, until it could be used: without waits for people.",
    ),
    gauge(
        "backstay_rto_estimate_seconds",
        SOURCE,
        "How long recovery would take now, at the speed that was measured last.",
    ),
    gauge(
        "backstay_rpo_exposure_seconds",
        SOURCE,
        "How much would be lost now: the age of the newest point that can be restored. Missing where that lies ahead of the clock.",
    ),
    gauge(
        "backstay_rpo_breach",
        SOURCE,
        "1 where more would be lost than may be, or nothing can be restored.",
    ),
    gauge("backstay_source_unprotected", SOURCE, "1 where nothing can be restored."),
    gauge(
        "backstay_source_known",
        SOURCE,
        "0 where the repository did not answer when it was last looked at: what else is told of the source is what was known before.",
    ),
    gauge(
        "backstay_source_looked_timestamp_seconds",
        SOURCE,
        "When the repositories were last looked at.",
    ),
    gauge(
        "backstay_recovery_point_newest_timestamp_seconds",
        &["stack", "source", "stage"],
        "The newest point that can be restored: taken, or replicated to another repository.",
    ),
    gauge(
        "backstay_recovery_point_oldest_timestamp_seconds",
        SOURCE,
        "The oldest point that can be restored.",
    ),
    gauge("backstay_recovery_points", SOURCE, "Backups in the source's own repository."),
    gauge(
        "backstay_backup_size_bytes",
        &["stack", "source", "kind"],
        "Bytes of content of the newest backup.",
    ),
    gauge(
        "backstay_backup_size_median_bytes",
        &["stack", "source", "kind"],
        "The median of those of the 7 days before it.",
    ),
    gauge(
        "backstay_backup_stored_bytes",
        &["stack", "source", "kind"],
        "Bytes that the newest backup added to the repository.",
    ),
    gauge(
        "backstay_chain_length",
        SOURCE,
        "Backups whose objects the newest one is made of, itself included.",
    ),
    gauge(
        "backstay_restore_test_last_timestamp_seconds",
        SOURCE,
        "When `backstay verify --depth restore` last proved that it can be brought back.",
    ),
    gauge(
        "backstay_verify_last_timestamp_seconds",
        &["stack", "source", "level"],
        "When an object was last proven sound, by depth.",
    ),
    gauge(
        "backstay_damaged_objects",
        SOURCE,
        "Objects that the last verification found missing or altered.",
    ),
    gauge(
        "backstay_repository_reachable",
        REPOSITORY,
        "Whether the repository answered when it was last looked at.",
    ),
    gauge(
        "backstay_repository_bytes",
        REPOSITORY,
        "Bytes that the backups of the stack take there, without WAL, when it was last looked at.",
    ),
    gauge("backstay_repository_objects", REPOSITORY, "Objects that these are made of."),
    gauge(
        "backstay_repository_free_bytes",
        REPOSITORY,
        "What may still be written where a repository is a directory of this host.",
    ),
    gauge(
        "backstay_alerts_firing",
        &["stack", "alert", "severity"],
        "Alerts that the daemon holds to be firing.",
    ),
    counter(
        "backstay_notifications_total",
        &["stack", "receiver", "result"],
        "Messages to receivers: delivered, failed, dropped.",
    ),
    gauge(
        "backstay_notification_last_timestamp_seconds",
        &["stack", "receiver", "result"],
        "When that was last.",
    ),
    counter(
        "backstay_daemon_failed_rounds_total",
        &[],
        "Rounds of this daemon that failed, as with a full disk.",
    ),
];

/// A page of values.
#[derive(Debug, Default)]
pub struct Page {
    families: BTreeMap<&'static str, Vec<String>>,
}

impl Page {
    /// Adds a value; `labels` are the values of the metric's labels. What is in no table is left
    /// out: a value nobody can look up.
    pub fn add(&mut self, name: &str, labels: &[&str], value: f64) {
        let Some(metric) = find(name, labels) else { return };
        let names = names(metric.labels, labels, None);
        self.line(metric, format!("{name}{names} {value}"));
    }

    /// Adds a histogram: how many were at most so large, all together, and their number.
    pub fn add_histogram(
        &mut self,
        name: &str,
        labels: &[&str],
        at_most: &BTreeMap<u64, u64>,
        sum: f64,
        count: u64,
    ) {
        let Some(metric) = find(name, labels) else { return };
        for (le, total) in at_most {
            let names = names(metric.labels, labels, Some(&le.to_string()));
            self.line(metric, format!("{name}_bucket{names} {total}"));
        }
        let (all, plain) =
            (names(metric.labels, labels, Some("+Inf")), names(metric.labels, labels, None));
        self.line(metric, format!("{name}_bucket{all} {count}"));
        self.line(metric, format!("{name}_sum{plain} {sum}"));
        self.line(metric, format!("{name}_count{plain} {count}"));
    }

    fn line(&mut self, metric: &Metric, line: String) {
        self.families.entry(metric.name).or_default().push(line);
    }

    /// The text, as Prometheus reads it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for metric in METRICS {
            let Some(lines) = self.families.get(metric.name) else { continue };
            let (name, help, kind) = (metric.name, metric.help, metric.kind.word());
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            for line in lines {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

fn find(name: &str, labels: &[&str]) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name && metric.labels.len() == labels.len())
}

fn names(names: &[&str], values: &[&str], le: Option<&str>) -> String {
    let mut pairs: Vec<String> = names
        .iter()
        .zip(values)
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
        .collect();
    pairs.extend(le.map(|le| format!("le=\"{le}\"")));
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let mut page = Page::default();
        page.add("backstay_rpo_breach", &["a\"b\\c\nd", "x"], 1.0);
        page.add("backstay_policies_valid", &[], 0.0);
        page.add("backstay_nothing_like_it", &[], 1.0);
        page.add("backstay_rpo_breach", &["too few"], 1.0);
        let at_most = BTreeMap::from([(10, 1), (60, 3)]);
        page.add_histogram("backstay_job_run_duration_seconds", &["s", "j"], &at_most, 90.5, 4);
        let text = page.text();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                "backstay_policies_valid 0",
                r#"backstay_job_run_duration_seconds_bucket{stack="s",job_name="j",le="10"} 1"#,
                r#"backstay_job_run_duration_seconds_bucket{stack="s",job_name="j",le="60"} 3"#,
                r#"backstay_job_run_duration_seconds_bucket{stack="s",job_name="j",le="+Inf"} 4"#,
                r#"backstay_job_run_duration_seconds_sum{stack="s",job_name="j"} 90.5"#,
                r#"backstay_job_run_duration_seconds_count{stack="s",job_name="j"} 4"#,
                r#"backstay_rpo_breach{stack="a\"b\\c\nd",source="x"} 1"#,
            ]
        );
    }
}
