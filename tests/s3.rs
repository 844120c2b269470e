//! The main job against a real S3 server: every way to reach one, and every way to be refused.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::s3::{ACCESS_KEY, BUCKET, DOMAIN, S3Server, SECRET_KEY, TOKEN};
use crate::common::{BACKSTAY, Ran, Sandbox, assert_same_tree, finish, odd_tree, settle};

/// Bytes that no compressor makes smaller.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// How the policy of a test speaks of its bucket.
#[derive(Clone)]
struct Setup {
    endpoint: String,
    /// Further fields of `s3:`, each with a comma before it.
    more: String,
    encrypted: bool,
}

impl Setup {
    fn of(server: &S3Server) -> Self {
        let ca = server.ca.as_ref().map(|path| format!(", ca_file: {}", path.display()));
        Self {
            endpoint: server.endpoint(),
            more: format!(
                ", access_key_id: \"${{env:T_ACCESS}}\", secret_access_key: \
                 \"${{env:T_SECRET}}\"{}",
                ca.unwrap_or_default()
            ),
            encrypted: false,
        }
    }

    fn write(&self, sandbox: &Sandbox, bucket: &str, prefix: &str) {
        let encryption = if self.encrypted {
            format!(
                "\n    encryption: {{ recipients: [{}], writer_identity: \"${{file:{}}}\" }}",
                sandbox.public,
                sandbox.path("writer.key").display()
            )
        } else {
            String::new()
        };
        let http = self.endpoint.starts_with("http:");
        let text = format!(
            "version: 1\nstack: demo\ntier: development\ntimezone: UTC\nrepositories:\n  main:\n    \
             s3: {{ bucket: {bucket}, prefix: \"{prefix}\", endpoint: \"{}\", region: us-east-1, \
             allow_http: {http}{} }}{encryption}\nsources:\n  files: {{ directory: {{ path: {} }} \
             }}\n  stream: {{ command: {{ argv: [cat, {}] }} }}\njobs:\n  daily: {{ sources: all, \
             kind: incremental, schedule: {{ cron: \"0 3 * * *\" }}, keep: {{ for: 7d, at_least: 3 \
             }} }}\n",
            self.endpoint,
            self.more,
            sandbox.path("src").display(),
            sandbox.path("stream.bin").display(),
        );
        fs::write(sandbox.path("policy.yaml"), text).unwrap();
    }
}

/// The sandbox's command with the credentials that the policies here refer to, and none of the
/// credentials, proxies and endpoints of whoever runs the tests.
fn command(sandbox: &Sandbox, args: &[&str]) -> Command {
    let mut command = sandbox.command(args);
    scrub(&mut command);
    command.env("T_ACCESS", ACCESS_KEY).env("T_SECRET", SECRET_KEY);
    command
}

fn scrub(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_lowercase();
        if text.starts_with("aws_") || text.ends_with("_proxy") {
            command.env_remove(name);
        }
    }
}

/// Runs, and asserts that no secret is in what is printed.
fn run_as(mut command: Command) -> Ran {
    let ran = Ran::from(&command.output().unwrap());
    for secret in [SECRET_KEY, TOKEN, "AGE-SECRET-KEY-1"] {
        let told = ran.stdout.contains(secret) || ran.stderr.contains(secret);
        assert!(!told, "a secret is shown:\n{}\n{}", ran.stdout, ran.stderr);
    }
    ran
}

fn run(sandbox: &Sandbox, args: &[&str]) -> Ran {
    run_as(command(sandbox, args))
}

fn id_of(ran: &Ran) -> String {
    ran.stdout.trim().rsplit('@').next().unwrap().to_owned()
}

