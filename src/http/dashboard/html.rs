//! HTML that is escaped by its type: text becomes markup only in templates of this program.

use std::fmt::Write as _;

use jiff::Timestamp;

/// Markup. Whatever is in it that was not written here was escaped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Html(String);

/// Something that takes the place of a `{}`.
pub trait Piece {
    /// Writes it, escaped for text and for quoted attributes.
    fn put(&self, out: &mut String);
}

impl Piece for str {
    fn put(&self, out: &mut String) {
        for c in self.chars() {
            match c {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '"' => out.push_str("&quot;"),
                '\'' => out.push_str("&#39;"),
                // What turns the direction of what follows, or shows nothing, is shown as what it is.
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}' => {
                    let _ = write!(out, "\\u{{{:x}}}", c as u32);
                }
                c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
                c => out.push(c),
            }
        }
    }
}

impl Piece for String {
    fn put(&self, out: &mut String) {
        self.as_str().put(out);
    }
}

impl Piece for Html {
    fn put(&self, out: &mut String) {
        out.push_str(&self.0);
    }
}

impl<T: Piece + ?Sized> Piece for &T {
    fn put(&self, out: &mut String) {
        (*self).put(out);
    }
}

impl<T: Piece> Piece for Option<T> {
    fn put(&self, out: &mut String) {
        if let Some(piece) = self {
            piece.put(out);
        }
    }
}

impl<T: Piece> Piece for Vec<T> {
    fn put(&self, out: &mut String) {
        for piece in self {
            piece.put(out);
        }
    }
}

impl Piece for f64 {
    fn put(&self, out: &mut String) {
        let _ = write!(out, "{self:.1}");
    }
}

/// Numbers, and an instant as machines read it: nothing in them needs escaping.
macro_rules! plain {
    ($($kind:ty),*) => {
        $(impl Piece for $kind {
            fn put(&self, out: &mut String) {
                let _ = write!(out, "{self}");
            }
        })*
    };
}

plain!(u16, u32, u64, usize, i32, i64, Timestamp);

/// A template with a piece for each `{}`.
pub fn html(template: &'static str, pieces: &[&dyn Piece]) -> Html {
    let mut page = Html::default();
    page.add(template, pieces);
    page
}

impl Html {
    /// Adds a template with a piece for each `{}`.
    pub fn add(&mut self, template: &'static str, pieces: &[&dyn Piece]) {
        let mut parts = template.split("{}");
        self.0.push_str(parts.next().unwrap_or_default());
        let mut pieces = pieces.iter();
        for part in parts {
            if let Some(piece) = pieces.next() {
                piece.put(&mut self.0);
            }
            self.0.push_str(part);
        }
        debug_assert!(pieces.next().is_none(), "more pieces than places in {template}");
    }

    /// Adds markup.
    pub fn push(&mut self, other: &Self) {
        self.0.push_str(&other.0);
    }

    /// Rows of a table whose cells say what column they are of, for where they stand one below the
    /// other. What is in cells is escaped, so that every tag here is one of a template.
    #[must_use]
    pub fn labelled(&self, head: &[(&str, &'static str)]) -> Self {
        let mut page = Self::default();
        let (mut rest, mut column) = (self.0.as_str(), 0);
        while let Some(at) = rest.find("<t") {
            let (before, tag) = rest.split_at(at);
            page.0.push_str(before);
            let is = |name: &str| {
                tag.strip_prefix(name).is_some_and(|after| after.starts_with([' ', '>']))
            };
            let taken = if is("<td") || is("<th") { 3 } else { 2 };
            column = if is("<tr") { 0 } else { column };
            page.0.push_str(&tag[..taken]);
            if taken == 3 {
                if let Some((label, _)) = head.get(column) {
                    page.add(" data-label=\"{}\"", &[label]);
                }
                column += 1;
            }
            rest = &tag[taken..];
        }
        page.0.push_str(rest);
        page
    }

    /// Whether nothing is in it.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text of it.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl FromIterator<Self> for Html {
    fn from_iter<T: IntoIterator<Item = Self>>(pieces: T) -> Self {
        let mut all = Self::default();
        pieces.into_iter().for_each(|piece| all.push(&piece));
        all
    }
}

/// An address of this site: a path of segments that are encoded, and a query. Not escaped yet.
pub fn address(segments: &[&str], query: &[(&str, &str)]) -> String {
    let mut address = String::new();
    for segment in segments {
        address.push('/');
        for byte in segment.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                address.push(char::from(byte));
            } else {
                let _ = write!(address, "%{byte:02X}");
            }
        }
    }
    if address.is_empty() {
        address.push('/');
    }
    if !query.is_empty() {
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        text.extend_pairs(query);
        address.push('?');
        address.push_str(&text.finish());
    }
    address
}

/// The segments of a path, decoded. `None`: they are not text.
pub fn segments(path: &str) -> Option<Vec<String>> {
    let decode = |segment: &str| {
        let mut bytes = Vec::new();
        let mut rest = segment.bytes();
        while let Some(byte) = rest.next() {
            if byte != b'%' {
                bytes.push(byte);
                continue;
            }
            let hex = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
        }
        String::from_utf8(bytes).ok()
    };
    path.split('/').filter(|segment| !segment.is_empty()).map(decode).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn nothing_becomes_markup_that_was_text() {
        let hostile = "<script>alert(\"1\")</script> & 'x' \u{202e}\u{7}";
        let page = html("<a title=\"{}\">{}</a>", &[&hostile, &html("<b>{}</b>", &[&7u64])]);
        assert_eq!(
            page.into_string(),
            "<a title=\"&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &#39;x&#39; \\u{202e}\u{fffd}\"><b>7</b></a>"
        );
        // What stands in a piece is no place for another.
        assert_eq!(html("{}-{}", &[&"{}", &"x"]).into_string(), "{}-x");
    }

    #[test]
    fn cells_say_what_column_they_are_of() {
        let rows =
            html("<tr><th scope=\"row\"><time>{}</time></th><td>{}</td></tr>", &[&"<td>", &1u64]);
        let shown = rows.labelled(&[("A", ""), ("\"B\"", "")]).into_string();
        assert_eq!(
            shown,
            "<tr><th data-label=\"A\" scope=\"row\"><time>&lt;td&gt;</time></th><td data-label=\"&quot;B&quot;\">1</td></tr>"
        );
    }

    #[test]
    fn an_address_comes_back_as_its_segments() {
        let odd = ["a/b", "..", "ü?#&", "%41"];
        let address = address(&odd, &[("q", "a&b=c d")]);
        assert_eq!(address, "/a%2Fb/../%C3%BC%3F%23%26/%2541?q=a%26b%3Dc+d");
        let (path, _) = address.split_once('?').unwrap();
        assert_eq!(segments(path).unwrap(), odd);
        assert_eq!(segments("/%f"), None);
        assert_eq!(segments("/%ff"), None);
        assert_eq!(segments("//"), Some(Vec::new()));
    }
}
