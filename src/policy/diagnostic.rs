//! A problem in a policy and how it is shown.

use std::fmt::Write as _;

use serde::Serialize;

use super::yaml::Place;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The policy is refused.
    Error,
    /// The policy works, but may hurt.
    Warning,
}

/// A problem with its place in a file, ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The file as it was named by the caller.
    pub file: String,
    /// The line, counted from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// The column of [`line`](Self::line), counted from 1 in characters.
    pub column: usize,
    /// What is wrong: a lower-case fragment that names the thing.
    pub message: String,
    /// The line's text with secrets masked; empty where there is none.
    pub snippet: String,
    /// The first marked character of [`snippet`](Self::snippet), counted from 0.
    pub mark_start: usize,
    /// How many characters are marked, at least 1.
    pub mark_length: usize,
    /// What to do now.
    pub hints: Vec<String>,
}

impl Diagnostic {
    /// A diagnostic on a file as a whole.
    pub(super) fn of_file(file: &str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: file.to_owned(),
            line: 0,
            column: 0,
            message: message.into(),
            snippet: String::new(),
            mark_start: 0,
            mark_length: 1,
            hints: Vec::new(),
        }
    }

    /// Adds what to do now.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// A problem as the rules find it: not yet tied to a file, not yet masked.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub severity: Severity,
    pub place: Place,
    pub message: String,
    pub hints: Vec<String>,
}

impl Problem {
    pub(super) fn error(place: Place, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, place, message: message.into(), hints: Vec::new() }
    }

    pub(super) fn warning(place: Place, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, message) }
    }

    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// Widest snippet shown; longer lines are cut around the mark.
const MAX_SNIPPET: usize = 120;

/// Shows a diagnostic in the manner of compilers, with a line break at the end.
///
/// Control characters of the file are shown as `\u{…}`-free placeholders, so that a policy cannot
/// send escape sequences to a terminal. `color` adds ANSI colours and nothing else.
pub fn render(diagnostic: &Diagnostic, color: bool) -> String {
    let paint = Paint { color };
    let (label, code) = match diagnostic.severity {
        Severity::Error => ("error", "1;31"),
        Severity::Warning => ("warning", "1;33"),
    };
    let mut out = String::new();
    let message = printable(&diagnostic.message);
    let _ =
        writeln!(out, "{}{}", paint.with(code, label), paint.with("1", &format!(": {message}")));
    let file = printable(&diagnostic.file);
    let width = diagnostic.line.to_string().len();
    let arrow = paint.with("1;34", "-->");
    if diagnostic.line == 0 {
        let _ = writeln!(out, "{:width$}{arrow} {file}", "");
    } else {
        let (line, column) = (diagnostic.line, diagnostic.column);
        let _ = writeln!(out, "{:width$}{arrow} {file}:{line}:{column}", "");
        snippet(&mut out, diagnostic, width, code, paint);
    }
    for hint in &diagnostic.hints {
        let _ = writeln!(out, "{}: {}", paint.with("1;36", "hint"), printable(hint));
    }
    out
}

/// Shows diagnostics one after another, with an empty line between.
pub fn render_all(diagnostics: &[Diagnostic], color: bool) -> String {
    let parts: Vec<String> = diagnostics.iter().map(|one| render(one, color)).collect();
    parts.join("\n")
}

fn snippet(out: &mut String, diagnostic: &Diagnostic, width: usize, code: &str, paint: Paint) {
    if diagnostic.snippet.trim().is_empty() {
        return;
    }
    let (text, start, length) =
        cut(&diagnostic.snippet, diagnostic.mark_start, diagnostic.mark_length);
    let bar = paint.with("1;34", "|");
    let number = paint.with("1;34", &diagnostic.line.to_string());
    let _ = writeln!(out, "{:width$} {bar}", "");
    let _ = writeln!(out, "{number} {bar} {text}");
    let marks = paint.with(code, &"^".repeat(length));
    let _ = writeln!(out, "{:width$} {bar} {:start$}{marks}", "", "");
}

/// Cuts a long line around its mark; gives the text, the mark's start and its length.
fn cut(line: &str, start: usize, length: usize) -> (String, usize, usize) {
    let chars: Vec<char> = printable(line).trim_end().chars().collect();
    let start = start.min(chars.len());
    if chars.len() <= MAX_SNIPPET {
        let length = length.clamp(1, (chars.len() - start).max(1));
        return (chars.into_iter().collect(), start, length);
    }
    let from = start.saturating_sub(MAX_SNIPPET / 2);
    let until = (from + MAX_SNIPPET).min(chars.len());
    let mut text = String::new();
    let lead = if from > 0 { "…" } else { "" };
    text.push_str(lead);
    text.extend(&chars[from..until]);
    if until < chars.len() {
        text.push('…');
    }
    let start_in_cut = start - from + lead.chars().count();
    (text, start_in_cut, length.clamp(1, (until - start).max(1)))
}

/// The text with control characters and direction marks replaced, one for one.
fn printable(text: &str) -> String {
    text.chars()
        .map(|char| match char {
            '\t' => ' ',
            '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}' => '�',
            char if char.is_control() => '�',
            char => char,
        })
        .collect()
}

#[derive(Clone, Copy)]
struct Paint {
    color: bool,
}

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            file: "superset.yaml".into(),
            line: 12,
            column: 9,
            message: "unknown repository `mian`".into(),
            snippet: "    to: mian".into(),
            mark_start: 8,
            mark_length: 4,
            hints: vec!["did you mean `main`?".into()],
        }
    }

    #[test]
    fn plain_text_reads_like_a_compiler() {
        assert_eq!(
            render(&example(), false),
            "error: unknown repository `mian`\n  --> superset.yaml:12:9\n   |\n12 |     to: mian\n   |         ^^^^\nhint: did you mean `main`?\n"
        );
    }

    #[test]
    fn colour_adds_only_colour() {
        let mut plain = render(&example(), true);
        for code in ["1;31", "1;34", "1;36", "1", "0"] {
            plain = plain.replace(&format!("\u{1b}[{code}m"), "");
        }
        assert_eq!(plain, render(&example(), false));
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        let mut diagnostic = example();
        diagnostic.snippet = "to: \u{1b}[2J\u{202e}".into();
        diagnostic.message = "\u{1b}]0;x".into();
        assert!(!render(&diagnostic, false).contains('\u{1b}'));
    }

    #[test]
    fn long_lines_are_cut_around_the_mark() {
        let mut diagnostic = example();
        diagnostic.snippet = format!("{}HERE{}", "a".repeat(300), "b".repeat(300));
        diagnostic.mark_start = 300;
        let text = render(&diagnostic, false);
        assert!(
            text.contains("HERE") && text.lines().all(|line| line.chars().count() < 140),
            "{text}"
        );
    }
}
