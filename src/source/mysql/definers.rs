//! On whose behalf views, routines, triggers and events run.

use std::io::{BufRead as _, BufReader, Read};

/// The longest line at whose begin a definer may stand.
const LINE: usize = 64 << 10;

/// What definitions begin with; rows, bodies and comments do not.
const HEADS: [&[u8]; 6] = [
    b"CREATE DEFINER=",
    b"/*!50003 CREATE*/",
    b"/*!50106 CREATE*/",
    b"/*!50117 CREATE*/",
    b"/*!50013 DEFINER=",
    b"/*!50020 DEFINER=",
];

/// A dump whose views, routines, triggers and events name nobody on whose behalf they run.
pub struct WithoutDefiners<R> {
    input: BufReader<R>,
    line: Vec<u8>,
    given: usize,
    begins: bool,
}

impl<R: Read> WithoutDefiners<R> {
    /// The dump `input`.
    pub fn new(input: R) -> Self {
        Self {
            input: BufReader::with_capacity(256 << 10, input),
            line: Vec::new(),
            given: 0,
            begins: true,
        }
    }
}

impl<R: Read> Read for WithoutDefiners<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.given == self.line.len() {
            self.line.clear();
            self.given = 0;
            let mut some = (&mut self.input).take(LINE as u64);
            some.read_until(b'\n', &mut self.line)?;
            let begins = std::mem::replace(&mut self.begins, self.line.ends_with(b"\n"));
            if begins && HEADS.iter().any(|head| self.line.starts_with(head)) {
                self.line = without_definer(&self.line);
            }
        }
        let length = out.len().min(self.line.len() - self.given);
        out[..length].copy_from_slice(&self.line[self.given..][..length]);
        self.given += length;
        Ok(length)
    }
}

/// Without its first ``DEFINER=`user`@`host` ``.
fn without_definer(line: &[u8]) -> Vec<u8> {
    let Some(at) = line.windows(8).position(|some| some == b"DEFINER=") else {
        return line.to_vec();
    };
    let mut end = at + 8;
    for separator in [&b"@"[..], b""] {
        // A quote in a name is doubled.
        if line.get(end) != Some(&b'`') {
            return line.to_vec();
        }
        end += 1;
        while line.get(end).is_some_and(|byte| *byte != b'`')
            || line.get(end..end + 2) == Some(b"``")
        {
            end += if line[end] == b'`' { 2 } else { 1 };
        }
        end += 1;
        if line.get(end..).is_some_and(|rest| rest.starts_with(separator)) {
            end += separator.len();
        }
    }
    [&line[..at], line.get(end..).unwrap_or_default()].concat()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn definers_are_left_out_of_definitions_and_of_nothing_else() {
        for (line, expected) in [
            ("CREATE DEFINER=`a`@`%` PROCEDURE `p`()\n", "CREATE  PROCEDURE `p`()\n"),
            (
                "/*!50013 DEFINER=`x``y`@`h` SQL SECURITY DEFINER */\n",
                "/*!50013  SQL SECURITY DEFINER */\n",
            ),
            (
                "/*!50003 CREATE*/ /*!50017 DEFINER=`a`@`b`*/ /*!50003 TRIGGER t */\n",
                "/*!50003 CREATE*/ /*!50017 */ /*!50003 TRIGGER t */\n",
            ),
            (
                "INSERT INTO t VALUES ('DEFINER=`a`@`b`');\n",
                "INSERT INTO t VALUES ('DEFINER=`a`@`b`');\n",
            ),
            ("  CREATE DEFINER=`a`@`b` in a body\n", "  CREATE DEFINER=`a`@`b` in a body\n"),
        ] {
            let mut text = String::new();
            WithoutDefiners::new(line.as_bytes()).read_to_string(&mut text).unwrap();
            assert_eq!(text, expected);
        }
    }
}
