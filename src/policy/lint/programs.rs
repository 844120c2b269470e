//! Commands: what looks like a shell where there is none, and secrets in plain sight.

use super::{Findings, repositories::check_key_material, sources::absolute};
use crate::policy::{
    execution::Hook,
    redact::{has_secret_within, names_a_secret},
    source::{CommandSource, Program},
    value::Setting,
};

pub(super) fn check(findings: &mut Findings<'_>, name: &str, command: &CommandSource) {
    let at = ["sources", name, "command"];
    check_program(findings, &at, &command.program);
    if let Some(restore) = &command.restore {
        check_program(findings, &[at[0], at[1], at[2], "restore"], restore);
    }
    for (variable, value) in &command.environment {
        check_variable(findings, &[at[0], at[1], at[2], "environment", variable], variable, value);
    }
    if let Some(directory) = &command.directory {
        absolute(findings, &[at[0], at[1], at[2], "directory"], directory);
    }
}

/// A program that is run around the runs of a job.
pub(super) fn check_hook(findings: &mut Findings<'_>, at: &[&str], hook: &Hook) {
    check_words(findings, &[at, &["argv"]].concat(), &hook.argv);
    for (variable, value) in &hook.environment {
        let path = [at, &["environment", variable.as_str()]].concat();
        check_variable(findings, &path, variable, value);
    }
    if let Some(directory) = &hook.directory {
        absolute(findings, &[at, &["directory"]].concat(), directory);
    }
}

/// What a step left is put into a shell line as a variable: where the shell does not look for any, it
/// would stay a name.
pub(super) fn check_quotes(findings: &mut Findings<'_>, at: &[&str], program: &Program) {
    let Program::Shell(line) = program else { return };
    if let Some(name) = quoted_use(line) {
        findings.error(
            &[at, &["shell"]].concat(),
            format!(
                "`{{{{{name}}}}}` stands between single quotes, where the shell puts in nothing"
            ),
            format!("write it between double quotes: \"{{{{{name}}}}}\""),
        );
    }
}

/// The first output of a step that stands between single quotes.
fn quoted_use(line: &str) -> Option<&str> {
    let mut characters = line.char_indices();
    let mut open: Option<char> = None;
    while let Some((at, character)) = characters.next() {
        match (open, character) {
            (Some('\''), '{') if line[at..].starts_with("{{") => {
                return line[at + 2..].split_once("}}").map(|(name, _)| name.trim());
            }
            (None | Some('"'), '\\') => drop(characters.next()),
            (None, '\'' | '"') => open = Some(character),
            (Some(quote), _) if quote == character => open = None,
            _ => {}
        }
    }
    None
}

pub(super) fn check_program(findings: &mut Findings<'_>, at: &[&str], program: &Program) {
    match program {
        Program::Argv(words) => check_words(findings, &[at, &["argv"]].concat(), words),
        Program::Pipeline(stages) => {
            let path = [at, &["pipeline"]].concat();
            if stages.is_empty() {
                findings.error_at_key(
                    &path,
                    "the pipeline is empty",
                    "write [[PROGRAM, ARGUMENT], [PROGRAM]]",
                );
            }
            for (index, words) in stages.iter().enumerate() {
                let number = index.to_string();
                check_words(findings, &[&path[..], &[number.as_str()]].concat(), words);
            }
        }
        Program::Shell(line) => {
            let path = [at, &["shell"]].concat();
            if line.trim().is_empty() {
                findings.error_at_key(&path, "the shell line is empty", "write what is to be run");
            }
            check_text(findings, &path, line);
        }
    }
}

fn check_words(findings: &mut Findings<'_>, path: &[&str], words: &[String]) {
    let Some(program) = words.first() else {
        findings.error(path, "no program is named", "write [PROGRAM, ARGUMENT, …]");
        return;
    };
    let first = [path, &["0"]].concat();
    if program.trim().is_empty() {
        findings.error(&first, "the program has no name", "write [PROGRAM, ARGUMENT, …]");
    } else if program.contains(char::is_whitespace) {
        findings.error(
            &first,
            format!("`{program}` is taken as the name of one program"),
            "write each word for itself: [pg_dump, -Fc, app]; or use `shell`",
        );
    }
    for (index, word) in words.iter().enumerate() {
        let number = index.to_string();
        let path = [path, &[number.as_str()]].concat();
        if matches!(word.as_str(), "|" | ">" | ">>" | "<" | "&&" | "||" | ";" | "2>&1" | "&") {
            findings.error(
                &path,
                format!("`{word}` means nothing without a shell: the program would get it as an argument"),
                "use `pipeline: [[…], […]]`, or `shell`, which stops at the first failure in a pipe",
            );
        }
        check_text(findings, &path, word);
    }
}

pub(super) fn check_text(findings: &mut Findings<'_>, path: &[&str], text: &str) {
    check_key_material(findings, path, text);
    if has_secret_within(text) {
        findings.error(
            path,
            "a password is written in the command, where every user of the host can see it",
            "take it out, and give it by `environment: { PGPASSWORD: \"${file:PATH}\" }` or a password file",
        );
    } else if ["${env:", "${file:", "${command:"].iter().any(|start| text.contains(start)) {
        findings.error(
            path,
            "references to secrets are not replaced in commands, where every user of the host could see them",
            "put it in `environment`, which the program inherits",
        );
    }
}

pub(super) fn check_variable(
    findings: &mut Findings<'_>,
    path: &[&str],
    name: &str,
    value: &Setting,
) {
    if name.is_empty() || name.contains(['=', '\0']) || name.contains(char::is_whitespace) {
        findings.error_at_key(
            path,
            format!("bad variable name `{name}`"),
            "a name has no `=` and no spaces",
        );
    }
    let Setting::Plain(text) = value else { return };
    check_key_material(findings, path, text);
    if names_a_secret(name) || has_secret_within(text) {
        findings.error(
            path,
            format!("`{name}` looks secret and is written here"),
            "take it out, treat it as leaked if the file was shared, and write ${env:NAME} or ${file:PATH}",
        );
    }
}
