//! What a browser asks, and what it gets.

use std::net::IpAddr;

use http::{Method, StatusCode};

use super::html::Html;

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// GET, HEAD or POST.
    pub method: Method,
    /// The path, encoded.
    pub path: String,
    /// What follows the `?`.
    pub query: String,
    /// The body.
    pub body: Vec<u8>,
    /// Who asks, as far as the connection tells.
    pub from: IpAddr,
    /// `Host`.
    pub host: Option<String>,
    /// `Origin`.
    pub origin: Option<String>,
    /// `Cookie`.
    pub cookies: String,
    /// `Accept-Language`.
    pub languages: Option<String>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// `Content-Type`.
    pub kind: &'static str,
    /// The body.
    pub body: String,
    /// Where to go instead.
    pub location: Option<String>,
    /// Cookies to be kept.
    pub cookies: Vec<String>,
    /// It never changes.
    pub lasting: bool,
    /// Seconds after which it may be tried again.
    pub again: Option<u64>,
    /// It was stored by somebody, and may do nothing but be looked at.
    pub stored: bool,
}

/// Names and values, of a query or of a form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads `a=b&c=d`.
    pub fn parse(text: &[u8]) -> Self {
        Self(url::form_urlencoded::parse(text).into_owned().collect())
    }

    /// The first of a name that is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(own, value)| own == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    /// All of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

impl Request {
    /// The cookie of this name.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        self.cookies.split(';').find_map(|one| {
            let (own, value) = one.trim().split_once('=')?;
            (own == name).then_some(value)
        })
    }

    /// Whether it comes from a page of this very site. A browser says with every form where that
    /// was; one that does not is not one that this is for.
    pub fn is_own(&self) -> bool {
        let origin = self.origin.as_deref().and_then(|origin| origin.split_once("://"));
        origin.is_some_and(|(_, authority)| self.host.as_deref() == Some(authority))
    }
}

impl Reply {
    /// A page.
    pub fn page(status: StatusCode, page: Html) -> Self {
        Self {
            status,
            kind: "text/html; charset=utf-8",
            body: page.into_string(),
            location: None,
            cookies: Vec::new(),
            lasting: false,
            again: None,
            stored: false,
        }
    }

    /// A page that was stored, as it is.
    pub fn stored(body: String) -> Self {
        let page = Self::page(StatusCode::OK, Html::default());
        Self { body, stored: true, ..page }
    }

    /// Another page is to be asked for.
    pub fn elsewhere(location: String) -> Self {
        let page = Self::page(StatusCode::SEE_OTHER, Html::default());
        Self { location: Some(location), ..page }
    }

    /// Something that never changes under its name.
    pub fn asset(kind: &'static str, body: &'static str) -> Self {
        let page = Self::page(StatusCode::OK, Html::default());
        Self { kind, body: body.to_owned(), lasting: true, ..page }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(origin: Option<&str>, cookies: &str) -> Request {
        Request {
            method: Method::POST,
            path: "/".to_owned(),
            query: String::new(),
            body: Vec::new(),
            from: IpAddr::from([127, 0, 0, 1]),
            host: Some("localhost:9187".to_owned()),
            origin: origin.map(str::to_owned),
            cookies: cookies.to_owned(),
            languages: None,
        }
    }

    #[test]
    fn only_pages_of_this_site_send_forms() {
        assert!(request(Some("http://localhost:9187"), "").is_own());
        for other in
            [None, Some("null"), Some("http://localhost"), Some("https://localhost:9187.evil")]
        {
            assert!(!request(other, "").is_own(), "{other:?}");
        }
    }

    #[test]
    fn cookies_and_fields_are_found_by_name() {
        let request = request(None, "a=1; backstay=x=y;b=2");
        assert_eq!(request.cookie("backstay"), Some("x=y"));
        assert_eq!(request.cookie("b"), Some("2"));
        assert_eq!(request.cookie("c"), None);
        let fields = Fields::parse(b"a=&a=2&b=x+y&a=3%26");
        assert_eq!(fields.get("a"), Some("2"));
        assert_eq!(fields.all("a").collect::<Vec<_>>(), ["", "2", "3&"]);
        assert_eq!(fields.get("b"), Some("x y"));
        assert_eq!(fields.get("c"), None);
    }
}
