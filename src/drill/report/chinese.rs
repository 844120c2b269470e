//! What this program itself writes into evidence, in Chinese. Evidence is written once, in English;
//! reports in Chinese translate it as they are made. What servers and people said stays as it is.

/// English with a `{}` for each thing that is named, and Chinese with the number of it.
const PHRASES: &[(&str, &str)] = &[
    // Steps.
    ("choose {}", "选择 {0} 的备份"),
    ("open {}", "打开存储库 {0}"),
    ("make a sandbox", "建立沙箱"),
    ("recover {}", "恢复 {0}"),
    ("look at {}", "检查 {0}"),
    ("nobody is waited for in a sandbox", "沙箱中不等待人员"),
    ("it looks at production, which a sandbox does not reach", "该步骤检查生产环境，沙箱无法到达"),
    ("it acts on production, which a sandbox does not reach", "该步骤操作生产环境，沙箱无法到达"),
    (
        "it needs a StarRocks cluster, and no throwaway one can be started here",
        "需要 StarRocks 集群，此处无法启动临时集群",
    ),
    // Findings.
    (
        "the evidence is not signed: whoever can write to the repository can exchange it",
        "证据未签名：能写入存储库的人可以替换它",
    ),
    (
        "the drill was killed or stopped in phase {}, {} s after it began: nothing is proven by it",
        "演练在{0}阶段、开始 {1} 秒后被终止或停止：未证明任何内容",
    ),
    (
        "the drill was killed or stopped, {} s after it began: nothing is proven by it",
        "演练在开始 {0} 秒后被终止或停止：未证明任何内容",
    ),
    (
        "no identity opens what lies in `{}`: give --identity FILE",
        "没有可打开 `{0}` 内容的解密身份：请用 --identity FILE 指定",
    ),
    (
        "servers of the sandbox had no network of their own: {}; no address of production answered",
        "沙箱中的服务器没有独立网络：{0}；没有生产地址响应",
    ),
    (
        "servers of the sandbox had no network of their own: {}; these answer from here: {}",
        "沙箱中的服务器没有独立网络：{0}；以下地址可从此处到达：{1}",
    ),
    ("reached from the sandbox at its end: {}", "结束时可从沙箱到达：{0}"),
    ("{} is reached from the sandbox: nothing is started", "可从沙箱到达 {0}：未启动任何服务器"),
    ("the clock was set by {} s while the drill went on", "演练期间时钟被调整了 {0} 秒"),
    ("the recovery took {} s, and may take {} s", "恢复耗时 {0} 秒，允许 {1} 秒"),
    ("`{}` took {} s, and may take {} s", "`{0}` 耗时 {1} 秒，允许 {2} 秒"),
    ("{} s at most of `{}` are lost, and {} s may be", "`{1}` 最多丢失 {0} 秒，允许 {2} 秒"),
    ("{} s of `{}` are lost, and {} s may be", "`{1}` 丢失 {0} 秒，允许 {2} 秒"),
    (
        "how much of `{}` is lost was not measured: no commit was replayed",
        "未测得 `{0}` 的丢失量：没有重放任何提交",
    ),
    (
        "what came back is from after the failure: aim before that with `--at`",
        "恢复出的数据晚于故障时刻：请用 `--at` 指定之前的时刻",
    ),
    (
        "check `{}` took {} s, and {} s in earlier drills",
        "检查 `{0}` 耗时 {1} 秒，以往演练为 {2} 秒",
    ),
    ("check `{}` could not be made: {}", "检查 `{0}` 无法执行：{1}"),
    ("check `{}`: {}", "检查 `{0}`：{1}"),
    ("repository `{}`: {}", "存储库 `{0}`：{1}"),
    (
        "drill {} was killed: what it left in {} is removed",
        "演练 {0} 曾被终止：其在 {1} 的遗留已删除",
    ),
    (
        "nobody looked: the next drill in the same directory removes what it left",
        "未经检查：同一目录中的下一次演练会清除遗留",
    ),
    ("process {} ({}) still runs in the sandbox", "进程 {0}（{1}）仍在沙箱中运行"),
    (
        "process {} ({}) was left in the sandbox, and was ended",
        "进程 {0}（{1}）遗留在沙箱中，已被结束",
    ),
    ("{} could not be removed: {}", "无法删除 {0}：{1}"),
    (
        "WAL segment {} is missing: what was changed after it is lost",
        "缺少 WAL 段 {0}：其后的更改已丢失",
    ),
    ("there is no backup of {} in {}", "{1} 中没有 {0} 的备份"),
    ("there is no backup", "没有备份"),
    (
        "no heartbeat is in the copy: does a daemon write it?",
        "副本中没有心跳：是否有守护进程在写入？",
    ),
    (
        "the heartbeat in the copy is {} s older than the copy: nobody wrote one since {}",
        "副本中的心跳比副本早 {0} 秒：自 {1} 起无人写入",
    ),
    ("the heartbeat could not be looked for: {}", "无法查找心跳：{0}"),
    // Scenarios.
    (
        "{} is the newest backup that is locked as a whole: {} objects",
        "{0} 是最新的完整锁定备份：{1} 个对象",
    ),
    ("no backup is locked as a whole: {}", "没有完整锁定的备份：{0}"),
    ("{} would not be left: {}", "{0} 将不会保留：{1}"),
    ("{} of {} objects are not locked, such as {}", "{1} 个对象中有 {0} 个未锁定，例如 {2}"),
    ("{} is the oldest backup of a former key, {}", "{0} 是使用旧密钥 {1} 的最早备份"),
    ("no backup is encrypted to a former key", "没有使用旧密钥加密的备份"),
    ("and {} more", "另有 {0} 项"),
    // What is always looked at.
    ("{} files restored, with the digests of the index", "已恢复 {0} 个文件，摘要与索引一致"),
    ("the stream restored, with the digest of the index", "已恢复数据流，摘要与索引一致"),
    ("a server recovered from it and takes writes", "服务器已由此恢复并可写入"),
    (
        "pg_amcheck found nothing wrong in {} relations of {} databases",
        "pg_amcheck 检查了 {1} 个数据库的 {0} 个关系，未发现问题",
    ),
    (
        "tables and indexes: pg_amcheck comes with PostgreSQL 14",
        "表与索引：pg_amcheck 自 PostgreSQL 14 起提供",
    ),
    ("tables and indexes: pg_amcheck: {}", "表与索引：pg_amcheck：{0}"),
    (
        "`{}`: {} rows in {} tables as they were counted in the dump's snapshot",
        "`{0}`：{2} 张表共 {1} 行，与转储快照中的计数一致",
    ),
    ("{} binary logs replayed, the last of them {}", "已重放 {0} 个二进制日志，最后一个为 {1}"),
    ("integrity_check found nothing wrong in {}", "integrity_check 未在 {0} 中发现问题"),
    ("{} has {} and had {}", "{0} 现有 {1}，原有 {2}"),
    // Checks.
    ("`{}` was not brought back", "`{0}` 未被恢复"),
    ("not everything came back that it may look at", "它可能检查的内容未全部恢复"),
    ("it has no server that takes queries", "没有可查询的服务器"),
    ("it has no files of its own", "没有自己的文件"),
    ("there is no program `{}`", "没有程序 `{0}`"),
    (
        "the policy comes from the repository: its queries, requests and commands are made with --trust-policy",
        "策略来自存储库：其查询、请求和命令须加 --trust-policy 才会执行",
    ),
    ("there are {} files", "共有 {0} 个文件"),
    ("{} files", "{0} 个文件"),
    ("answered {}", "响应 {0}"),
    ("the answer has no `{}` in it: {}", "响应中没有 `{0}`：{1}"),
    ("{}; its output ends with: {}", "{0}；其输出末尾为：{1}"),
    ("`{}` ended with exit status: {}: it said: {}", "`{0}` 以状态 {1} 结束，其输出为：{2}"),
    (
        "`{}` ended with exit status: {}: it said at last: {}",
        "`{0}` 以状态 {1} 结束，其最后输出为：{2}",
    ),
    ("`{}` ended with exit status: {}", "`{0}` 以状态 {1} 结束"),
    ("`{}` ended with {}", "`{0}` 以 {1} 结束"),
    ("the command was ended after {}", "命令在 {0} 后被结束"),
    ("ended with 0", "以 0 结束"),
    ("ends with 0", "以 0 结束"),
    // Containment.
    (
        "servers listen on sockets in a directory of their own, and on no port",
        "服务器只监听各自目录中的套接字，不监听任何端口",
    ),
    (
        "nothing is archived, nothing is streamed, no subscription and no event runs",
        "不归档、不流复制，不运行订阅与事件",
    ),
    (
        "the repository is only read; the evidence is created beside what is there",
        "存储库只读；证据在其旁新建",
    ),
];

