//! Commands: what looks like a shell where there is none, and secrets in plain sight.

use super::{Findings, repositories::check_key_material, sources::absolute};
use crate::policy::{
    execution::Hook,
    playbook::uses,
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

/// What a step left is a value, and never a command: in a line of `shell` it is put in as a variable, which
/// would stay a name where the shell does not look for any; in the text that a shell is started with it
/// would be carried out.
pub(super) fn check_outputs(findings: &mut Findings<'_>, at: &[&str], program: &Program) {
    match program {
        Program::Shell(line) => {
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
        Program::Argv(words) => check_script(findings, &[at, &["argv"]].concat(), words),
        Program::Pipeline(stages) => {
            for (index, words) in stages.iter().enumerate() {
                let number = index.to_string();
                check_script(findings, &[at, &["pipeline", number.as_str()]].concat(), words);
            }
        }
    }
}

/// Shells, and what has one carry out the text after `-c`.
const SHELLS: [&str; 9] = ["sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "su", "runuser"];

fn check_script(findings: &mut Findings<'_>, path: &[&str], words: &[String]) {
    let Some(index) = script_of(words) else { return };
    let printed = |name: &&str| !name.starts_with("run.");
    let Some(name) = uses(&words[index]).into_iter().flatten().find(printed) else { return };
    let number = index.to_string();
    findings.error(
        &[path, &[number.as_str()]].concat(),
        format!("`{{{{{name}}}}}` stands in the text of a shell: what a step printed would be carried out"),
        format!("write the line as `shell: …`, where it is a variable, or give it as an argument: [sh, -c, 'echo \"$1\"', sh, \"{{{{{name}}}}}\"]"),
    );
}

/// The word that a shell carries out: the one after its `-c`, wherever among the words the shell stands.
fn script_of(words: &[String]) -> Option<usize> {
    fn called(word: &str) -> &str {
        word.rsplit('/').next().unwrap_or_default()
    }
    let shell = words.iter().position(|word| SHELLS.contains(&called(word)))?;
    // `su USER -c TEXT`: elsewhere options end where a script or its arguments begin.
    let users = ["su", "runuser"].contains(&called(&words[shell]));
    let gives_text = |word: &String| {
        let short = word.strip_prefix('-').filter(|rest| !rest.starts_with('-'));
        short.is_some_and(|letters| letters.contains('c')) || word.starts_with("--command")
    };
    let mut option = shell + 1;
    while !gives_text(words.get(option)?) {
        match words[option].as_str() {
            // Options with a word of their own.
            "-o" | "+o" | "-O" | "+O" => option += 2,
            word if users || word.starts_with(['-', '+']) => option += 1,
            _ => return None,
        }
    }
    let found = &words[option];
    if found.starts_with("--command=") {
        return Some(option);
    }
    let more = words[option + 1..].iter();
    // `sh -c -e TEXT` is the same as `sh -ec TEXT`.
    let options = more.take_while(|word| word.starts_with('-') && word.as_str() != "-").count();
    let index = option + 1 + options;
    (index < words.len()).then_some(index)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_shell_is_found_wherever_it_stands() {
        let found = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            script_of(&words).map(|index| words[index].clone())
        };
        for line in [
            "sh -c TEXT",
            "/bin/bash -euc TEXT sh {{a.b}}",
            "env X=1 bash -c -e TEXT",
            "sudo -u app bash -c TEXT",
            "docker exec web sh -lc TEXT",
            "su - app -c TEXT",
            "bash -ce TEXT",
            "bash -o pipefail -c TEXT",
            "su app --command=TEXT",
            "runuser -u app --command TEXT",
        ] {
            assert!(found(line).is_some_and(|word| word.ends_with("TEXT")), "{line}");
        }
        for line in [
            "sh script.sh",
            "grep -c x",
            "bash --norc file",
            "sh -c",
            "bash script -c x",
            "echo {{a.b}}",
        ] {
            assert_eq!(found(line), None, "{line}");
        }
    }
}
