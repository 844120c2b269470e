//! Dead man's switches in the manner of healthchecks: the begin and the end of every run.
//!
//! A switch that hears nothing in time raises the alarm by itself. That is the one alert that works
//! when this machine does not.

use jiff::Timestamp;
use url::Url;

use super::receiver::{Refused, shown, taken, text_of};
use crate::archive::digest::sha256_hex;
use crate::error::{Error, Result};
use crate::policy::Setting;
use crate::secret;
use crate::store::Web;

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It begins.
    Start,
    /// It succeeded.
    Success,
    /// It failed, and is not tried again.
    Fail,
    /// Nothing: the switch writes it down, and stays as it is.
    Log,
}

/// Something that a switch hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ping {
    /// The stack.
    pub stack: String,
    /// The job.
    pub job: String,
    /// The source; empty for what is not of one source.
    pub source: String,
    /// The run.
    pub run: String,
    /// What became of it.
    pub sign: Sign,
    /// One line for people.
    pub said: String,
    /// When.
    pub at: Timestamp,
}

/// The most that is sent with a ping.
const BODY: usize = 10_000;

impl Ping {
    /// Tells the switch at `address`, and says what it answered.
    pub fn send(&self, address: &Setting, web: &Web) -> Result<String, Refused> {
        let url = self.url(&text_of(address)?)?;
        let said: String = secret::mask(&self.said).chars().take(BODY).collect();
        let body = format!("{} {} {}\n{said}\n", self.at, self.name(), self.run);
        let headers = [("content-type".to_owned(), "text/plain; charset=utf-8".to_owned())];
        Ok(shown(&taken(web.post(&url, &headers, body)?)?))
    }

    fn name(&self) -> String {
        if self.source.is_empty() {
            format!("{} {}", self.stack, self.job)
        } else {
            format!("{}/{} {}", self.stack, self.source, self.job)
        }
    }

    /// The address with the names put in, what became of the run, and its id.
    fn url(&self, address: &str) -> Result<String> {
        let source = if self.source.is_empty() { "all" } else { &self.source };
        let filled = address
            .replace("{stack}", &self.stack)
            .replace("{job}", &self.job)
            .replace("{source}", source);
        let bad = || Error::usage("the address of a ping is none");
        let mut url: Url = filled.parse().map_err(|_| bad())?;
        let more = match self.sign {
            Sign::Start => Some("start"),
            Sign::Success => None,
            Sign::Fail => Some("fail"),
            Sign::Log => Some("log"),
        };
        if let Some(more) = more {
            url.path_segments_mut().map_err(|()| bad())?.pop_if_empty().push(more);
        }
        url.query_pairs_mut().append_pair("rid", &uuid_of(&self.run));
        Ok(url.into())
    }
}

/// The UUID that stands for a run where one is asked for: always the same one (version 8 of RFC
/// 9562, which is for such).
pub fn uuid_of(run: &str) -> String {
    let digest = sha256_hex(run.as_bytes());
    format!(
        "{}-{}-8{}-a{}-{}",
        &digest[..8],
        &digest[8..12],
        &digest[13..16],
        &digest[17..20],
        &digest[20..32]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_the_job_the_outcome_and_the_run() {
        let ping = Ping {
            stack: "shop".into(),
            job: "daily".into(),
            source: String::new(),
            run: "20261121T020000Z-x7k3fq".into(),
            sign: Sign::Fail,
            said: String::new(),
            at: Timestamp::UNIX_EPOCH,
        };
        let url = |address: &str, sign| Ping { sign, ..ping.clone() }.url(address).ok();
        let rid = uuid_of(&ping.run);
        assert_eq!(rid.len(), 36);
        assert_eq!(
            url("https://hc.example/key/{stack}-{job}-{source}?create=1", Sign::Start),
            Some(format!("https://hc.example/key/shop-daily-all/start?create=1&rid={rid}"))
        );
        assert_eq!(
            url("https://hc.example/abc/", Sign::Fail),
            Some(format!("https://hc.example/abc/fail?rid={rid}"))
        );
        assert_eq!(
            url("https://hc.example/abc", Sign::Success),
            Some(format!("https://hc.example/abc?rid={rid}"))
        );
        assert_eq!(url("nowhere", Sign::Success), None);
    }
}
