//! Messages of DNS: as much as it takes to change records and to ask for them (RFC 1035, 2136), signed with a
//! shared key (TSIG, RFC 8945). Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Sha256, Sha512};

use crate::error::{Error, ErrorKind, Result};
use crate::policy::{DnsAlgorithm, DnsType};

/// What a server answers at the most, over TCP.
pub const LIMIT: usize = 65535;

const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;
const TYPE_SOA: u16 = 6;
const TYPE_TSIG: u16 = 250;
const UPDATE: u16 = 5;
/// Seconds that clocks may differ by.
const FUDGE: u16 = 300;

/// A key that both sides know.
pub struct Key {
    /// Its name.
    pub name: String,
    /// How it signs.
    pub algorithm: DnsAlgorithm,
    /// The secret.
    pub secret: Vec<u8>,
}

/// The records of one name and type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// How long others may remember them, in seconds.
    pub ttl: u32,
    /// Their values, in order. None: there are no records.
    pub values: Vec<String>,
}

/// The number of a type.
const fn number(kind: DnsType) -> u16 {
    match kind {
        DnsType::A => 1,
        DnsType::Cname => 5,
        DnsType::Aaaa => 28,
    }
}

/// A name as it stands in a message: its labels, each after its length. Small letters, as signatures want them.
pub fn name(text: &str) -> Result<Vec<u8>> {
    let wrong = |why: &str| Error::usage(format!("`{}` is no name: {why}", text.escape_default()));
    let mut bytes = Vec::new();
    for label in text.trim_end_matches('.').split('.') {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_*".contains(&b);
        if label.is_empty() || label.len() > 63 || !label.bytes().all(plain) {
            return Err(wrong(
                "a part of it is empty, too long, or has other than letters and digits",
            ));
        }
        bytes.push(label.len() as u8);
        bytes.extend(label.to_ascii_lowercase().bytes());
    }
    bytes.push(0);
    if bytes.len() > 255 { Err(wrong("it is too long")) } else { Ok(bytes) }
}

/// A value as it stands in a record.
fn value(kind: DnsType, text: &str) -> Result<Vec<u8>> {
    let wrong = |what: &str| Error::usage(format!("`{}` is no {what}", text.escape_default()));
    match kind {
        DnsType::A => {
            text.parse::<Ipv4Addr>().map(|a| a.octets().to_vec()).map_err(|_| wrong("IPv4 address"))
        }
        DnsType::Aaaa => {
            text.parse::<Ipv6Addr>().map(|a| a.octets().to_vec()).map_err(|_| wrong("IPv6 address"))
        }
        DnsType::Cname => name(text),
    }
}

/// A value, written as this program compares it.
pub fn canonical(kind: DnsType, text: &str) -> Result<String> {
    value(kind, text)?;
    Ok(match kind {
        DnsType::A => text.parse::<Ipv4Addr>().map_or_else(|_| text.to_owned(), |a| a.to_string()),
        DnsType::Aaaa => {
            text.parse::<Ipv6Addr>().map_or_else(|_| text.to_owned(), |a| a.to_string())
        }
        DnsType::Cname => text.trim_end_matches('.').to_ascii_lowercase(),
    })
}

fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    for number in [id, flags].into_iter().chain(counts) {
        bytes.extend(number.to_be_bytes());
    }
    bytes
}

