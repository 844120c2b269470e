//! What a report has in it: sections of text, tables and pictures, from evidence alone.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::chinese::{chinese, chinese_list};
use super::picture;
use super::words::{self, pick};
use crate::drill::evidence::{Evidence, Probe, SourceResult};
use crate::policy::Language;

/// A part of a section.
pub enum Block {
    /// A paragraph.
    Text(String),
    /// A table.
    Table(Vec<String>, Vec<Vec<String>>),
    /// An SVG picture, and what it shows in words.
    Picture(String, String),
    /// Lines to be typed.
    Code(String),
}

/// A section.
pub struct Section {
    /// Its title.
    pub title: String,
    /// What it has.
    pub blocks: Vec<Block>,
}

/// `2026-11-21 02:00:00Z`.
pub fn time(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// `1.2 s`, `3 min 05 s`, `2 h 07 min`.
pub fn seconds(value: f64) -> String {
    let whole = value.round() as u64;
    match whole {
        _ if value < 99.5 => format!("{value:.1} s"),
        0..7200 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A whole number of seconds in its largest units: `15 min`, `1 h`.
pub fn target(value: u64) -> String {
    match value {
        _ if value.is_multiple_of(3600) && value > 0 => format!("{} h", value / 3600),
        _ if value.is_multiple_of(60) && value > 0 => format!("{} min", value / 60),
        _ => format!("{value} s"),
    }
}

/// The beginning of a digest: `evidence.json` has all of it.
fn beginning(digest: &str) -> String {
    digest.chars().take(16).chain(['…']).collect()
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// What a report of this evidence has in it.
pub fn document(evidence: &Evidence, language: Language) -> Vec<Section> {
    let of = Of { evidence, language };
    vec![
        of.findings(),
        of.scope(),
        of.objectives(),
        of.recovery_points(),
        of.steps(),
        of.validations(),
        of.containment(),
        of.people(),
        of.trend(),
        of.controls(),
        of.cleanup(),
        of.integrity(),
        of.sign_off(),
    ]
}

/// Evidence, and the language that it is told in.
pub(super) struct Of<'a> {
    pub(super) evidence: &'a Evidence,
    language: Language,
}

impl Of<'_> {
    pub(super) fn say(&self, english: &str, chinese: &str) -> String {
        pick(self.language, english, chinese).to_owned()
    }

    /// A detail that this program wrote.
    pub(super) fn detail(&self, text: &str) -> String {
        match self.language {
            Language::En => text.to_owned(),
            Language::Zh => chinese(text),
        }
    }

    /// What a check expects or found.
    fn listed(&self, text: &str) -> String {
        match self.language {
            Language::En => text.to_owned(),
            Language::Zh => chinese_list(text),
        }
    }

    pub(super) fn head(&self, titles: &[(&str, &str)]) -> Vec<String> {
        titles.iter().map(|(english, chinese)| self.say(english, chinese)).collect()
    }

    pub(super) fn section(&self, english: &str, chinese: &str, blocks: Vec<Block>) -> Section {
        Section { title: self.say(english, chinese), blocks }
    }

    fn yes(&self, met: Option<bool>) -> String {
        match met {
            Some(true) => self.say("met", "达到"),
            Some(false) => self.say("missed", "未达到"),
            None => self.say("not measured", "未测得"),
        }
    }

    fn findings(&self) -> Section {
        let rows = self.evidence.findings.iter().map(|finding| {
            vec![
                words::severity(self.language, finding.severity).to_owned(),
                words::finding(self.language, &finding.code).to_owned(),
                finding.source.clone().unwrap_or_default(),
                self.detail(&finding.text),
                String::new(),
                String::new(),
            ]
        });
        let head = self.head(&[
            ("Gravity", "程度"),
            ("What", "类别"),
            ("Source", "数据源"),
            ("Finding", "详情"),
            ("Owner", "负责人"),
            ("Due", "期限"),
        ]);
        let rows: Vec<_> = rows.collect();
        let blocks = if rows.is_empty() {
            vec![Block::Text(self.say("Nothing was found.", "没有发现问题。"))]
        } else {
            vec![Block::Table(head, rows)]
        };
        self.section("Findings and deviations", "发现与偏差", blocks)
    }

    fn scope(&self) -> Section {
        let evidence = self.evidence;
        let mut rows = vec![
            vec![
                self.say("Scenario", "场景"),
                words::scenario(self.language, evidence.scenario).to_owned(),
            ],
            vec![
                self.say("Brought back", "恢复范围"),
                words::mode(self.language, evidence.mode).to_owned(),
            ],
            vec![self.say("Sources", "数据源"), self.sources()],
            vec![
                self.say("Recovery point", "恢复点"),
                format!(
                    "{}{}{}{}",
                    words::choice(self.language, evidence.aim.choice),
                    evidence.aim.at.map(|at| format!(": {}", time(at))).unwrap_or_default(),
                    evidence.aim.seed.map(|seed| format!(" (--seed {seed})")).unwrap_or_default(),
                    self.range(),
                ),
            ],
            vec![self.say("Failure", "故障时刻"), time(evidence.failed_at)],
            vec![self.say("Declared and begun", "宣告并开始"), time(evidence.started)],
            vec![self.say("Over", "结束"), time(evidence.ended)],
            vec![
                self.say("Objectives fixed beforehand", "事先确定的目标"),
                format!(
                    "RTO {}, RPO {}",
                    target(evidence.rto.target_seconds),
                    target(evidence.rpo_target_seconds)
                ),
            ],
            vec![self.say("Policy", "策略"), format!("SHA-256 {}", evidence.policy_sha256)],
        ];
        if let Some(playbook) = &evidence.playbook {
            rows.push(vec![self.say("Playbook", "预案"), playbook.clone()]);
        }
        let head = self.head(&[("", ""), ("", "")]);
        self.section(
            "Scope, scenario, objectives",
            "范围、场景与目标",
            vec![Block::Table(head, rows)],
        )
    }

    /// What was meant, and of how much.
    fn sources(&self) -> String {
        let evidence = self.evidence;
        let Some(scope) = &evidence.scope else {
            let names: Vec<&str> = evidence.sources.iter().map(|one| one.source.as_str()).collect();
            return names.join(", ");
        };
        let names = scope.sources.join(", ");
        if (scope.sources.len() as u64) == scope.of {
            return names;
        }
        let (some, all) = (scope.sources.len(), scope.of);
        match self.language {
            Language::En => format!(
                "{names}: {some} of the {all} of the stack; nothing is proven of the others"
            ),
            Language::Zh => {
                format!("{names}：系统共 {all} 个数据源中的 {some} 个；未证明其余数据源")
            }
        }
    }

    /// What an instant was chosen from by chance.
    fn range(&self) -> String {
        let aim = &self.evidence.aim;
        let Some((from, until)) = aim.from.zip(aim.until) else { return String::new() };
        let (from, until) = (time(from), time(until));
        match self.language {
            Language::En => format!(
                ", from {from} to {until}: the same seed over the same backups is the same instant"
            ),
            Language::Zh => {
                format!("，范围 {from} 至 {until}：备份不变时，相同的 seed 得到相同的时刻")
            }
        }
    }

    fn objectives(&self) -> Section {
        let evidence = self.evidence;
        let rto = &evidence.rto;
        let measured =
            |value: Option<f64>| value.map_or_else(|| self.say("not measured", "未测得"), seconds);
        let limit = target(rto.target_seconds);
        let bases = vec![
            vec![
                self.say("from failure", "自故障起"),
                measured(rto.from_failure_seconds),
                limit.clone(),
                String::new(),
            ],
            vec![
                self.say("from declaration", "自宣告起"),
                measured(rto.from_declaration_seconds),
                limit.clone(),
                self.yes(rto.met),
            ],
            vec![
                self.say("technical, without waits", "技术时间（不含等待）"),
                measured(rto.technical_seconds),
                limit,
                String::new(),
            ],
        ];
        let head = self.head(&[("RTO", "RTO"), ("Measured", "实测"), ("Target", "目标"), ("", "")]);
        let phases = evidence.phases.iter().map(|phase| {
            vec![
                words::phase(self.language, &phase.name).to_owned(),
                time(phase.started),
                time(phase.ended),
                seconds(phase.seconds),
            ]
        });
        let phase_head =
            self.head(&[("Phase", "阶段"), ("Began", "开始"), ("Ended", "结束"), ("Took", "耗时")]);
        let rows = evidence.sources.iter().map(|one| {
            vec![
                one.source.clone(),
                measured(one.rpo.seconds),
                target(one.rpo.target_seconds),
                self.yes(one.rpo.met),
                words::basis(self.language, one.rpo.basis).to_owned(),
                one.rpo.recovered_to.map(time).unwrap_or_default(),
                seconds(one.rto.restore_seconds + one.rto.recovery_seconds),
                one.rto
                    .bytes_per_second
                    .map(|rate| format!("{}/s", size(rate as u64)))
                    .unwrap_or_default(),
            ]
        });
        let source_head = self.head(&[
            ("Source", "数据源"),
            ("RPO", "RPO"),
            ("Target", "目标"),
            ("", ""),
            ("Measured by", "测量依据"),
            ("Goes up to", "数据截至"),
            ("Back in", "恢复耗时"),
            ("Rate", "速率"),
        ]);
        let skew = measured(evidence.skew_seconds);
        let skew = format!("{}: {skew}", self.say("Skew between sources", "数据源之间的偏差"));
        let (timeline, alternative) = picture::timeline(evidence, self.language);
        self.section(
            "Recovery time and recovery point, measured",
            "实测恢复时间与恢复点",
            vec![
                Block::Table(head, bases),
                Block::Picture(timeline, alternative),
                Block::Table(phase_head, phases.collect()),
                Block::Table(source_head, rows.collect()),
                Block::Text(skew),
            ],
        )
    }

    fn recovery_points(&self) -> Section {
        let row = |one: &SourceResult| {
            let age = one
                .backup_point
                .map(|at| seconds(self.evidence.started.duration_since(at).as_secs_f64().max(0.0)));
            vec![
                one.source.clone(),
                one.kind.clone(),
                one.backup.clone().unwrap_or_default(),
                one.backup_point.map(time).unwrap_or_default(),
                age.unwrap_or_default(),
                one.chain.len().to_string(),
                size(one.bytes),
                one.digest.as_deref().map(beginning).unwrap_or_default(),
                one.key.clone().unwrap_or_default(),
            ]
        };
        let head = self.head(&[
            ("Source", "数据源"),
            ("Kind", "类型"),
            ("Backup", "备份"),
            ("Recovery point", "恢复点"),
            ("Age", "距今"),
            ("Chain", "链长"),
            ("Size", "大小"),
            ("SHA-256 of SHA256SUMS", "SHA256SUMS 的 SHA-256"),
            ("Key", "密钥"),
        ]);
        let rows = self.evidence.sources.iter().map(row).collect();
        self.section("Recovery points", "恢复点", vec![Block::Table(head, rows)])
    }

    fn steps(&self) -> Section {
        let rows = self.evidence.steps.iter().map(|step| {
            vec![
                words::phase(self.language, &step.phase).to_owned(),
                self.detail(&step.name),
                words::step(self.language, step.state).to_owned(),
                step.offset.map(|at| format!("+{at:.1} s")).unwrap_or_default(),
                step.seconds.map(seconds).unwrap_or_default(),
                step.why.as_deref().map(|why| self.detail(why)).unwrap_or_default(),
            ]
        });
        let head = self.head(&[
            ("Phase", "阶段"),
            ("Step", "步骤"),
            ("State", "状态"),
            ("Began", "开始"),
            ("Took", "耗时"),
            ("Why", "原因"),
        ]);
        let text = self.say(
            "Steps that were not executed are among them: they are not proven by this drill.",
            "其中包括未执行的步骤：本次演练未证明这些步骤。",
        );
        let blocks = vec![Block::Text(text), Block::Table(head, rows.collect())];
        self.section("Steps, and those not executed", "步骤（含未执行）", blocks)
    }

    fn validations(&self) -> Section {
        let evidence = self.evidence;
        let rows = evidence.checks.iter().map(|check| {
            vec![
                check.name.clone(),
                check.source.clone().unwrap_or_default(),
                words::check(self.language, check.state).to_owned(),
                check.asked.clone().unwrap_or_default(),
                check.expected.as_deref().map(|text| self.listed(text)).unwrap_or_default(),
                check.found.as_deref().map(|text| self.listed(text)).unwrap_or_default(),
                seconds(check.seconds),
                check.baseline_seconds.map(seconds).unwrap_or_default(),
            ]
        });
        let head = self.head(&[
            ("Check", "检查"),
            ("Source", "数据源"),
            ("State", "状态"),
            ("Asked", "查询"),
            ("Expected", "预期"),
            ("Found", "结果"),
            ("Took", "耗时"),
            ("Usually", "以往"),
        ]);
        let rows: Vec<_> = rows.collect();
        let mut blocks = Vec::new();
        if rows.is_empty() {
            blocks.push(Block::Text(self.say(
                "The policy has no checks of its own for this drill.",
                "策略没有为本次演练定义检查。",
            )));
        } else {
            blocks.push(Block::Table(head, rows));
        }
        let proven = evidence.sources.iter().flat_map(|one| {
            let proven = one.proven.iter().map(|text| {
                vec![one.source.clone(), self.say("proven", "已证实"), self.detail(text)]
            });
            let not = one.not_proven.iter().map(|text| {
                vec![one.source.clone(), self.say("not proven", "未证实"), self.detail(text)]
            });
            proven.chain(not).collect::<Vec<_>>()
        });
        let head = self.head(&[("Source", "数据源"), ("", ""), ("Always looked at", "固定检查")]);
        blocks.push(Block::Table(head, proven.collect()));
        self.section("Validations", "验证", blocks)
    }

    fn containment(&self) -> Section {
        let environment = &self.evidence.environment;
        let isolation = match (&environment.not_isolated_why, environment.network_isolated) {
            (Some(why), _) => format!(
                "{} {why}",
                self.say("Servers had no network of their own:", "服务器没有独立网络：")
            ),
            (None, true) => self.say(
                "Servers had a network of their own with nothing in it.",
                "服务器运行在空的独立网络中。",
            ),
            (None, false) => self.say("Nothing was started.", "未启动任何服务器。"),
        };
        let mut blocks = vec![Block::Text(isolation)];
        blocks.extend(
            environment
                .containment
                .iter()
                .map(|text| Block::Text(format!("– {}", self.detail(text)))),
        );
        let row = |probe: &Probe| {
            vec![
                probe.address.clone(),
                probe.of.clone(),
                words::reach(self.language, probe.before).to_owned(),
                probe
                    .after
                    .map(|reach| words::reach(self.language, reach).to_owned())
                    .unwrap_or_default(),
            ]
        };
        let rows: Vec<_> = environment.probes.iter().map(row).collect();
        if !rows.is_empty() {
            let head = self.head(&[
                ("Address of production", "生产地址"),
                ("Named by", "出处"),
                ("Before", "之前"),
                ("After", "之后"),
            ]);
            blocks.push(Block::Table(head, rows));
        }
        self.section("Containment", "隔离证明", blocks)
    }

    fn people(&self) -> Section {
        let environment = &self.evidence.environment;
        let rows = vec![
            vec![self.say("Held by", "执行人"), environment.user.clone()],
            vec![self.say("On", "主机"), format!("{} ({})", environment.host, environment.system)],
            vec![self.say("With", "程序"), environment.tool.clone()],
        ];
        let head = self.head(&[("", ""), ("", "")]);
        self.section("People and machine", "人员与环境", vec![Block::Table(head, rows)])
    }

    fn trend(&self) -> Section {
        let evidence = self.evidence;
        let mut all = evidence.earlier.clone();
        all.push(evidence.in_short());
        let rows = all.iter().rev().map(|one| {
            vec![
                one.drill.clone(),
                words::verdict(self.language, one.verdict).to_owned(),
                one.rto_seconds.map(seconds).unwrap_or_default(),
                one.rpo_seconds.map(seconds).unwrap_or_default(),
                size(one.bytes),
            ]
        });
        let head = self.head(&[
            ("Drill", "演练"),
            ("Verdict", "结论"),
            ("RTO", "RTO"),
            ("RPO", "RPO"),
            ("Size", "大小"),
        ]);
        let (trend, alternative) = picture::trend(&all, evidence.rto.target_seconds, self.language);
        let mut blocks = Vec::new();
        if all.len() > 1 {
            blocks.push(Block::Picture(trend, alternative));
        } else {
            blocks.push(Block::Text(
                self.say("This is the first drill of its name.", "这是该名称的首次演练。"),
            ));
        }
        blocks.push(Block::Table(head, rows.collect()));
        self.section("Trend", "趋势", blocks)
    }
}
