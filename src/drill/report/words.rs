//! What is said, in both languages.

use crate::drill::evidence::{
    CheckState, Choice, Mode, Reach, RpoBasis, Scenario, Severity, StepState, Verdict,
};
use crate::policy::Language;

/// The one of two texts that is in the language.
pub const fn pick<'a>(language: Language, english: &'a str, chinese: &'a str) -> &'a str {
    match language {
        Language::En => english,
        Language::Zh => chinese,
    }
}

/// A verdict.
pub const fn verdict(language: Language, verdict: Verdict) -> &'static str {
    let chinese = match verdict {
        Verdict::Pass => "通过",
        Verdict::PassWithFindings => "通过，有待改进",
        Verdict::Inconclusive => "无法判定",
        Verdict::Fail => "未通过",
    };
    pick(language, verdict.words(), chinese)
}

/// What a verdict means.
pub const fn meaning(language: Language, verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => pick(
            language,
            "Everything was brought back in time, and all that was to be looked at is right.",
            "所有内容均按时恢复，所有检查项均正确。",
        ),
        Verdict::PassWithFindings => pick(
            language,
            "Everything was brought back in time and is right; something should be mended.",
            "所有内容均按时恢复且正确；有问题需要改进。",
        ),
        Verdict::Inconclusive => pick(
            language,
            "Something could not be looked at or was not measured: nobody knows whether it is right.",
            "有内容无法检查或未能测量：是否正确尚不可知。",
        ),
        Verdict::Fail => pick(
            language,
            "Something is wrong, missing, too slow or too old.",
            "有内容错误、缺失、恢复过慢或数据过旧。",
        ),
    }
}

/// How grave a finding is.
pub const fn severity(language: Language, severity: Severity) -> &'static str {
    match severity {
        Severity::Note => pick(language, "note", "说明"),
        Severity::Finding => pick(language, "finding", "待改进"),
        Severity::Unproven => pick(language, "not proven", "未证实"),
        Severity::Objective => pick(language, "objective missed", "未达目标"),
        Severity::Failure => pick(language, "failure", "失败"),
    }
}

/// What a finding is about, by its code.
pub fn finding(language: Language, code: &str) -> &str {
    let (english, chinese) = match code {
        "no_identity" => ("No identity", "缺少解密身份"),
        "not_possible" => ("Not possible in a sandbox", "沙箱中无法执行"),
        "repository_lost" => ("Repository not reached", "无法访问仓库"),
        "no_backup" => ("No backup", "没有备份"),
        "no_sandbox" => ("No sandbox", "无法建立沙箱"),
        "left_by_a_killed_drill" => ("Left by a killed drill", "先前被中断的演练遗留"),
        "production_reachable" => ("Production reachable", "可到达生产环境"),
        "not_isolated" => ("No network namespace", "没有独立的网络命名空间"),
        "not_restored" => ("Not restored", "未能恢复"),
        "damaged" => ("Damaged", "损坏"),
        "not_proven" => ("Not proven", "未证实"),
        "not_looked_at" => ("Not looked at", "未能检查"),
        "check_failed" => ("Check failed", "检查未通过"),
        "check_not_run" => ("Check not run", "检查未执行"),
        "check_slower" => ("Check slower than it was", "检查比以往慢"),
        "rto_missed" => ("RTO missed", "未达 RTO"),
        "rpo_missed" => ("RPO missed", "未达 RPO"),
        "rpo_not_measured" => ("RPO not measured", "未测得 RPO"),
        "clock_stepped" => ("Clock set", "时钟被调整"),
        "left_over" => ("Left over", "遗留未清理"),
        "not_signed" => ("Not signed", "未签名"),
        "aborted" => ("Killed or stopped", "被终止或停止"),
        "after_failure" => ("From after the failure", "晚于故障时刻"),
        other => return other,
    };
    match language {
        Language::En => english,
        Language::Zh => chinese,
    }
}

