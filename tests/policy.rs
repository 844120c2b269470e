//! Policies: every broken one gets the right message at the right line and shows no secret; the
//! good ones and those shipped pass.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use backstay::{
    error::{Error, ErrorKind},
    id::BackupKind::{Full, Incremental, Snapshot},
    policy::{self, Period, Policy, Schedule, Severity, Size, SourceKind, SourceSpec},
};
use proptest::prelude::*;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn yaml_files(name: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .collect();
    files.sort();
    files
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap().to_string_lossy().into_owned()
}

fn snapshot(folder: &str, name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(directory(folder));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn good(text: &str) -> Policy {
    let set = policy::parse(text, "test.yaml").unwrap_or_else(|e| panic!("{}", e.render(false)));
    set.policies.into_iter().next().unwrap()
}

fn bad(text: &[u8]) -> String {
    policy::parse(text, "test.yaml").expect_err("accepted").render(false)
}

/// What the documents promise, held against what they schedule.
#[test]
fn the_schedules_of_the_source_documents_are_told_what_is_wrong_with_them() {
    for file in yaml_files("fixtures/policies/documents") {
        let name = stem(&file);
        let bytes = fs::read(&file).unwrap();
        let error = policy::parse(&bytes, &format!("{name}.yaml")).expect_err("it misses its RPO");
        let said = error.render(false);
        assert!(said.contains("over its RPO"), "{said}");
        snapshot("fixtures/policies/documents", &name, &said);
    }
}

#[test]
fn every_broken_policy_is_refused_where_it_is_broken() {
    let files = yaml_files("fixtures/policies/invalid");
    assert!(files.len() >= 45);
    let mut wrong = Vec::new();
    for file in files {
        let name = stem(&file);
        let bytes = fs::read(&file).unwrap();
        let first = String::from_utf8_lossy(bytes.split(|byte| *byte == b'\n').next().unwrap())
            .into_owned();
        let line: usize = first
            .strip_prefix("# line ")
            .expect("the first line says `# line N`")
            .trim()
            .parse()
            .unwrap();
        let Err(error) = policy::parse(&bytes, &format!("{name}.yaml")) else {
            wrong.push(format!("{name}: accepted"));
            continue;
        };
        let text = error.render(false);
        let errors: Vec<_> =
            error.diagnostics.iter().filter(|one| one.severity == Severity::Error).collect();
        if !errors.iter().any(|one| one.line == line) || errors.len() != 1 {
            wrong.push(format!("{name}: one error on line {line} is expected\n{text}"));
        }
        if errors.iter().any(|one| one.hints.is_empty()) {
            wrong.push(format!("{name}: no hint\n{text}"));
        }
        let everything = format!("{text}{error}{error:?}{}", Error::from(error.clone()).chain());
        if everything.to_lowercase().contains("hunter2") {
            wrong.push(format!("{name}: shows the secret\n{everything}"));
        }
        snapshot("fixtures/policies/invalid", &name, &text);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn good_policies_pass_with_their_warnings() {
    for file in yaml_files("fixtures/policies/valid") {
        let name = stem(&file);
        let set = policy::parse(fs::read(&file).unwrap(), &format!("{name}.yaml"))
            .unwrap_or_else(|e| panic!("{}", e.render(false)));
        snapshot("fixtures/policies/valid", &name, &policy::render_all(&set.warnings, false));
    }
}

#[test]
fn shipped_policies_pass_without_a_warning() {
    let set =
        policy::load(&directory("policies")).unwrap_or_else(|e| panic!("{}", e.render(false)));
    let stacks: Vec<&str> = set.policies.iter().map(|policy| policy.stack.as_str()).collect();
    assert_eq!(stacks, ["data-platform", "postgres-sites", "redash", "starrocks", "superset"]);
    assert_eq!(policy::render_all(&set.warnings, false), "");
    for policy in &set.policies {
        assert!(
            policy.repositories.contains_key("main") && policy.repositories.contains_key("offsite")
        );
        for source in policy.sources.values() {
            assert!(SourceKind::implemented().contains(&source.kind()));
        }
    }
}

/// What the source documents meant, in schedules that hold: see `fixtures/policies/documents`.
#[test]
fn the_shipped_policies_do_what_the_documents_meant() {
    let set = policy::load(&directory("policies")).unwrap();
    let of = |stack: &str| set.policies.iter().find(|one| one.stack == stack).unwrap();
    let days = |days: u64| days * 24 * 3600;
    let starrocks = of("starrocks");
    let windows: Vec<&str> = starrocks.windows.keys().map(String::as_str).collect();
    assert_eq!(windows, ["logs", "statistics", "compaction", "orphans"]);
    let (weekly, changes, hourly) =
        (&starrocks.jobs["weekly"], &starrocks.jobs["changes"], &starrocks.jobs["hourly"]);
    for job in [weekly, changes, hourly] {
        assert_eq!(job.execution.avoid, windows);
    }
    assert_eq!((weekly.kind(), changes.kind()), (Some(Full), Some(Incremental)));
    assert_eq!(weekly.keep.period.unwrap().as_secs(), days(28));
    assert_eq!(changes.keep.daily, 7);
    assert_eq!(hourly.kind(), Some(Snapshot));
    assert_eq!(hourly.keep.period.unwrap().as_secs(), days(1));

    let platform = of("data-platform");
    let (base, pages) = (&platform.jobs["base"], &platform.jobs["pages"]);
    assert!(base.covers("postgres") && pages.covers("postgres"));
    assert_eq!((base.kind(), pages.kind()), (Some(Full), Some(Incremental)));
    let times = |job: &str, day: &str| {
        let from = format!("{day}T00:00:00+08:00").parse().unwrap();
        let until = format!("{day}T23:59:59+08:00").parse().unwrap();
        let Schedule::Cron(cron) = &platform.jobs[job].schedule else { panic!("{job}") };
        cron.due_between(from, until, &platform.time_zone()).count()
    };
    assert_eq!([times("base", "2026-11-21"), times("pages", "2026-11-21")], [1, 3]);
    assert_eq!([times("objects", "2026-11-21"), times("exports", "2026-11-21")], [1, 1]);
    let configuration = times("nightly", "2026-11-21") + times("weekly", "2026-11-21");
    assert_eq!(configuration, 1);
}

#[test]
fn the_way_to_production_in_the_superset_policy_works() {
    let text = fs::read_to_string(directory("policies/superset.yaml")).unwrap();
    let text = text
        .replace("\ntier: staging", "\ntier: production")
        .replace("\"10 */2 * * *\"", "\"*/10 * * * *\"")
        .replace("expected: 20m", "expected: 2m");
    let set = policy::parse(text, "x.yaml").unwrap_or_else(|e| panic!("{}", e.render(false)));
    let shown = policy::render_all(&set.warnings, false);
    // The nightly jobs are for other sources, so nothing meets.
    assert_eq!(shown, "");
    assert_eq!(set.policies[0].objectives().rpo.to_string(), "15m");
}

#[test]
fn all_problems_are_reported_not_only_the_first() {
    let text = "version: 1\nstack: Shop\ntier: prod\nrepositories:\n  main: { s3: { bucket: A } }\nsources:\n  a: { directory: { path: x } }\n  b: { directory: { pth: /x } }\njobs:\n  j: { sources: [c], kind: fll, schedule: { cron: \"61 * * * *\" }, keep: { for: 7x } }\n  k: { sources: [c], kind: full, schedule: { every: 1h }, keep: { at_least: 1 } }\n";
    let error = policy::parse(text, "many.yaml").unwrap_err();
    let lines: Vec<usize> = error
        .diagnostics
        .iter()
        .filter(|one| one.severity == Severity::Error)
        .map(|one| one.line)
        .collect();
    assert_eq!(lines, [2, 3, 5, 7, 8, 10, 11], "{}", error.render(false));
}

#[test]
fn columns_are_exact_and_count_characters() {
    let base = fs::read_to_string(directory("fixtures/policies/valid/minimal.yaml")).unwrap();
    let text = base
        .replace("description:", "")
        .replace("    schedule: {", "    schedule: {  ")
        .replace("0 3 * * *", "0 3 * *");
    let error = policy::parse(&text, "x.yaml").unwrap_err();
    let one = &error.diagnostics[0];
    let line = text.lines().nth(one.line - 1).unwrap();
    assert_eq!(line.chars().nth(one.column - 1), Some('"'));
    let text = base.replace("{ for: 7d, at_least: 3 }", "{ \"数据\": 1, for: 7d }");
    let error = policy::parse(&text, "x.yaml").unwrap_err();
    assert_eq!(error.diagnostics[0].column, "    keep: { \"".chars().count());
}

#[test]
fn the_mask_keeps_the_mark_in_place() {
    let text = "version: 1\nstack: x\ntier: staging\ntimezone: UTC\nrepositories:\n  main: { s3: { bucket: backups, secret_access_key: \"hunter2-hunter2-hunter2\", prefx: a } }\nsources: { a: { directory: { path: /a } } }\njobs: {}\n";
    let error = policy::parse(text, "x.yaml").unwrap_err();
    let one = &error.diagnostics[0];
    assert!(!one.snippet.contains("hunter2"));
    let text = text.replace("\"hunter2-hunter2-hunter2\"", "\"${env:A}\"");
    let error = policy::parse(&text, "x.yaml").unwrap_err();
    let one = &error.diagnostics[0];
    let marked: String = one.snippet.chars().skip(one.mark_start).take(one.mark_length).collect();
    assert_eq!(marked, "prefx");
}

#[test]
fn files_that_are_no_policies() {
    assert!(bad(b"").contains("the policy is empty"));
    assert!(bad(b"\n# nothing\n").contains("the policy is empty"));
    assert!(bad(&vec![b'#'; 1024 * 1024 + 1]).contains("larger than 1 MiB"));
    assert!(bad(b"\x00\x01\x02").contains("error"));
    assert!(bad(b"hello").contains("a policy is a mapping"));
    assert!(bad(b"a: &a [*a]\n").contains("error"));
    assert!(bad("[".repeat(100_000).as_bytes()).contains("error"));
}

#[test]
fn secrets_stay_hidden_wherever_a_file_breaks_off() {
    for file in yaml_files("fixtures/policies/invalid") {
        let bytes = fs::read(&file).unwrap();
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        let Some(secret) = text.to_lowercase().find("hunter2") else {
            continue;
        };
        let ends = (secret..=text.len()).filter(|end| text.is_char_boundary(*end));
        for end in ends {
            for tail in ["", "\n\tx", "\"", "]", "\n}", ": x: y"] {
                if let Err(error) = policy::parse(format!("{}{tail}", &text[..end]), "x.yaml") {
                    let shown = error.render(false);
                    assert!(
                        !shown.to_lowercase().contains("hunter"),
                        "{}\n{shown}",
                        file.display()
                    );
                }
            }
        }
    }
}

#[test]
fn hostile_files_end_soon_and_small() {
    use std::fmt::Write as _;
    let base = fs::read_to_string(directory("fixtures/policies/valid/minimal.yaml")).unwrap();
    let many = |line: &dyn Fn(usize) -> String, count: usize| {
        (0..count).fold(String::new(), |mut all, number| {
            let _ = write!(all, "{}", line(number));
            all
        })
    };
    let in_one_line = many(&|n| format!("s{n}: {{secrets: {{A: hunter2-{n}}}}}, "), 10_000);
    let sources = many(&|n| format!("  s{n}: {{ directory: {{ path: x }} }}\n"), 10_000);
    let jobs = many(
        &|n| {
            format!(
                "  j{n}: {{ sources: [s{n}, s1], kind: full, schedule: {{ cron: \"{} * * * *\" }}, keep: {{ at_least: 1 }} }}\n",
                n % 60
            )
        },
        100,
    );
    let some = many(&|n| format!("  s{n}: {{ directory: {{ path: /x{n} }} }}\n"), 500);
    let paths = many(&|n| format!("/a{n}, "), 40_000);
    let start = std::time::Instant::now();
    for text in [
        format!("version: 1\nstack: x\nsources: {{{in_one_line}}}\n"),
        base.replace("sources:\n", &format!("sources:\n{sources}")),
        base.replace("sources:\n", &format!("sources:\n{some}"))
            .replace("jobs:\n", &format!("jobs:\n{jobs}")),
        base.replace("      path: /etc/shop", &format!("      paths: [{paths}]")),
        "a: [".to_owned() + &"{b: ".repeat(100_000),
        "? ".repeat(300_000),
        "- ".repeat(300_000),
    ] {
        let size: usize = policy::parse(&text, "x.yaml").map_or_else(
            |error| error.diagnostics.iter().map(|one| one.snippet.len() + one.message.len()).sum(),
            |_| 0,
        );
        assert!(size < 1_000_000, "{size}");
        assert!(
            !policy::parse(&text, "x.yaml").is_err_and(|e| e.render(false).contains("hunter2"))
        );
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn windows_line_ends_and_byte_order_marks_are_fine() {
    let text = fs::read_to_string(directory("fixtures/policies/valid/minimal.yaml")).unwrap();
    good(&text.replace('\n', "\r\n"));
    good(&format!("\u{feff}{text}"));
}

#[test]
fn directories_are_read_in_order_and_stacks_are_unique() {
    let base = std::env::temp_dir().join(format!("backstay-policy-{}", std::process::id()));
    fs::create_dir_all(&base).unwrap();
    let text = fs::read_to_string(directory("fixtures/policies/valid/minimal.yaml")).unwrap();
    assert_eq!(policy::load(&base).unwrap_err().kind(), ErrorKind::NotFound);
    fs::write(base.join("b.yaml"), &text).unwrap();
    fs::write(base.join("a.yml"), text.replace("stack: shop", "stack: other")).unwrap();
    fs::write(base.join(".hidden.yaml"), "nonsense").unwrap();
    fs::write(base.join("readme.md"), "nonsense").unwrap();
    let set = policy::load(&base).unwrap();
    let stacks: Vec<&str> = set.policies.iter().map(|policy| policy.stack.as_str()).collect();
    assert_eq!(stacks, ["other", "shop"]);
    assert_eq!(set.policies[0].file, base.join("a.yml"));

    fs::write(base.join("c.yaml"), &text).unwrap();
    let error = policy::load(&base).unwrap_err();
    let shown = error.render(false);
    assert!(shown.contains("b.yaml") && shown.contains("c.yaml:2:8"), "{shown}");
    assert_eq!(Error::from(error).kind(), ErrorKind::Policy);

    let missing = policy::load(&base.join("none.yaml")).unwrap_err();
    assert_eq!(Error::from(missing).kind(), ErrorKind::NotFound);
    fs::remove_dir_all(&base).unwrap();
}

#[test]
fn the_model_says_what_was_written() {
    let text = fs::read_to_string(directory("fixtures/policies/valid/everything.yaml")).unwrap();
    let policy = good(&text);
    assert_eq!(policy.text, text);
    assert_eq!(policy.objectives_of("config").rpo.to_string(), "26h");
    assert_eq!(policy.objectives_of("dump").rpo.to_string(), "1h30m");
    assert_eq!(policy.repository_of("config").unwrap().0, "disk");
    assert_eq!(policy.repository_of("dump").unwrap().0, "main");
    assert_eq!(
        (policy.compression_of("config").level, policy.compression_of("dump").level),
        (19, 6)
    );
    assert_eq!(policy.jobs_of("keys").count(), 1);
    let SourceSpec::Command(command) = &policy.sources["count"].spec else { panic!() };
    // Unquoted words of a command stay as they are written.
    assert_eq!(
        serde_json::to_value(&command.program).unwrap(),
        serde_json::json!({"argv": ["kill", "-9", "010", "yes"]})
    );
}

#[test]
fn objectives_follow_the_tier() {
    let base = fs::read_to_string(directory("fixtures/policies/valid/minimal.yaml")).unwrap();
    let frequent = base.replace("cron: \"0 3 * * *\"", "every: 15m");
    for (tier, rto, rpo) in
        [("development", "24h", "24h"), ("staging", "4h", "4h"), ("production", "1h", "15m")]
    {
        let objectives = good(&frequent.replace("development", tier)).objectives();
        assert_eq!(
            (objectives.rto.to_string(), objectives.rpo.to_string()),
            (rto.into(), rpo.into())
        );
    }
}

#[test]
fn the_schema_names_every_key() {
    let schema = policy::json_schema();
    let text = serde_json::to_string(&schema).unwrap();
    for key in [
        "repositories",
        "secret_access_key",
        "postgres_cluster",
        "at_least",
        "allow_empty",
        "after",
        "writer_identity",
    ] {
        assert!(text.contains(&format!("\"{key}\"")), "{key}");
    }
    let required = schema["required"].as_array().unwrap();
    let mut required: Vec<&str> = required.iter().map(|key| key.as_str().unwrap()).collect();
    required.sort_unstable();
    assert_eq!(required, ["repositories", "sources", "stack", "version"]);
    assert_eq!(schema["additionalProperties"], serde_json::json!(false));
    // What the loader takes at the top and what the schema lists are the same.
    for name in schema["properties"].as_object().unwrap().keys() {
        assert!(!bad(format!("{name}: []\n").as_bytes()).contains("unknown key"), "{name}");
    }
}

proptest! {
    #[test]
    fn periods_survive_being_shown(seconds in 1_u64..3_000_000_000) {
        let period = Period::new(Duration::from_secs(seconds));
        prop_assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
    }

    #[test]
    fn sizes_survive_being_shown(bytes in 1_u64..) {
        let size = Size::new(bytes);
        prop_assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
    }

    #[test]
    fn values_never_panic(text in "\\PC{0,24}") {
        let _ = text.parse::<Period>();
        let _ = text.parse::<Size>();
        let _ = text.parse::<policy::Cron>();
        let _ = policy::check_recipient(&text);
    }

    #[test]
    fn mangled_policies_never_panic_and_never_tell(cut in 0_usize..2000, insert in "[\\PC\\n]{0,8}", skip in 0_usize..30) {
        let text = fs::read_to_string(directory("fixtures/policies/invalid/secret_literal_s3.yaml")).unwrap();
        let chars: Vec<char> = text.chars().collect();
        let cut = cut.min(chars.len());
        let rest = (cut + skip).min(chars.len());
        let mut mangled: String = chars[..cut].iter().collect();
        mangled.push_str(&insert);
        mangled.extend(&chars[rest..]);
        if let Err(error) = policy::parse(&mangled, "x.yaml") {
            // The key may be what was cut: then nothing tells that the value is secret.
            if mangled.contains("secret_access_key: hunter2-hunter2") {
                prop_assert!(!error.render(false).contains("hunter2"), "{}", error.render(false));
            }
        }
    }
}
