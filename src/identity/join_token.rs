//! Join tokens: `{ca hash}.{JWT HS256}`, four dot-separated parts (protocol section 5.2).
//!
//! Go signs with the CA's private key and puts only `exp` in; ours have a key of their own, so that
//! replacing it ends all tokens and touches no certificate, and a `jti`, so that one can be revoked.

use std::path::Path;
use std::time::{Duration, SystemTime};

use ring::hmac;
use ring::rand::SecureRandom;
use serde_json::{Value, json};

use super::jwt::{Compact, encode, unsigned};
use super::{IdentityError, KEY_MODE, MAX_TTL, TokenError, files, sha256_hex, unix_secs};

/// Mints and verifies join tokens.
pub struct JoinTokens {
    key: hmac::Key,
}

/// A join token that verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinClaims {
    /// Names the token in lists and revocations.
    pub id: String,
    /// Unix seconds.
    pub expires_at: u64,
}

const KEY_BYTES: usize = 32;

impl JoinTokens {
    /// The HMAC key lives in its own 0600 file, 32 random bytes, created if missing.
    ///
    /// # Errors
    /// [`IdentityError::File`] when it cannot be read or written or is not 32 bytes long.
    pub fn load_or_create(key_file: &Path) -> Result<Self, IdentityError> {
        let fail = |op, why: &str| IdentityError::File { op, path: key_file.into(), why: why.into() };
        let bytes = match files::read_small(key_file)? {
            Some(bytes) if bytes.len() == KEY_BYTES => bytes,
            Some(_) => return Err(fail("use", "a join-token key has 32 bytes")),
            None => {
                let mut bytes = vec![0; KEY_BYTES];
                let random = ring::rand::SystemRandom::new();
                random.fill(&mut bytes).map_err(|_| fail("create", "the system gave no random bytes"))?;
                files::write_atomic(key_file, &bytes, KEY_MODE)?;
                bytes
            }
        };
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &bytes) })
    }

    /// The whole token, four dot-separated parts.
    #[must_use]
    pub fn mint(&self, ca_hash_hex: &str, ttl: Duration, now: SystemTime) -> (String, JoinClaims) {
        let id: String = uuid::Uuid::new_v4().simple().to_string().chars().take(12).collect();
        let expires_at = unix_secs(now).saturating_add(ttl.min(MAX_TTL).as_secs());
        let signed = unsigned(&json!({"alg": "HS256", "typ": "JWT"}), &json!({"exp": expires_at, "jti": id}));
        let signature = encode(hmac::sign(&self.key, signed.as_bytes()).as_ref());
        (format!("{ca_hash_hex}.{signed}.{signature}"), JoinClaims { id, expires_at })
    }

    /// Verifies the JWT part (parts 2 to 4), as the edge sends it after `Bearer `.
    ///
    /// A token without `jti` (as Go writes them) is named by the head of its own hash.
    ///
    /// # Errors
    /// What is wrong with it. The signature is compared in constant time.
    pub fn verify(&self, jwt: &str, now: SystemTime) -> Result<JoinClaims, TokenError> {
        let token = Compact::parse(jwt)?;
        token.require_alg("HS256")?;
        hmac::verify(&self.key, token.signed.as_bytes(), &token.signature).map_err(|_| TokenError::Forged)?;
        let expires_at = token.seconds("exp").ok_or(TokenError::Malformed("exp is missing"))?;
        if expires_at <= unix_secs(now) {
            return Err(TokenError::Expired);
        }
        Ok(JoinClaims { id: id(&token, jwt)?, expires_at })
    }

    /// The id of a JWT that nobody verified: good enough to revoke it, for nothing else.
    ///
    /// # Errors
    /// [`TokenError::Malformed`].
    pub fn id_of(jwt: &str) -> Result<String, TokenError> {
        id(&Compact::parse(jwt)?, jwt)
    }
}

fn id(token: &Compact<'_>, jwt: &str) -> Result<String, TokenError> {
    match token.claims.get("jti") {
        Some(Value::String(id)) if !id.is_empty() => Ok(id.clone()),
        None => Ok(sha256_hex(jwt.as_bytes()).chars().take(12).collect()),
        Some(_) => Err(TokenError::Malformed("jti is not a text")),
    }
}

