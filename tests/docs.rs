//! Pages that are made from the code, and pages that must not lead nowhere.
//!
//! `BACKSTAY_WRITE_DOCS=1` writes the generated ones again (`make docs`).

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use backstay::cli::{Cli, EXIT_CODES};
use backstay::http::metrics::METRICS;
use clap::{Arg, Command, CommandFactory as _};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compares a page with what the code says, or writes it.
#[track_caller]
pub fn generated(name: &str, expected: &str) {
    let path = root().join("docs").join(name);
    if std::env::var_os("BACKSTAY_WRITE_DOCS").is_some_and(|value| value == "1") {
        fs::write(&path, expected).unwrap();
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let differs = expected.lines().zip(found.lines()).position(|(a, b)| a != b);
    assert!(
        found == expected,
        "docs/{name} is out of date (first at line {:?}): run `make docs`",
        differs.map(|at| at + 1)
    );
}

/// Text for Markdown: `<` would begin a tag.
pub fn escaped(text: &str) -> String {
    text.replace('<', "\\<").replace('|', "\\|").replace('\n', " ")
}

/// Text with a full stop, so that more can follow.
pub fn sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.ends_with('.') { text } else { format!("{text}.") }
}

fn about(command: &Command) -> String {
    let text = command.get_long_about().or(command.get_about());
    let text = text.map(ToString::to_string).unwrap_or_default();
    if text.ends_with('.') { text } else { format!("{text}.") }
}

fn argument(arg: &Arg) -> String {
    let values: Vec<String> = arg
        .get_value_names()
        .filter(|_| arg.get_action().takes_values())
        .map(|names| names.iter().map(|name| format!("<{name}>")).collect())
        .unwrap_or_default();
    let name = match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (None, Some(long)) => format!("--{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, None) => String::new(),
    };
    let name = [vec![name], values].concat().join(" ").trim().to_owned();
    let mut help = arg.get_long_help().or(arg.get_help()).map(|help| sentence(&help.to_string()));
    if arg.get_action().takes_values() {
        let possible: Vec<String> = arg
            .get_possible_values()
            .iter()
            .map(|value| format!("`{}`", value.get_name()))
            .collect();
        if !possible.is_empty() {
            help = help.map(|help| format!("{help} One of {}.", possible.join(", ")));
        }
        let default: Vec<_> =
            arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        if !default.is_empty() {
            help = help.map(|help| format!("{help} Default: `{}`.", default.join(" ")));
        }
    }
    if let Some(variable) = arg.get_env() {
        help = help.map(|help| format!("{help} Environment: `{}`.", variable.to_string_lossy()));
    }
    format!("| `{}` | {} |\n", name.replace('|', "\\|"), escaped(&help.unwrap_or_default()))
}

fn arguments(command: &Command, global: bool) -> String {
    let rows: String = command
        .get_arguments()
        .filter(|arg| arg.is_global_set() == global && !arg.is_hide_set())
        .filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()))
        .map(argument)
        .collect();
    if rows.is_empty() { rows } else { format!("| | |\n|---|---|\n{rows}\n") }
}

fn section(page: &mut String, path: &str, command: &Command) {
    let name = format!("{path} {}", command.get_name());
    write!(page, "## `{name}`\n\n{}\n\n", escaped_lines(&about(command))).unwrap();
    let positional: String = command
        .get_positionals()
        .map(|arg| {
            let value = arg.get_value_names().and_then(|names| names.first()).unwrap();
            let many =
                if arg.get_num_args().is_some_and(|n| n.max_values() > 1) { "…" } else { "" };
            if arg.is_required_set() {
                format!(" {value}{many}")
            } else {
                format!(" [{value}{many}]")
            }
        })
        .collect();
    let mut required = String::new();
    for arg in command.get_opts().filter(|arg| arg.is_required_set()) {
        let value = arg.get_value_names().and_then(|names| names.first()).unwrap();
        write!(required, " --{} {value}", arg.get_long().unwrap()).unwrap();
    }
    let sub = if command.has_subcommands() { " COMMAND" } else { " [OPTIONS]" };
    write!(page, "```\n{name}{sub}{positional}{required}\n```\n\n").unwrap();
    page.push_str(&arguments(command, false));
    for below in command.get_subcommands() {
        section(page, &name, below);
    }
}

