//! Compact JWTs (RFC 7519, JWS compact form): taking apart and putting together. Signatures are
//! the callers' business.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::TokenError;

/// A token taken apart; nothing in it is trusted before its signature verified.
pub(crate) struct Compact<'a> {
    /// `{header}.{claims}`, what the signature is over.
    pub signed: &'a str,
    pub header: Map<String, Value>,
    pub claims: Map<String, Value>,
    pub signature: Vec<u8>,
}

impl<'a> Compact<'a> {
    /// Longest token accepted, in bytes. Ours have a few hundred.
    const MAX_BYTES: usize = 16 * 1024;

    pub fn parse(jwt: &'a str) -> Result<Self, TokenError> {
        if jwt.len() > Self::MAX_BYTES {
            return Err(TokenError::Malformed("it is longer than 16 KiB"));
        }
        let (signed, signature) = jwt.rsplit_once('.').ok_or(TokenError::Malformed("it is not a JWT"))?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed("it is not a JWT"))?;
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| TokenError::Malformed("the signature is not base64url"))?;
        let header = object(header).ok_or(TokenError::Malformed("the header is not a JSON object"))?;
        let claims = object(claims).ok_or(TokenError::Malformed("the claims are not a JSON object"))?;
        Ok(Self { signed, header, claims, signature })
    }

    /// Refuses every algorithm but this one, `none` included.
    pub fn require_alg(&self, alg: &str) -> Result<(), TokenError> {
        match self.header.get("alg").and_then(Value::as_str) {
            Some(found) if found == alg => Ok(()),
            _ => Err(TokenError::Malformed("the header's alg is not the one used here")),
        }
    }

    /// A claim in unix seconds.
    pub fn seconds(&self, claim: &str) -> Option<u64> {
        self.claims.get(claim).and_then(Value::as_u64)
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Some(map),
        _ => None,
    }
}

/// `{header}.{claims}`.
pub(super) fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()))
}

/// base64url without padding.
pub(super) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
