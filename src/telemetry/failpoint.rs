//! Named steps at which tests kill or stop the process, to show that nothing is lost there.
//!
//! In release builds [`reach`] does nothing. In debug builds `BACKSTAY_FAILPOINT=NAME` kills the
//! process with SIGKILL when it reaches the step, `BACKSTAY_FAILPOINT=NAME:stop` sends SIGSTOP and
//! `BACKSTAY_FAILPOINT=NAME:panic` panics, the first time it gets there; with `NAME@3` the third time.

/// Every step there is, in the order a backup reaches them. Tests go through all of them.
pub const ALL: &[&str] = &[
    "backup.intent",
    "backup.first_part",
    "backup.segment",
    "backup.last_segment",
    "backup.index",
    "backup.sums",
    "backup.before_commit",
    "backup.after_commit",
    "restore.first_file",
    "restore.before_attributes",
    "restore.before_sync",
    "bucket.listed",
    "bucket.piece",
    "cluster.read",
    "cluster.received",
    "cluster.files_restored",
    "cluster.before_control",
    "wal.push",
    "wal.push_ahead",
    "wal.receive",
    "wal.get",
    "wal.copied",
    "copy.intent",
    "copy.proven",
    "copy.object",
    "copy.before_commit",
    "copy.after_commit",
    "prove.started",
    "repair.object",
    "prune.deleting",
    "prune.deleted",
    "prune.marked",
    "prune.expiring",
    "prune.expired",
    "playbook.started",
    "playbook.before_intent",
    "playbook.after_intent",
    "playbook.mid_apply",
    "playbook.after_apply",
    "playbook.after_result",
    "playbook.unwinding",
    "playbook.undo_intent",
    "playbook.mid_undo",
    "playbook.after_undo",
    "playbook.after_undo_result",
    "playbook.before_end",
];

/// Marks a step.
#[cfg(debug_assertions)]
pub fn reach(name: &str) {
    debug_assert!(ALL.contains(&name), "{name} is not in failpoint::ALL");
    let Ok(wanted) = std::env::var("BACKSTAY_FAILPOINT") else { return };
    let (wanted, action) = wanted.split_once(':').unwrap_or((&wanted, "kill"));
    let (wanted, time) = wanted.split_once('@').unwrap_or((wanted, "1"));
    static REACHED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    if wanted != name {
        return;
    }
    let before = REACHED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    if Ok(before + 1) != time.parse() {
        return;
    }
    assert!(action != "panic", "{name} was to panic");
    let signal = if action == "stop" {
        rustix::process::Signal::STOP
    } else {
        rustix::process::Signal::KILL
    };
    let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
    // Another thread may be the one that is told to stop all: this one does not go on meanwhile.
    std::thread::sleep(std::time::Duration::from_millis(500));
}

/// Marks a step.
#[cfg(not(debug_assertions))]
pub fn reach(_name: &str) {}