/// Splits a join token into the CA hash and the JWT.
///
/// # Errors
/// [`TokenError::Malformed`] unless it is 64 lower-case hex digits, a dot, and three more parts.
pub fn split_join_token(token: &str) -> Result<(String, String), TokenError> {
    let token = token.trim();
    let (hash, jwt) = token.split_once('.').ok_or(TokenError::Malformed("it has no CA hash"))?;
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if hash.len() != 64 || !hash.bytes().all(hex) {
        return Err(TokenError::Malformed("its first part is not the hash of a CA"));
    }
    if jwt.split('.').count() != 3 || jwt.split('.').any(str::is_empty) {
        return Err(TokenError::Malformed("it does not have four parts separated by dots"));
    }
    Ok((hash.to_owned(), jwt.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_790_000_000;

    fn at(secs: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(secs)
    }

    fn tokens(dir: &tempfile::TempDir, name: &str) -> JoinTokens {
        JoinTokens::load_or_create(&dir.path().join(name)).expect("key")
    }

    fn sign(tokens: &JoinTokens, header: &Value, claims: &Value) -> String {
        let signed = unsigned(header, claims);
        let signature = encode(hmac::sign(&tokens.key, signed.as_bytes()).as_ref());
        format!("{signed}.{signature}")
    }

    #[test]
    fn mint_split_verify() {
        let dir = tempfile::tempdir().expect("temp dir");
        let hash = sha256_hex(b"ca");
        let (token, claims) = tokens(&dir, "key").mint(&hash, Duration::from_secs(600), at(NOW));
        assert_eq!(token.split('.').count(), 4);
        assert_eq!(claims.expires_at, NOW + 600);
        let (got_hash, jwt) = split_join_token(&format!(" {token}\n")).expect("splits");
        assert_eq!(got_hash, hash);
        // The key is read back from its file.
        let again = tokens(&dir, "key");
        assert_eq!(again.verify(&jwt, at(NOW + 599)), Ok(claims.clone()));
        assert_eq!(again.verify(&jwt, at(NOW + 600)), Err(TokenError::Expired));
        let (other, other_claims) = again.mint(&hash, Duration::from_secs(600), at(NOW));
        assert_ne!((other, other_claims.id), (token, claims.id));
        let mode = std::fs::metadata(dir.path().join("key")).expect("key file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn refusals() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (ours, theirs) = (tokens(&dir, "ours"), tokens(&dir, "theirs"));
        let hs256 = json!({"alg": "HS256", "typ": "JWT"});
        let good = json!({"exp": NOW + 60, "jti": "a1"});
        let valid = sign(&ours, &hs256, &good);
        let tampered =
            valid.replacen(&encode(good.to_string().as_bytes()), &encode(br#"{"exp":9999999999}"#), 1);
        let unsigned_token = format!("{}.", unsigned(&json!({"alg": "none"}), &good));
        let malformed = TokenError::Malformed;
        for (case, jwt, want) in [
            ("another key", sign(&theirs, &hs256, &good), TokenError::Forged),
            ("changed claims", tampered, TokenError::Forged),
            ("cut signature", valid[..valid.len() - 3].to_owned(), TokenError::Forged),
            ("odd signature", format!("{valid}="), malformed("the signature is not base64url")),
            ("expired", sign(&ours, &hs256, &json!({"exp": NOW})), TokenError::Expired),
            ("no expiry", sign(&ours, &hs256, &json!({"jti": "a"})), malformed("exp is missing")),
            ("text expiry", sign(&ours, &hs256, &json!({"exp": "9"})), malformed("exp is missing")),
            (
                "odd jti",
                sign(&ours, &hs256, &json!({"exp": NOW + 1, "jti": 1})),
                malformed("jti is not a text"),
            ),
            (
                "alg HS512",
                sign(&ours, &json!({"alg": "HS512"}), &good),
                malformed("the header's alg is not the one used here"),
            ),
            ("alg none", unsigned_token, malformed("the header's alg is not the one used here")),
            ("two parts", "a.b".into(), malformed("it is not a JWT")),
            ("four parts", format!("a.{valid}"), malformed("the header is not a JSON object")),
            ("too long", "a".repeat(20_000), malformed("it is longer than 16 KiB")),
        ] {
            assert_eq!(ours.verify(&jwt, at(NOW)), Err(want), "{case}");
        }
    }

    /// The claims of a token recorded from Go KubeEdge hold `exp` and nothing else.
    #[test]
    fn go_claims_verify_and_get_a_stable_id() {
        let dir = tempfile::tempdir().expect("temp dir");
        let ours = tokens(&dir, "key");
        let jwt = sign(&ours, &json!({"alg": "HS256", "typ": "JWT"}), &json!({"exp": NOW + 86_400}));
        let first = ours.verify(&jwt, at(NOW)).expect("verifies");
        assert_eq!(first.id.len(), 12);
        assert_eq!(ours.verify(&jwt, at(NOW)), Ok(first));
    }

    #[test]
    fn splitting() {
        let hash = "0f".repeat(32);
        assert!(split_join_token(&format!("{hash}.a.b.c")).is_ok());
        for bad in [
            String::new(),
            "abc".into(),
            format!("{hash}.a.b"),
            format!("{hash}.a.b.c.d"),
            format!("{hash}..b.c"),
            format!("{}.a.b.c", "0F".repeat(32)),
            format!("{}.a.b.c", "0f".repeat(31)),
        ] {
            assert!(split_join_token(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_file_of_another_size_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("short");
        std::fs::write(&path, "too short").expect("write");
        let err = JoinTokens::load_or_create(&path).err().expect("refused").to_string();
        assert!(err.contains("short: a join-token key has 32 bytes"), "{err}");
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in "[a-zA-Z0-9_.=-]{0,80}|.{0,40}") {
            let tokens = JoinTokens { key: hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]) };
            prop_assert!(tokens.verify(&text, at(NOW)).is_err());
            if let Ok((hash, jwt)) = split_join_token(&text) {
                prop_assert_eq!(format!("{hash}.{jwt}"), text.trim());
            }
        }
    }
}
