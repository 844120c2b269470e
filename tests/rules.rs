//! The rules and the dashboard that are shipped: read by the programs they are for, and about
//! metrics that there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use backstay::http::metrics::{Kind, METRICS};
use backstay::notify::alert::NAMES;

use crate::notify::part;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn promtool(args: &[&str]) {
    let Some(promtool) = part(&["promtool"], "prometheus") else { return };
    let ran = Command::new(promtool)
        .args(args)
        .current_dir(deploy().join("prometheus"))
        .output()
        .unwrap();
    let said = format!(
        "{}\n{}",
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
    assert!(ran.status.success(), "promtool {args:?}:\n{said}");
}

#[test]
fn prometheus_reads_the_rules_and_each_fires_when_it_should() {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", "rules.yaml"]);
    promtool(&["test", "rules", "rules.test.yaml", "rules.long.test.yaml"]);
}

/// The names of the rules.
fn rules(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_rule_has_a_test_and_every_alert_a_section_that_says_what_to_do() {
    let text = fs::read_to_string(deploy().join("prometheus/rules.yaml")).unwrap();
    let tests = ["rules.test.yaml", "rules.long.test.yaml"]
        .map(|name| fs::read_to_string(deploy().join("prometheus").join(name)).unwrap())
        .concat();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/runbooks.md")).unwrap();
    let sections: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("## ")).map(str::trim).collect();
    let rules = rules(&text);
    assert!(rules.len() >= 15, "{rules:?}");
    for rule in &rules {
        let link = format!("runbook_url: docs/runbooks.md#{}\n", rule.to_lowercase());
        assert!(text.contains(&link), "{rule} does not link its section");
        for what in ["fires", "is quiet"] {
            assert!(tests.contains(&format!("- name: {rule} {what}\n")), "{rule} {what}: no test");
        }
    }
    for name in rules.iter().map(String::as_str).chain(NAMES) {
        assert!(sections.contains(&name), "docs/runbooks.md has no section {name}");
    }
    for section in sections {
        let known = NAMES.contains(&section) || rules.iter().any(|rule| rule == section);
        assert!(known, "docs/runbooks.md has a section {section} that nothing leads to");
    }
}

/// The metrics that an expression names.
fn named(text: &str) -> BTreeSet<String> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices("backstay_")
        .filter(|(at, _)| !text[..*at].ends_with(part))
        .map(|(at, _)| text[at..].chars().take_while(|c| part(*c)).collect())
        .collect()
}

#[test]
fn rules_and_dashboard_ask_for_metrics_that_there_are() {
    let mut known = BTreeSet::new();
    for metric in METRICS {
        known.insert(metric.name.to_owned());
        if metric.kind == Kind::Histogram {
            known.extend(["bucket", "sum", "count"].map(|end| format!("{}_{end}", metric.name)));
        }
    }
    for name in ["prometheus/rules.yaml", "prometheus/rules.test.yaml", "grafana/backstay.json"] {
        let text = fs::read_to_string(deploy().join(name)).unwrap();
        let named = named(&text);
        assert!(named.len() > 5, "{name}");
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{name} asks for {unknown:?}, which there are not");
    }
}

#[test]
fn the_dashboard_is_whole() {
    let text = fs::read_to_string(deploy().join("grafana/backstay.json")).unwrap();
    let board: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = board["panels"].as_array().unwrap();
    assert!(panels.len() >= 10);
    let mut ids = BTreeSet::new();
    let (mut count, mut rules) = (0, String::from("groups:\n- name: x\n  rules:\n"));
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "an id twice: {panel}");
        assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{panel}");
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            let expression = target["expr"].as_str().unwrap();
            // The name of a data source of somebody else's would show nothing.
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{expression}");
            let expression = serde_json::json!(plain(expression));
            let record = format!("  - {{ record: \"x{count}\", expr: {expression} }}\n");
            rules.push_str(&record);
            count += 1;
        }
    }
    // Prometheus reads every expression.
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), rules).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()]);
}

/// An expression with its variables put in.
fn plain(expression: &str) -> String {
    expression.replace("$stack", "s").replace("$__rate_interval", "5m")
}
