//! The password file, `~/.pgpass`.
//!
//! Follows "34.16. The Password File" of PostgreSQL's documentation.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use secrecy::SecretString;

use super::conninfo::{Host, Place};
use crate::error::{Error, ErrorKind, IoContext as _, Result};

/// The password for this server, database and role. A file that is not there has none.
pub(super) fn look_up(
    path: &Path,
    host: &Host,
    database: &str,
    user: &str,
) -> Result<Option<SecretString>> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata,
        _ => return Ok(None),
    };
    if metadata.mode() & 0o077 != 0 {
        // libpq warns and goes on without it, which then fails as a missing password.
        return Err(Error::new(
            ErrorKind::Denied,
            format!("the password file {} can be read by others", path.display()),
        )
        .hint(format!("chmod 0600 {}", path.display())));
    }
    let text = std::fs::read_to_string(path)
        .doing(|| format!("failed to read the password file {}", path.display()))?;
    Ok(find(&text, host, database, user))
}

fn find(text: &str, host: &Host, database: &str, user: &str) -> Option<SecretString> {
    let name = match &host.place {
        Place::Name(name) => name.clone(),
        // A socket where libpq looks by itself is called `localhost`; any other by its directory.
        Place::Socket(directory)
            if ["/tmp", "/var/run/postgresql"].iter().any(|d| directory == Path::new(d)) =>
        {
            "localhost".to_owned()
        }
        Place::Socket(directory) => directory.display().to_string(),
    };
    let port = host.port.to_string();
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let [host, on, of, role, password] = fields.as_slice() else { return None };
        let fits = |(raw, field): &(bool, String), value: &str| *raw || field == value;
        let all = fits(host, &name) && fits(on, &port) && fits(of, database) && fits(role, user);
        all.then(|| password.1.as_str().into())
    })
}

/// The fields of a line, and whether each is a lone, unescaped `*`. The fifth is all that is left
/// up to the next bare colon.
fn fields(line: &str) -> Vec<(bool, String)> {
    let mut fields = vec![(false, String::new())];
    let mut raw = String::new();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let Some((star, field)) = fields.last_mut() else { break };
        match c {
            '\\' => {
                raw.push(c);
                let next = chars.next();
                raw.extend(next);
                field.extend(next);
            }
            ':' => {
                *star = raw == "*";
                raw.clear();
                if fields.len() == 5 {
                    break;
                }
                fields.push((false, String::new()));
            }
            c => {
                raw.push(c);
                field.push(c);
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn the_first_line_that_fits_counts() {
        let text = "# comment\n\
                    other:*:*:*:wrong\n\
                    db:5433:*:app:by port\n\
                    db:*:a\\:b:app:with\\:colon\\\\and backslash\n\
                    /run/pg:5432:*:app:socket\n\
                    localhost:*:*:*:local\n\
                    *:*:*:*:any\n";
        let at = |place: Place, port, database: &str, user: &str| {
            let host = Host { place, address: None, port };
            find(text, &host, database, user).unwrap().expose_secret().to_owned()
        };
        let name = |name: &str| Place::Name(name.into());
        assert_eq!(at(name("db"), 5433, "x", "app"), "by port");
        assert_eq!(at(name("db"), 5432, "a:b", "app"), "with:colon\\and backslash");
        assert_eq!(at(name("db"), 5432, "x", "app"), "any");
        assert_eq!(at(Place::Socket("/run/pg".into()), 5432, "x", "app"), "socket");
        assert_eq!(at(Place::Socket("/tmp".into()), 5432, "x", "app"), "local");
    }
}
