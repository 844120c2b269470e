//! What 50 ms before every answer of a store cost. Measures, and so runs only where that is asked for:
//! `BACKSTAY_LATENCY=1`, as `make soak` does.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::s3::{self, S3Server};
use crate::common::{Ran, Sandbox};

/// Bytes to store: some forty parts.
const BYTES: usize = 320 << 20;

fn seconds(sandbox: &Sandbox, latency: Duration) -> f64 {
    let server = S3Server::start();
    server.delay(latency);
    let url = format!("s3://{}/repo?endpoint={}&region=us-east-1", s3::BUCKET, server.endpoint());
    let text = fs::read_to_string(sandbox.path("policy.yaml")).unwrap();
    let storage = format!(
        "s3: {{ bucket: {}, prefix: repo, endpoint: \"{}\", allow_http: true }}",
        s3::BUCKET,
        server.endpoint()
    );
    let local = format!("local: {{ path: {} }}", sandbox.path("repo").display());
    fs::write(sandbox.path("far.yaml"), text.replace(&local, &storage)).unwrap();
    let run = |args: &[&str]| {
        let mut command = sandbox.bare(args);
        command.env("BACKSTAY_POLICY", sandbox.path("far.yaml"));
        command
            .env("AWS_ACCESS_KEY_ID", s3::ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", s3::SECRET_KEY);
        Ran::from(&command.output().unwrap())
    };
    run(&["init"]).expect(0);
    let begun = Instant::now();
    run(&["backup", "demo/files"]).expect(0);
    let took = begun.elapsed().as_secs_f64();
    run(&["list", "--repository", &url]).expect(0);
    took
}

#[test]
fn throughput_survives_latency() {
    if std::env::var_os("BACKSTAY_LATENCY").is_none() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.write_policy(false, "");
    let mut random = fastrand::Rng::with_seed(1);
    for number in 0..BYTES >> 23 {
        let mut content = vec![0; 8 << 20];
        random.fill(&mut content);
        fs::write(sandbox.path(format!("src/{number}")), content).unwrap();
    }
    let best = |latency| (0..3).map(|_| seconds(&sandbox, latency)).fold(f64::MAX, f64::min);
    let (near, far) = (best(Duration::ZERO), best(Duration::from_millis(50)));
    eprintln!("{near:.2} s without latency, {far:.2} s with 50 ms: {:.2} x", far / near);
    assert!(far <= 1.3 * near, "{far:.2} s with 50 ms of latency, {near:.2} s without");
}
