//! The edge's own credential: a file, so that whoever may read the machine's secrets may see its page,
//! with the cloud or without.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use super::sign_in::Token;
use crate::identity::{KEY_MODE, write_atomic};

/// Random bytes of a token.
const BYTES: usize = 32;
/// A shorter one could be guessed.
const MIN_CHARS: usize = 20;

/// The file is not what it should be, or cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("console token {}: {why}", path.display())]
pub struct TokenFileError {
    pub path: PathBuf,
    pub why: String,
}

/// The token of an edge's console. Keeps no copy of it, only what tells it from others.
pub struct EdgeToken {
    key: hmac::Key,
    tag: hmac::Tag,
}

impl EdgeToken {
    /// Where it stands below `dataDir`.
    #[must_use]
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("console.token")
    }

    /// Reads the file, or makes it (0600, random) where there is none. Blocks.
    ///
    /// # Errors
    /// [`TokenFileError`] when it holds no token of enough characters, or cannot be read or written.
    pub fn load_or_create(path: &Path) -> Result<Self, TokenFileError> {
        let fail = |why: String| TokenFileError { path: path.to_owned(), why };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(err) if err.kind() == ErrorKind::NotFound => {
                let text = URL_SAFE_NO_PAD.encode(random().map_err(fail)?);
                let content = format!("{text}\n");
                write_atomic(path, content.as_bytes(), KEY_MODE).map_err(|err| fail(err.to_string()))?;
                text
            }
            Err(err) => return Err(fail(err.to_string())),
        };
        let token = Token::parse(&text).filter(|token| token.expose().len() >= MIN_CHARS);
        let token = token.ok_or_else(|| {
            fail(format!(
                "it must hold one token of at least {MIN_CHARS} characters; remove the file to get one"
            ))
        })?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random().map_err(fail)?);
        let tag = hmac::sign(&key, token.expose().as_bytes());
        Ok(Self { key, tag })
    }

    /// Is it this one? Takes the same time whatever is wrong.
    #[must_use]
    pub fn is(&self, shown: &Token) -> bool {
        hmac::verify(&self.key, shown.expose().as_bytes(), self.tag.as_ref()).is_ok()
    }
}

fn random() -> Result<[u8; BYTES], String> {
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system gives no random bytes".to_owned())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_made_once_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = EdgeToken::path(dir.path());
        let made = EdgeToken::load_or_create(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim().len(), 43);
        let token = Token::parse(&text).unwrap();
        assert!(made.is(&token) && EdgeToken::load_or_create(&path).unwrap().is(&token));
        for other in ["x", &text.trim()[1..], &format!("{}x", text.trim())] {
            assert!(!made.is(&Token::parse(other).unwrap()), "{other}");
        }
    }

    #[test]
    fn a_file_without_a_good_token_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = EdgeToken::path(dir.path());
        for text in ["", "short", "has spaces in it, and is long enough"] {
            std::fs::write(&path, text).unwrap();
            let err = EdgeToken::load_or_create(&path).err().map(|err| err.to_string()).unwrap_or_default();
            assert!(err.contains("console.token: it must hold one token"), "{text:?}: {err}");
        }
    }
}
