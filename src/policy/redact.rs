//! Finds what must not be shown: secrets that were written into a policy by mistake.
//!
//! Every message, hint and line of text goes through a [`Mask`]. It masks too much rather than too
//! little.

use std::ops::Range;

use super::yaml::{Node, Value};
use crate::secret::SecretRef;

/// What stands in the place of a secret.
const STARS: &str = "********";
/// Shorter secrets are masked where they stand, but not wherever the same letters occur.
const MIN_LITERAL: usize = 3;

/// How much of a long line is shown around a problem, in characters.
const WINDOW: usize = 400;

/// The secrets of one text.
pub(super) struct Mask<'a> {
    lines: Vec<&'a str>,
    /// The first character of each line, counted from the start of the text.
    starts: Vec<usize>,
    spans: Vec<Range<usize>>,
    /// Values that hold a secret beside other things.
    partly: Vec<Range<usize>>,
    literals: Vec<String>,
    /// Without a tree, lines are judged by how they look.
    guess: bool,
}

impl<'a> Mask<'a> {
    /// The mask of a text and its tree, if it could be read.
    pub(super) fn new(text: &'a str, root: Option<&Node>) -> Self {
        let lines: Vec<&str> = text.split('\n').map(|line| line.trim_end_matches('\r')).collect();
        let starts = text
            .split('\n')
            .scan(0, |next, line| {
                let start = *next;
                *next += line.chars().count() + 1;
                Some(start)
            })
            .collect();
        let mut mask = Self {
            lines,
            starts,
            spans: Vec::new(),
            partly: Vec::new(),
            literals: Vec::new(),
            guess: root.is_none(),
        };
        if let Some(root) = root {
            mask.walk(root, 0, false);
        }
        mask.literals.sort_by_key(|literal| std::cmp::Reverse(literal.len()));
        mask.literals.dedup();
        mask
    }

    /// A message or hint without the secrets.
    pub(super) fn scrub(&self, message: &str) -> String {
        let mut message = message.to_owned();
        for literal in &self.literals {
            message = message.replace(literal.as_str(), STARS);
        }
        mask_patterns(&message)
    }

    /// Line `number` (from 1) without the secrets, and where column `column` (from 1) of the text
    /// is in it (from 0).
    pub(super) fn line(&self, number: usize, column: usize) -> (String, usize) {
        let Some(line) = number.checked_sub(1).and_then(|index| self.lines.get(index)) else {
            return (String::new(), 0);
        };
        if self.guess && self.looks_secret(number - 1) {
            let shown = mask_line(&self.scrub(line));
            let mark = (column - 1).min(shown.chars().count());
            return if line.len() > WINDOW { (STARS.to_owned(), 0) } else { (shown, mark) };
        }
        // Of a line of a megabyte a window is enough, and more would be a way to exhaust memory.
        let (skip, cut) = match column.checked_sub(WINDOW / 2) {
            Some(skip) if line.len() > WINDOW => (skip, true),
            _ => (0, line.len() > WINDOW),
        };
        let start = self.starts[number - 1] + skip;
        // What a window cuts through is no longer known by its look: all that holds a secret goes.
        let partly = self.partly.iter().filter(|_| cut);
        let spans: Vec<&Range<usize>> = self
            .spans
            .iter()
            .chain(partly)
            .filter(|span| span.end > start && span.start < start + WINDOW)
            .collect();
        let mut shown = String::from(if skip > 0 { "…" } else { "" });
        let mut mark = None;
        let mut masked_before = false;
        for (offset, char) in line.chars().skip(skip).take(WINDOW).enumerate() {
            let masked = spans.iter().any(|span| span.contains(&(start + offset)));
            if skip + offset + 1 == column {
                let inside = masked && masked_before;
                mark = Some(shown.chars().count() - if inside { STARS.len() } else { 0 });
            }
            match (masked, masked_before) {
                (true, false) => shown.push_str(STARS),
                (true, true) => {}
                (false, _) => shown.push(char),
            }
            masked_before = masked;
        }
        let mark = mark.unwrap_or_else(|| shown.chars().count());
        let shown = self.scrub(&shown);
        let mark = mark.min(shown.chars().count());
        (shown, mark)
    }

    fn walk(&mut self, node: &Node, depth: usize, secret: bool) {
        match &node.value {
            Value::Scalar { text, .. } => {
                if (secret && SecretRef::parse(text).is_none()) || holds_key_material(text) {
                    self.hide(node, text);
                } else {
                    let secrets = secrets_within(text);
                    if !secrets.is_empty() {
                        self.partly.push(node.place.start..node.place.end);
                    }
                    self.literals.extend(secrets);
                }
            }
            Value::List(items) => items.iter().for_each(|item| self.walk(item, depth, secret)),
            Value::Map(entries) => {
                for (key, value) in entries {
                    let inner = secret
                        || match &value.value {
                            // Sources and jobs may well be called `secrets` or `identity`.
                            Value::Map(_) if depth < 2 => false,
                            Value::Map(_) => {
                                CERTAIN.contains(&key.name.as_str())
                                    || (key.name == "secrets" && depth == 2)
                            }
                            _ => is_secret_name(&key.name) || value.text().is_some_and(is_robot),
                        };
                    if holds_key_material(&key.name) {
                        self.literals.push(key.name.clone());
                    }
                    self.walk(value, depth + 1, inner);
                }
            }
        }
    }

