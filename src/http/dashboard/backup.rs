//! A backup: what it is, what it needs, how it was proven.

use jiff::Timestamp;

use super::finder::Known;
use super::html::{Html, address, html};
use super::page::{Page, Scene, mark, table};
use super::words::size;
use crate::archive::manifest::Manifest;
use crate::error::{Error, Result};
use crate::id::BackupId;
use crate::state::{ProofDepth, ProofResult, State};
use crate::store::Pin;

/// A manifest does not change; whether it is pinned may.
const AGE: u64 = 60;

/// Segments in the table.
const SHOWN: usize = 200;

/// The page.
pub fn page(
    scene: &Scene<'_>,
    state: &State,
    (repository, stack, source, id): (&str, &str, &str, &str),
) -> Result<Page> {
    let missing = || {
        Error::not_found(format!("there is no backup {id} of {stack}/{source} in {repository}"))
            .hint("Recovery points lists those that there are")
    };
    let policy = scene.policy(stack).ok_or_else(missing)?;
    // What becomes part of a command line is what the policies name, and an id.
    let known = policy.sources.contains_key(source) && policy.repositories.contains_key(repository);
    if !known || BackupId::parse(id).is_err() {
        return Err(missing());
    }
    let name = format!("{stack}/{source}@{id}");
    match scene.find(&["show", "--repository", repository, "--", &name], AGE, None) {
        Known::Reading => Ok(Page::new("recovery-points", id, scene.reading()).live(2)),
        Known::Failed(error) => Err(error),
        Known::Found(found, failed) => {
            let manifest: Manifest =
                serde::Deserialize::deserialize(&*found.value).map_err(|error| {
                    Error::damaged("what `show` tells cannot be read").with_source(error)
                })?;
            let pin = serde::Deserialize::deserialize(&found.value["pin"]).ok();
            let mut body = lead(scene, &manifest, repository, pin.as_ref());
            body.push(&facts(scene, &manifest, repository));
            body.push(&proofs(scene, state, &manifest)?);
            body.push(&segments(scene, &manifest));
            body.push(&by_hand(scene, &manifest, repository));
            body.push(&scene.as_of(found.at, failed.as_ref()));
            Ok(Page::new("recovery-points", id, body))
        }
    }
}

fn lead(scene: &Scene<'_>, manifest: &Manifest, repository: &str, pin: Option<&Pin>) -> Html {
    let query = [("stack", manifest.stack.as_str()), ("source", manifest.source.as_str())];
    let mut lead = html(
        "<p class=\"lead\">{} · <a href=\"{}\">{}/{}</a> · {}</p>",
        &[
            &scene.words.kind(&manifest.kind.to_string()),
            &address(&["recovery-points"], &query),
            &manifest.stack,
            &manifest.source,
            &repository,
        ],
    );
    if let Some(tainted) = &manifest.tainted {
        let text = scene.words.pick(
            || format!("The server itself had {} damaged pages in {} files when this was taken: it protects nothing in them.", tainted.pages, tainted.files),
            || format!("备份时服务器本身有 {} 个文件中的 {} 个损坏页。", tainted.files, tainted.pages),
        );
        lead.add("<p class=\"note bad\">{}</p>", &[&text]);
    }
    if let Some(pin) = pin {
        lead.add(
            "<p class=\"note\">{} {} ({}). {}</p>",
            &[
                &scene.say(
                    "Pinned: it stays until somebody unpins it. Since",
                    "已固定，保留到取消固定为止。开始于",
                ),
                &scene.when(pin.created),
                &pin.by.host,
                &pin.reason,
            ],
        );
    }
    lead
}