/// The whole of the main job, with whatever `prepare` adds to each command.
fn everything(sandbox: &Sandbox, prepare: &dyn Fn(&mut Command)) {
    let run = |args: &[&str]| {
        let mut command = command(sandbox, args);
        prepare(&mut command);
        run_as(command)
    };
    let src = sandbox.path("src");
    fs::write(src.join("one.txt"), "one\n").unwrap();
    fs::write(src.join("two.txt"), "two\n").unwrap();
    fs::write(sandbox.path("stream.bin"), "a stream\n").unwrap();
    run(&["init"]).expect(0);
    settle();
    run(&["backup", "demo/files"]).expect(0);
    fs::write(src.join("two.txt"), "two, changed\n").unwrap();
    run(&["backup", "demo/files"]).expect(0);
    let list = run(&["list", "--output", "json"]).expect(0).json();
    let kinds: Vec<_> = list.as_array().unwrap().iter().map(|line| &line["kind"]).collect();
    assert_eq!(kinds, ["full", "incremental"]);
    run(&["verify", "--depth", "list"]).expect(0);
    run(&["restore", "demo/files", "--to", "out"]).expect(0);
    assert_same_tree(&src, &sandbox.path("out"));
}

#[test]
fn trees_and_streams_go_to_a_bucket_and_back() {
    for encrypted in [false, true] {
        let server = S3Server::start();
        let sandbox = Sandbox::new();
        let setup = Setup { encrypted, ..Setup::of(&server) };
        setup.write(&sandbox, BUCKET, "deep/prefix");
        let src = sandbox.path("src");
        odd_tree(&src);
        // More than one part of 8 MiB, so that the segment is a multipart upload.
        fs::write(src.join("large.bin"), noise(1, 19 << 20)).unwrap();
        fs::write(sandbox.path("stream.bin"), noise(2, 9 << 20)).unwrap();
        settle();
        run(&sandbox, &["init"]).expect(0);
        let full = id_of(&run(&sandbox, &["backup", "demo/files"]).expect(0));
        assert!(full.contains("-full-"), "{full}");
        let copied =
            Command::new("cp").arg("-a").arg(&src).arg(sandbox.path("before")).status().unwrap();
        assert!(copied.success());

        fs::write(src.join("many/05/new"), "new").unwrap();
        fs::remove_file(src.join("many/03/file-0003.bin")).unwrap();
        let sent = server.seen().len();
        let incremental = id_of(&run(&sandbox, &["backup", "demo/files"]).expect(0));
        assert!(incremental.contains("-incr-"), "{incremental}");
        let parts = server.seen()[sent..].iter().filter(|r| r.query.contains("partNumber")).count();
        assert_eq!(parts, 0, "an incremental sends the large file again");
        run(&sandbox, &["backup", "demo/stream"]).expect(0);

        let keys = server.keys();
        assert!(keys.iter().all(|key| key.starts_with("deep/prefix/")), "{keys:?}");
        assert!(keys.contains(&format!("deep/prefix/demo/sources/files/commits/{full}.json")));
        let seen = server.seen();
        assert!(seen.iter().any(|r| r.method == "PUT" && r.query.contains("partNumber=2")));
        let by_path = |r: &crate::common::s3::Seen| r.path.starts_with(&format!("/{BUCKET}"));
        assert!(seen.iter().all(by_path), "not every request is in path style");

        let listed = run(&sandbox, &["list", "--output", "json"]).expect(0).json();
        assert_eq!(listed.as_array().unwrap().len(), 3, "{listed}");
        for depth in ["list", "stored", "content"] {
            let args = ["verify", "--depth", depth, "--identity", "recovery.key"];
            let ran = run(&sandbox, &args).expect(0);
            assert_eq!(ran.stdout.matches("sound").count(), 3, "{}", ran.stdout);
        }
        let key = ["--identity", "recovery.key"];
        let restore = |more: &[&str]| run(&sandbox, &[&["restore"], more, &key].concat()).expect(0);
        restore(&["demo/files", "--to", "now"]);
        assert_same_tree(&src, &sandbox.path("now"));
        restore(&["demo/files", "--to", "then", "--backup", &full]);
        assert_same_tree(&sandbox.path("before"), &sandbox.path("then"));
        let mut to_stdout = command(&sandbox, &["restore", "demo/stream", "--to", "-"]);
        let output = to_stdout.args(key).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == noise(2, 9 << 20), "the stream differs");
    }
}

