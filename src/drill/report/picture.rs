//! Timeline and trend, as SVG that takes its colours from the page.

use std::fmt::Write as _;

use super::document::seconds;
use super::words::{self, pick};
use crate::drill::evidence::{Earlier, Evidence, StepState};
use crate::policy::Language;

const WIDTH: f64 = 720.0;
const LABEL: f64 = 190.0;
const ROW: f64 = 22.0;

/// Text that is safe in markup.
pub fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut all, c| {
        match c {
            '&' => all.push_str("&amp;"),
            '<' => all.push_str("&lt;"),
            '>' => all.push_str("&gt;"),
            '"' => all.push_str("&quot;"),
            '\'' => all.push_str("&#39;"),
            c => all.push(c),
        }
        all
    })
}

/// What was done when: phases and steps, as bars. And the same in a sentence.
pub fn timeline(evidence: &Evidence, language: Language) -> (String, String) {
    let mut rows: Vec<(String, f64, f64, &str)> = Vec::new();
    let mut at = 0.0;
    for phase in &evidence.phases {
        rows.push((words::phase(language, &phase.name).to_owned(), at, phase.seconds, "phase"));
        for step in evidence.steps.iter().filter(|step| step.phase == phase.name) {
            let (Some(offset), Some(took)) = (step.offset, step.seconds) else { continue };
            let class = if step.state == StepState::Failed { "bad" } else { "step" };
            rows.push((format!("  {}", step.name), offset, took, class));
        }
        at += phase.seconds;
    }
    let total = at.max(0.001);
    let height = ROW * (rows.len() as f64 + 1.5);
    let room = WIDTH - LABEL - 70.0;
    let mut svg = String::new();
    let words: Vec<String> = evidence
        .phases
        .iter()
        .map(|phase| format!("{} {}", words::phase(language, &phase.name), seconds(phase.seconds)))
        .collect();
    let alternative = words.join(", ");
    let _ = write!(
        svg,
        "<svg role=\"img\" viewBox=\"0 0 {WIDTH} {height}\" aria-label=\"{}\">",
        escaped(&alternative)
    );
    for (number, (label, offset, took, class)) in rows.iter().enumerate() {
        let y = ROW * number as f64 + 4.0;
        let x = LABEL + room * offset / total;
        let width = (room * took / total).max(1.5);
        let indent = if *class == "phase" { 0.0 } else { 14.0 };
        let _ = write!(
            svg,
            "<text class=\"{class}-label\" x=\"{indent}\" y=\"{:.1}\">{}</text>\
             <rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"14\" rx=\"2\"/>\
             <text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            y + 11.0,
            escaped(&shortened(label.trim())),
            x + width + 5.0,
            y + 11.0,
            seconds(*took),
        );
    }
    let axis = ROW * rows.len() as f64 + 8.0;
    let _ = write!(
        svg,
        "<line class=\"axis\" x1=\"{LABEL}\" y1=\"{axis:.1}\" x2=\"{:.1}\" y2=\"{axis:.1}\"/>\
         <text class=\"value\" x=\"{LABEL}\" y=\"{:.1}\">0</text>\
         <text class=\"value\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text></svg>",
        LABEL + room,
        axis + 14.0,
        LABEL + room,
        axis + 14.0,
        seconds(total),
    );
    (svg, alternative)
}

/// RTO of drills over time, against the target. And the same in a sentence.
pub fn trend(drills: &[Earlier], target: u64, language: Language) -> (String, String) {
    let measured: Vec<(usize, f64)> =
        drills.iter().enumerate().filter_map(|(at, one)| Some((at, one.rto_seconds?))).collect();
    let alternative = format!(
        "{} {}",
        pick(language, "RTO of the last drills:", "近次演练的 RTO："),
        measured.iter().map(|(_, value)| seconds(*value)).collect::<Vec<_>>().join(", ")
    );
    let (height, left, bottom) = (170.0, 60.0, 140.0);
    let largest = measured.iter().map(|(_, value)| *value).fold(0.001, f64::max);
    // A target far above would press everything else flat: it is written and not drawn then.
    let drawn = target as f64 <= largest * 4.0;
    let top = if drawn { largest.max(target as f64) } else { largest } * 1.1;
    let x = |at: usize| left + (WIDTH - left - 30.0) * at as f64 / (drills.len().max(2) - 1) as f64;
    let y = |value: f64| bottom - (bottom - 15.0) * value / top;
    let mut svg = format!(
        "<svg role=\"img\" viewBox=\"0 0 {WIDTH} {height}\" aria-label=\"{}\">\
         <line class=\"axis\" x1=\"{left}\" y1=\"{bottom}\" x2=\"{:.1}\" y2=\"{bottom}\"/>\
         <text class=\"value\" x=\"0\" y=\"{bottom}\">0</text>\
         <text class=\"value\" x=\"0\" y=\"{:.1}\">{}</text>",
        escaped(&alternative),
        WIDTH - 30.0,
        y(largest) + 4.0,
        seconds(largest),
    );
    if drawn {
        let line = y(target as f64);
        let _ = write!(
            svg,
            "<line class=\"target\" x1=\"{left}\" y1=\"{line:.1}\" x2=\"{:.1}\" y2=\"{line:.1}\"/>",
            WIDTH - 30.0
        );
    }
    let points: Vec<String> =
        measured.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
    let _ = write!(svg, "<polyline class=\"line\" points=\"{}\"/>", points.join(" "));
    for (at, value) in &measured {
        let verdict = drills.get(*at).map_or("", |one| words::verdict(language, one.verdict));
        let class = match drills.get(*at).map(|one| one.verdict) {
            Some(crate::drill::evidence::Verdict::Fail) => "bad",
            _ => "step",
        };
        let _ = write!(
            svg,
            "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"><title>{} {}</title></circle>",
            x(*at),
            y(*value),
            escaped(verdict),
            seconds(*value),
        );
    }
    for at in [0, drills.len().saturating_sub(1)] {
        let Some(one) = drills.get(at) else { continue };
        let anchor = if at == 0 { "start" } else { "end" };
        let _ = write!(
            svg,
            "<text class=\"value\" text-anchor=\"{anchor}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x(at),
            bottom + 18.0,
            one.started.strftime("%Y-%m-%d"),
        );
    }
    svg.push_str("</svg>");
    (svg, alternative)
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= 26 {
        return text.to_owned();
    }
    text.chars().take(25).chain(['…']).collect()
}
