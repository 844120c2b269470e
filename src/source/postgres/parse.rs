//! The text of a connection: `key=value …`, `postgresql://…`, and service files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use super::conninfo::{KEYS, REFUSED, Surroundings};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::secret::SecretRef;

/// What a text says, by key.
pub(super) type Values = BTreeMap<String, SecretString>;

fn check_key(key: &str) -> Result<()> {
    let all = KEYS.iter().chain(REFUSED).map(|(key, _)| *key);
    if all.clone().any(|known| known == key) {
        return Ok(());
    }
    Err(Error::usage(format!("the connection has a key that is not known: `{key}`"))
        .hint(crate::policy::hint_at(key, all)))
}

/// A string with references to secrets put aside, which may hold any character.
struct References {
    found: Vec<SecretRef>,
}

/// Stands for a reference while the text around it is read. No connection string holds it.
const MARK: char = '\u{1}';

impl References {
    fn take(text: &str) -> Result<(String, Self)> {
        if text.contains(MARK) {
            return Err(Error::usage("the connection has a control character in it"));
        }
        let mut rest = text;
        let mut out = String::new();
        let mut found = Vec::new();
        while let Some(at) = rest.find("${") {
            let end = rest[at..].find('}').map(|end| at + end + 1).ok_or_else(bad_reference)?;
            let reference = SecretRef::parse(&rest[at..end]).ok_or_else(bad_reference)?;
            out.push_str(&rest[..at]);
            out.push_str(&format!("{MARK}{}{MARK}", found.len()));
            found.push(reference);
            rest = &rest[end..];
        }
        out.push_str(rest);
        Ok((out, Self { found }))
    }

    /// The value that `text` stands for.
    fn resolve(&self, text: &str) -> Result<SecretString> {
        if !text.contains(MARK) {
            return Ok(text.into());
        }
        let whole = text.strip_prefix(MARK).and_then(|rest| rest.strip_suffix(MARK));
        let reference = whole.and_then(|number| self.found.get(number.parse::<usize>().ok()?));
        reference.ok_or_else(bad_reference)?.resolve()
    }
}

fn bad_reference() -> Error {
    Error::usage("a secret in the connection is not a reference")
        .hint("write ${env:NAME}, ${file:PATH} or ${command:PROGRAM ARGS} as the whole value")
}

/// Reads `key=value …` or `postgresql://…`.
pub(super) fn parse(text: &str) -> Result<Values> {
    let (text, references) = References::take(text)?;
    let mut values = Values::new();
    for (key, value) in pairs(&text)? {
        check_key(&key)?;
        values.insert(key, references.resolve(&value)?);
    }
    Ok(values)
}

/// Whether a password stands in the text itself.
pub(super) fn has_literal_password(text: &str) -> Result<bool> {
    let (text, _) = References::take(text)?;
    Ok(pairs(&text)?.iter().any(|(key, value)| {
        ["password", "sslpassword"].contains(&key.as_str())
            && !value.is_empty()
            && !value.contains(MARK)
    }))
}

fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    if text.starts_with("postgresql://") || text.starts_with("postgres://") {
        parse_uri(text)
    } else {
        parse_pairs(text)
    }
}

fn parse_pairs(text: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let equals = rest.find('=').ok_or_else(|| {
            // The word is not shown: it may be half of a password.
            Error::usage("a part of the connection has no `=`").hint(
                "write `host=HOST user=USER dbname=DATABASE`; values with spaces in quotes '…'",
            )
        })?;
        let key = rest[..equals].trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(Error::usage("a part of the connection has no `=`").hint(
                "write `host=HOST user=USER dbname=DATABASE`; values with spaces in quotes '…'",
            ));
        }
        let after = rest[equals + 1..].trim_start();
        let (value, left) = take_value(after, key)?;
        found.push((key.to_owned(), value));
        rest = left.trim_start();
    }
    Ok(found)
}