#[test]
fn one_small_file_out_of_much_fetches_little() {
    for encrypted in [false, true] {
        let server = S3Server::start();
        let sandbox = Sandbox::new();
        Setup { encrypted, ..Setup::of(&server) }.write(&sandbox, BUCKET, "");
        let src = sandbox.path("src");
        for number in 0..40 {
            let name = format!("bulk-{number:02}.bin");
            fs::write(src.join(name), noise(100 + number, 5 << 20)).unwrap();
        }
        fs::write(src.join("bulk-19-small.txt"), "the one that is wanted\n").unwrap();
        run(&sandbox, &["init"]).expect(0);
        let segment = ["--segment-size", "67108864"];
        run(&sandbox, &[&["backup", "demo/files"][..], &segment].concat()).expect(0);
        let args = ["restore", "demo/files", "--to", "out", "--path", "bulk-19-small.txt"];
        let more = ["--output", "json", "--identity", "recovery.key"];
        let report = run(&sandbox, &[&args[..], &more].concat()).expect(0).json();
        let fetched = report["fetched"].as_u64().unwrap();
        assert!(fetched > 0 && fetched < 16 << 20, "{fetched} bytes fetched");
        assert_eq!(report["tree"]["files"], 1, "{report}");
        let restored = fs::read_to_string(sandbox.path("out/bulk-19-small.txt")).unwrap();
        assert_eq!(restored, "the one that is wanted\n");
        assert!(!sandbox.path("out/bulk-00.bin").exists());
    }
}

#[test]
fn a_backup_that_is_interrupted_is_never_listed() {
    let server = S3Server::start();
    let sandbox = Sandbox::new();
    let mut setup = Setup::of(&server);
    setup.more.push_str(" }\n    limits: { upload: 4MiB");
    setup.write(&sandbox, BUCKET, "");
    fs::write(sandbox.path("src/large.bin"), noise(3, 40 << 20)).unwrap();
    run(&sandbox, &["init"]).expect(0);
    let mut child = command(&sandbox, &["backup", "demo/files"]);
    let child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    let first = server.seen().len();
    while !server.seen()[first..].iter().any(|r| r.query.contains("partNumber=1")) {
        assert!(begun.elapsed() < Duration::from_secs(30), "no part was sent");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran = finish(child).expect(130);
    assert!(ran.stderr.contains("interrupted"), "{}", ran.stderr);
    assert!(run(&sandbox, &["list"]).expect(0).stdout.is_empty());
    let keys = server.keys();
    assert!(!keys.iter().any(|key| key.contains("/commits/")), "{keys:?}");
    // The multipart upload was given up, so that the bucket does not keep its parts.
    let aborted =
        |r: &crate::common::s3::Seen| r.method == "DELETE" && r.query.contains("uploadId");
    assert!(server.seen().iter().any(aborted), "the multipart upload was not aborted");
}

#[test]
fn a_virtual_hosted_bucket_is_part_of_the_host_name() {
    let server = S3Server::start();
    let sandbox = Sandbox::new();
    let setup = Setup::of(&server);
    let setup = Setup {
        endpoint: format!("http://{DOMAIN}"),
        more: format!("{}, virtual_hosted: true", setup.more),
        ..setup
    };
    setup.write(&sandbox, BUCKET, "site-a");
    // No resolver knows the name: the requests reach the server because it is named as the proxy.
    let proxy = server.endpoint();
    everything(&sandbox, &|command| {
        command.env("http_proxy", &proxy);
    });
    let seen = server.seen();
    for request in &seen {
        assert_eq!(request.host, format!("{BUCKET}.{DOMAIN}"), "{request:?}");
        assert!(!request.path.starts_with(&format!("/{BUCKET}")), "{request:?}");
    }
    assert!(seen.iter().any(|request| request.path.starts_with("/site-a/demo/sources/")));
}

#[test]
fn a_private_certificate_authority_is_trusted_when_it_is_named() {
    let server = S3Server::start_tls();
    let sandbox = Sandbox::new();
    let setup = Setup::of(&server);
    setup.write(&sandbox, BUCKET, "");
    everything(&sandbox, &|_| {});

    let (more, _) = setup.more.split_once(", ca_file").unwrap();
    Setup { more: more.to_owned(), ..setup }.write(&sandbox, BUCKET, "");
    let begun = Instant::now();
    let ran = run(&sandbox, &["list"]).expect(1);
    assert!(ran.stderr.contains("ca_file"), "no hint at ca_file:\n{}", ran.stderr);
    assert!(begun.elapsed() < Duration::from_secs(30), "took {:?}", begun.elapsed());
}

#[test]
fn a_session_token_reaches_the_server() {
    let server = S3Server::start();
    let sandbox = Sandbox::new();
    let mut setup = Setup::of(&server);
    setup.more.push_str(", session_token: \"${env:T_TOKEN}\"");
    setup.write(&sandbox, BUCKET, "");
    everything(&sandbox, &|command| {
        command.env("T_TOKEN", TOKEN);
    });
    assert!(server.seen().iter().all(|request| request.token.as_deref() == Some(TOKEN)));
}

#[test]
fn credentials_come_from_the_instance_where_the_policy_has_none() {
    let server = S3Server::start();
    let sandbox = Sandbox::new();
    Setup { more: String::new(), ..Setup::of(&server) }.write(&sandbox, BUCKET, "");
    let metadata = server.endpoint();
    everything(&sandbox, &|command| {
        command.env("AWS_METADATA_ENDPOINT", &metadata);
    });
    let seen = server.seen();
    assert!(seen.iter().any(|request| request.path.ends_with("/backup-role")));
    let objects = seen.iter().filter(|request| request.path.starts_with(&format!("/{BUCKET}")));
    assert!(objects.clone().count() > 10);
    assert!(objects.clone().all(|request| request.token.as_deref() == Some(TOKEN)));
}

#[test]
fn credentials_come_from_the_container_where_it_offers_them() {
    let server = S3Server::start();
    let sandbox = Sandbox::new();
    Setup { more: String::new(), ..Setup::of(&server) }.write(&sandbox, BUCKET, "");
    fs::write(sandbox.path("pod-token"), "pod-token").unwrap();
    let (uri, token) =
        (format!("{}/container-credentials", server.endpoint()), sandbox.path("pod-token"));
    everything(&sandbox, &|command| {
        command
            .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri)
            .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token);
    });
    assert!(server.seen().iter().any(|request| request.path == "/container-credentials"));
}

