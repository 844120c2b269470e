//! What people read, in English and Chinese.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::alert::{Alert, What};
use crate::policy::{AlertSeverity, Language};

/// How alerts are written.
#[derive(Debug, Clone)]
pub struct Style {
    /// The language.
    pub language: Language,
    /// The zone of times.
    pub zone: TimeZone,
}

/// The most characters of what a program or a server said.
const LONGEST: usize = 500;

impl Style {
    /// One line: what is wrong with what.
    pub fn summary(&self, alert: &Alert) -> String {
        let subject = alert.subject();
        let text = match self.language {
            Language::En => summary_en(alert),
            Language::Zh => summary_zh(alert),
        };
        match (subject.is_empty(), self.language) {
            (true, _) => text.to_owned(),
            (false, Language::En) => format!("{subject}: {text}"),
            (false, Language::Zh) => format!("{subject}：{text}"),
        }
    }

    /// What is known of it.
    pub fn description(&self, alert: &Alert) -> String {
        match self.language {
            Language::En => self.description_en(&alert.what),
            Language::Zh => self.description_zh(&alert.what),
        }
    }

    /// The word for how bad it is, or that it is over.
    pub const fn state(&self, severity: AlertSeverity, resolved: bool) -> &'static str {
        match (self.language, resolved, severity) {
            (Language::En, true, _) => "resolved",
            (Language::En, false, severity) => severity.word(),
            (Language::Zh, true, _) => "已恢复",
            (Language::Zh, false, AlertSeverity::Critical) => "严重",
            (Language::Zh, false, AlertSeverity::Warning) => "警告",
        }
    }

    /// The words before the time it began, the time it ended, and the page that says what to do.
    pub const fn words(&self) -> (&'static str, &'static str, &'static str) {
        match self.language {
            Language::En => ("since ", "until ", "what to do: "),
            Language::Zh => ("开始时间：", "恢复时间：", "处理方法："),
        }
    }

    /// An instant in the zone.
    pub fn time(&self, at: Timestamp) -> String {
        at.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
    }

    fn description_en(&self, what: &What) -> String {
        match what {
            What::RunFailed { run, attempts, why } => {
                let times =
                    if *attempts == 1 { "once".into() } else { format!("{attempts} times") };
                format!(
                    "Run {run} was tried {times}: {}. `backstay logs {run}` shows what it said.",
                    brief(why)
                )
            }
            What::RunMissed { due, why } => {
                format!("It was due at {}: {}.", self.time(*due), brief(why))
            }
            What::ObjectiveMissed { newest: Some(newest), rpo } => format!(
                "All since {} would be lost now; the RPO allows {}.",
                self.time(*newest),
                span_en(*rpo)
            ),
            What::ObjectiveMissed { newest: None, rpo } => format!(
                "There is no backup, and no run that will make one within the RPO of {}.",
                span_en(*rpo)
            ),
            What::ObjectiveAtRisk { newest, rpo, next } => {
                let next = next.map_or("no run is due".to_owned(), |next| {
                    format!("the next run can end at {} at the earliest", self.time(next))
                });
                format!(
                    "The newest recoverable point is of {}, the RPO is {}, and {next}.",
                    self.time(*newest),
                    span_en(*rpo)
                )
            }
            What::RepositoryUnreachable { why } => format!("{}.", brief(why)),
            What::PolicyInvalid { why } => {
                format!("The old policies stay in force. {}", brief(why))
            }
            What::WindowBreaksObjective { windows, begins, missed } => {
                let begins =
                    begins.map_or("never".to_owned(), |at| format!("at {}", self.time(at)));
                format!(
                    "The RPO is missed at {}; because of {} the next run begins {begins}.",
                    self.time(*missed),
                    windows.join(", ")
                )
            }
            What::BackupShrunk { backup, bytes, median } => format!(
                "{backup} holds {}; the median of the 7 days before is {}.",
                size(*bytes),
                size(*median)
            ),
            What::DamageFound { objects } => {
                format!("Objects that are missing or not what they were: {objects}.")
            }
            What::WalArchivingStopped { newest } => {
                format!("The last file that follows without a gap came at {}.", self.time(*newest))
            }
            What::CopyLags { copied, allowed } => {
                let copied = copied.map_or("Nothing was copied yet".to_owned(), |copied| {
                    format!("What was copied ends at {}", self.time(copied))
                });
                format!("{copied}; it may be behind by {}.", span_en(*allowed))
            }
            What::SiteFenced { why } => {
                format!("{}. Nothing is backed up or archived here.", brief(why))
            }
            What::PlaybookSays { run, text, .. } => {
                format!("{} (run {run}: `backstay playbook show {run}`)", brief(text))
            }
            What::PlaybookNotReady { problems: 0, mode, .. } => {
                format!("Nobody looked whether it could be carried out as it is now, mode {mode}.")
            }
            What::PlaybookNotReady { problems, mode, why } => {
                format!("Mode {mode}, missing: {problems}. {}.", brief(why))
            }
            What::DrillFailed { drill, verdict, why } => {
                format!("{drill}: {verdict}. {}. `backstay drill report {drill}`", brief(why))
            }
            What::DrillOverdue { passed, allowed } => {
                let passed = passed.map_or("None has passed yet".to_owned(), |at| {
                    format!("The last that passed began at {}", self.time(at))
                });
                format!(
                    "{passed}; by its schedule there are at most {} between two.",
                    span_en(*allowed)
                )
            }
            What::Test => "Nothing is wrong: somebody tries whether messages arrive.".to_owned(),
        }
    }

    fn description_zh(&self, what: &What) -> String {
        match what {
            What::RunFailed { run, attempts, why } => format!(
                "运行 {run} 已尝试 {attempts} 次：{}。用 `backstay logs {run}` 查看其输出。",
                brief(why)
            ),
            What::RunMissed { due, why } => {
                format!("应于 {} 运行：{}。", self.time(*due), brief(why))
            }
            What::ObjectiveMissed { newest: Some(newest), rpo } => format!(
                "若现在发生故障，{} 之后的数据将全部丢失；RPO 允许 {}。",
                self.time(*newest),
                span_zh(*rpo)
            ),
            What::ObjectiveMissed { newest: None, rpo } => {
                format!("没有任何备份，且在 RPO（{}）之内没有会产生备份的运行。", span_zh(*rpo))
            }
            What::ObjectiveAtRisk { newest, rpo, next } => {
                let next = next.map_or("没有待执行的运行".to_owned(), |next| {
                    format!("下一次运行最早于 {} 结束", self.time(next))
                });
                format!("最新可恢复点为 {}，RPO 为 {}，{next}。", self.time(*newest), span_zh(*rpo))
            }
            What::RepositoryUnreachable { why } => format!("{}。", brief(why)),
            What::PolicyInvalid { why } => format!("旧策略继续生效。{}", brief(why)),
            What::WindowBreaksObjective { windows, begins, missed } => {
                let begins = begins.map_or("永远无法开始".to_owned(), |at| {
                    format!("要到 {} 才能开始", self.time(at))
                });
                format!(
                    "RPO 将于 {} 被突破；由于时间窗口 {}，下一次运行{begins}。",
                    self.time(*missed),
                    windows.join("、")
                )
            }
            What::BackupShrunk { backup, bytes, median } => format!(
                "{backup} 的内容为 {}，此前 7 天的中位数为 {}。",
                size(*bytes),
                size(*median)
            ),
            What::DamageFound { objects } => format!("缺失或内容不符的对象：{objects} 个。"),
            What::WalArchivingStopped { newest } => {
                format!("最后一个连续的 WAL 文件到达于 {}。", self.time(*newest))
            }
            What::CopyLags { copied, allowed } => {
                let copied = copied.map_or("尚未复制任何备份".to_owned(), |copied| {
                    format!("副本只到 {}", self.time(copied))
                });
                format!("{copied}；允许落后 {}。", span_zh(*allowed))
            }
            What::SiteFenced { why } => format!("{}。本站点不再备份或归档。", brief(why)),
            What::PlaybookSays { run, text, .. } => {
                format!("{}（运行 {run}，用 `backstay playbook show {run}` 查看）", brief(text))
            }
            What::PlaybookNotReady { problems: 0, mode, .. } => {
                format!("预案修改后尚未检查能否执行，模式 {mode}。")
            }
            What::PlaybookNotReady { problems, mode, why } => {
                format!("模式 {mode}，缺少 {problems} 项：{}。", brief(why))
            }
            What::DrillFailed { drill, verdict, why } => {
                format!(
                    "{drill}：{verdict}。{}。用 `backstay drill report {drill}` 查看",
                    brief(why)
                )
            }
            What::DrillOverdue { passed, allowed } => {
                let passed = passed.map_or("尚无通过的演练".to_owned(), |at| {
                    format!("上次通过的演练始于 {}", self.time(at))
                });
                format!("{passed}；按计划间隔不应超过 {}。", span_zh(*allowed))
            }
            What::Test => "一切正常：这是一条测试消息。".to_owned(),
        }
    }
}