fn escaped_lines(text: &str) -> String {
    text.lines().map(|line| line.replace('<', "\\<")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_page_of_commands_is_what_the_program_says() {
    let command = Cli::command();
    let mut page = String::from(
        "# Command line\n\n<!-- generated by tests/docs.rs; `make docs` writes it again -->\n\n\
         Standard output is data, standard error is talk. Exit codes: [exit-codes.md](exit-codes.md).\n\n",
    );
    page.push_str("## Options of every command\n\n");
    page.push_str(&arguments(&command, true));
    for below in command.get_subcommands() {
        section(&mut page, "backstay", below);
    }
    generated("cli.md", &format!("{}\n", page.trim_end()));
}

#[test]
fn the_page_of_exit_codes_is_what_the_program_has() {
    let mut page = String::from(
        "# Exit codes\n\n<!-- generated by tests/docs.rs; `make docs` writes it again -->\n\n\
         They are an interface: scripts may branch on them.\n\n| code | meaning |\n|---|---|\n",
    );
    for (status, meaning) in EXIT_CODES {
        writeln!(page, "| {} | {meaning} |", *status as u8).unwrap();
    }
    page.push_str(
        "\n4 is what `status`, `plan` and `wal status` end with; 75 what a second daemon or a second run of a playbook ends with.\n",
    );
    page.push_str(
        "\n`wal push` and `wal get` obey PostgreSQL instead ([postgres.md](postgres.md#wal)):\n\n\
         | | |\n|---|---|\n\
         | `wal push` | 0 archived; anything else up to 125 failed: the server asks again |\n\
         | `wal get` | 0 fetched; 1 no repository has it, and each answered; 126 everything else, panics included |\n\
         | `wal get --standby` | 0 fetched; 1 everything else |\n",
    );
    generated("exit-codes.md", &page);
}

#[test]
fn the_schema_is_what_the_types_say() {
    let schema = serde_json::to_string_pretty(&backstay::policy::json_schema()).unwrap();
    generated("policy.schema.json", &format!("{schema}\n"));
}

#[test]
fn the_schema_of_evidence_is_what_the_types_say() {
    let schema = serde_json::to_string_pretty(&backstay::drill::evidence::schema()).unwrap();
    generated("evidence.schema.json", &format!("{schema}\n"));
}

#[test]
fn the_description_of_the_api_is_what_the_daemon_answers() {
    let document = backstay::http::openapi::document();
    generated("openapi.json", &format!("{document:#}\n"));
}

#[test]
fn the_page_of_metrics_is_what_the_code_has() {
    let mut page = String::from(
        "# Metrics\n\n<!-- generated by tests/docs.rs; `make docs` writes it again -->\n\n\
         `backstay daemon --listen` shows these at `/metrics`, in the text format of Prometheus ([daemon.md](daemon.md#metrics-and-health)).\n\
         All but those of the daemon itself come from its state: they survive restarts, and a series ends with its job.\n\
         Where daemons share a state in PostgreSQL each of them shows those of all runs, whoever did them.\n\
         The label of a job is `job_name`, because `job` is what Prometheus calls the target that it reads from.\n\n\
         | metric | type | labels | |\n|---|---|---|---|\n",
    );
    for metric in METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let row = [metric.name, metric.kind.word(), &labels.join(", "), metric.help];
        page.push_str(&format!("| `{}` | {} | {} | {} |\n", row[0], row[1], row[2], row[3]));
    }
    page.push_str(
        "\nRules for Prometheus, with tests, are in [`deploy/prometheus`](../deploy/prometheus/rules.yaml), a dashboard for Grafana in\n\
         [`deploy/grafana`](../deploy/grafana/backstay.json). What to do about each alert: [runbooks.md](runbooks.md).\n",
    );
    generated("metrics.md", &page);
}

#[test]
fn every_example_policy_in_the_pages_is_valid() {
    let mut found = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for block in text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            if block.starts_with("version: 1\n") {
                found += 1;
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("policy.yaml");
                fs::write(&path, block).unwrap();
                if let Err(error) = backstay::policy::load(&path) {
                    panic!("{}:\n{}", page.display(), error.render(false));
                }
            }
        }
    }
    assert!(found >= 3, "only {found} whole policies were found in the pages");
}

fn pages() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    let mut todo = vec![root().join("docs")];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|found| found == "md") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn what_a_project_needs_is_there() {
    let read = |name: &str| {
        fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    assert!(read("LICENSE").contains("Apache License"));
    let version = format!("## [{}]", env!("CARGO_PKG_VERSION"));
    let changes = read("CHANGELOG.md");
    assert!(changes.contains("## [Unreleased]") || changes.contains(&version), "no entry");
}

#[test]
fn every_page_is_linked_from_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(readme.contains(&format!("docs/{name}")), "README.md does not link docs/{name}");
    }
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") || target.contains(' ') {
                continue;
            }
            let there = page.parent().unwrap().join(target).exists();
            assert!(there, "{} links {target}, which is not there", page.display());
        }
    }
}

/// The tests that a page names for each trap are there.
#[test]
fn every_trap_is_shown_by_tests_that_exist() {
    let page = fs::read_to_string(root().join("docs/postgres-traps.md")).unwrap();
    let mut code = String::new();
    for directory in ["src", "tests"] {
        let mut directories = vec![root().join(directory)];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    code.push_str(&fs::read_to_string(path).unwrap());
                }
            }
        }
    }
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).collect();
    let trap = |row: &&&str| row[2..].starts_with(|c: char| c.is_ascii_uppercase());
    assert_eq!(rows.iter().filter(trap).count(), 34, "every trap has a row");
    for row in rows.iter().filter(trap) {
        let shown = row.trim_end_matches('|').rsplit('|').next().unwrap();
        assert!(!shown.trim().is_empty(), "{row}");
        for name in shown.split('`').skip(1).step_by(2).filter(|name| name.contains("::")) {
            let module = name.split("::").next().unwrap();
            assert!(code.contains(&format!("mod {module};")), "{name}: no such module");
            let test = name.rsplit("::").next().unwrap();
            let there = test.is_empty() || code.contains(&format!("fn {test}"));
            assert!(there, "{name}: no such test");
        }
    }
}

#[test]
fn every_event_of_a_playbook_is_in_the_table() {
    // What is no event is told by the names of all that are.
    let none = r#"{"event":"none"}"#;
    let error = serde_json::from_str::<backstay::playbook::record::Event>(none).unwrap_err();
    let error = error.to_string();
    let (_, names) = error.split_once("expected one of").unwrap();
    let names: Vec<&str> = names.split('`').skip(1).step_by(2).collect();
    assert!(names.contains(&"started") && names.len() > 10, "{error}");
    let page = fs::read_to_string(root().join("docs/json.md")).unwrap();
    let (_, table) = page.split_once("### Of playbooks").unwrap();
    let (table, _) = table.split_once("## Errors").unwrap();
    for name in &names {
        assert!(table.contains(&format!("\n| `{name}` |")), "{name}");
    }
    let rows = table.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, names.len() + 1, "a row for each, and the head");
}
