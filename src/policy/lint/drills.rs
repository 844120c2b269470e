//! Drills: what they name, and whether their checks can be made.

use url::Url;

use super::{Findings, programs::check_program, sources::absolute, sql::is_several};
use crate::policy::{
    drill::{Drill, DrillCheck, FilesCheck, PointChoice, Scenario},
    redact::{has_secret_within, names_a_secret},
    schedule::Schedule,
    source::SourceKind,
};

pub(super) fn check(findings: &mut Findings<'_>) {
    let policy = findings.policy;
    for (name, drill) in &policy.drills {
        check_drill(findings, name, drill);
    }
}

fn check_drill(findings: &mut Findings<'_>, name: &str, drill: &Drill) {
    let at = ["drills", name];
    if let Some(playbook) = &drill.playbook {
        findings.reference(&[at[0], at[1], "playbook"], playbook, "playbooks", "playbook");
        if !drill.sources.is_empty() {
            findings.error_at_key(
                &[at[0], at[1], "sources"],
                "a drill is of a playbook or of sources",
                "remove `sources`: those that the playbook restores are recovered",
            );
        }
        let restores = |playbook: &crate::policy::Playbook| {
            playbook.placed().iter().any(|one| one.step.action.kind() == "restore")
        };
        if findings.policy.playbooks.get(playbook).is_some_and(|playbook| !restores(playbook)) {
            findings.warning(
                &[at[0], at[1], "playbook"],
                format!("`{playbook}` restores nothing: every source is recovered"),
                "write the sources instead: `sources: [NAME]`",
            );
        }
    }
    for (index, source) in drill.sources.iter().enumerate() {
        let path = [at[0], at[1], "sources", &index.to_string()];
        findings.reference(&path, source, "sources", "source");
    }
    if let Some(repository) = &drill.repository {
        findings.reference(&[at[0], at[1], "repository"], repository, "repositories", "repository");
    }
    if let Some(place) = &drill.evidence {
        let path = [at[0], at[1], "evidence", "repository"];
        findings.reference(&path, &place.repository, "repositories", "repository");
        let repository = findings.policy.repositories.get(&place.repository);
        if place.locked_for.is_some() && repository.is_some_and(|one| one.object_lock.is_none()) {
            findings.error(
                &[at[0], at[1], "evidence", "locked_for"],
                format!("nothing is locked in `{}`", place.repository),
                "add `object_lock: { mode: governance }` to it, or remove `locked_for`",
            );
        }
    }
    for (key, path) in [("scratch", &drill.scratch), ("programs", &drill.programs)] {
        if let Some(path) = path {
            absolute(findings, &[at[0], at[1], key], path);
        }
    }
    check_scenario(findings, at, drill);
    for (check, spec) in &drill.checks {
        check_check(findings, &[at[0], at[1], "checks", check], drill, spec);
    }
    match &drill.schedule {
        Some(Schedule::After(_)) => findings.error(
            &[at[0], at[1], "schedule"],
            "a drill comes after no job",
            "write `schedule: { cron: \"0 4 1 1,4,7,10 *\" }`",
        ),
        Some(Schedule::Every(period)) if period.as_secs() < 3600 => findings.error(
            &[at[0], at[1], "schedule", "every"],
            format!("a drill every {period} is too often"),
            "an hour at least; what is restored all the time slows down what is protected",
        ),
        Some(_) if findings.policy.jobs.contains_key(&Drill::job_name(name)) => findings
            .error_at_key(
                &["jobs", &Drill::job_name(name)],
                format!("the daemon holds drill `{name}` by this name"),
                "give the job another name",
            ),
        _ => {}
    }
}

fn check_scenario(findings: &mut Findings<'_>, at: [&str; 2], drill: &Drill) {
    let path = [at[0], at[1], "scenario"];
    match drill.scenario {
        Scenario::RepositoryLost if drill.repository.is_none() => findings.error(
            &path,
            "it is not said where the copy is",
            "add `repository: NAME` of the repository that has it",
        ),
        Scenario::SourceLost if drill.sources.len() != 1 => {
            findings.error(&path, "it is not said which source is lost", "add `sources: [NAME]`");
        }
        Scenario::Ransomware | Scenario::OldKeys => {
            if drill.recovery_point != PointChoice::Latest {
                findings.error(
                    &[at[0], at[1], "recovery_point"],
                    format!(
                        "{} says by itself which backup is brought back",
                        drill.scenario.word()
                    ),
                    "remove `recovery_point`",
                );
            }
            check_kept(findings, &path, drill);
        }
        Scenario::RepositoryLost => {
            let wanted = drill.repository.as_deref();
            let homes = findings
                .policy
                .sources
                .keys()
                .filter(|source| drill.sources.is_empty() || drill.sources.contains(source));
            let home = |source: &String| {
                findings.policy.repository_of(source).is_some_and(|(home, _)| wanted == Some(home))
            };
            if let Some(source) = homes.into_iter().find(|source| home(source)) {
                let text =
                    format!("`{source}` is backed up there: that is the repository that is lost");
                findings.error(&[at[0], at[1], "repository"], text, "name one that has copies");
            }
        }
        _ => {}
    }
}