fn summary_en(alert: &Alert) -> &'static str {
    match &alert.what {
        What::RunFailed { .. } => "the run failed",
        What::RunMissed { .. } => "the run was missed",
        What::ObjectiveMissed { newest: None, .. } => "nothing of it can be restored",
        What::ObjectiveMissed { .. } => "the RPO is missed",
        What::ObjectiveAtRisk { .. } => "the RPO will be missed",
        What::RepositoryUnreachable { .. } => "the repository does not answer",
        What::PolicyInvalid { .. } => "the changed policies are invalid",
        What::WindowBreaksObjective { .. } => "a window will break the RPO",
        What::BackupShrunk { .. } => "the backup is less than half as large as usual",
        What::DamageFound { .. } => "verification found damage",
        What::WalArchivingStopped { .. } => "no WAL is archived any more",
        What::CopyLags { .. } => "the copy is behind",
        What::SiteFenced { .. } => "this site is not the active one",
        What::PlaybookSays { .. } => "a playbook says",
        What::PlaybookNotReady { problems: 0, .. } => "the playbook needs to be verified",
        What::PlaybookNotReady { .. } => "the playbook could not be carried out now",
        What::DrillFailed { .. } => "the drill did not pass",
        What::DrillOverdue { .. } => "no drill has passed for too long",
        What::Test => "a test of Backstay",
    }
}

