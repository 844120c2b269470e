//! What somebody reads whose store cannot be reached for a reason that no second try mends.

use std::net::TcpListener;

use crate::common::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use crate::common::{Ran, Sandbox};

/// A port that nobody listens on.
fn nobody() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("127.0.0.1:{port}")
}

/// `list` of a repository by URL, with these variables and no others of a cloud.
fn list(sandbox: &Sandbox, url: &str, variables: &[(&str, &str)]) -> Ran {
    let mut command = sandbox.bare(&["list", "--repository", url]);
    for (name, _) in std::env::vars() {
        if ["AWS_", "AZURE_", "GOOGLE_", "IDENTITY_", "MSI_", "SSL_CERT"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    // Credentials of the person who runs this are nobody's business.
    command.env("HOME", sandbox.root()).envs(variables.iter().copied());
    Ran::from(&command.output().unwrap())
}

#[test]
fn every_cloud_names_its_own_credentials() {
    let sandbox = Sandbox::new();
    let nobody = nobody();
    let azure = format!("http://{nobody}/metadata/identity/oauth2/token");
    let url = format!("az://kept/repo?account=demo&endpoint=http://{nobody}/demo");
    let ran = list(&sandbox, &url, &[("IDENTITY_ENDPOINT", &azure)]).expect(1);
    assert!(ran.stderr.contains("AZURE_STORAGE_ACCOUNT_KEY"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("AWS_"), "{}", ran.stderr);

    let url = format!("gs://kept/repo?endpoint=http://{nobody}");
    let google = [("GCE_METADATA_HOST", &*nobody), ("GCE_METADATA_IP", &*nobody)];
    let ran = list(&sandbox, &url, &google).expect(1);
    assert!(ran.stderr.contains("GOOGLE_SERVICE_ACCOUNT"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("AWS_"), "{}", ran.stderr);

    let url = format!("s3://kept/repo?endpoint=http://{nobody}&allow_http=true");
    let metadata = format!("http://{nobody}");
    let ran = list(&sandbox, &url, &[("AWS_METADATA_ENDPOINT", &metadata)]).expect(1);
    assert!(ran.stderr.contains("AWS_ACCESS_KEY_ID"), "{}", ran.stderr);
}

#[test]
fn a_certificate_that_is_not_trusted_is_not_asked_for_again() {
    let server = S3Server::start_tls();
    let sandbox = Sandbox::new();
    let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
    // An hour of tries would show.
    let url = format!("s3://{BUCKET}/repo?endpoint={}&retry_for=1h", server.endpoint());
    let ran = list(&sandbox, &url, &keys).expect(1);
    assert!(ran.stderr.contains("invalid peer certificate"), "{}", ran.stderr);
    assert!(ran.stderr.contains("`&ca_file=PATH`"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("(tried "), "{}", ran.stderr);
    assert_eq!(server.connections(), 1, "{}", ran.stderr);
    // What the hint says helps.
    let trusted = format!("{url}&ca_file={}", server.ca.as_ref().unwrap().display());
    let ran = list(&sandbox, &trusted, &keys).expect(1);
    assert!(ran.stderr.contains("`backstay init`"), "{}", ran.stderr);
    // By another name than the certificate has.
    let named = trusted.replace("127.0.0.1", "localhost");
    let ran = list(&sandbox, &named, &keys).expect(1);
    assert!(ran.stderr.contains("as the server's certificate names it"), "{}", ran.stderr);
    // A server without TLS.
    let plain = S3Server::start();
    let url = format!("s3://{BUCKET}/repo?endpoint={}", plain.endpoint());
    let ran = list(&sandbox, &url.replace("http:", "https:"), &keys).expect(1);
    assert!(ran.stderr.contains("does not speak TLS"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("(tried "), "{}", ran.stderr);
}
