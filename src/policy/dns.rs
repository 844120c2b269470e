//! A name in DNS, as a step of a playbook changes it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::Period;
use crate::secret::SecretRef;

/// The records of one name, at the server that holds its zone: changed by RFC 2136, signed with a key (TSIG).
///
/// Outputs: `values` and `ttl`. Taken back, the name has the records that it had before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsAction {
    /// The primary server of the zone: `HOST:PORT`, by TCP.
    pub server: String,
    /// The zone: `example.org`.
    pub zone: String,
    /// The name, in full: `db.example.org`.
    pub name: String,
    /// The type of the records.
    #[serde(rename = "type", default)]
    pub kind: DnsType,
    /// What the name becomes: addresses, or one other name.
    pub values: Vec<String>,
    /// How long others may remember it.
    #[serde(default = "a_minute")]
    pub ttl: Period,
    /// The key that the server knows too.
    pub key: DnsKey,
}

/// The type of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DnsType {
    /// IPv4 addresses.
    #[default]
    A,
    /// IPv6 addresses.
    #[serde(rename = "AAAA")]
    Aaaa,
    /// Another name.
    #[serde(rename = "CNAME")]
    Cname,
}

/// A key for TSIG.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsKey {
    /// Its name, as the server has it.
    pub name: String,
    /// How it signs.
    #[serde(default)]
    pub algorithm: DnsAlgorithm,
    /// The secret in base64, as a reference.
    pub secret: SecretRef,
}

/// How a key signs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DnsAlgorithm {
    /// HMAC with SHA-256.
    #[default]
    HmacSha256,
    /// HMAC with SHA-512.
    HmacSha512,
}

const fn a_minute() -> Period {
    Period::from_secs(60)
}
