//! The end of a report: controls, clean-up, integrity, sign-off.

use super::document::{Block, Of, Section};

impl Of<'_> {
    pub(super) fn controls(&self) -> Section {
        let rows = [
            (
                "DORA (EU 2022/2554) Art. 11(6), 12(2), 12(6)",
                "restoration tested; segregated from the source; checks",
                "测试恢复；与来源隔离；核对",
            ),
            (
                "RTS (EU 2024/1774) Art. 25",
                "results documented, deficiencies analysed",
                "记录结果并分析缺陷",
            ),
            (
                "ISO 22301:2019 8.5",
                "exercise with aims, outcomes, actions",
                "有目标、结果与措施的演练",
            ),
            (
                "SOC 2 A1.2, A1.3",
                "recovery tested, integrity of backup data tested",
                "测试恢复与备份数据完整性",
            ),
            (
                "NIST SP 800-53 CP-4, CP-9(1), CP-10",
                "contingency plan and backups tested",
                "测试应急计划与备份",
            ),
        ];
        let rows = rows
            .iter()
            .map(|(control, english, chinese)| {
                vec![(*control).to_owned(), self.say(english, chinese)]
            })
            .collect();
        let head =
            self.head(&[("Control", "条款"), ("What this record may serve for", "本记录可用于")]);
        let text = self.say(
            "Whether a control is met is decided by who is responsible for it.",
            "是否满足条款由负责人判定。",
        );
        let blocks = vec![Block::Table(head, rows), Block::Text(text)];
        self.section("Controls", "对应条款", blocks)
    }

    pub(super) fn cleanup(&self) -> Section {
        let cleanup = &self.evidence.cleanup;
        let mut blocks = vec![Block::Text(if cleanup.complete {
            self.say(
                "Servers, data and sockets of the sandbox are gone: that was looked at.",
                "沙箱中的服务器、数据与套接字均已清除，并已核实。",
            )
        } else {
            self.say("Something was left in the sandbox:", "沙箱中有遗留：")
        })];
        let lines = cleanup.left.iter().chain(&cleanup.found_before);
        blocks.extend(lines.map(|text| Block::Text(format!("– {}", self.detail(text)))));
        self.section("Clean-up", "清理证明", blocks)
    }

    pub(super) fn integrity(&self) -> Section {
        let journal = &self.evidence.journal;
        let text = format!(
            "{} {}; SHA-256 {}",
            self.say("Lines of the journal:", "日志行数："),
            journal.records,
            journal.sha256
        );
        let how = self.say(
            "Without this program, in the directory with these files:",
            "不用本程序，在这些文件所在目录中：",
        );
        let mut code = "sha256sum --check --strict SHA256SUMS".to_owned();
        if self.evidence.says_signed() {
            code.push_str("\nssh-keygen -Y verify -f allowed_signers -I SIGNER -n backstay-drill -s SHA256SUMS.sig < SHA256SUMS");
        }
        let own = format!("backstay drill verify {}", self.evidence.drill);
        let blocks = vec![Block::Text(text), Block::Code(own), Block::Text(how), Block::Code(code)];
        self.section("Integrity", "完整性", blocks)
    }

    pub(super) fn sign_off(&self) -> Section {
        let line = "____________________";
        let row = |english: &str, chinese: &str| {
            vec![self.say(english, chinese), line.to_owned(), line.to_owned(), line.to_owned()]
        };
        let rows = vec![
            row("Held by", "执行人"),
            row("Reviewed by", "复核人"),
            row("Accepted by", "批准人"),
        ];
        let head =
            self.head(&[("", ""), ("Name", "姓名"), ("Date", "日期"), ("Signature", "签字")]);
        self.section("Sign-off", "签署", vec![Block::Table(head, rows)])
    }
}