#[test]
fn missing_credentials_are_said_soon_and_with_a_way_out() {
    let server = S3Server::start();
    let sandbox = Sandbox::new();
    Setup { more: String::new(), ..Setup::of(&server) }.write(&sandbox, BUCKET, "");
    let begun = Instant::now();
    let mut command = command(&sandbox, &["list"]);
    // A port where nobody listens stands for a machine that is no instance.
    command.env("AWS_METADATA_ENDPOINT", format!("http://127.0.0.1:{}", closed_port()));
    let ran = run_as(command).expect(1);
    assert!(ran.stderr.contains("AWS_ACCESS_KEY_ID"), "no way out is named:\n{}", ran.stderr);
    assert!(begun.elapsed() < Duration::from_secs(30), "took {:?}", begun.elapsed());
}

#[test]
fn a_wrong_secret_is_refused_without_showing_it() {
    let server = S3Server::start();
    let sandbox = Sandbox::new();
    Setup::of(&server).write(&sandbox, BUCKET, "");
    let wrong = "wrong/Secret+ThatMustNotBeShown";
    for verb in [&["init"][..], &["list"], &["check"]] {
        let mut command = command(&sandbox, verb);
        command.env("T_SECRET", wrong);
        let ran = run_as(command).expect(1);
        let all = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!all.contains(wrong), "the secret is shown:\n{all}");
        assert!(all.contains("secret key") || all.contains("credentials"), "no way out:\n{all}");
    }
    assert_eq!(server.keys(), [""; 0]);
}

