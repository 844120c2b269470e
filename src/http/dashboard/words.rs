//! What people read on the pages, in English and Chinese: words, spans, sizes.

use crate::policy::Language;
use crate::state::RunState;
use crate::telemetry::human;

pub use crate::telemetry::human::size;

/// The language of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words(pub Language);

impl Words {
    /// What is asked for by `?lang=`, by the cookie of the last page, or by the browser.
    pub fn of(asked: Option<&str>, remembered: Option<&str>, accepted: Option<&str>) -> Self {
        let known = |text: &str| match text.get(..2)?.to_ascii_lowercase().as_str() {
            "en" => Some(Language::En),
            "zh" => Some(Language::Zh),
            _ => None,
        };
        // A browser names them in the order in which they are wanted; weights only repeat that.
        let accepted = accepted.unwrap_or_default().split(',');
        let language = asked
            .and_then(known)
            .or_else(|| remembered.and_then(known))
            .or_else(|| accepted.map(str::trim).find_map(known));
        Self(language.unwrap_or_default())
    }

    /// One of two.
    pub const fn say(self, en: &'static str, zh: &'static str) -> &'static str {
        match self.0 {
            Language::En => en,
            Language::Zh => zh,
        }
    }

    /// One of two that were made.
    pub fn pick(self, en: impl FnOnce() -> String, zh: impl FnOnce() -> String) -> String {
        match self.0 {
            Language::En => en(),
            Language::Zh => zh(),
        }
    }

    /// As `lang` names it.
    pub const fn code(self) -> &'static str {
        self.say("en", "zh-CN")
    }

    /// The code and the name of the other language, in that language.
    pub const fn other(self) -> (&'static str, &'static str, &'static str) {
        match self.0 {
            Language::En => ("zh", "zh-CN", "中文"),
            Language::Zh => ("en", "en", "English"),
        }
    }

    /// `45 s`, `12 min`, `5 h 30 min`, `2 d 12 h`: the largest unit of which there are two, and what is left in the
    /// next one.
    pub fn span(self, seconds: u64) -> String {
        let units = [(1, "s", "秒"), (60, "min", "分钟"), (3600, "h", "小时"), (86_400, "d", "天")];
        let at = match seconds {
            0..120 => 0,
            120..7200 => 1,
            7200..172_800 => 2,
            _ => 3,
        };
        let (unit, en, zh) = units[at];
        let whole = format!("{} {}", seconds / unit, self.say(en, zh));
        let (next, en, zh) = units[at.saturating_sub(1)];
        match seconds % unit / next {
            0 => whole,
            left => format!("{whole} {left} {}", self.say(en, zh)),
        }
    }

    /// How long something took: `1.5 s`, `1 min 05 s`, `2 h 03 min`.
    pub fn took(self, seconds: f64) -> String {
        let whole = seconds.max(0.0).round() as u64;
        let (h, min, s) = (self.say("h", "小时"), self.say("min", "分"), self.say("s", "秒"));
        match whole {
            _ if seconds < 9.95 => format!("{:.1} {s}", seconds.max(0.0)),
            0..60 => format!("{whole} {s}"),
            60..3600 => format!("{} {min} {:02} {s}", whole / 60, whole % 60),
            _ => format!("{} {h} {:02} {min}", whole / 3600, whole % 3600 / 60),
        }
    }

    /// `1 run`, `3 runs`, `3 次`.
    pub fn count(self, number: u64, one: &str, many: &str, zh: &str) -> String {
        match (self.0, number) {
            (Language::Zh, _) => format!("{} {zh}", grouped(number)),
            (Language::En, 1) => format!("1 {one}"),
            (Language::En, _) => format!("{} {many}", grouped(number)),
        }
    }

    /// The word for what a run is in.
    pub const fn state(self, state: RunState) -> &'static str {
        match state {
            RunState::Waiting => self.say("waiting", "等待"),
            RunState::Running => self.say("running", "运行中"),
            RunState::Succeeded => self.say("succeeded", "成功"),
            RunState::Failed => self.say("failed", "失败"),
            RunState::Skipped => self.say("skipped", "跳过"),
            RunState::Missed => self.say("missed", "错过"),
            RunState::Abandoned => self.say("abandoned", "中止"),
        }
    }

    /// The word for a kind of backup, or for what else a job does.
    pub fn kind(self, kind: &str) -> &str {
        match kind {
            "full" => self.say("full", "全量"),
            "incremental" => self.say("incremental", "增量"),
            "snapshot" => self.say("snapshot", "快照"),
            "copy" => self.say("copy", "复制"),
            "verify" => self.say("verify", "校验"),
            "prune" => self.say("prune", "清理"),
            "sync" => self.say("sync", "同步"),
            "drill" => self.say("drill", "演练"),
            "backup" => self.say("backup", "备份"),
            other => other,
        }
    }
}

/// The class that a state is coloured by.
pub const fn tone(state: RunState) -> &'static str {
    match state {
        RunState::Succeeded => "good",
        RunState::Running => "busy",
        RunState::Failed | RunState::Missed | RunState::Abandoned => "bad",
        RunState::Waiting | RunState::Skipped => "calm",
    }
}

/// `1 234 567`, with spaces that do not break.
pub fn grouped(number: u64) -> String {
    human::grouped(number, '\u{a0}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_the_one_that_is_asked_for() {
        let of = |a, b, c| Words::of(a, b, c).code();
        assert_eq!(of(None, None, None), "en");
        assert_eq!(of(None, None, Some("fr, zh-CN;q=0.8, en;q=0.5")), "zh-CN");
        assert_eq!(of(None, Some("en"), Some("zh")), "en");
        assert_eq!(of(Some("zh"), Some("en"), Some("en")), "zh-CN");
        assert_eq!(of(Some("é"), None, Some("x, ")), "en");
    }

    #[test]
    fn numbers_are_told_as_people_read_them() {
        let words = Words(Language::En);
        assert_eq!(words.span(119), "119 s");
        assert_eq!(words.span(7200), "2 h");
        assert_eq!(words.took(65.2), "1 min 05 s");
        assert_eq!(Words(Language::Zh).span(172_800), "2 天");
        assert_eq!(words.count(1, "run", "runs", "次"), "1 run");
        assert_eq!(grouped(1_234_567), "1\u{a0}234\u{a0}567");
        assert_eq!(grouped(12), "12");
        assert_eq!(size(1536), "1.5 KiB");
    }
}
