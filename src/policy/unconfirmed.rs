//! Policies that were read back from a repository: whoever could write to the bucket could write
//! them, so a person looks at what they would run before anything uses them.

use super::model::Policy;
use super::yaml::{self, Node, Value};

/// What begins the comment above the mark.
const ABOVE: &str = "# Read back by `backstay policy fetch`.";
/// The key that is the mark.
const MARK: &str = "unconfirmed:";

/// The text of a policy with the mark that keeps everything from using it.
pub fn marked(text: &str, from: &str) -> String {
    // JSON's strings are YAML's too.
    let from = serde_json::Value::from(from);
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    format!(
        "{ABOVE} Nothing uses it before `backstay policy confirm FILE`, which shows what it would run.\n\
         {MARK} {from}\n{text}"
    )
}

/// The text without the mark. `None` if it has none.
pub fn unmarked(text: &str) -> Option<String> {
    let is_mark = |line: &str| line.starts_with(MARK);
    let mut lines = text.split_inclusive('\n');
    if !lines.clone().any(is_mark) {
        return None;
    }
    let first = lines.clone().next().filter(|line| line.starts_with(ABOVE));
    if first.is_some() {
        lines.next();
    }
    Some(lines.filter(|line| !is_mark(line)).collect())
}

/// Something that a policy makes this program run.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Runs {
    /// Where it stands in the policy: keys, with dots between them.
    pub at: String,
    /// What is run.
    pub runs: String,
}

/// Everything of a policy that names a program: sources, hooks, secrets, receivers, playbooks. It is
/// taken from the text, as it stands there.
pub fn runs(policy: &Policy) -> Vec<Runs> {
    let mut found = Vec::new();
    if let Ok(root) = yaml::parse(&policy.text) {
        walk(&root, &mut Vec::new(), &mut found);
    }
    found
}

fn walk(node: &Node, path: &mut Vec<String>, found: &mut Vec<Runs>) {
    let program = is_program(path);
    let at = || clean(&path.join("."));
    let mut add = |runs: String| found.push(Runs { at: at(), runs: clean(&runs) });
    match &node.value {
        Value::Scalar { text, .. } if program || text.contains("${command:") => add(text.clone()),
        Value::Scalar { .. } => {}
        Value::List(words) if program => add(line(words)),
        Value::List(items) => {
            for (at, item) in items.iter().enumerate() {
                path.push(at.to_string());
                walk(item, path, found);
                path.pop();
            }
        }
        Value::Map(entries) => {
            for (key, item) in entries {
                path.push(key.name.clone());
                walk(item, path, found);
                path.pop();
            }
        }
    }
}

/// Text that a terminal shows as it is: nothing of it moves the cursor or hides what stands beside.
fn clean(text: &str) -> String {
    let shown = |c: char| !c.is_control() || c == '\n';
    if text.chars().all(shown) { text.to_owned() } else { text.escape_debug().to_string() }
}

/// Keys whose values are programs, or the directory that programs are taken from.
fn is_program(path: &[String]) -> bool {
    let key = path.last().map(String::as_str).unwrap_or_default();
    ["argv", "pipeline", "shell", "programs"].contains(&key)
}

/// A command line as a person reads it: words of `argv`, or stages of a pipeline.
fn line(words: &[Node]) -> String {
    let is_stage = |node: &Node| matches!(node.value, Value::List(_));
    let word = |node: &Node| {
        if let Value::List(stage) = &node.value {
            return line(stage);
        }
        let text = node.text().unwrap_or_default();
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '"';
        if !text.is_empty() && text.chars().all(plain) {
            text.to_owned()
        } else {
            format!("{text:?}")
        }
    };
    let between = if words.iter().any(is_stage) { " | " } else { " " };
    words.iter().map(word).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::policy::parse;

    const TEXT: &str = "version: 1
stack: shop
tier: development
repositories:
  main:
    s3: { bucket: backups, access_key_id: \"${env:ID}\", secret_access_key: \"${command:pass show s3}\" }
sources:
  dump: { command: { pipeline: [[dump, \"a b\"], [sed, s/a/b/]] } }
jobs:
  daily:
    sources: all
    kind: full
    schedule: { cron: \"0 3 * * *\" }
    keep: { for: 7d }
    hooks: { before: { argv: [touch, /tmp/x] } }
";

    #[test]
    fn a_mark_comes_and_goes_and_leaves_the_text_as_it_was() {
        let text = marked(TEXT, "s3://b/\"odd\"");
        assert!(parse(&text, "x").unwrap_err().render(false).contains("nobody has confirmed"));
        // Another document does not get past the mark.
        for start in ["---\n", "...\n---\n", "%YAML 1.2\n---\n"] {
            assert!(parse(marked(&format!("{start}{TEXT}"), "b"), "x").is_err(), "{start}");
        }
        assert_eq!(unmarked(&text).unwrap(), TEXT);
        assert_eq!(unmarked(TEXT), None);
        assert!(parse(TEXT, "x").is_ok());
    }

    #[test]
    fn everything_that_runs_is_named() {
        let policy = parse(TEXT, "x").unwrap().policies.remove(0);
        let found: Vec<(String, String)> =
            runs(&policy).into_iter().map(|found| (found.at, found.runs)).collect();
        let expected = [
            ("jobs.daily.hooks.before.argv", "touch /tmp/x"),
            ("repositories.main.s3.secret_access_key", "${command:pass show s3}"),
            ("sources.dump.command.pipeline", "dump \"a b\" | sed s/a/b/"),
        ];
        let mut sorted = found.clone();
        sorted.sort();
        assert_eq!(sorted, expected.map(|(at, runs)| (at.to_owned(), runs.to_owned())));
    }
}