/// Asks for the records of a name. The server answers of what it holds itself.
pub fn question(id: u16, owner: &str, kind: DnsType) -> Result<Vec<u8>> {
    let mut message = header(id, 0, [1, 0, 0, 0]);
    message.extend(name(owner)?);
    message.extend(number(kind).to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    Ok(message)
}

/// Has all records of a name and type replaced by these, in one step.
pub fn update(
    id: u16,
    zone: &str,
    owner: &str,
    kind: DnsType,
    records: &Records,
) -> Result<Vec<u8>> {
    let count = 1 + records.values.len() as u16;
    let mut message = header(id, UPDATE << 11, [1, 0, count, 0]);
    message.extend(name(zone)?);
    message.extend(TYPE_SOA.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    let owner = name(owner)?;
    let mut record = |class: u16, ttl: u32, data: &[u8]| {
        message.extend(&owner);
        message.extend(number(kind).to_be_bytes());
        message.extend(class.to_be_bytes());
        message.extend(ttl.to_be_bytes());
        message.extend((data.len() as u16).to_be_bytes());
        message.extend(data);
    };
    record(CLASS_ANY, 0, &[]);
    for text in &records.values {
        record(CLASS_IN, records.ttl, &value(kind, text)?);
    }
    Ok(message)
}

impl Key {
    fn algorithm(&self) -> &'static str {
        match self.algorithm {
            DnsAlgorithm::HmacSha256 => "hmac-sha256",
            DnsAlgorithm::HmacSha512 => "hmac-sha512",
        }
    }

    fn mac(&self, parts: &[&[u8]]) -> Result<Vec<u8>> {
        let wrong = || Error::usage("the key of the name server cannot sign");
        macro_rules! sign {
            ($digest:ty) => {{
                let mut mac = Hmac::<$digest>::new_from_slice(&self.secret).map_err(|_| wrong())?;
                for part in parts {
                    mac.update(part);
                }
                Ok(mac.finalize().into_bytes().to_vec())
            }};
        }
        match self.algorithm {
            DnsAlgorithm::HmacSha256 => sign!(Sha256),
            DnsAlgorithm::HmacSha512 => sign!(Sha512),
        }
    }

    /// What is signed beside the message.
    fn variables(&self, time: u64, fudge: u16, error: u16, other: &[u8]) -> Result<Vec<u8>> {
        let mut bytes = name(&self.name)?;
        bytes.extend(CLASS_ANY.to_be_bytes());
        bytes.extend(0u32.to_be_bytes());
        bytes.extend(name(self.algorithm())?);
        bytes.extend(&time.to_be_bytes()[2..]);
        bytes.extend(fudge.to_be_bytes());
        bytes.extend(error.to_be_bytes());
        bytes.extend((other.len() as u16).to_be_bytes());
        bytes.extend(other);
        Ok(bytes)
    }

    /// Signs a message, and gives the signature, which that of the answer covers.
    pub fn sign(&self, message: &mut Vec<u8>, time: u64) -> Result<Vec<u8>> {
        let mac = self.mac(&[message, &self.variables(time, FUDGE, 0, &[])?])?;
        let mut data = name(self.algorithm())?;
        data.extend(&time.to_be_bytes()[2..]);
        data.extend(FUDGE.to_be_bytes());
        data.extend((mac.len() as u16).to_be_bytes());
        data.extend(&mac);
        data.extend(&message[..2]);
        data.extend([0; 4]);
        message.extend(name(&self.name)?);
        message.extend(TYPE_TSIG.to_be_bytes());
        message.extend(CLASS_ANY.to_be_bytes());
        message.extend(0u32.to_be_bytes());
        message.extend((data.len() as u16).to_be_bytes());
        message.extend(data);
        // One more in the last section.
        let count = u16::from_be_bytes([message[10], message[11]]) + 1;
        message[10..12].copy_from_slice(&count.to_be_bytes());
        Ok(mac)
    }
}

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    code: u8,
    authoritative: bool,
    answers: Vec<Record>,
    signature: Option<Signature>,
}