/// What stands in lists, one after the other.
const LISTED: &[(&str, &str)] = &[
    ("`{}` with its SHA-256", "`{0}` 及其 SHA-256"),
    ("`{}` in the answer", "响应中有 `{0}`"),
    ("`{}` is missing", "缺少 `{0}`"),
    ("`{}` has {}", "`{0}` 为 {1}"),
    ("at least {} files", "至少 {0} 个文件"),
    ("there are {} files", "共有 {0} 个文件"),
    ("is not `{}`", "不为 `{0}`"),
    ("is `{}`", "为 `{0}`"),
    ("at least {}", "至少 {0}"),
    ("at most {}", "至多 {0}"),
    ("a value", "有值"),
    ("`{}`", "`{0}`"),
];

/// A detail in Chinese, where it is this program's own.
pub fn chinese(text: &str) -> String {
    if let Some(made) = PHRASES.iter().find_map(|phrase| translated(text, *phrase, chinese)) {
        return made;
    }
    text.to_owned()
}

/// What was expected or found by a check, in parts.
pub fn chinese_list(text: &str) -> String {
    let part = |part: &str| {
        let own = |text: &str| text.to_owned();
        LISTED.iter().find_map(|phrase| translated(part, *phrase, own))
    };
    for separator in [", ", "; "] {
        let parts: Vec<Option<String>> = text.split(separator).map(part).collect();
        if let Some(parts) = parts.into_iter().collect::<Option<Vec<String>>>() {
            return parts.join("；");
        }
    }
    chinese(text)
}