#[test]
fn a_server_that_overwrites_is_refused_unless_it_is_accepted() {
    let server = S3Server::start_lying();
    let sandbox = Sandbox::new();
    Setup::of(&server).write(&sandbox, BUCKET, "");
    let ran = run(&sandbox, &["init"]).expect(1);
    assert!(ran.stderr.contains("a second create of the same key was accepted"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--accept-weak-store"), "no way out:\n{}", ran.stderr);
    assert_eq!(server.keys(), [""; 0], "something was created, or a probe was left");

    let report = run(&sandbox, &["init", "--accept-weak-store", "--output", "json"]).expect(0);
    assert_eq!(report.json()[0]["weak_store"], true);
    let descriptor = fs::read(server.root.path().join(BUCKET).join("backstay.json")).unwrap();
    let descriptor: serde_json::Value = serde_json::from_slice(&descriptor).unwrap();
    assert_eq!(descriptor["weak_store"], true);
    let checked = run(&sandbox, &["check"]);
    assert!(checked.stdout.contains("failed a probe"), "{}", checked.stdout);
}

#[test]
fn a_missing_bucket_is_named() {
    let server = S3Server::start();
    let sandbox = Sandbox::new();
    Setup::of(&server).write(&sandbox, "not-there", "");
    for verb in ["init", "list"] {
        let ran = run(&sandbox, &[verb]).expect(1);
        assert!(ran.stderr.contains("not-there"), "the bucket is not named:\n{}", ran.stderr);
        assert!(ran.stderr.contains("create the bucket"), "no way out:\n{}", ran.stderr);
    }
}

#[test]
fn a_bucket_without_a_repository_hints_at_init() {
    let server = S3Server::start();
    let sandbox = Sandbox::new();
    Setup::of(&server).write(&sandbox, BUCKET, "");
    let ran = run(&sandbox, &["list"]).expect(1);
    assert!(ran.stderr.contains("backstay init"), "{}", ran.stderr);
}

fn closed_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn an_endpoint_that_does_not_answer_is_said_within_seconds() {
    let sandbox = Sandbox::new();
    let setup = Setup {
        endpoint: format!("http://127.0.0.1:{}", closed_port()),
        more: ", access_key_id: \"${env:T_ACCESS}\", secret_access_key: \"${env:T_SECRET}\"".into(),
        encrypted: false,
    };
    setup.write(&sandbox, BUCKET, "");
    let begun = Instant::now();
    let ran = run(&sandbox, &["list"]).expect(1);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(25), "it took {took:?}:\n{}", ran.stderr);
    assert!(ran.stderr.contains(&setup.endpoint), "the endpoint is not named:\n{}", ran.stderr);
    assert!(ran.stderr.contains("hint:"), "no hint:\n{}", ran.stderr);
}

#[test]
fn an_endpoint_that_accepts_and_says_nothing_is_given_up() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let sandbox = Sandbox::new();
    let setup = Setup {
        endpoint: format!("http://{}", listener.local_addr().unwrap()),
        more: ", access_key_id: \"${env:T_ACCESS}\", secret_access_key: \"${env:T_SECRET}\"".into(),
        encrypted: false,
    };
    setup.write(&sandbox, BUCKET, "");
    let begun = Instant::now();
    let ran = run(&sandbox, &["list"]).expect(1);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(25), "it took {took:?}:\n{}", ran.stderr);
    assert!(ran.stderr.contains("did not answer within"), "{}", ran.stderr);
}

#[test]
fn a_url_and_credentials_in_the_environment_are_enough() {
    let server = S3Server::start();
    let sandbox = Sandbox::new();
    Setup { encrypted: true, ..Setup::of(&server) }.write(&sandbox, BUCKET, "superset");
    odd_tree(&sandbox.path("src"));
    run(&sandbox, &["init"]).expect(0);
    let id = id_of(&run(&sandbox, &["backup", "demo/files"]).expect(0));

    let elsewhere = tempfile::tempdir().unwrap();
    let url = format!("s3://{BUCKET}/superset?endpoint={}&region=us-east-1", server.endpoint());
    let without_policy = |args: &[&str]| {
        let mut command = Command::new(BACKSTAY);
        scrub(&mut command);
        command
            .args(args)
            .args(["--repository", &url, "--identity"])
            .arg(sandbox.path("recovery.key"))
            .env("BACKSTAY_STATE_DIR", elsewhere.path().join("state"))
            .current_dir(elsewhere.path())
            .env_remove("BACKSTAY_POLICY")
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        run_as(command)
    };
    let listed = without_policy(&["list"]).expect(0).stdout;
    assert!(listed.contains(&id), "{listed}");
    without_policy(&["verify", "--depth", "content"]).expect(0);
    without_policy(&["restore", "demo/files", "--to", "out"]).expect(0);
    assert_same_tree(&sandbox.path("src"), &elsewhere.path().join("out"));
}