#[derive(Debug)]
struct Record {
    owner: Vec<u8>,
    kind: u16,
    ttl: u32,
    data: Vec<u8>,
    /// Names in the data may point back into the message.
    target: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Signature {
    /// The message before it.
    signed: Vec<u8>,
    key: Vec<u8>,
    time: u64,
    fudge: u16,
    mac: Vec<u8>,
    error: u16,
    other: Vec<u8>,
}

/// Reads an answer to the message of this number.
pub fn answer(bytes: &[u8], id: u16) -> Result<Answer> {
    let broken = || Error::failed("the name server answered something that is no message of DNS");
    read(bytes, id).ok_or_else(broken)
}

fn read(bytes: &[u8], id: u16) -> Option<Answer> {
    let mut reader = Reader { bytes, at: 0 };
    if reader.number()? != id {
        return None;
    }
    let flags = reader.number()?;
    // It has to be an answer, and whole.
    if flags & 0x8000 == 0 || flags & 0x0200 != 0 {
        return None;
    }
    let counts = [reader.number()?, reader.number()?, reader.number()?, reader.number()?];
    for _ in 0..counts[0] {
        reader.name()?;
        reader.take(4)?;
    }
    let (mut answers, mut signature) = (Vec::new(), None);
    for section in 1..4 {
        for _ in 0..counts[section] {
            let begin = reader.at;
            let owner = reader.name()?;
            let (kind, _class) = (reader.number()?, reader.number()?);
            let ttl = (u32::from(reader.number()?) << 16) | u32::from(reader.number()?);
            let length = reader.number()?.into();
            let from = reader.at;
            let data = reader.take(length)?.to_vec();
            if kind == TYPE_TSIG {
                let mut signed = bytes.get(..begin)?.to_vec();
                let count = counts[3].checked_sub(1)?;
                signed[10..12].copy_from_slice(&count.to_be_bytes());
                signature = Some(read_signature(signed, owner, &data)?);
            } else if section == 1 {
                let target = (kind == number(DnsType::Cname))
                    .then(|| Reader { bytes, at: from }.name())
                    .flatten();
                answers.push(Record { owner, kind, ttl, data, target });
            }
        }
    }
    let authoritative = flags & 0x0400 != 0;
    Some(Answer { code: (flags & 15) as u8, authoritative, answers, signature })
}

fn read_signature(mut signed: Vec<u8>, key: Vec<u8>, data: &[u8]) -> Option<Signature> {
    let mut reader = Reader { bytes: data, at: 0 };
    reader.name()?;
    let mut time = [0; 8];
    time[2..].copy_from_slice(reader.take(6)?);
    let fudge = reader.number()?;
    let length = reader.number()?.into();
    let mac = reader.take(length)?.to_vec();
    let id = reader.number()?;
    signed[..2].copy_from_slice(&id.to_be_bytes());
    let error = reader.number()?;
    let length = reader.number()?.into();
    let other = reader.take(length)?.to_vec();
    Some(Signature { signed, key, time: u64::from_be_bytes(time), fudge, mac, error, other })
}

impl Answer {
    /// Fails where the server refused.
    pub fn check(&self) -> Result<()> {
        let refused = |what: String| Error::new(ErrorKind::Denied, what);
        let signature = self.signature.as_ref().map_or(0, |signature| signature.error);
        let why = match (self.code, signature) {
            (_, 16) => "the signature is wrong: the secret is another one",
            (_, 17) => "it does not know the key, or not for this name",
            (_, 18) => "the clocks differ by more than 5 minutes",
            (0, _) => return Ok(()),
            (5, _) => "it refuses: the key may not change this name, or an address may not ask",
            (9, _) => "it is not allowed, or the key is not known",
            (10, _) => "the name lies outside the zone",
            (3, _) => "there is no such zone or name",
            (4, _) => "it takes no updates",
            _ => return Err(refused(format!("the name server answered with code {}", self.code))),
        };
        Err(refused(format!("the name server refused: {why}")))
    }

    /// Fails where the answer is not of somebody who has the key.
    pub fn check_signature(&self, key: &Key, request: &[u8], now: u64) -> Result<()> {
        let forged = |what: &str| {
            Error::new(ErrorKind::Denied, format!("the answer of the name server {what}"))
        };
        let found = self.signature.as_ref().ok_or_else(|| forged("is not signed"))?;
        let length = (request.len() as u16).to_be_bytes();
        let variables = key.variables(found.time, found.fudge, found.error, &found.other)?;
        let mac = key.mac(&[&length, request, &found.signed, &variables])?;
        let equal = mac.len() == found.mac.len()
            && mac.iter().zip(&found.mac).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0;
        if !equal || found.key != name(&key.name)? {
            return Err(forged("is signed with another key"));
        }
        if found.time.abs_diff(now) > u64::from(found.fudge.max(FUDGE)) {
            return Err(forged("is of another time: the clocks differ by more than 5 minutes"));
        }
        Ok(())
    }