/// The Chinese of a text that an English phrase fits, with what is named in it.
fn translated(
    text: &str,
    (english, chinese): (&str, &str),
    inner: impl Fn(&str) -> String,
) -> Option<String> {
    let mut literals = english.split("{}");
    let mut rest = text.strip_prefix(literals.next()?)?;
    let mut named = Vec::new();
    let literals: Vec<&str> = literals.collect();
    for (at, literal) in literals.iter().enumerate() {
        let is_last = at + 1 == literals.len();
        let end = match (is_last, literal.is_empty()) {
            (true, true) => rest.len(),
            (true, false) => rest.strip_suffix(literal)?.len(),
            _ => rest.find(literal)?,
        };
        named.push(&rest[..end]);
        rest = &rest[end + literal.len()..];
    }
    if !rest.is_empty() {
        return None;
    }
    // What is named may have braces in it: it is not looked through again.
    let mut parts: Vec<String> = Vec::new();
    let mut left = chinese;
    while let Some((before, after)) = left.split_once('{') {
        let (number, after) = after.split_once('}')?;
        parts.push(before.to_owned());
        parts.push(inner(named.get(number.parse::<usize>().ok()?)?));
        left = after;
    }
    parts.push(left.to_owned());
    Some(parts.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_programs_own_is_told_in_chinese() {
        assert_eq!(
            chinese("check `orders`: `sh` ended with exit status: 3: it said: no {table}"),
            "检查 `orders`：`sh` 以状态 3 结束，其输出为：no {table}"
        );
        assert_eq!(
            chinese("41 s at most of `db` are lost, and 30 s may be"),
            "`db` 最多丢失 41 秒，允许 30 秒"
        );
        assert_eq!(chinese("recover cluster"), "恢复 cluster");
        assert_eq!(
            chinese(
                "no backup is locked as a whole: b1 would not be left: 2 of 9 objects are not locked, such as x/y"
            ),
            "没有完整锁定的备份：b1 将不会保留：9 个对象中有 2 个未锁定，例如 x/y"
        );
        assert_eq!(chinese("ERROR: relation is gone"), "ERROR: relation is gone");
        assert_eq!(chinese_list("at least 1, is not `x`"), "至少 1；不为 `x`");
        assert_eq!(chinese_list("`a` is missing; there are 2 files"), "缺少 `a`；共有 2 个文件");
        assert_eq!(chinese_list("something else, 2"), "something else, 2");
    }

    #[test]
    fn every_phrase_names_what_its_english_does() {
        for (english, chinese) in PHRASES.iter().chain(LISTED) {
            let count = english.matches("{}").count();
            assert_eq!(chinese.matches('{').count(), count, "{english}");
            for number in 0..count {
                assert!(chinese.contains(&format!("{{{number}}}")), "{english}");
            }
        }
    }
}
