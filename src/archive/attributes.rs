//! Owner, permissions, times and attributes of a tar member, as its header and pax records give
//! them to whoever restores with tar.

use std::collections::BTreeMap;

use tar::Header;

use super::entry::Time;
use crate::error::{Error, Result};

/// Pax records by key.
pub type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a member says of itself besides name and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// The 12 permission bits.
    pub mode: u32,
    /// Owner, by number.
    pub uid: u64,
    /// Group, by number.
    pub gid: u64,
    /// Owner, by name; empty if unknown.
    pub user: Vec<u8>,
    /// Group, by name; empty if unknown.
    pub group: Vec<u8>,
    /// Last change of the content.
    pub mtime: Time,
    /// Major and minor number of a device.
    pub rdev: Option<(u32, u32)>,
    /// ACLs and extended attributes, by their pax keys.
    pub extended: Records,
}

impl Attributes {
    /// Reads what a header and its pax records say. `place` names the archive in errors.
    pub fn read(header: &Header, pax: &Records, place: &str) -> Result<Self> {
        let bad =
            |what: &str| Error::damaged(format!("{place} has a tar header with a bad {what}"));
        let number = |key: &str, field: std::io::Result<u64>| match pax.get(key.as_bytes()) {
            Some(text) => std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| bad(key)),
            None => field.map_err(|error| bad(key).with_source(error)),
        };
        let name = |key: &str, field: Option<&[u8]>| match pax.get(key.as_bytes()) {
            Some(name) => name.clone(),
            None => field.unwrap_or_default().to_vec(),
        };
        let mtime = if let Some(text) = pax.get(&b"mtime"[..]) {
            decimal_time(text).ok_or_else(|| bad("mtime"))?
        } else {
            let seconds = header.mtime().map_err(|error| bad("mtime").with_source(error))?;
            (i64::try_from(seconds).map_err(|_| bad("mtime"))?, 0)
        };
        let kind = header.entry_type();
        let rdev = if kind.is_character_special() || kind.is_block_special() {
            let part = |number: std::io::Result<Option<u32>>| number.ok().flatten();
            let (major, minor) = (part(header.device_major()), part(header.device_minor()));
            Some(major.zip(minor).ok_or_else(|| bad("device number"))?)
        } else {
            None
        };
        let extended = pax
            .iter()
            .filter(|(key, _)| key.starts_with(b"SCHILY."))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        Ok(Self {
            mode: header.mode().map_err(|error| bad("mode").with_source(error))? & 0o7777,
            uid: number("uid", header.uid())?,
            gid: number("gid", header.gid())?,
            user: name("uname", header.username_bytes()),
            group: name("gname", header.groupname_bytes()),
            mtime,
            rdev,
            extended,
        })
    }

    /// The first thing that differs from what an entry of the index says. Times are left to those
    /// who know whether they must be the same.
    pub fn differs(&self, entry: &Self) -> Option<&'static str> {
        let pairs = [
            (self.mode == entry.mode, "permissions"),
            ((self.uid, self.gid) == (entry.uid, entry.gid), "owner"),
            ((&self.user, &self.group) == (&entry.user, &entry.group), "owner's name"),
            (self.rdev == entry.rdev, "device number"),
            (self.extended == entry.extended, "extended attributes"),
        ];
        pairs.into_iter().find(|(same, _)| !same).map(|(_, what)| what)
    }
}

/// Decimal seconds, the number itself: `-0.5` is half a second before 1970.
fn decimal_time(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !plain(whole) || !plain(fraction) || fraction.len() > 9 {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanos: u32 = format!("{fraction:0<9}").parse().ok()?;
    Some(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_the_number_itself() {
        for (text, time) in [
            ("0.000000005", (0, 5)),
            ("-0.5", (-1, 500_000_000)),
            ("-2", (-2, 0)),
            ("-1.5", (-2, 500_000_000)),
            ("7.25", (7, 250_000_000)),
        ] {
            assert_eq!(decimal_time(text.as_bytes()), Some(time), "{text}");
        }
        for text in ["", "-", "1.2.3", "1e5", "+1", "1.0000000001"] {
            assert_eq!(decimal_time(text.as_bytes()), None, "{text}");
        }
    }
}
