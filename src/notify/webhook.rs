//! Web hooks: the JSON of a message, signed where the policy has a secret.

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use sha2::Sha256;

use super::message::Message;
use super::receiver::{Refused, headers_of, secret_of, shown, taken, text_of};
use crate::error::{Error, Result};
use crate::policy::Webhook;
use crate::store::Web;

pub(super) fn deliver(
    hook: &Webhook,
    message: &Message,
    web: &Web,
    now: Timestamp,
) -> Result<String, Refused> {
    let body = message.json(now);
    let mut headers = headers_of(&hook.headers)?;
    let seconds = now.as_second();
    headers.push(("x-backstay-id".to_owned(), message.id()));
    headers.push(("x-backstay-timestamp".to_owned(), seconds.to_string()));
    if let Some(secret) = &hook.secret {
        let code =
            hmac_sha256(secret_of(secret)?.as_bytes(), format!("{seconds}.{body}").as_bytes())?;
        headers.push(("x-backstay-signature".to_owned(), format!("sha256={}", hex::encode(code))));
    }
    let reply = web.post(&text_of(&hook.url)?, &headers, body)?;
    Ok(shown(&taken(reply)?))
}

/// The HMAC-SHA256 of a text.
pub(super) fn hmac_sha256(key: &[u8], text: &[u8]) -> Result<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)
        .map_err(|error| Error::failed("failed to sign a message").with_source(error))?;
    mac.update(text);
    Ok(mac.finalize().into_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_rfc_4231() {
        let code = hmac_sha256(b"Jefe", b"what do ya want for nothing?").unwrap_or_default();
        assert_eq!(
            hex::encode(code),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