fn facts(scene: &Scene<'_>, manifest: &Manifest, repository: &str) -> Html {
    let mut list = Html::default();
    let mut fact = |name: &'static str, value: Html| {
        list.add("<div><dt>{}</dt><dd>{}</dd></div>", &[&name, &value]);
    };
    let counts = &manifest.counts;
    for point in &manifest.recovery_points {
        let position = point.lsn.zip(point.timeline).map(|(lsn, timeline)| {
            html(
                " <small>{} {} {}</small>",
                &[&lsn.to_string(), &scene.say("of timeline", "时间线"), &timeline],
            )
        });
        fact(
            scene.say("Recovery point", "恢复点"),
            html("{}{}", &[&scene.when(point.time), &position]),
        );
    }
    fact(
        scene.say("Taken", "备份时间"),
        html("{} – {}", &[&scene.time(manifest.start), &scene.time(manifest.end)]),
    );
    let took = manifest.end.duration_since(manifest.start).as_secs_f64();
    fact(scene.say("Took", "耗时"), html("{}", &[&scene.words.took(took)]));
    fact(
        scene.say("Content", "内容"),
        html(
            "{} <small>{}</small>",
            &[&size(counts.bytes), &scene.words.count(counts.files, "file", "files", "个文件")],
        ),
    );
    fact(
        scene.say("New in it", "其中新增"),
        html(
            "{} <small>{}</small>",
            &[
                &size(counts.new_bytes),
                &scene.words.count(counts.new_files, "file", "files", "个文件"),
            ],
        ),
    );
    fact(
        scene.say("Added to the repository", "新增存储"),
        html("{}", &[&size(counts.stored_bytes)]),
    );
    fact(
        scene.say("Needed to restore it", "恢复所需"),
        html("{}", &[&size(manifest.stored_total())]),
    );
    let base = manifest.base.as_ref().map_or_else(
        || html("{}", &[&scene.say("nothing", "无")]),
        |base| {
            let path = ["backups", repository, &manifest.stack, &manifest.source, base.as_str()];
            html("<a href=\"{}\"><code>{}</code></a>", &[&address(&path, &[]), &base.to_string()])
        },
    );
    fact(scene.say("Based on", "基于"), base);
    if let Some(wal) = &manifest.wal {
        let count = wal.segments().count() as u64;
        let text = scene.words.count(count, "segment", "segments", "个段");
        fact(
            scene.say("Needs WAL", "所需 WAL"),
            html(
                "{} <small>{} {}</small>",
                &[&text, &scene.say("of cluster", "集群"), &wal.system_id],
            ),
        );
    }
    if let Some(server) = &manifest.server {
        fact(scene.say("Server", "服务器"), html("{}", &[server]));
    }
    let remarks = counts.changed + counts.vanished + counts.skipped;
    if remarks > 0 {
        let text = scene.words.pick(
            || {
                format!(
                    "{} changed while read, {} vanished, {} left out",
                    counts.changed, counts.vanished, counts.skipped
                )
            },
            || {
                format!(
                    "{} 个读取时变化，{} 个消失，{} 个跳过",
                    counts.changed, counts.vanished, counts.skipped
                )
            },
        );
        fact(scene.say("Remarks", "备注"), html("{}", &[&text]));
    }
    let key = manifest.encryption.as_ref().map_or_else(
        || html("{}", &[&scene.say("none", "无")]),
        |encryption| html("<code>{}</code>", &[&encryption.key]),
    );
    fact(scene.say("Encrypted to the key", "加密密钥"), key);
    let job = manifest.job.as_ref().map_or_else(
        || html("{}", &[&scene.say("by hand", "手动")]),
        |job| {
            html(
                "<a href=\"{}\">{}</a>",
                &[&address(&["runs"], &[("stack", &manifest.stack), ("job", job)]), job],
            )
        },
    );
    fact(scene.say("Job", "任务"), job);
    fact(scene.say("Run", "运行"), html("<code>{}</code>", &[&manifest.run]));
    fact(
        scene.say("Written by", "写入者"),
        html("{} <small>{}</small>", &[&manifest.writer.host, &manifest.writer.tool]),
    );
    html("<dl>{}</dl>", &[&list])
}