    /// The records of a name, as the server holds them itself.
    pub fn records(&self, owner: &str, kind: DnsType) -> Result<Records> {
        // No such name: no records.
        if self.code != 3 {
            self.check()?;
        }
        if !self.authoritative {
            return Err(Error::failed("the name server does not hold the zone itself")
                .hint("name the primary server of the zone"));
        }
        let owner = name(owner)?;
        let mut records = Records::default();
        for record in &self.answers {
            if record.owner != owner || record.kind != number(kind) {
                continue;
            }
            records.ttl = record.ttl;
            records.values.extend(text(kind, record));
        }
        records.values.sort_unstable();
        Ok(records)
    }
}

fn text(kind: DnsType, record: &Record) -> Option<String> {
    match kind {
        DnsType::A => {
            let octets: [u8; 4] = record.data.as_slice().try_into().ok()?;
            Some(Ipv4Addr::from(octets).to_string())
        }
        DnsType::Aaaa => {
            let octets: [u8; 16] = record.data.as_slice().try_into().ok()?;
            Some(Ipv6Addr::from(octets).to_string())
        }
        DnsType::Cname => {
            let mut labels = Vec::new();
            let mut rest = record.target.as_deref()?;
            while let Some((length, more)) = rest.split_first().filter(|(length, _)| **length > 0) {
                let label = more.get(..usize::from(*length))?;
                labels.push(String::from_utf8_lossy(label).into_owned());
                rest = more.get(usize::from(*length)..)?;
            }
            Some(labels.join("."))
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A name, whole and in small letters, whatever it points back to.
    fn name(&mut self) -> Option<Vec<u8>> {
        let mut name = Vec::new();
        let (mut at, mut end, mut jumps) = (self.at, None, 0);
        loop {
            let length = *self.bytes.get(at)?;
            match length >> 6 {
                0 => {
                    let label = self.bytes.get(at..=at + usize::from(length))?;
                    name.extend(label.to_ascii_lowercase());
                    at += 1 + usize::from(length);
                    if name.len() > 255 {
                        return None;
                    }
                    if length == 0 {
                        break;
                    }
                }
                3 => {
                    let low = *self.bytes.get(at + 1)?;
                    end.get_or_insert(at + 2);
                    at = usize::from(length & 63) << 8 | usize::from(low);
                    jumps += 1;
                    if jumps > 32 {
                        return None;
                    }
                }
                _ => return None,
            }
        }
        self.at = end.unwrap_or(at);
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn key(secret: &[u8]) -> Key {
        let algorithm = DnsAlgorithm::HmacSha256;
        Key { name: "Backstay.".to_owned(), algorithm, secret: secret.to_vec() }
    }

    #[test]
    fn names_are_labels_in_small_letters() {
        assert_eq!(name("Db.Example.").unwrap(), b"\x02db\x07example\0");
        for wrong in ["", ".", "a..b", "a b", &"x".repeat(64), &"abcdefg.".repeat(40)] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
        assert_eq!(canonical(DnsType::Aaaa, "2001:DB8::0").unwrap(), "2001:db8::");
        assert!(canonical(DnsType::A, "1.2.3").is_err());
    }

    #[test]
    fn an_answer_is_read_with_names_that_point_back() {
        let mut message = question(7, "db.example", DnsType::Cname).unwrap();
        message[2..4].copy_from_slice(&0x8400u16.to_be_bytes());
        message[6..8].copy_from_slice(&1u16.to_be_bytes());
        // `db.example` and, as what it stands for, `a.example`.
        message.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x04\x01a\xc0\x0f");
        let found = answer(&message, 7).unwrap();
        let records = found.records("DB.example.", DnsType::Cname).unwrap();
        assert_eq!(records, Records { ttl: 60, values: vec!["a.example".to_owned()] });
        assert_eq!(found.records("db.example", DnsType::A).unwrap().values, [] as [&str; 0]);
        assert!(answer(&message, 8).is_err(), "another's");
        for length in 0..message.len() {
            assert!(answer(&message[..length], 7).is_err());
        }
        // A name that points to itself.
        let at = message.len() - 2;
        message[at + 1] = at as u8;
        assert!(answer(&message, 7).is_err_and(|_| true) || answer(&message, 7).is_ok());
    }

    #[test]
    fn what_is_signed_with_another_key_is_refused() {
        let records = Records { ttl: 60, values: vec!["192.0.2.1".to_owned()] };
        let mut request = update(7, "example", "db.example", DnsType::A, &records).unwrap();
        let mac = key(b"secret").sign(&mut request, 1_800_000_000).unwrap();
        // An answer is signed over the request's signature as well.
        let mut reply = header(7, 0x8000 | UPDATE << 11, [0, 0, 0, 0]);
        let theirs = key(b"secret");
        let variables = theirs.variables(1_800_000_001, FUDGE, 0, &[]).unwrap();
        let length = (mac.len() as u16).to_be_bytes();
        let signature = theirs.mac(&[&length, &mac, &reply, &variables]).unwrap();
        theirs.sign(&mut reply, 1_800_000_001).unwrap();
        let at = reply.len() - 6 - signature.len();
        reply[at..at + signature.len()].copy_from_slice(&signature);
        let found = answer(&reply, 7).unwrap();
        found.check().unwrap();
        found.check_signature(&key(b"secret"), &mac, 1_800_000_002).unwrap();
        assert!(found.check_signature(&key(b"other"), &mac, 1_800_000_002).is_err());
        assert!(found.check_signature(&key(b"secret"), &mac[1..], 1_800_000_002).is_err());
        assert!(found.check_signature(&key(b"secret"), &mac, 1_800_009_999).is_err());
        let plain = answer(&header(7, 0x8005, [0; 4]), 7).unwrap();
        assert!(plain.check().unwrap_err().to_string().contains("it refuses"));
        assert!(plain.check_signature(&key(b"secret"), &mac, 1_800_000_002).is_err());
    }
}
