//! Queries: what is one statement and what are several.

/// Whether something follows a `;` that ends a statement. One in a string, a quoted name or a comment
/// ends none.
pub(super) fn is_several(query: &str) -> bool {
    let mut rest = query;
    while let Some(first) = rest.chars().next() {
        rest = match first {
            ';' => {
                let after = rest[1..].trim_start_matches(|c: char| c == ';' || c.is_whitespace());
                return !skip_comments(after).is_empty();
            }
            '\'' | '"' | '`' => quoted(rest, first),
            '-' if rest.starts_with("--") => line(rest),
            '/' if rest.starts_with("/*") => comment(rest),
            '$' => dollars(rest),
            // Part of a word, so that what follows begins no string of its own kind.
            _ if is_word(first) => {
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                if word.eq_ignore_ascii_case("e") && after.starts_with('\'') {
                    escaped(after)
                } else {
                    after
                }
            }
            other => &rest[other.len_utf8()..],
        };
    }
    false
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// After a quoted text. A doubled quote looks like two texts side by side, which ends at the same place.
fn quoted(text: &str, quote: char) -> &str {
    text[1..].split_once(quote).map_or("", |(_, after)| after)
}

/// The same where a backslash takes the meaning from what follows it.
fn escaped(text: &str) -> &str {
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => _ = characters.next(),
            '\'' => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

fn line(text: &str) -> &str {
    text.split_once('\n').map_or("", |(_, after)| after)
}

/// After a comment, which may have others in it.
fn comment(text: &str) -> &str {
    let (mut rest, mut depth) = (&text[2..], 1);
    while depth > 0 {
        let Some(at) = rest.find(['*', '/']) else { return "" };
        rest = &rest[at..];
        let ends = rest.starts_with("*/");
        if ends || rest.starts_with("/*") {
            depth = if ends { depth - 1 } else { depth + 1 };
            rest = &rest[2..];
        } else {
            rest = &rest[1..];
        }
    }
    rest
}

/// After a text between `$TAG$` and `$TAG$`, or after the sign where none begins there.
fn dollars(text: &str) -> &str {
    let tag = text[1..].find('$').map(|end| &text[..end + 2]);
    match tag.filter(|tag| tag[1..tag.len() - 1].chars().all(|c| is_word(c) && c != '$')) {
        Some(tag) => text[tag.len()..].split_once(tag).map_or("", |(_, after)| after),
        None => &text[1..],
    }
}

fn skip_comments(mut text: &str) -> &str {
    loop {
        text = text.trim_start_matches(|c: char| c == ';' || c.is_whitespace());
        text = match text {
            _ if text.starts_with("--") => line(text),
            _ if text.starts_with("/*") => comment(text),
            _ => return text,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_semicolon_between_statements_makes_several() {
        for one in [
            "SELECT 1",
            "SELECT 1;",
            "SELECT 1 ; ; -- done; really\n /* and; over */",
            "SELECT string_agg(name, ';') FROM t",
            "SELECT 'it''s; one' || \"a;b\"",
            "SELECT E'it\\'s; one'",
            "SELECT $$a;b$$ || $tag$;$$;$tag$",
            "SELECT 1 -- not; two\n + 1",
            "SELECT 1 /* a; /* b; */ c; */ + 1",
            "SELECT 'never closed; ever",
        ] {
            assert!(!is_several(one), "{one}");
        }
        for two in [
            "SELECT 1; SELECT 2",
            "SELECT ';'; SELECT 2",
            "SELECT 1; -- and\n DROP TABLE t",
            "SELECT $1; SELECT $2",
            "SELECT 'a\\'; DROP TABLE t; --'",
            "SELECT a$b; SELECT c$d",
        ] {
            assert!(is_several(two), "{two}");
        }
    }
}
