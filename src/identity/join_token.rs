//! Join tokens: `{ca hash}.{JWT HS256}`, four dot-separated parts (protocol section 5.2).
//!
//! Go signs with the CA's private key and puts only `exp` in; ours have a key of their own, so that
//! replacing it ends all tokens and touches no certificate, and a `jti`, so that one can be revoked
//! and works once. A token without `jti` is reusable, as Go's are.

use std::path::Path;
use std::time::{Duration, SystemTime};

use ring::hmac;
use ring::rand::SecureRandom;
use serde_json::{Map, Value, json};

use super::jwt::{Compact, encode, unsigned};
use super::{IdentityError, KEY_MODE, MAX_TTL, TokenError, files, sha256_hex, unix_secs};
use crate::model::NodeName;

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
    /// The only node it is good for; `None`: any.
    pub node: Option<NodeName>,
    /// Good for many nodes until it expires, as Go KubeEdge's are.
    pub reusable: bool,
}

impl JoinClaims {
    /// # Errors
    /// [`TokenError::OtherNode`] when the token is bound to another node.
    pub fn admits(&self, node: &NodeName) -> Result<(), TokenError> {
        match &self.node {
            Some(bound) if bound != node => Err(TokenError::OtherNode),
            _ => Ok(()),
        }
    }
}

/// What kind of token to mint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MintOptions {
    pub ttl: Duration,
    /// Good for this node only.
    pub node: Option<NodeName>,
    /// In Go's form, without `jti`: good for many nodes. Where `identity.reusableTokens` is off,
    /// nobody accepts it.
    pub reusable: bool,
}

impl MintOptions {
    /// Works once, for any node.
    #[must_use]
    pub fn once(ttl: Duration) -> Self {
        Self { ttl, node: None, reusable: false }
    }
}

/// Longest token id: it becomes a key of a Secret.
const MAX_ID: usize = 64;
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
    pub fn mint(&self, ca_hash_hex: &str, options: MintOptions, now: SystemTime) -> (String, JoinClaims) {
        let MintOptions { ttl, node, reusable } = options;
        let expires_at = unix_secs(now).saturating_add(ttl.min(MAX_TTL).as_secs());
        let mut claims = Map::from_iter([("exp".to_owned(), Value::from(expires_at))]);
        if let Some(node) = &node {
            claims.insert("node".to_owned(), node.as_str().into());
        }
        let unique: String = uuid::Uuid::new_v4().simple().to_string().chars().take(12).collect();
        if !reusable {
            claims.insert("jti".to_owned(), unique.as_str().into());
        }
        let signed = unsigned(&json!({"alg": "HS256", "typ": "JWT"}), &Value::Object(claims));
        let signature = encode(hmac::sign(&self.key, signed.as_bytes()).as_ref());
        let jwt = format!("{signed}.{signature}");
        let id = if reusable { hash_id(&jwt) } else { unique };
        (format!("{ca_hash_hex}.{jwt}"), JoinClaims { id, expires_at, node, reusable })
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
        let node = match token.claims.get("node") {
            None => None,
            Some(Value::String(name)) => {
                Some(NodeName::parse(name).map_err(|_| TokenError::Malformed("node is not a node's name"))?)
            }
            Some(_) => return Err(TokenError::Malformed("node is not a text")),
        };
        let reusable = !token.claims.contains_key("jti");
        Ok(JoinClaims { id: id(&token, jwt)?, expires_at, node, reusable })
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
        Some(Value::String(id)) if is_id(id) => Ok(id.clone()),
        None => Ok(hash_id(jwt)),
        Some(_) => Err(TokenError::Malformed("jti is not 1 to 64 letters, digits, '-' and '_'")),
    }
}

fn is_id(text: &str) -> bool {
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    (1..=MAX_ID).contains(&text.len()) && text.bytes().all(legal)
}

fn hash_id(jwt: &str) -> String {
    sha256_hex(jwt.as_bytes()).chars().take(12).collect()
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
        let (token, claims) =
            tokens(&dir, "key").mint(&hash, MintOptions::once(Duration::from_secs(600)), at(NOW));
        assert_eq!(token.split('.').count(), 4);
        assert_eq!(claims.expires_at, NOW + 600);
        let (got_hash, jwt) = split_join_token(&format!(" {token}\n")).expect("splits");
        assert_eq!(got_hash, hash);
        // The key is read back from its file.
        let again = tokens(&dir, "key");
        assert_eq!(again.verify(&jwt, at(NOW + 599)), Ok(claims.clone()));
        assert_eq!(again.verify(&jwt, at(NOW + 600)), Err(TokenError::Expired));
        let (other, other_claims) = again.mint(&hash, MintOptions::once(Duration::from_secs(600)), at(NOW));
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
                malformed("jti is not 1 to 64 letters, digits, '-' and '_'"),
            ),
            (
                "long jti",
                sign(&ours, &hs256, &json!({"exp": NOW + 1, "jti": "a".repeat(65)})),
                malformed("jti is not 1 to 64 letters, digits, '-' and '_'"),
            ),
            (
                "jti with a path",
                sign(&ours, &hs256, &json!({"exp": NOW + 1, "jti": "../a"})),
                malformed("jti is not 1 to 64 letters, digits, '-' and '_'"),
            ),
            (
                "odd node",
                sign(&ours, &hs256, &json!({"exp": NOW + 1, "jti": "a", "node": 1})),
                malformed("node is not a text"),
            ),
            (
                "no node's name",
                sign(&ours, &hs256, &json!({"exp": NOW + 1, "jti": "a", "node": "Edge 1"})),
                malformed("node is not a node's name"),
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
        assert_eq!((first.id.len(), first.reusable, &first.node), (12, true, &None));
        assert_eq!(ours.verify(&jwt, at(NOW)), Ok(first));
    }

    #[test]
    fn a_token_says_how_often_and_for_whom_it_is_good() {
        let dir = tempfile::tempdir().expect("temp dir");
        let ours = tokens(&dir, "key");
        let name = |text| NodeName::parse(text).expect("name");
        let (one, two) = (name("edge-1"), name("edge-2"));
        for (case, node, reusable, admits_two) in [
            ("once, anybody", None, false, true),
            ("once, one node", Some(one.clone()), false, false),
            ("reusable", None, true, true),
            ("reusable, one node", Some(one.clone()), true, false),
        ] {
            let options = MintOptions { ttl: Duration::from_secs(600), node: node.clone(), reusable };
            let (token, minted) = ours.mint(&sha256_hex(b"ca"), options, at(NOW));
            let (_, jwt) = split_join_token(&token).expect("splits");
            let claims = ours.verify(&jwt, at(NOW)).expect(case);
            assert_eq!(claims, minted, "{case}");
            assert_eq!((claims.reusable, &claims.node), (reusable, &node), "{case}");
            assert_eq!(claims.admits(&one), Ok(()), "{case}");
            assert_eq!(claims.admits(&two).is_ok(), admits_two, "{case}");
            assert_eq!(JoinTokens::id_of(&jwt).as_ref(), Ok(&claims.id), "{case}");
            let parsed = Compact::parse(&jwt).expect("jwt");
            assert_eq!(parsed.claims.contains_key("jti"), !reusable, "{case}");
        }
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