/// What is supposed to have happened.
pub const fn scenario(language: Language, scenario: Scenario) -> &'static str {
    match scenario {
        Scenario::SiteLost => pick(language, "the site is lost", "站点丢失"),
        Scenario::SourceLost => pick(language, "one source is lost", "单个数据源丢失"),
        Scenario::ObjectLost => pick(language, "an object was lost", "单个对象丢失"),
        Scenario::TableDropped => pick(language, "a table was dropped", "数据表被删除"),
        Scenario::LateCorruption => pick(language, "corruption was found late", "迟发现的数据损坏"),
        Scenario::RepositoryLost => pick(language, "the repository is lost", "备份仓库丢失"),
        Scenario::BackstayLost => {
            pick(language, "every Backstay machine is lost", "所有 Backstay 主机丢失")
        }
        Scenario::Ransomware => pick(
            language,
            "ransomware: only what object lock keeps is left",
            "勒索攻击：仅剩对象锁定所保留的内容",
        ),
        Scenario::OldKeys => {
            pick(language, "a backup of keys that were exchanged", "以已更换的旧密钥加密的备份")
        }
    }
}

/// What was brought back.
pub const fn mode(language: Language, mode: Mode) -> &'static str {
    match mode {
        Mode::WholeStack => pick(language, "the whole stack", "整个系统"),
        Mode::Sources => pick(language, "some sources", "部分数据源"),
        Mode::Playbook => pick(language, "what a playbook restores", "预案所恢复的内容"),
    }
}

/// How a recovery point was chosen.
pub const fn choice(language: Language, choice: Choice) -> &'static str {
    match choice {
        Choice::Latest => pick(language, "the newest", "最新"),
        Choice::Random => pick(language, "by chance", "随机"),
        Choice::At => pick(language, "given", "指定时间"),
        Choice::Backup => pick(language, "a given backup", "指定备份"),
    }
}

/// What an RPO was measured by.
pub const fn basis(language: Language, basis: RpoBasis) -> &'static str {
    match basis {
        RpoBasis::Heartbeat => pick(language, "heartbeat", "心跳"),
        RpoBasis::LastCommit => pick(language, "last commit replayed", "最后重放的提交"),
        RpoBasis::Snapshot => pick(language, "instant of the copy", "副本时刻"),
        RpoBasis::None => pick(language, "not measured", "未测得"),
    }
}

/// What became of a step.
pub const fn step(language: Language, state: StepState) -> &'static str {
    match state {
        StepState::Done => pick(language, "done", "完成"),
        StepState::Failed => pick(language, "failed", "失败"),
        StepState::Skipped => pick(language, "skipped", "跳过"),
        StepState::NotExecuted => pick(language, "not executed", "未执行"),
        StepState::Attested => pick(language, "attested", "人工确认"),
    }
}

/// What became of a check.
pub const fn check(language: Language, state: CheckState) -> &'static str {
    match state {
        CheckState::Passed => pick(language, "passed", "通过"),
        CheckState::Failed => pick(language, "failed", "未通过"),
        CheckState::NotRun => pick(language, "not run", "未执行"),
    }
}

/// Whether something was reached.
pub const fn reach(language: Language, reach: Reach) -> &'static str {
    match reach {
        Reach::Unreachable => pick(language, "unreachable", "不可到达"),
        Reach::Reachable => pick(language, "reachable", "可到达"),
        Reach::LocalSocket => {
            pick(language, "a socket of this machine, not cut off", "本机套接字，未隔离")
        }
    }
}

/// A phase.
pub fn phase(language: Language, name: &str) -> &str {
    match name {
        "assess" => pick(language, "assess", "评估"),
        "contain" => pick(language, "contain", "隔离"),
        "recover" => pick(language, "recover", "恢复"),
        "validate" => pick(language, "validate", "验证"),
        "cleanup" => pick(language, "clean up", "清理"),
        "fence" => pick(language, "fence", "隔断"),
        "cutover" => pick(language, "cutover", "切换"),
        "commit" => pick(language, "commit", "提交"),
        "reprotect" => pick(language, "reprotect", "重新保护"),
        other => other,
    }
}
