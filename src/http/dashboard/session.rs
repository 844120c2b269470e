//! Who is logged in: sessions in memory, and how often somebody may try.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::error::{IoContext as _, Result};

/// How long a session lasts.
pub const LASTS: SignedDuration = SignedDuration::from_hours(12);

/// A session that was not used for as long is over.
const IDLE: SignedDuration = SignedDuration::from_hours(2);

/// The most sessions; one more ends the oldest.
const MOST: usize = 256;

/// Wrong tokens that an address may give in [`WITHIN`].
const TRIES: u32 = 10;

/// The time in which they are counted.
const WITHIN: SignedDuration = SignedDuration::from_mins(1);

/// Addresses that are counted at once.
const ADDRESSES: usize = 4096;

/// The digest of something that is secret.
pub type Digest = [u8; 32];

/// A person who is logged in.
#[derive(Debug, Clone)]
struct Session {
    began: Timestamp,
    used: Timestamp,
    /// What every form has to send back.
    form: String,
    /// The token it was opened with: another one closes it.
    token: Digest,
    /// What is to be told on the next page.
    said: Option<(bool, String)>,
}

/// Everybody who is logged in. What is kept of a cookie is its digest.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<HashMap<Digest, Session>>,
    wrong: Mutex<HashMap<IpAddr, (u32, Timestamp)>>,
}

/// What a page knows of its reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// Finds the session again.
    pub id: Digest,
    /// What every form has to send back.
    pub form: String,
}

impl Sessions {
    /// Opens one, and gives what the cookie holds.
    pub fn open(&self, token: Digest, now: Timestamp) -> Result<String> {
        let cookie = random()?;
        let session = Session { began: now, used: now, form: random()?, token, said: None };
        let mut open = lock(&self.open);
        open.retain(|_, session| session.is_open(token, now));
        while open.len() >= MOST {
            let oldest = open.iter().min_by_key(|(_, one)| one.used).map(|(id, _)| *id);
            let Some(oldest) = oldest else { break };
            open.remove(&oldest);
        }
        open.insert(digest(&cookie), session);
        Ok(cookie)
    }

    /// Whose cookie this is. `token` is the one in force.
    pub fn reader(&self, cookie: &str, token: Digest, now: Timestamp) -> Option<Reader> {
        let id = digest(cookie);
        let mut open = lock(&self.open);
        let session = open.get_mut(&id)?;
        if !session.is_open(token, now) {
            open.remove(&id);
            return None;
        }
        session.used = now;
        Some(Reader { id, form: session.form.clone() })
    }

    /// Closes one.
    pub fn close(&self, reader: &Reader) {
        lock(&self.open).remove(&reader.id);
    }

    /// Something for the next page, and whether it is good news.
    pub fn say(&self, reader: &Reader, good: bool, text: String) {
        if let Some(session) = lock(&self.open).get_mut(&reader.id) {
            session.said = Some((good, text));
        }
    }

    /// What was said for this page.
    pub fn said(&self, reader: &Reader) -> Option<(bool, String)> {
        lock(&self.open).get_mut(&reader.id)?.said.take()
    }

    /// Whether an address may try a token now.
    pub fn may_try(&self, from: IpAddr, now: Timestamp) -> bool {
        let wrong = lock(&self.wrong);
        wrong
            .get(&from)
            .is_none_or(|(tries, since)| *tries < TRIES || now.duration_since(*since) >= WITHIN)
    }

    /// An address gave a wrong token.
    pub fn was_wrong(&self, from: IpAddr, now: Timestamp) {
        let mut wrong = lock(&self.wrong);
        wrong.retain(|_, (_, since)| now.duration_since(*since) < WITHIN);
        if wrong.len() < ADDRESSES || wrong.contains_key(&from) {
            wrong.entry(from).or_insert((0, now)).0 += 1;
        }
    }
}

impl Session {
    fn is_open(&self, token: Digest, now: Timestamp) -> bool {
        self.token == token
            && now.duration_since(self.began) < LASTS
            && now.duration_since(self.used) < IDLE
    }
}

/// Whether two secrets are the same. The time it takes tells nothing of them.
pub fn same(one: &str, other: &str) -> bool {
    digest(one) == digest(other)
}

/// The digest of a secret.
pub fn digest(secret: &str) -> Digest {
    Sha256::digest(secret.as_bytes()).into()
}

/// 256 bits that nobody can guess, as hex.
fn random() -> Result<String> {
    let mut bytes = [0; 32];
    let failed = || "failed to get random bytes for a session".to_owned();
    File::open("/dev/urandom").doing(failed)?.read_exact(&mut bytes).doing(failed)?;
    Ok(hex::encode(bytes))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::net::Ipv4Addr;

    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minutes * 60).unwrap()
    }

    #[test]
    fn a_session_ends() {
        let sessions = Sessions::default();
        let token = digest("token");
        let cookie = sessions.open(token, at(0)).unwrap();
        assert_eq!(cookie.len(), 64);
        let reader = sessions.reader(&cookie, token, at(1)).unwrap();
        assert_ne!(reader.form, cookie);
        assert_eq!(sessions.reader("other", token, at(1)), None);
        // Used now and then it lasts half a day.
        for minute in (0..720).step_by(60) {
            assert!(sessions.reader(&cookie, token, at(minute)).is_some(), "{minute}");
        }
        assert_eq!(sessions.reader(&cookie, token, at(720)), None);
        // Nobody used it for two hours.
        let cookie = sessions.open(token, at(0)).unwrap();
        assert_eq!(sessions.reader(&cookie, token, at(120)), None);
        // Another token is in force.
        let cookie = sessions.open(token, at(0)).unwrap();
        assert_eq!(sessions.reader(&cookie, digest("new"), at(1)), None);
        // Logged out.
        let cookie = sessions.open(token, at(0)).unwrap();
        let reader = sessions.reader(&cookie, token, at(1)).unwrap();
        sessions.say(&reader, true, "done".to_owned());
        assert_eq!(sessions.said(&reader), Some((true, "done".to_owned())));
        assert_eq!(sessions.said(&reader), None);
        sessions.close(&reader);
        assert_eq!(sessions.reader(&cookie, token, at(1)), None);
        // There are never very many.
        for _ in 0..MOST + 10 {
            sessions.open(token, at(0)).unwrap();
        }
        assert_eq!(lock(&sessions.open).len(), MOST);
    }

    #[test]
    fn whoever_guesses_has_to_wait() {
        let sessions = Sessions::default();
        let (one, other) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from([10, 0, 0, 1]));
        for _ in 0..TRIES {
            assert!(sessions.may_try(one, at(0)));
            sessions.was_wrong(one, at(0));
        }
        assert!(!sessions.may_try(one, at(0)));
        assert!(sessions.may_try(other, at(0)));
        assert!(sessions.may_try(one, at(1)));
    }
}
