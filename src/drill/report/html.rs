//! The report as a page that needs nothing else: no script, no picture, no font from anywhere.

use std::fmt::Write as _;

use super::document::{Block, document, seconds, target, time};
use super::picture::escaped;
use super::words::{self, pick};
use crate::drill::evidence::{Evidence, Verdict};
use crate::policy::Language;

const STYLE: &str = include_str!("report.css");

/// The page.
pub fn html(evidence: &Evidence, language: Language) -> String {
    let title = format!(
        "{} {} · {}",
        pick(language, "Recovery drill", "恢复演练"),
        evidence.stack,
        evidence.drill
    );
    let class = match evidence.verdict {
        Verdict::Pass => "pass",
        Verdict::PassWithFindings => "findings",
        Verdict::Inconclusive => "inconclusive",
        Verdict::Fail => "fail",
    };
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"{}\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n\
         <p class=\"kind\">{}</p>\n<h1>{}/{}</h1>\n<p class=\"id\">{} · {}</p>\n\
         <p class=\"verdict {class}\">{}</p>\n<p>{}</p>\n",
        pick(language, "en", "zh-CN"),
        escaped(&title),
        pick(language, "Recovery drill", "恢复演练"),
        escaped(&evidence.stack),
        escaped(&evidence.name),
        escaped(&evidence.drill),
        time(evidence.started),
        words::verdict(language, evidence.verdict),
        words::meaning(language, evidence.verdict),
    );
    if let Some(description) = &evidence.description {
        let _ = writeln!(page, "<p>{}</p>", escaped(description));
    }
    numbers(&mut page, evidence, language);
    page.push_str("</header>\n");
    for (number, section) in (1..).zip(document(evidence, language)) {
        let _ = writeln!(page, "<section>\n<h2>{number}. {}</h2>", escaped(&section.title));
        for block in &section.blocks {
            write_block(&mut page, block);
        }
        page.push_str("</section>\n");
    }
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

/// The two numbers that everybody asks for.
fn numbers(page: &mut String, evidence: &Evidence, language: Language) {
    let none = pick(language, "not measured", "未测得");
    let rto = evidence.rto.from_declaration_seconds.map_or_else(|| none.to_owned(), seconds);
    let rpo = evidence.rpo_seconds.map_or_else(|| none.to_owned(), seconds);
    let of = pick(language, "target", "目标");
    let worst = pick(language, "worst of all sources", "各数据源中最差");
    let missed = |missed: bool| if missed { " class=\"missed\"" } else { "" };
    let rpo_missed = evidence.sources.iter().any(|one| one.rpo.met == Some(false));
    let _ = writeln!(
        page,
        "<dl class=\"numbers\"><div{}><dt>RTO</dt><dd>{rto}</dd><dd class=\"of\">{of} {}</dd></div>\
         <div{}><dt>RPO</dt><dd>{rpo}</dd><dd class=\"of\">{of} {}; {worst}</dd></div></dl>",
        missed(evidence.rto.met == Some(false)),
        target(evidence.rto.target_seconds),
        missed(rpo_missed),
        target(evidence.rpo_target_seconds),
    );
}

fn write_block(page: &mut String, block: &Block) {
    match block {
        Block::Text(text) => {
            let _ = writeln!(page, "<p>{}</p>", escaped(text));
        }
        Block::Code(text) => {
            let _ = writeln!(page, "<pre>{}</pre>", escaped(text));
        }
        Block::Picture(svg, _) => {
            let _ = writeln!(page, "<figure>{svg}</figure>");
        }
        Block::Table(head, rows) => {
            page.push_str("<div class=\"wide\"><table>");
            if head.iter().any(|title| !title.is_empty()) {
                page.push_str("<thead><tr>");
                for title in head {
                    let _ = write!(page, "<th scope=\"col\">{}</th>", escaped(title));
                }
                page.push_str("</tr></thead>");
            }
            page.push_str("<tbody>");
            for row in rows {
                page.push_str("<tr>");
                for (at, cell) in row.iter().enumerate() {
                    let (open, close) =
                        if at == 0 { ("<th scope=\"row\">", "</th>") } else { ("<td>", "</td>") };
                    let _ = write!(page, "{open}{}{close}", escaped(cell));
                }
                page.push_str("</tr>");
            }
            page.push_str("</tbody></table></div>\n");
        }
    }
}