#[test]
fn an_endpoint_without_tls_must_be_allowed() {
    let server = S3Server::start();
    let sandbox = Sandbox::new();
    let setup = Setup::of(&server);
    setup.write(&sandbox, BUCKET, "");
    let policy = fs::read_to_string(sandbox.path("policy.yaml")).unwrap();
    fs::write(sandbox.path("policy.yaml"), policy.replace("allow_http: true", "allow_http: false"))
        .unwrap();
    let ran = run(&sandbox, &["list"]);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("allow_http"), "the setting is not named:\n{}", ran.stderr);
    assert!(server.seen().is_empty(), "credentials were sent in the open");
}

/// Runs where a real server is named, as `docker-compose.test.yml` does with MinIO.
#[test]
fn the_server_named_in_the_environment_does_the_main_job() {
    let Ok(endpoint) = std::env::var("BACKSTAY_TEST_S3_ENDPOINT") else {
        eprintln!("not run: BACKSTAY_TEST_S3_ENDPOINT names no server");
        return;
    };
    let need = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let bucket = need("BACKSTAY_TEST_S3_BUCKET");
    let (access, secret) = (need("AWS_ACCESS_KEY_ID"), need("AWS_SECRET_ACCESS_KEY"));
    for encrypted in [false, true] {
        let sandbox = Sandbox::new();
        let setup = Setup {
            endpoint: endpoint.clone(),
            more: ", access_key_id: \"${env:T_ACCESS}\", secret_access_key: \"${env:T_SECRET}\""
                .into(),
            encrypted,
        };
        let prefix = format!("test-{}", sandbox.root().file_name().unwrap().to_string_lossy());
        setup.write(&sandbox, &bucket, &prefix.replace('.', ""));
        fs::write(sandbox.path("src/large.bin"), noise(4, 20 << 20)).unwrap();
        let key = sandbox.path("recovery.key");
        everything(&sandbox, &|command| {
            command.env("T_ACCESS", &access).env("T_SECRET", &secret);
            command.env("BACKSTAY_IDENTITY", Path::new(&key));
        });
    }
}

/// What a bucket answers decides whether a server goes on recovering.
#[test]
fn wal_goes_into_a_bucket_once_and_only_its_absence_is_exit_1() {
    let server = S3Server::start();
    let sandbox = Sandbox::new();
    let setup = Setup {
        encrypted: true,
        more: format!("{}, retry_for: 2s", Setup::of(&server).more),
        ..Setup::of(&server)
    };
    setup.write(&sandbox, BUCKET, "wal");
    let policy = fs::read_to_string(sandbox.path("policy.yaml")).unwrap();
    let policy = policy.replace(
        "sources:\n",
        "sources:\n  pg: { postgres_cluster: { connection: \"host=db user=backup\" } }\n",
    );
    fs::write(sandbox.path("policy.yaml"), policy).unwrap();
    let run = |args: &[&str]| Ran::from(&command(&sandbox, args).output().unwrap());
    run(&["init"]).expect(0);
    let file = sandbox.path("00000002.history");
    let push = |text: &str| {
        fs::write(&file, text).unwrap();
        run(&["wal", "push", file.to_str().unwrap(), "--system-id", "7"])
    };
    push("1\t0/3000000\treason\n").expect(0);
    push("1\t0/3000000\treason\n").expect(0);
    let ran = push("1\t0/4000000\treason\n").expect(1);
    assert!(ran.stderr.contains("other content"), "{}", ran.stderr);
    let get = |name: &str| {
        let args = ["wal", "get", name, "out", "--system-id", "7", "--identity", "recovery.key"];
        let mut command = command(&sandbox, &args);
        move |secret: Option<&str>| {
            secret.map(|secret| command.env("T_SECRET", secret));
            Ran::from(&command.output().unwrap())
        }
    };
    get("00000002.history")(None).expect(0);
    let got = fs::read_to_string(sandbox.path("out")).unwrap();
    assert_eq!(got, "1\t0/3000000\treason\n");
    get("00000003.history")(None).expect(1);
    get("00000003.history")(Some("wrong")).expect(126);
    drop(server);
    get("00000003.history")(None).expect(126);
    assert_eq!(push("1\t0/3000000\treason\n").code, 1);
}
