//! What a store answered, in words for people: a status and a code, never the XML around them.

use std::fmt;

/// Why a request failed. A value, so that one answer can stand for every object it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status, if the store answered at all.
    pub status: Option<u16>,
    /// The store's own name for it (`SlowDown`, `AccessDenied` …).
    pub code: Option<String>,
    /// What happened, in one line.
    pub message: String,
    /// What the operating system said, where a disk or a socket was the trouble.
    pub io: Option<std::io::ErrorKind>,
    /// The store never answered, or stopped in the middle.
    pub silent: bool,
}

impl std::error::Error for Answer {}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = String::new();
        if let Some(status) = self.status {
            before.push_str(&status.to_string());
        }
        if let Some(code) = &self.code {
            if !before.is_empty() {
                before.push(' ');
            }
            before.push_str(code);
        }
        match (before.is_empty(), self.message.is_empty()) {
            (true, _) => f.write_str(&self.message),
            (false, true) => f.write_str(&before),
            (false, false) => write!(f, "{before}: {}", self.message),
        }
    }
}

impl Answer {
    /// An answer that is no more than a line of text.
    pub(super) fn plain(message: impl Into<String>) -> Self {
        Self { status: None, code: None, message: message.into(), io: None, silent: false }
    }

    /// Whether the store's code is one of these.
    pub fn is(&self, codes: &[&str]) -> bool {
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    /// What the library says, without what it quotes of the body.
    pub(super) fn of(error: &object_store::Error) -> Self {
        let text = text_of(error);
        let code = element(&text, "Code");
        let status = text.split("status code: ").nth(1).and_then(number);
        let message = match (element(&text, "Message"), &code, status) {
            (Some(message), ..) => message,
            (None, Some(_), _) => String::new(),
            // The body is a page of a proxy, or nothing: the status line says it.
            (None, None, Some(_)) => status_line(&text),
            (None, None, None) => without_request(&without_markup(&text)),
        };
        let io = io_kind(error);
        Self {
            status,
            code,
            message: one_line(&message),
            io,
            silent: status.is_none() && is_silence(&text),
        }
    }
}

/// The messages of an error and its causes. Libraries like to repeat their causes in their own.
pub(super) fn text_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

/// What the operating system said, somewhere below.
pub(super) fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

/// The text of the first element of this name. Error bodies are flat.
pub(super) fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (value, _) = rest.split_once(&format!("</{name}>"))?;
    let value = value
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&");
    Some(value)
}

fn number(text: &str) -> Option<u16> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The reason phrase after a status code.
fn status_line(text: &str) -> String {
    let rest = text.split("status code: ").nth(1).unwrap_or_default();
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
    rest.split([':', '<', '\n']).next().unwrap_or_default().trim().to_owned()
}

fn without_markup(text: &str) -> String {
    let cut = text.find("<?xml").or_else(|| text.find("<Error")).or_else(|| text.find("<html"));
    text[..cut.unwrap_or(text.len())].trim_end_matches([' ', ':']).to_owned()
}

/// Whether the request never got an answer. The cause is an I/O error then too, and not a disk's.
pub(super) fn is_silence(text: &str) -> bool {
    text.contains("error sending request") || text.contains("HTTP error")
}

/// Whether this names the address where instances of AWS, Azure or Google ask for credentials.
pub(super) fn asks_instance(text: &str) -> bool {
    ["/latest/", "169.254.", "/metadata/identity", "/computeMetadata/"]
        .iter()
        .any(|place| text.contains(place))
}

/// Whether no TLS came about, and none will: the other side's certificate is not trusted, it refused
/// ours, or it speaks something else. In the words of the TLS library, which come with every error.
pub(super) fn is_distrusted(text: &str) -> bool {
    ["invalid peer certificate", "received fatal alert", "received corrupt message"]
        .iter()
        .any(|words| text.contains(words))
}

/// What went wrong, and how often it was tried; which request it was is said by whoever made it.
fn without_request(text: &str) -> String {
    let text = without_store(text);
    let Some((request, problem)) = text.split_once(" - HTTP error: ") else {
        return text.strip_prefix("HTTP error: ").map_or(text.clone(), str::to_owned);
    };
    // Not a request for an object: where instances ask for credentials, the address says it all.
    if asks_instance(request) {
        return text;
    }
    match request.split_once(", after ").map(|(_, rest)| number(rest)) {
        Some(Some(retries)) => format!("{problem} (tried {} times)", retries + 1),
        _ => problem.to_owned(),
    }
}

/// The error without the library's name of the store, which is said elsewhere.
fn without_store(text: &str) -> String {
    let text = text.replace("Generic S3 error: ", "");
    let text = text.replace("Generic MicrosoftAzure error: ", "");
    text.replace("Generic GCS error: ", "")
}

fn one_line(text: &str) -> String {
    /// Longer than any sentence of a store; a body that is quoted all the same ends here.
    const LONGEST: usize = 600;
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(body: &str) -> Answer {
        let text = format!(
            "Error performing PUT http://127.0.0.1/b/k in 1.2s, after 10 retries  - Server \
             returned non-2xx status code: {body}"
        );
        Answer::of(&object_store::Error::Generic { store: "S3", source: text.into() })
    }

    #[test]
    fn a_body_becomes_a_code_and_a_sentence() {
        let answer = quoted(
            "503 Service Unavailable: <?xml version=\"1.0\"?><Error><Code>SlowDown</Code>\
             <Message>Please reduce\n your &quot;rate&quot;</Message></Error>",
        );
        assert_eq!(answer.to_string(), "503 SlowDown: Please reduce your \"rate\"");
    }

    #[test]
    fn a_page_of_a_proxy_is_not_shown() {
        let answer = quoted("502 Bad Gateway: <html><body>nginx</body></html>");
        assert_eq!(answer.to_string(), "502: Bad Gateway");
    }

    #[test]
    fn a_connection_that_breaks_is_told_without_the_machinery() {
        let text = "Error performing GET http://127.0.0.1:1/b/k in 1.2s, after 10 retries, \
                    max_retries: 10, retry_timeout: 1s  - HTTP error: error sending request";
        let answer = Answer::of(&object_store::Error::Generic { store: "S3", source: text.into() });
        assert_eq!(answer.to_string(), "error sending request (tried 11 times)");
        assert!(answer.silent);
    }

    #[test]
    fn an_empty_body_leaves_the_status() {
        assert_eq!(quoted("403 Forbidden: ").to_string(), "403: Forbidden");
    }
}
