//! The settings of actions that speak to something: addresses, names, secrets.

use std::net::{Ipv4Addr, Ipv6Addr};

use url::Url;

use super::{Findings, is_address, is_host, servers};
use crate::policy::DnsType;
use crate::policy::{
    action::{Expectation, Manager, ServiceVerb},
    lint::sources::{absolute, check_connection},
    lint::sql::is_several,
    playbook::ActionSpec,
    redact::{has_secret_within, names_a_secret},
    source::SourceKind,
};

/// A name of DNS without the dot at its end.
fn bare(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

pub(super) fn check(findings: &mut Findings<'_>, at: &[&str], action: &ActionSpec) {
    let path = |more: &[&'static str]| -> Vec<String> {
        at.iter().chain(more).map(|part| (*part).to_owned()).collect()
    };
    let of = |more: &[&'static str]| path(more);
    match action {
        ActionSpec::Http(http) => {
            let valid = http.url.contains("{{")
                || Url::parse(&http.url)
                    .is_ok_and(|url| url.has_host() && matches!(url.scheme(), "http" | "https"));
            if !valid {
                error(
                    findings,
                    &of(&["url"]),
                    "this is not an address",
                    "write `https://HOST[:PORT][/PATH]`",
                );
            } else if has_secret_within(&http.url) {
                error(
                    findings,
                    &of(&["url"]),
                    "a password is written in the address",
                    "take it out, and give it by `headers: { Authorization: \"${env:NAME}\" }`",
                );
            }
            for (name, value) in &http.headers {
                if names_a_secret(name) && !value.is_secret() {
                    let mut path = of(&["headers"]);
                    path.push(name.clone());
                    let what = format!("the header `{name}` looks secret and is written here");
                    error(findings, &path, &what, "write ${env:NAME} or ${file:PATH}");
                }
            }
        }
        ActionSpec::RecoveryPoints(points) => {
            if points.sources.is_empty() {
                error(findings, &of(&["sources"]), "no source is named", "write `sources: [NAME]`");
            }
            for (index, source) in points.sources.iter().enumerate() {
                let mut path = of(&["sources"]);
                path.push(index.to_string());
                findings.reference(&refs(&path), source, "sources", "source");
            }
            if let Some(repository) = &points.repository {
                let path = of(&["repository"]);
                findings.reference(&refs(&path), repository, "repositories", "repository");
            }
        }
        ActionSpec::SecretCheck(secrets) => {
            let path = of(&["source"]);
            let known = findings.policy.sources.get(&secrets.source);
            if known.is_some_and(|source| source.kind() != SourceKind::Secrets) {
                let what = format!("`{}` is no source of secrets", secrets.source);
                error(findings, &path, &what, "name a source that is `secrets`");
            } else {
                findings.reference(&refs(&path), &secrets.source, "sources", "source");
            }
        }
        ActionSpec::Sql(sql) => {
            check_connection(findings, &refs(&of(&["connection"])), &sql.connection);
            let several = is_several(&sql.query);
            if sql.query.trim().is_empty() || several {
                let what = if several { "several statements" } else { "no query" };
                error(findings, &of(&["query"]), what, "write one query that gives one value");
            }
            check_expectation(findings, &of(&["expect"]), &sql.expect);
        }
        ActionSpec::Service(service) => {
            if service.names.is_empty() || service.names.iter().any(|name| name.trim().is_empty()) {
                error(findings, &of(&["names"]), "no service is named", "write `names: [NAME]`");
            }
            for (index, name) in service.names.iter().enumerate() {
                if name.starts_with('-') {
                    let mut path = of(&["names"]);
                    path.push(index.to_string());
                    error(
                        findings,
                        &path,
                        "this would be taken as an option",
                        "write the name of a service",
                    );
                }
            }
            if service.host.as_ref().is_some_and(|host| !is_host(host)) {
                error(findings, &of(&["host"]), "this is no host", "write HOST or USER@HOST");
            }
            if let Manager::Compose { file } = &service.manager {
                absolute(findings, &refs(&of(&["manager", "compose", "file"])), file);
            }
            let scales = matches!(service.manager, Manager::Kubectl { .. });
            let starts = matches!(service.verb, ServiceVerb::Start);
            if scales && starts && service.replicas.is_none() {
                error(
                    findings,
                    &of(&["do"]),
                    "it is not said how many are to be started",
                    "write `replicas: \"deployment/web=3\"`, or `\"{{STOP.replicas}}\"` of the step that stopped them",
                );
            } else if service.replicas.is_some() && !(scales && starts) {
                error(
                    findings,
                    &of(&["replicas"]),
                    "only `start` with `kubectl` counts",
                    "remove it",
                );
            }
        }
        ActionSpec::Haproxy(haproxy) => {
            if !haproxy.socket.starts_with('/') && !is_address(&haproxy.socket) {
                error(
                    findings,
                    &of(&["socket"]),
                    "this is neither a socket nor an address",
                    "write an absolute path, or HOST:PORT",
                );
            }
            if haproxy.servers.is_empty() {
                error(
                    findings,
                    &of(&["servers"]),
                    "no server is named",
                    "write `servers: { BACKEND/SERVER: ready }`",
                );
            }
            for name in haproxy.servers.keys() {
                let parts: Vec<&str> = name.split('/').collect();
                let plain = |part: &&str| {
                    !part.is_empty()
                        && part.chars().all(|c| c.is_ascii_alphanumeric() || "._:-".contains(c))
                };
                if parts.len() != 2 || !parts.iter().all(plain) {
                    let mut path = of(&["servers"]);
                    path.push(name.clone());
                    error(
                        findings,
                        &path,
                        "this is no server",
                        "write BACKEND/SERVER, as in haproxy.cfg",
                    );
                }
            }
        }
        ActionSpec::Divergence(divergence) => {
            for (key, connection) in [("old", &divergence.old), ("new", &divergence.new)] {
                check_connection(findings, &refs(&of(&[key])), connection);
            }
        }
        ActionSpec::Dns(dns) => {
            if !is_address(&dns.server) {
                let hint = "write HOST:PORT, such as ns.example.org:53";
                error(findings, &of(&["server"]), "this is no address of a port", hint);
            }
            let (zone, name) = (bare(&dns.zone), bare(&dns.name));
            if name != zone && !name.ends_with(&format!(".{zone}")) && !name.contains("{{") {
                let what = format!("the name lies outside the zone `{zone}`");
                error(findings, &of(&["name"]), &what, "write the name in full: db.example.org");
            }
            let several = dns.kind == DnsType::Cname && dns.values.len() > 1;
            if dns.values.is_empty() || several {
                let what = if several { "a CNAME is one other name" } else { "no value is named" };
                error(findings, &of(&["values"]), what, "write `values: [192.0.2.1]`");
            }
            for (index, value) in dns.values.iter().enumerate() {
                let wrong = match dns.kind {
                    DnsType::A => value.parse::<Ipv4Addr>().is_err(),
                    DnsType::Aaaa => value.parse::<Ipv6Addr>().is_err(),
                    DnsType::Cname => bare(value).is_empty(),
                };
                if wrong && !value.contains("{{") {
                    let mut path = of(&["values"]);
                    path.push(index.to_string());
                    error(
                        findings,
                        &path,
                        "this is no value of the type",
                        "A, the type if none is written, has IPv4 addresses",
                    );
                }
            }
        }
        ActionSpec::RedisFlush(redis) => {
            if !is_address(&redis.address) {
                error(
                    findings,
                    &of(&["address"]),
                    "this is no address of a port",
                    "write HOST:PORT, such as cache:6379",
                );
            }
            if redis.databases.is_empty() {
                error(
                    findings,
                    &of(&["databases"]),
                    "no database is named",
                    "write `databases: [0]`",
                );
            }
        }
        ActionSpec::Postgres(postgres) => {
            for (key, connection) in postgres.connections() {
                let mut path = of(&[]);
                path.extend([postgres.name().to_owned(), key.to_owned()]);
                check_connection(findings, &refs(&path), connection);
            }
            servers::check_postgres(findings, &of(&[]), postgres);
        }
        ActionSpec::Starrocks(starrocks) => servers::check_starrocks(findings, &of(&[]), starrocks),
        ActionSpec::Notify(notify) => servers::check_notify(findings, &of(&[]), notify),
        _ => {}
    }
}

fn check_expectation(findings: &mut Findings<'_>, path: &[String], expected: &Expectation) {
    if let (Some(least), Some(most)) = (expected.at_least, expected.at_most)
        && least > most
    {
        error(findings, path, "nothing is both", "`at_least` is more than `at_most`");
    }
}

pub(super) fn refs(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

pub(super) fn error(findings: &mut Findings<'_>, path: &[String], message: &str, hint: &str) {
    findings.error(&refs(path), message, hint);
}