fn take_value<'a>(text: &'a str, key: &str) -> Result<(String, &'a str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices();
    if quoted {
        chars.next();
    }
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted {
        return Err(Error::usage(format!("the value of `{key}` has no closing quote")));
    }
    Ok((value, ""))
}

fn parse_uri(text: &str) -> Result<Vec<(String, String)>> {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let mut found = Vec::new();
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(a, path)| (a, path));
    let (login, hosts) = authority.rsplit_once('@').map_or(("", authority), |(l, h)| (l, h));
    let (user, password) = login.split_once(':').map_or((login, ""), |(u, p)| (u, p));
    for (key, value) in [("user", user), ("password", password), ("dbname", path)] {
        if !value.is_empty() {
            found.push((key.to_owned(), percent(value)?));
        }
    }
    if !hosts.is_empty() {
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for one in hosts.split(',') {
            let (name, port) = match one.strip_prefix('[') {
                Some(v6) => {
                    let (name, port) = v6
                        .split_once(']')
                        .ok_or_else(|| Error::usage("an address in the URI has no `]`"))?;
                    (name, port.strip_prefix(':').unwrap_or(port))
                }
                None => one.split_once(':').unwrap_or((one, "")),
            };
            names.push(percent(name)?);
            ports.push(port.to_owned());
        }
        found.push(("host".to_owned(), names.join(",")));
        if ports.iter().any(|port| !port.is_empty()) {
            found.push(("port".to_owned(), ports.join(",")));
        }
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Error::usage("a parameter of the URI has no `=`"))?;
        match (percent(key)?.as_str(), value) {
            ("ssl", "true") => found.push(("sslmode".into(), "require".into())),
            (key, value) => found.push((key.to_owned(), percent(value)?)),
        }
    }
    Ok(found)
}

fn percent(text: &str) -> Result<String> {
    let bad = || Error::usage("a percent sign in the URI is not followed by two hex digits");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let digits = tail.get(..2).ok_or_else(bad)?;
            let value = hex::decode(digits).map_err(|_| bad())?;
            if value == [0] {
                return Err(bad());
            }
            bytes.extend(value);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| Error::usage("the URI is not UTF-8"))
}

/// Reads a service from the user's file, or else from the system's.
pub(super) fn read_service(name: &str, given: &Values, around: &Surroundings) -> Result<Values> {
    let asked = given.get("servicefile").map(|value| value.expose_secret().to_owned());
    let asked = asked.or_else(|| around.variable("PGSERVICEFILE").map(str::to_owned));
    let own = match asked {
        Some(path) => Some(PathBuf::from(path)),
        None => around.below_home(".pg_service.conf"),
    };
    let directory = around.variable("PGSYSCONFDIR").unwrap_or("/etc/postgresql-common");
    let files = [own, Some(Path::new(directory).join("pg_service.conf"))];
    for path in files.iter().flatten() {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            error => error.doing(|| format!("failed to read {}", path.display()))?,
        };
        if let Some(values) = find_service(&text, name, path)? {
            return Ok(values);
        }
    }
    let looked: Vec<String> =
        files.iter().flatten().map(|path| path.display().to_string()).collect();
    Err(Error::new(ErrorKind::NotFound, format!("there is no service `{name}`"))
        .hint(format!("looked in {}", looked.join(" and "))))
}

fn find_service(text: &str, name: &str, path: &Path) -> Result<Option<Values>> {
    let mut found: Option<Values> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with('[') {
            if found.is_some() {
                break;
            }
            if line == format!("[{name}]") {
                found = Some(Values::new());
            }
        } else if let Some(values) = &mut found {
            let place = || format!("{}, line {}", path.display(), number + 1);
            let (key, value) = line
                .split_once('=')
                .ok_or_else(|| Error::usage(format!("there is no `=` in {}", place())))?;
            let key = key.trim();
            check_key(key).map_err(|error| error.context(place()))?;
            values.entry(key.to_owned()).or_insert_with(|| value.trim().into());
        }
    }
    Ok(found)
}
