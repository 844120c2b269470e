//! What repositories will hold, from what they hold.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::noise;
use crate::status::Site;

fn bytes_in(directory: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let is_directory = entry.file_type().unwrap().is_dir();
        sum += if is_directory { bytes_in(&entry.path()) } else { entry.metadata().unwrap().len() };
    }
    sum
}

fn growth(site: &Site, time: &str, source: &str, repository: &str) -> Value {
    let plan = site.at(time, &["plan", "--growth", "--output", "json"]).json();
    let lines = plan[0]["growth"].as_array().unwrap().clone();
    let is = |line: &&Value| line["source"] == source && line["repository"] == repository;
    lines.iter().find(is).unwrap_or_else(|| panic!("{source} in {repository}: {plan}")).clone()
}

#[test]
fn what_will_be_held_comes_from_what_is() {
    let site = Site::new();
    // A megabyte a day that cannot be compressed.
    for day in 1..=4u64 {
        let name = format!("src/{day}");
        fs::write(site.0.path(&name), noise(day, 1 << 20)).unwrap();
        let time = format!("2026-11-0{day}T03:00:00Z");
        site.at(&time, &["backup", "files", "--job", "daily"]).expect(0);
    }
    site.at("2026-11-04T04:00:00Z", &["copy", "--to", "off"]).expect(0);
    let line = growth(&site, "2026-11-04T05:00:00Z", "files", "main");
    let number = |name: &str| line[name].as_i64().unwrap_or_else(|| panic!("{name}: {line}"));
    // Fulls of 1, 2, 3 and 4 MiB.
    let held = bytes_in(&site.0.path("repo/demo/sources/files/data"));
    let (mib, bytes) = (1i64 << 20, number("bytes"));
    assert_eq!(bytes, held as i64, "all objects, and nothing else");
    assert!((10 * mib..11 * mib).contains(&bytes), "{line}");
    assert!((mib - 100..mib + 100).contains(&number("content_bytes_a_day")), "{line}");
    // `for: 7d` and one a day: 7 of them, or 8 just before one expires; the middle one has 3 MiB.
    assert!((20 * mib..26 * mib).contains(&number("settled_bytes")), "{line}");
    // In a year a full has 4 + 365 MiB.
    let factor = number("year_bytes") as f64 / number("settled_bytes") as f64;
    assert!((91.0..93.0).contains(&factor), "{factor}: {line}");

    let copy = growth(&site, "2026-11-04T05:00:00Z", "files", "off");
    assert_eq!(copy["bytes"], line["bytes"]);
    assert!(copy["settled_bytes"].is_null(), "what a copy keeps is the copy's rule: {copy}");
    let shown = site.at("2026-11-04T05:00:00Z", &["plan", "--growth"]).stdout;
    let row = shown.lines().rfind(|line| line.starts_with("files") && line.contains("main"));
    assert!(row.unwrap().contains("1.0 MiB"), "{shown}");

    // One day is no trend, and a repository that does not answer is said.
    let first = Site::new();
    first.at("2026-11-01T03:00:00Z", &["backup", "files", "--job", "daily"]).expect(0);
    let line = growth(&first, "2026-11-01T05:00:00Z", "files", "main");
    assert!(line["content_bytes_a_day"].is_null() && line["settled_bytes"].is_u64(), "{line}");
    fs::rename(first.0.path("off"), first.0.path("gone")).unwrap();
    let ran = first.at("2026-11-01T05:00:00Z", &["plan", "--growth"]);
    assert!(ran.code != 0 && ran.stderr.contains("off"), "{}: {}", ran.code, ran.stderr);
}