fn summary_zh(alert: &Alert) -> &'static str {
    match &alert.what {
        What::RunFailed { .. } => "备份任务运行失败",
        What::RunMissed { .. } => "错过了应执行的运行",
        What::ObjectiveMissed { newest: None, .. } => "没有任何可恢复的备份",
        What::ObjectiveMissed { .. } => "RPO 未达标",
        What::ObjectiveAtRisk { .. } => "RPO 即将被突破",
        What::RepositoryUnreachable { .. } => "备份仓库无响应",
        What::PolicyInvalid { .. } => "修改后的策略无效",
        What::WindowBreaksObjective { .. } => "时间窗口将导致 RPO 被突破",
        What::BackupShrunk { .. } => "备份大小不到平时的一半",
        What::DamageFound { .. } => "校验发现损坏",
        What::WalArchivingStopped { .. } => "WAL 归档已停止",
        What::CopyLags { .. } => "异地副本落后",
        What::SiteFenced { .. } => "本站点已被隔离，不是活动站点",
        What::PlaybookSays { .. } => "预案通知",
        What::PlaybookNotReady { problems: 0, .. } => "预案需要重新检查",
        What::PlaybookNotReady { .. } => "预案目前无法执行",
        What::DrillFailed { .. } => "演练未通过",
        What::DrillOverdue { .. } => "演练逾期未通过",
        What::Test => "Backstay 测试消息",
    }
}

/// At most so much of what somebody else said, without the full stop.
fn brief(text: &str) -> String {
    let text = text.trim().trim_end_matches('.');
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}

/// The two largest units of a time: 26 h, 1 h 5 min.
fn parts(seconds: u64, units: [&str; 4]) -> String {
    let all = [seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60];
    let mut shown: Vec<String> = all
        .iter()
        .zip(units)
        .filter(|(number, _)| **number > 0)
        .map(|(number, unit)| format!("{number} {unit}"))
        .collect();
    shown.truncate(2);
    if shown.is_empty() { format!("0 {}", units[3]) } else { shown.join(" ") }
}

fn span_en(seconds: u64) -> String {
    parts(seconds, ["d", "h", "min", "s"])
}

fn span_zh(seconds: u64) -> String {
    parts(seconds, ["天", "小时", "分钟", "秒"])
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(language: Language) -> Style {
        Style { language, zone: TimeZone::get("Asia/Shanghai").unwrap_or(TimeZone::UTC) }
    }

    #[test]
    fn both_languages_say_the_same() {
        let what =
            What::BackupShrunk { backup: "x-full-1".into(), bytes: 1 << 20, median: 3 << 30 };
        let alert = Alert::of("shop", what).source("db");
        let (en, zh) = (style(Language::En), style(Language::Zh));
        assert_eq!(en.summary(&alert), "shop/db: the backup is less than half as large as usual");
        assert_eq!(zh.summary(&alert), "shop/db：备份大小不到平时的一半");
        assert_eq!(
            en.description(&alert),
            "x-full-1 holds 1.0 MiB; the median of the 7 days before is 3.0 GiB."
        );
        assert_eq!(
            zh.description(&alert),
            "x-full-1 的内容为 1.0 MiB，此前 7 天的中位数为 3.0 GiB。"
        );
    }

    #[test]
    fn times_are_in_the_zone_and_spans_in_two_units() {
        let newest = "2026-11-20T19:00:00Z".parse::<Timestamp>().ok();
        let alert = Alert::of("shop", What::ObjectiveMissed { newest, rpo: 93_900 });
        assert_eq!(
            style(Language::Zh).description(&alert),
            "若现在发生故障，2026-11-21 03:00:00 CST 之后的数据将全部丢失；RPO 允许 1 天 2 小时。"
        );
        assert_eq!(span_en(0), "0 s");
        assert_eq!(brief("it broke."), "it broke");
    }
}
