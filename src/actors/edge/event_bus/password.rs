//! The password file, in the format of Mosquitto's `mosquitto_passwd`:
//! `user:$7$iterations$salt$hash`, PBKDF2 with HMAC-SHA-512, salt and hash in base64
//! (mosquitto_passwd(1) of 2.0).

use std::collections::HashMap;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::pbkdf2::{PBKDF2_HMAC_SHA512, verify};

/// More would only slow this side down; `mosquitto_passwd` writes 101.
const MAX_ITERATIONS: u32 = 1_000_000;
const MAX_BYTES: usize = 1 << 20;

/// Users and the hashes of their passwords.
#[derive(Default)]
pub struct Passwords {
    users: HashMap<String, Hash>,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Passwords({} users)", self.users.len())
    }
}

#[derive(Clone)]
struct Hash {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

/// A line that is no user and hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct BadLine {
    pub line: usize,
    pub why: &'static str,
}

impl Passwords {
    /// Reads a file's text. Empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// [`BadLine`], the first of them.
    pub fn parse(text: &str) -> Result<Self, BadLine> {
        if text.len() > MAX_BYTES {
            return Err(BadLine { line: 0, why: "the file is larger than 1 MiB" });
        }
        let mut users = HashMap::new();
        for (at, line) in text.lines().enumerate() {
            let line_number = at + 1;
            let bad = |why| BadLine { line: line_number, why };
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // A device's name has colons; a hash has none, and begins with $.
            let (user, hash) = match line.rsplit_once(":$") {
                Some((user, hash)) => (user, format!("${hash}")),
                None => line
                    .split_once(':')
                    .map(|(user, hash)| (user, hash.to_owned()))
                    .ok_or(bad("it is not user:hash"))?,
            };
            if user.is_empty() {
                return Err(bad("the user name is empty"));
            }
            let hash = Hash::parse(&hash).map_err(bad)?;
            if users.insert(user.to_owned(), hash).is_some() {
                return Err(bad("this user stands twice"));
            }
        }
        Ok(Self { users })
    }

    /// Is it the user's password? Takes as long for a user who does not exist. Costs milliseconds
    /// to seconds: never on an arbiter.
    #[must_use]
    pub fn verify(&self, user: &str, password: &[u8]) -> bool {
        match self.users.get(user) {
            Some(hash) => hash.verify(password),
            None => {
                if let Some(any) = self.users.values().next() {
                    // Only its time matters.
                    std::hint::black_box(any.verify(password));
                }
                false
            }
        }
    }
}

impl Hash {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = text.split('$');
        let (start, kind) = (parts.next(), parts.next());
        if start != Some("") || kind.is_none() {
            return Err("the password is not hashed: use mosquitto_passwd");
        }
        if kind != Some("7") {
            return Err("only hashes of kind $7$ are known: use mosquitto_passwd of Mosquitto 2");
        }
        let (Some(iterations), Some(salt), Some(hash), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("it is not $7$iterations$salt$hash");
        };
        let iterations: NonZeroU32 = iterations.parse().map_err(|_| "the iterations are not a number")?;
        if iterations.get() > MAX_ITERATIONS {
            return Err("more than a million iterations");
        }
        let salt = STANDARD.decode(salt).map_err(|_| "the salt is not base64")?;
        let hash = STANDARD.decode(hash).map_err(|_| "the hash is not base64")?;
        if salt.is_empty() || hash.len() != 64 {
            return Err("salt or hash have the wrong length");
        }
        Ok(Self { iterations, salt, hash })
    }

    fn verify(&self, password: &[u8]) -> bool {
        verify(PBKDF2_HMAC_SHA512, self.iterations, &self.salt, password, &self.hash).is_ok()
    }
}

/// A hash line's right side, for tests.
#[cfg(test)]
pub fn hash_for_tests(password: &str) -> String {
    let iterations = NonZeroU32::new(101).unwrap();
    let (salt, mut hash) = ([7_u8; 12], [0_u8; 64]);
    ring::pbkdf2::derive(PBKDF2_HMAC_SHA512, iterations, &salt, password.as_bytes(), &mut hash);
    format!("$7$101${}${}", STANDARD.encode(salt), STANDARD.encode(hash))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn passwords() {
        let text = format!("# users\n\nalice:{}\nbob:{}\n", hash_for_tests("wonder"), hash_for_tests(""));
        let passwords = Passwords::parse(&text).unwrap();
        for (user, password, want) in [
            ("alice", "wonder", true),
            ("alice", "Wonder", false),
            ("alice", "", false),
            ("bob", "", true),
            ("carol", "wonder", false),
            ("", "", false),
        ] {
            assert_eq!(passwords.verify(user, password.as_bytes()), want, "{user} {password}");
        }
        assert!(!format!("{passwords:?}").contains("alice"));
        assert!(!Passwords::default().verify("alice", b"wonder"));
    }

    #[test]
    fn a_devices_name_has_colons() {
        let text = format!("device:default:s1:{}", hash_for_tests("x"));
        assert!(Passwords::parse(&text).unwrap().verify("device:default:s1", b"x"));
    }

    #[test]
    fn a_line_of_mosquitto_passwd_2_0_11() {
        let line = "alice:$7$101$mvFhXIOU4fai7Fe4$RTwVMn/l3nYWQ7R/1T8+r2R7ZzhYWRxE3MOiky2uTTnCOQs6sH1vlewC2tpqqmi9lZARgSBYehfGay5p5a3+zw==";
        let passwords = Passwords::parse(line).unwrap();
        assert!(passwords.verify("alice", b"wonder") && !passwords.verify("alice", b"wonde"));
    }

    #[test]
    fn bad_lines_are_named() {
        let good = hash_for_tests("x");
        for (text, line, why) in [
            ("alice".to_owned(), 1, "user:hash"),
            (format!("\n:{good}"), 2, "empty"),
            ("alice:secret".to_owned(), 1, "not hashed"),
            ("alice:$6$abc$def".to_owned(), 1, "$7$"),
            ("alice:$7$101$abcd".to_owned(), 1, "iterations$salt$hash"),
            ("alice:$7$0$AAAA$AAAA".to_owned(), 1, "iterations"),
            ("alice:$7$9999999$AAAA$AAAA".to_owned(), 1, "million"),
            ("alice:$7$101$!$AAAA".to_owned(), 1, "salt"),
            ("alice:$7$101$AAAA$AAAA".to_owned(), 1, "length"),
            (format!("a:{good}\na:{good}"), 2, "twice"),
        ] {
            let err = Passwords::parse(&text).unwrap_err();
            assert!(err.line == line && err.to_string().contains(why), "{text}: {err}");
        }
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in ".{0,80}") {
            Passwords::parse(&text).ok();
        }
    }
}