/// How what it needs was proven, from what verifications of this machine remember.
fn proofs(scene: &Scene<'_>, state: &State, manifest: &Manifest) -> Result<Html> {
    let source = manifest.address().to_string();
    let objects: std::collections::BTreeSet<&str> =
        manifest.objects().map(|(path, ..)| path).collect();
    let all = state.proofs_of(&source)?;
    let own: Vec<_> = all.iter().filter(|proof| objects.contains(proof.object.as_str())).collect();
    let restored = state
        .recoveries_of(&source)?
        .into_iter()
        .rfind(|one| one.backup == manifest.backup.as_str());
    let mut lines = Html::default();
    for depth in [ProofDepth::Stored, ProofDepth::Content] {
        let deep: Vec<_> = own.iter().filter(|proof| proof.depth == depth).collect();
        let oldest: Option<Timestamp> = deep.iter().map(|proof| proof.proven_at).min();
        let damaged = deep.iter().filter(|proof| proof.result == ProofResult::Damaged).count();
        let Some(oldest) = oldest else { continue };
        let word = if damaged > 0 {
            let text =
                scene.words.pick(|| format!("{damaged} damaged"), || format!("{damaged} 个损坏"));
            mark("bad", &text)
        } else {
            mark("good", scene.say("sound", "完好"))
        };
        let names: std::collections::BTreeSet<&str> =
            deep.iter().map(|proof| proof.object.as_str()).collect();
        let of = scene.words.pick(
            || format!("{} of {} objects", names.len(), objects.len()),
            || format!("{} / {} 个对象", names.len(), objects.len()),
        );
        lines.add(
            "<li>{} {} · {} · {} {}</li>",
            &[
                &super::coverage::depth(scene, depth.word()),
                &word,
                &of,
                &scene.say("oldest", "最早"),
                &scene.when(oldest),
            ],
        );
    }
    if let Some(one) = restored {
        let tone = if one.verdict == "proven" { "good" } else { "warn" };
        let verdict = match one.verdict.as_str() {
            "proven" => scene.say("proven", "已证明"),
            "inconclusive" => scene.say("inconclusive", "无结论"),
            _ => scene.say("damaged", "损坏"),
        };
        lines.add(
            "<li>{} {} · {} {} · {}</li>",
            &[
                &scene.say("restored", "恢复验证"),
                &mark(tone, verdict),
                &scene.say("took", "耗时"),
                &scene.words.took(one.seconds()),
                &scene.when(one.at),
            ],
        );
    }
    if lines.is_empty() {
        lines.add(
            "<li class=\"quiet\">{} <code>backstay verify {}@{}</code></li>",
            &[
                &scene.say(
                    "Never, as far as this machine remembers. To do:",
                    "本机没有验证记录。处理：",
                ),
                &source,
                &manifest.backup.to_string(),
            ],
        );
    }
    Ok(html(
        "<h2>{}</h2><ul class=\"plain\">{}</ul>",
        &[&scene.say("How it was proven", "验证情况"), &lines],
    ))
}

fn segments(scene: &Scene<'_>, manifest: &Manifest) -> Html {
    let own = format!("data/{}/", manifest.backup);
    let rows: Html = manifest
        .segments
        .iter()
        .take(SHOWN)
        .map(|segment| {
            let older = !segment.path.starts_with(&own);
            let live = segment.live.saturating_mul(100).checked_div(segment.content).unwrap_or(100);
            html(
                "<tr><th scope=\"row\"><code>{}</code></th><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}%</td></tr>",
                &[
                    &segment.path.trim_start_matches("data/"),
                    &if older { scene.say("of an older backup", "来自更早的备份") } else { scene.say("its own", "自身") },
                    &size(segment.size),
                    &live,
                ],
            )
        })
        .collect();
    if rows.is_empty() {
        return rows;
    }
    let count = manifest.segments.len();
    let more = count.saturating_sub(SHOWN);
    let more = (more > 0).then(|| {
        let text = scene.words.pick(|| format!("and {more} more"), || format!("还有 {more} 个"));
        html("<p class=\"quiet\">{}</p>", &[&text])
    });
    let summary = scene.words.pick(|| format!("Segments: {count}"), || format!("段：{count}"));
    html(
        "<details class=\"alternative\"><summary>{}</summary>{}{}</details>",
        &[
            &summary,
            &table(
                scene.say("What is read to restore it", "恢复时读取的段"),
                &[
                    (scene.say("Segment", "段"), ""),
                    (scene.say("Whose", "归属"), ""),
                    (scene.say("Stored", "存储大小"), "number"),
                    (scene.say("Of it wanted", "有效比例"), "number"),
                ],
                &rows,
            ),
            &more,
        ],
    )
}

fn by_hand(scene: &Scene<'_>, manifest: &Manifest, repository: &str) -> Html {
    html(
        "<h2>{}</h2><pre tabindex=\"0\"><code>backstay restore {}/{} --backup {} --repository {} --to TARGET</code></pre>",
        &[
            &scene.say("To restore it", "恢复命令"),
            &manifest.stack,
            &manifest.source,
            &manifest.backup.to_string(),
            &repository,
        ],
    )
}