    fn hide(&mut self, node: &Node, text: &str) {
        self.spans.push(node.place.start..node.place.end);
        for part in std::iter::once(text).chain(text.lines()).map(str::trim) {
            if part.chars().count() >= MIN_LITERAL {
                self.literals.push(part.to_owned());
            }
        }
    }

    /// Whether a line of a text that could not be read may hold a secret: by its own key, or as
    /// the continuation of a line that does.
    fn looks_secret(&self, index: usize) -> bool {
        let indent = |line: &str| line.len() - line.trim_start().len();
        let mut depth = indent(self.lines[index]);
        if names_secret(self.lines[index]) {
            return true;
        }
        for line in self.lines[..index].iter().rev().filter(|line| !line.trim().is_empty()) {
            if indent(line) < depth {
                depth = indent(line);
                if names_secret(line) {
                    return true;
                }
            }
        }
        false
    }
}

/// Whether it is the address of a robot: whoever has it writes to the group.
fn is_robot(text: &str) -> bool {
    let marks = ["access_token=", "?key=", "&key=", "/bot/v2/hook/", "/bot/hook/"];
    text.contains("://") && marks.iter().any(|mark| text.contains(mark))
}

/// Keys whose every value is secret, whatever its shape.
const CERTAIN: [&str; 7] = [
    "access_key_id",
    "secret_access_key",
    "session_token",
    "writer_identity",
    "identity",
    "password",
    "passphrase",
];

/// Whether a key or an environment variable of this name holds a secret, by the look of it.
pub(super) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    if CERTAIN.contains(&name.as_str()) {
        return true;
    }
    // These name a place or a public half.
    if ["_file", "_path", "_dir", "_id", "_url", "_type", "_name"]
        .iter()
        .any(|end| name.ends_with(end))
        || ["repository_key", "public_key", "pgpassfile"].contains(&name.as_str())
    {
        return false;
    }
    [
        "secret",
        "password",
        "passwd",
        "passphrase",
        "token",
        "credential",
        "private",
        "apikey",
        "authorization",
    ]
    .iter()
    .any(|part| name.contains(part))
        || ["_key", "_pass", "_pwd", "_pw"].iter().any(|end| name.ends_with(end))
        || ["key", "pass", "pwd", "pgpass"].contains(&name.as_str())
}

/// Whether a variable or header of this name holds a secret: narrower than [`is_secret_name`],
/// because it decides what is refused and not only what is masked.
pub(super) fn names_a_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let name = name.trim_end_matches(|char: char| char.is_ascii_digit() || char == '_');
    let ends = [
        "secret",
        "password",
        "passwd",
        "passphrase",
        "token",
        "credential",
        "credentials",
        "authorization",
        "apikey",
        "_key",
        "_pass",
        "_pwd",
        "_pw",
    ];
    is_secret_name(name) && (ends.iter().any(|end| name.ends_with(end)) || CERTAIN.contains(&name))
}

/// Secrets inside a longer text: `password=…` of a connection, `user:password@` of a URL.
pub(super) fn secrets_within(text: &str) -> Vec<String> {
    let mut found: Vec<String> =
        ranges_within(text).into_iter().map(|range| text[range].to_owned()).collect();
    found.retain(|secret| secret.chars().count() >= MIN_LITERAL);
    found
}

/// Whether a text has a secret inside, such as `password=…`.
pub(super) fn has_secret_within(text: &str) -> bool {
    !ranges_within(text).is_empty() || holds_key_material(text)
}

fn ranges_within(text: &str) -> Vec<Range<usize>> {
    // Same byte positions as `text`: only ASCII is changed.
    let lower = text.to_ascii_lowercase();
    let mut ranges = Vec::new();
    for marker in ["password=", "passwd=", "_pwd=", "_pass=", "_token=", "_secret=", "_key="] {
        for (at, _) in lower.match_indices(marker) {
            let start = at + marker.len();
            let end = start + value_length(&text[start..]);
            let value = &text[start..end];
            let reference =
                value.starts_with('$') || value.starts_with("'$") || value.starts_with("\"$");
            if !reference && !value.trim_matches(['\'', '"']).is_empty() {
                ranges.push(start..end);
            }
        }
    }
    ranges.extend(password_in_url(text));
    ranges
}

