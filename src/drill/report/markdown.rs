//! The report as text.

use std::fmt::Write as _;

use super::document::{Block, document, seconds, target, time};
use super::words::{self, pick};
use crate::drill::evidence::Evidence;
use crate::policy::Language;

/// The text.
pub fn markdown(evidence: &Evidence, language: Language) -> String {
    let none = pick(language, "not measured", "未测得");
    let measured = |value: Option<f64>| value.map_or_else(|| none.to_owned(), seconds);
    let of = pick(language, "target", "目标");
    let mut text = format!(
        "# {} {}/{}\n\n{} · {}\n\n**{}** — {}\n\n",
        pick(language, "Recovery drill", "恢复演练"),
        cell(&evidence.stack),
        cell(&evidence.name),
        evidence.drill,
        time(evidence.started),
        words::verdict(language, evidence.verdict),
        words::meaning(language, evidence.verdict),
    );
    if let Some(description) = &evidence.description {
        let _ = writeln!(text, "{}\n", cell(description));
    }
    let _ = writeln!(
        text,
        "- RTO {} ({of} {})\n- RPO {} ({of} {})",
        measured(evidence.rto.from_declaration_seconds),
        target(evidence.rto.target_seconds),
        measured(evidence.rpo_seconds),
        target(evidence.rpo_target_seconds),
    );
    for (number, section) in (1..).zip(document(evidence, language)) {
        let _ = writeln!(text, "\n## {number}. {}", section.title);
        for block in &section.blocks {
            text.push('\n');
            match block {
                Block::Text(line) | Block::Picture(_, line) => {
                    let _ = writeln!(text, "{}", cell(line));
                }
                Block::Code(lines) => {
                    let _ = writeln!(text, "```\n{lines}\n```");
                }
                Block::Table(head, rows) => {
                    let line = |cells: &[String]| {
                        let cells: Vec<String> = cells.iter().map(|text| cell(text)).collect();
                        format!("| {} |\n", cells.join(" | "))
                    };
                    text.push_str(&line(head));
                    let _ = writeln!(text, "|{}", "---|".repeat(head.len()));
                    for row in rows {
                        text.push_str(&line(row));
                    }
                }
            }
        }
    }
    text
}

/// Text that stays in its cell, and in its line.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|").replace('<', "&lt;")
}