/// What nothing locks is no more there after an attack, and what is not encrypted has no keys.
fn check_kept(findings: &mut Findings<'_>, path: &[&str], drill: &Drill) {
    let policy = findings.policy;
    let sources = policy.sources.keys();
    let sources =
        sources.filter(|source| drill.sources.is_empty() || drill.sources.contains(source));
    let read = |source: &String| match &drill.repository {
        Some(name) => policy.repositories.get_key_value(name),
        None => policy
            .repository_of(source)
            .and_then(|(name, _)| policy.repositories.get_key_value(name)),
    };
    let unfit = sources.filter_map(read).find(|(_, one)| match drill.scenario {
        Scenario::Ransomware => one.object_lock.is_none(),
        _ => one.encryption.is_none(),
    });
    let Some((name, _)) = unfit else { return };
    let (text, hint) = match drill.scenario {
        Scenario::Ransomware => (
            format!("nothing is locked in `{name}`: nothing of it is left after an attack"),
            "add `object_lock: { mode: governance }` to it, or `repository:` with one that has it",
        ),
        _ => (
            format!("`{name}` is not encrypted: it has no keys"),
            "leave its sources out, or name another scenario",
        ),
    };
    findings.error(path, text, hint);
}

fn check_check(findings: &mut Findings<'_>, at: &[&str], drill: &Drill, check: &DrillCheck) {
    let path = |key: &'static str| -> Vec<&str> { at.iter().copied().chain([key]).collect() };
    let kind = check.source.as_ref().map(|source| {
        findings.reference(&path("source"), source, "sources", "source");
        if !drill.sources.is_empty() && !drill.sources.contains(source) {
            let what = format!("the drill does not recover `{source}`");
            findings.error(&path("source"), what, "add it to `sources`, or remove the check");
        }
        findings.policy.sources.get(source).map(crate::policy::Source::kind)
    });
    let needs = |findings: &mut Findings<'_>, kinds: &[SourceKind], what: &str| match kind {
        None => findings.error_at_key(at, "it is not said what is looked at", "add `source: NAME`"),
        Some(Some(kind)) if !kinds.contains(&kind) => {
            findings.error(&path("source"), format!("this source has no {what}"), "name another");
        }
        Some(_) => {}
    };
    if let Some(sql) = &check.sql {
        let kinds = [SourceKind::PostgresCluster, SourceKind::PostgresDump, SourceKind::MysqlDump];
        needs(findings, &kinds, "server that takes queries");
        let several = is_several(&sql.query);
        if sql.query.trim().is_empty() || several {
            let what = if several { "several statements" } else { "no query" };
            let query: Vec<&str> = at.iter().copied().chain(["sql", "query"]).collect();
            findings.error(&query, what, "write one query that gives one value");
        }
    }
    if let Some(files) = &check.files {
        let kinds = [SourceKind::Directory, SourceKind::Sqlite, SourceKind::Bucket];
        needs(findings, &kinds, "files of its own");
        check_files(findings, at, files);
    }
    if let Some(http) = &check.http {
        let url: Vec<&str> = at.iter().copied().chain(["http", "url"]).collect();
        let valid = Url::parse(&http.url)
            .is_ok_and(|url| url.has_host() && matches!(url.scheme(), "http" | "https"));
        if !valid {
            findings.error(&url, "this is not an address", "write `https://HOST[:PORT][/PATH]`");
        } else if has_secret_within(&http.url) {
            findings.error(
                &url,
                "a password is written in the address",
                "take it out, and give it by `headers: { Authorization: \"${env:NAME}\" }`",
            );
        }
        for (name, value) in &http.headers {
            if names_a_secret(name) && !value.is_secret() {
                let header: Vec<&str> =
                    at.iter().copied().chain(["http", "headers", name]).collect();
                let what = format!("the header `{name}` looks secret and is written here");
                findings.error(&header, what, "write ${env:NAME} or ${file:PATH}");
            }
        }
    }
    if let Some(program) = &check.command {
        check_program(findings, &path("command"), program);
    }
}

fn check_files(findings: &mut Findings<'_>, at: &[&str], files: &FilesCheck) {
    if *files == FilesCheck::default() {
        let path: Vec<&str> = at.iter().copied().chain(["files"]).collect();
        findings.error_at_key(&path, "nothing is expected", "write `present: [PATH]`");
    }
    for (path, digest) in &files.sha256 {
        if digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
            let place: Vec<&str> = at.iter().copied().chain(["files", "sha256", path]).collect();
            findings.error(&place, "this is no SHA-256", "write what `sha256sum FILE` prints");
        }
    }
    let listed = files.present.iter().chain(files.sha256.keys());
    for path in listed {
        let leaves = std::path::Path::new(path)
            .components()
            .any(|part| !matches!(part, std::path::Component::Normal(_)));
        if leaves || path.is_empty() {
            let place: Vec<&str> = at.iter().copied().chain(["files"]).collect();
            findings.error(
                &place,
                format!("`{path}` is not below the source"),
                "write the path as `backstay ls` shows it",
            );
        }
    }
}
