//! Robots of chat groups: DingTalk, WeCom, Feishu.
//!
//! All three answer 200 to what they refuse, with a code in the body: only a code of 0 is success.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use indexmap::IndexMap;
use jiff::Timestamp;
use serde_json::{Value, json};
use url::Url;

use super::message::Message;
use super::receiver::{Refused, headers_of, secret_of, shown, taken};
use super::webhook::hmac_sha256;
use crate::error::{Error, Result};
use crate::policy::{Robot, Wecom};
use crate::secret::SecretRef;
use crate::store::{Reply, Web};

/// The most text, in bytes, below what each takes: DingTalk 20 000, WeCom 4096, Feishu 30 000.
const DINGTALK: usize = 18_000;
const WECOM: usize = 4_000;
const FEISHU: usize = 24_000;

/// How long a robot is left alone that says it was told too much: so long it would refuse anyway.
const PAUSE: Duration = Duration::from_mins(10);

/// Codes that mean: too much in too short a time.
const TOO_FAST: [i64; 5] = [130_101, 660_026, 45_009, 9_499, 11_232];

/// DingTalk: the signature is part of the address.
pub(super) fn dingtalk(
    robot: &Robot,
    message: &Message,
    web: &Web,
    now: Timestamp,
) -> Result<String, Refused> {
    let mut url = address(&robot.url)?;
    if let Some(secret) = &robot.secret {
        let secret = secret_of(secret)?;
        let millis = now.as_millisecond();
        let code = hmac_sha256(secret.as_bytes(), format!("{millis}\n{secret}").as_bytes())?;
        url.query_pairs_mut()
            .append_pair("timestamp", &millis.to_string())
            .append_pair("sign", &BASE64.encode(code));
    }
    let (title, text) = message.markdown(DINGTALK);
    let body = json!({"msgtype": "markdown", "markdown": {"title": title, "text": text}});
    send(web, &url, &body, "errcode")
}

/// WeCom: the key in the address is all there is.
pub(super) fn wecom(robot: &Wecom, message: &Message, web: &Web) -> Result<String, Refused> {
    let (_, text) = message.markdown(WECOM);
    let body = json!({"msgtype": "markdown", "markdown": {"content": text}});
    send(web, &address(&robot.url)?, &body, "errcode")
}

/// Feishu: the signature is part of the body, and what is signed is the key.
pub(super) fn feishu(
    robot: &Robot,
    message: &Message,
    web: &Web,
    now: Timestamp,
) -> Result<String, Refused> {
    let (title, text) = message.markdown(FEISHU);
    let mut body = json!({
        "msg_type": "interactive",
        "card": {
            "header": {"title": {"tag": "plain_text", "content": title}},
            "elements": [{"tag": "markdown", "content": text}],
        },
    });
    if let Some(secret) = &robot.secret {
        let seconds = now.as_second();
        let code = hmac_sha256(format!("{seconds}\n{}", secret_of(secret)?).as_bytes(), b"")?;
        body["timestamp"] = json!(seconds.to_string());
        body["sign"] = json!(BASE64.encode(code));
    }
    send(web, &address(&robot.url)?, &body, "code")
}

fn address(reference: &SecretRef) -> Result<Url> {
    secret_of(reference)?.trim().parse().map_err(|_| {
        Error::usage(format!("{reference} is not an address"))
            .hint("it is to hold the whole address of the robot, https://…")
    })
}

fn send(web: &Web, url: &Url, body: &Value, code: &str) -> Result<String, Refused> {
    let reply = web.post(url.as_str(), &headers_of(&IndexMap::new())?, body.to_string())?;
    verdict(&taken(reply)?, code)
}

/// What an answer of status 200 means.
fn verdict(reply: &Reply, code: &str) -> Result<String, Refused> {
    let said = shown(reply);
    let answer: Option<Value> = serde_json::from_str(&reply.body).ok();
    // Feishu's older robots say `StatusCode`.
    let found = answer.as_ref().and_then(|answer| {
        answer.get(code).or_else(|| answer.get("StatusCode")).and_then(Value::as_i64)
    });
    match found {
        Some(0) => Ok(said),
        Some(found) => Err(Refused {
            error: Error::failed(format!("it answered {said}"))
                .hint("its address, its secret or the key words of the group are wrong, or it was told too much"),
            retry_after: TOO_FAST.contains(&found).then_some(PAUSE),
        }),
        None => Err(Error::failed(format!("it answered {said}, which no such robot says")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Result<String, Option<Duration>> {
        let reply = Reply { status: 200, body: body.to_owned(), retry_after: None };
        verdict(&reply, "errcode").map_err(|refused| refused.retry_after)
    }

    #[test]
    fn only_a_code_of_zero_is_success() {
        assert!(answer(r#"{"errcode":0,"errmsg":"ok"}"#).is_ok());
        assert!(answer(r#"{"StatusCode":0,"StatusMessage":"success"}"#).is_ok());
        assert_eq!(answer(r#"{"errcode":310000,"errmsg":"sign not match"}"#), Err(None));
        assert_eq!(
            answer(r#"{"errcode":45009,"errmsg":"api freq out of limit"}"#),
            Err(Some(PAUSE))
        );
        assert_eq!(answer("<html>a login page</html>"), Err(None));
        assert_eq!(answer("{}"), Err(None));
    }
}
