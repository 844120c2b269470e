//! The architecture is the tree below `src/`; these tests keep it so.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The dependency rule: a module imports from its own group's right only. Modules of the last
/// group may use each other; those of any other group may not.
const GROUPS: &[&[&str]] = &[
    &["main", "lib"],
    &["cli"],
    // Started by the command line, together with the daemon it shows.
    &["http"],
    &["daemon"],
    &["drill"],
    &["playbook"],
    &["run"],
    &["source", "notify"],
    &["store", "state"],
    &["archive"],
    &["policy"],
    &["telemetry", "secret", "clock", "id", "error"],
];

/// A line of code: its file below `src/`, its number and its text without comments.
struct Line {
    file: String,
    number: usize,
    text: String,
    /// Whether it belongs to the tests at the end of a file.
    test: bool,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![root().join(directory)];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn code() -> Vec<Line> {
    let mut lines = Vec::new();
    for path in files("src", "rs") {
        let file = path.strip_prefix(root().join("src")).unwrap().display().to_string();
        let mut test = false;
        for (at, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            test |= line.trim() == "#[cfg(test)]";
            let comment = line.find("//").filter(|at| !line[..*at].ends_with(':'));
            let text = line[..comment.unwrap_or(line.len())].to_owned();
            lines.push(Line { file: file.clone(), number: at + 1, text, test });
        }
    }
    assert!(lines.len() > 5000, "the source was not found");
    lines
}

/// Whether `text` has `word` as a whole word.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

/// Fails with every line that `wrong` names a rule for.
#[track_caller]
fn forbid(wrong: impl Fn(&Line) -> Option<String>) {
    let mut report = String::new();
    for line in code() {
        if let Some(rule) = wrong(&line) {
            let text = line.text.trim();
            writeln!(report, "src/{}:{}: {rule}\n    {text}", line.file, line.number).unwrap();
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

fn module(file: &str) -> &str {
    let first = file.split('/').next().unwrap();
    first.strip_suffix(".rs").unwrap_or(first)
}

fn group(module: &str) -> Option<usize> {
    GROUPS.iter().position(|group| group.contains(&module))
}

/// The modules of this crate that a line names: `crate::x::…` and `use crate::{x, y::z}`.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let after = &text[at + "crate::".len()..];
        let name = |text: &str| -> String {
            text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        match after.strip_prefix('{') {
            None => found.push(name(after)),
            Some(list) => {
                let mut depth = 0;
                let mut start = true;
                for (at, c) in list.char_indices() {
                    if start && depth == 0 && c.is_alphabetic() {
                        found.push(name(&list[at..]));
                        start = false;
                    }
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' => start = true,
                        _ => {}
                    }
                }
            }
        }
    }
    // Constants of the crate itself, such as `crate::TOOL`.
    found.retain(|name| name.starts_with(char::is_lowercase));
    found
}

#[test]
fn imports_are_read_in_both_forms() {
    assert_eq!(imports("use crate::archive::{entry, index};"), ["archive"]);
    assert_eq!(
        imports("use crate::{error::Error, id::{self, X}, store};"),
        ["error", "id", "store"]
    );
    assert_eq!(imports("x: crate::TOOL, y: crate::run::host_name()"), ["run"]);
}

#[test]
fn imports_point_right_only() {
    forbid(|line| {
        let own = module(&line.file);
        let from = group(own).unwrap_or_else(|| panic!("src/{own} is in no group of this test"));
        let last = GROUPS.len() - 1;
        imports(&line.text).into_iter().find_map(|import| {
            let Some(to) = group(&import) else {
                return Some(format!("`{import}` is in no group of this test"));
            };
            let ok = import == own || to > from || (to == from && to == last);
            (!ok).then(|| {
                let order: Vec<String> = GROUPS.iter().map(|group| group.join(", ")).collect();
                format!(
                    "`{own}` must not see `{import}`: imports point right in {}",
                    order.join(" → ")
                )
            })
        })
    });
}

#[test]
fn only_the_store_sees_the_async_network() {
    forbid(|line| {
        let allowed = |name: &str| {
            module(&line.file) == "store"
                || (name == "tokio" && line.file == "cli/start.rs")
                || (name == "tokio" && line.file == "source/starrocks/session.rs")
                || (["tokio", "hyper"].contains(&name) && line.file == "http/server.rs")
                // MySQL's client is asynchronous only: threads that block wait for it there.
                || (name == "tokio" && line.file == "source/mysql/client.rs")
        };
        ["object_store", "tokio", "reqwest", "hyper"]
            .into_iter()
            .find(|name| has_word(&line.text, &format!("{name}::")) && !allowed(name))
            .map(|name| {
                format!("only `store` sees `{name}` (and cli/start.rs the runtime, http/server.rs its clients, source/starrocks/session.rs one frontend): others are threads that may block")
            })
    });
}

#[test]
fn only_the_postgres_source_speaks_to_database_servers() {
    forbid(|line| {
        let allowed = |name: &str| {
            line.file.starts_with("source/postgres/")
                // The certificate that the daemon itself shows.
                || (name == "rustls" && line.file == "http/tls.rs")
        };
        ["tokio_postgres", "tokio_postgres_rustls", "rustls", "rustls_native_certs"]
            .into_iter()
            .find(|name| has_word(&line.text, &format!("{name}::")) && !allowed(name))
            .map(|name| format!("only `source/postgres` sees `{name}`"))
    });
}

#[test]
fn only_two_files_speak_mysql() {
    forbid(|line| {
        let allowed = ["source/mysql/client.rs", "source/starrocks/session.rs"];
        (has_word(&line.text, "mysql_async") && !allowed.contains(&line.file.as_str()))
            .then(|| "only the sessions of `source/mysql` and `source/starrocks` see it".into())
    });
}

#[test]
fn only_the_state_sees_the_database() {
    forbid(|line| {
        let allowed = module(&line.file) == "state" || line.file.starts_with("source/sqlite/");
        (has_word(&line.text, "rusqlite") && !allowed)
            .then(|| "only `state` sees SQLite, and the source that backs such databases up".into())
    });
}

#[test]
fn the_archive_layer_is_synchronous() {
    forbid(|line| {
        let asynchronous = ["async", "await"].iter().any(|word| has_word(&line.text, word));
        (module(&line.file) == "archive" && asynchronous)
            .then(|| "`archive` is synchronous, so that it can be fuzzed and reasoned about".into())
    });
}

#[test]
fn only_the_command_line_prints() {
    let printing = ["println!", "eprintln!", "print!", "eprint!", "dbg!"];
    forbid(|line| {
        let prints = printing.iter().any(|name| line.text.contains(name));
        let stdout = line.text.contains("io::stdout()") && module(&line.file) != "cli";
        (prints || stdout).then(|| "only `cli` prints, through its printer".into())
    });
}

#[test]
fn only_the_clock_reads_the_time_of_day() {
    forbid(|line| {
        let reads = ["Timestamp::now", "SystemTime::now", "Zoned::now", "clock_gettime"];
        (line.file != "clock.rs" && reads.iter().any(|name| line.text.contains(name)))
            .then(|| "only `clock` reads the time, so that tests can set it".into())
    });
}

#[test]
fn nothing_panics_on_purpose() {
    forbid(|line| {
        let words = [".unwrap()", ".expect(\"", "panic!(", "todo!(", "unimplemented!("];
        let found = words.iter().find(|word| line.text.contains(**word))?;
        (!line.test).then(|| format!("`{found}` in code that a backup runs through"))
    });
}

#[test]
fn the_root_of_a_module_has_no_logic() {
    forbid(|line| {
        let root = line.file.ends_with("/mod.rs") || line.file == "main.rs";
        let logic = ["fn ", "impl ", "struct ", "enum ", "trait ", "macro_rules!"];
        let is_main = line.file == "main.rs" && line.text.starts_with("fn main()");
        (root && !is_main && logic.iter().any(|word| line.text.contains(word)))
            .then(|| "a module's root has documentation, `mod` and `use`, and nothing else".into())
    });
}

#[test]
fn no_file_is_too_long_to_read() {
    let long: Vec<String> = files("src", "rs")
        .into_iter()
        .filter_map(|path| {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            (lines > 600).then(|| format!("{}: {lines} lines", path.display()))
        })
        .collect();
    assert!(long.is_empty(), "over 600 lines, take them apart:\n{}", long.join("\n"));
}

#[test]
fn every_module_says_what_it_is_for() {
    for path in files("src", "rs") {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//! "), "{} does not begin with `//! …`", path.display());
    }
}

#[test]
fn no_test_file_is_forgotten() {
    let main = fs::read_to_string(root().join("tests/main.rs")).unwrap();
    for entry in fs::read_dir(root().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.extension().is_some_and(|found| found == "rs") && name != "main" {
            let known = main.lines().any(|line| line == format!("mod {name};"));
            assert!(known, "tests/{name}.rs is no module of tests/main.rs: it never runs");
        }
    }
}
