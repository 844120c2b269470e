//! The token that whoever asks the API has to have.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, IoContext as _, Result};

/// Shorter ones are guessed one day.
const SHORTEST: usize = 32;

/// A token in a file. It is read for every request, so that a new one is in force at once.
#[derive(Debug, Clone)]
pub struct Token {
    file: PathBuf,
}

impl Token {
    /// The token in `file`, which has to hold one, and that nobody else may read.
    pub fn in_file(file: &Path) -> Result<Self> {
        let token = Self { file: file.to_owned() };
        token.read()?;
        Ok(token)
    }

    fn read(&self) -> Result<String> {
        let text = read_private(&self.file)?;
        let token = text.trim();
        let plain = token.bytes().all(|byte| byte.is_ascii_graphic());
        if token.len() < SHORTEST || !plain {
            return Err(Error::usage(format!(
                "{} holds no token: one has {SHORTEST} characters or more, without spaces",
                self.file.display()
            ))
            .hint(format!("openssl rand -hex 32 > {}", self.file.display())));
        }
        Ok(token.to_owned())
    }

    /// Whether `Authorization: Bearer …` has the token.
    pub fn check(&self, authorization: Option<&str>) -> Result<()> {
        let wanted = self.in_force()?;
        let Some(given) = authorization.and_then(bearer) else {
            return Err(Error::new(ErrorKind::Denied, "no token was given")
                .hint("send `Authorization: Bearer TOKEN`"));
        };
        // Digests, so that the time it takes tells nothing of the token.
        if <[u8; 32]>::from(Sha256::digest(given.as_bytes())) == wanted {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Denied, "this is not the token of the daemon"))
    }
}

impl Token {
    /// The digest of the token that is in force.
    pub fn in_force(&self) -> Result<[u8; 32]> {
        // Where it lies, and what is wrong with it, is nobody's business who has no token.
        let wanted = self
            .read()
            .map_err(|_| Error::new(ErrorKind::Unreachable, "the daemon cannot read its token"))?;
        Ok(Sha256::digest(wanted.as_bytes()).into())
    }
}

/// The content of a file that nobody else may read or change.
pub fn read_private(file: &Path) -> Result<String> {
    let name = file.display();
    let failed = || format!("failed to read the token in {name}");
    let mode = file.metadata().doing(failed)?.mode();
    if mode & 0o037 != 0 {
        let what = format!("others may read or change the token in {name}");
        return Err(Error::new(ErrorKind::Denied, what).hint(format!("chmod 600 {name}")));
    }
    std::fs::read_to_string(file).doing(failed)
}

fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_the_token_opens() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("token");
        let write = |text: &str, mode| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        };
        assert_eq!(Token::in_file(&file).unwrap_err().kind(), ErrorKind::NotFound);
        write("short\n", 0o600);
        assert_eq!(Token::in_file(&file).unwrap_err().kind(), ErrorKind::Usage);
        let good = "0123456789abcdef0123456789abcdef";
        write(good, 0o644);
        assert_eq!(Token::in_file(&file).unwrap_err().kind(), ErrorKind::Denied);
        write(&format!("{good}\n"), 0o640);
        let token = Token::in_file(&file).unwrap();
        token.check(Some(&format!("Bearer {good}"))).unwrap();
        token.check(Some(&format!("bearer  {good}"))).unwrap();
        for wrong in [None, Some(good), Some("Bearer "), Some("Basic x"), Some("Bearer 0123")] {
            assert_eq!(token.check(wrong).unwrap_err().kind(), ErrorKind::Denied, "{wrong:?}");
        }
        // Others may read it meanwhile: it opens nothing any more.
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        let error = token.check(Some(&format!("Bearer {good}"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(!error.chain().contains("token\""), "{error:?}");
        // Another one is in force at once.
        write(&good.replace('0', "x"), 0o600);
        token.check(Some(&format!("Bearer {good}"))).unwrap_err();
    }
}