/// The length of a value of a `key=value` list: to the closing quote, or to white space.
fn value_length(text: &str) -> usize {
    match text.chars().next() {
        Some(quote @ ('\'' | '"')) => {
            text[1..].find(quote).map_or(text.len(), |closing| closing + 2)
        }
        _ => text
            .find(|char: char| char.is_whitespace() || "&,;}'\"".contains(char))
            .unwrap_or(text.len()),
    }
}

fn password_in_url(text: &str) -> Option<Range<usize>> {
    let start = text.find("://")? + 3;
    let authority = &text[start..];
    let authority = &authority[..authority
        .find(|char: char| char == '/' || char.is_whitespace())
        .unwrap_or(authority.len())];
    let at = authority.rfind('@')?;
    let colon = authority[..at].find(':')?;
    let password = &authority[colon + 1..at];
    let literal = !password.is_empty() && !password.starts_with('$');
    literal.then(|| start + colon + 1..start + at)
}

/// Whether a text is, or holds, the secret half of a key pair.
pub(super) fn holds_key_material(text: &str) -> bool {
    text.to_ascii_uppercase().contains("AGE-SECRET-KEY-") || text.contains("PRIVATE KEY-----")
}

/// Masks what is secret by its own look, wherever it stands.
fn mask_patterns(text: &str) -> String {
    let mut text = text.to_owned();
    let mut ranges = ranges_within(&text);
    if let Some(start) = text.to_ascii_uppercase().find("AGE-SECRET-KEY-") {
        let end = text[start..]
            .find(|char: char| !char.is_ascii_alphanumeric() && char != '-')
            .map_or(text.len(), |length| start + length);
        ranges.push(start..end);
    }
    ranges.sort_by_key(|range| std::cmp::Reverse(range.start));
    let mut floor = text.len();
    for range in ranges {
        if range.end <= floor {
            floor = range.start;
            if &text[range.clone()] != STARS {
                text.replace_range(range, STARS);
            }
        }
    }
    text
}

/// Whether a line of unread YAML has a key with a secret name.
fn names_secret(line: &str) -> bool {
    line.split(['{', ',', ' ', '\t', '"', '\'', '-', '[', '?'])
        .filter_map(|word| word.split_once(':').map(|(key, _)| key).or(word.strip_suffix(':')))
        .any(|key| is_secret_name(key) || key == "secrets")
        || has_secret_within(line)
        || has_broken_address(line)
        || is_robot(line)
}

/// Whether an address goes on after a colon with something that is not a port, as it does when it
/// was cut within a password.
fn has_broken_address(line: &str) -> bool {
    let authority = line.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', ' ', '"']).next().unwrap_or_default();
    let tail = authority.split_once(':').map_or("", |(_, tail)| tail);
    tail.starts_with(|char: char| !char.is_ascii_digit())
}

/// Keeps the key at the start of a line and masks all that follows.
fn mask_line(line: &str) -> String {
    let indent = line.len() - line.trim_start().len();
    match line.find(':') {
        Some(colon)
            if !line[colon + 1..].trim().is_empty()
                && is_secret_name(line[indent..colon].trim()) =>
        {
            format!("{}: {STARS}", &line[..colon])
        }
        Some(colon) if line[colon + 1..].trim().is_empty() => line.to_owned(),
        _ => format!("{}{STARS}", &line[..indent]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_names_are_known_by_their_look() {
        for name in [
            "PGPASSWORD",
            "MYSQL_PWD",
            "REDASH_COOKIE_SECRET",
            "SECRET_KEY",
            "API_TOKEN",
            "secret_access_key",
            "DB_PASS",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in
            ["PGUSER", "PGPASSFILE", "TOKEN_FILE", "repository_key", "path", "keep", "MONKEY"]
        {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn secrets_inside_text_are_found() {
        for text in [
            "host=db password=hunter2 user=x",
            "password='hunter2'",
            "postgresql://u:hunter2@db/x",
            "PGPASSWORD=hunter2 pg_dump",
        ] {
            let found = secrets_within(text);
            assert!(found.iter().any(|secret| secret.contains("hunter2")), "{text}");
            assert!(!mask_patterns(text).contains("hunter2"), "{text}");
        }
        for text in [
            "host=db password=${env:PW}",
            "postgresql://u@db/x",
            "password=",
            "postgresql://u:${env:PW}@db",
        ] {
            assert!(secrets_within(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn text_that_cannot_be_read_is_masked_by_its_look() {
        let text = "a: {\n  secret_access_key: \"hunter2\n  more: x\nsecrets:\n  A: hunter3\n";
        let mask = Mask::new(text, None);
        for number in 1..=5 {
            assert!(!mask.line(number, 1).0.contains("hunter"), "line {number}");
        }
    }
}
