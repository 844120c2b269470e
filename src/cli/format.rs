//! Numbers, sizes and tables for people.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::policy::Keep;
use crate::telemetry::human::grouped;

pub use crate::telemetry::human::size;

/// `1m 05s`.
pub fn seconds(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1}s"),
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        _ => format!("{}h {:02}m", whole / 3600, whole % 3600 / 60),
    }
}

/// `45 s`, `12 min`, `5 h 30 min`, `2 d 12 h`: the largest unit of which there are two, and what is
/// left in the next one.
pub fn span(seconds: u64) -> String {
    let two = |unit: u64, name: &str, next: u64, rest: &str| match seconds % unit / next {
        0 => format!("{} {name}", seconds / unit),
        left => format!("{} {name} {left} {rest}", seconds / unit),
    };
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => two(60, "min", 1, "s"),
        7200..172_800 => two(3600, "h", 60, "min"),
        _ => two(86_400, "d", 3600, "h"),
    }
}

/// `2026-11-21 02:00:00Z`.
pub fn time(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// `1 file`, `2 files`, `1 234 files`.
pub fn count(number: u64, one: &str) -> String {
    let plural = match (number, one.strip_suffix('y')) {
        (1, _) => one.to_owned(),
        (_, Some(stem)) => format!("{stem}ies"),
        (_, None) => format!("{one}s"),
    };
    format!("{} {plural}", self::number(number))
}

/// `1 234`.
pub fn number(number: u64) -> String {
    grouped(number, ' ')
}

/// `7d, at least 3, 4 weekly`.
pub fn keep(keep: &Keep) -> String {
    let mut parts: Vec<String> = keep.period.iter().map(ToString::to_string).collect();
    if keep.at_least > 0 {
        parts.push(format!("at least {}", keep.at_least));
    }
    for (number, what) in [
        (keep.hourly, "hourly"),
        (keep.daily, "daily"),
        (keep.weekly, "weekly"),
        (keep.monthly, "monthly"),
        (keep.yearly, "yearly"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {what}"));
        }
    }
    parts.join(", ")
}

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// To the left.
    Left,
    /// To the right.
    Right,
}

/// Lines of a table whose columns are as wide as their widest cell.
pub fn table(head: &[(&str, Align)], rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .chain(std::iter::once(head[column].0.chars().count()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (column, cell) in cells.iter().enumerate() {
            let space = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
            match head[column].1 {
                Align::Left => text.extend([cell, space.as_str()]),
                Align::Right => text.extend([space.as_str(), cell]),
            }
            text.push_str("  ");
        }
        text.trim_end().to_owned()
    };
    let titles: Vec<String> = head.iter().map(|(title, _)| (*title).to_owned()).collect();
    std::iter::once(line(&titles)).chain(rows.iter().map(|row| line(row))).collect()
}

/// A text that others wrote, on one line: what would move the cursor of a terminal, or hide what stands there, is
/// shown as what it is.
pub fn plain(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => vec![' '],
        c if c.is_control() => c.escape_default().collect(),
        c => vec![c],
    };
    text.chars().flat_map(shown).collect()
}

/// A word as one would type it in a shell.
pub fn typed(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-:=@+,%{}".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_told_as_they_are() {
        for (seconds, told) in [
            (0, "0 s"),
            (119, "119 s"),
            (900, "15 min"),
            (3661, "61 min 1 s"),
            (7200, "2 h"),
            (100_000, "27 h 46 min"),
            (60 * 3600, "2 d 12 h"),
            (1440 * 3600, "60 d"),
        ] {
            assert_eq!(span(seconds), told);
        }
    }

    #[test]
    fn what_others_wrote_moves_no_cursor() {
        assert_eq!(plain("a\x1b[2K\rb\nc"), "a\\u{1b}[2K\\rb c");
        assert_eq!(plain("日本 é"), "日本 é");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size(256 << 20), "256 MiB");
        assert_eq!(seconds(0.04), "0.0s");
        assert_eq!(seconds(59.6), "1m 00s");
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(1234, "directory"), "1 234 directories");
    }
}
