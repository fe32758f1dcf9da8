//! Verifying JWT-SVIDs (protocol section 18; JWT-SVID standard, sections 3 to 5).

use std::time::SystemTime;

use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::{Map, Value};

use super::jwt::Compact;
use super::{SpiffeId, TokenError, TrustBundle, jwk, unix_secs};

/// Asymmetric algorithms that the standard allows; never `none`, never HMAC.
const ALLOWED: [&str; 9] = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"];
/// A token may be this many seconds "from the future": clocks of machines differ a little.
const SKEW_SECS: u64 = 60;

/// A JWT-SVID that verified.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtSvid {
    pub id: SpiffeId,
    pub claims: Map<String, Value>,
}

/// Verifies against the JWT keys of the bundle's trust domain.
///
/// # Errors
/// What is wrong with it.
pub fn verify_jwt_svid(
    jwt: &str,
    audience: &str,
    bundle: &TrustBundle,
    now: SystemTime,
) -> Result<JwtSvid, TokenError> {
    let malformed = TokenError::Malformed;
    let token = Compact::parse(jwt)?;
    let header = |name: &str| token.header.get(name).and_then(Value::as_str);
    let alg = header("alg").filter(|alg| ALLOWED.contains(alg));
    let alg = alg.ok_or(malformed("the header's alg is none of those allowed"))?;
    match token.header.get("typ").map(Value::as_str) {
        None | Some(Some("JWT" | "JOSE")) => {}
        Some(_) => return Err(malformed("the header's typ is neither JWT nor JOSE")),
    }
    if token.header.contains_key("crit") {
        return Err(malformed("the header's crit names what is not known here"));
    }
    let kid = header("kid").ok_or(malformed("the header's kid is missing"))?;
    let sub = token.claims.get("sub").and_then(Value::as_str).ok_or(malformed("sub is missing"))?;
    let id = SpiffeId::parse(sub).map_err(|_| malformed("sub is not a SPIFFE ID"))?;
    if id.trust_domain() != bundle.trust_domain {
        return Err(TokenError::OtherTrustDomain);
    }
    // Nodes sign for their workloads, and for nobody else.
    if !id.path().starts_with("/ns/") && !id.path().starts_with("/device/") {
        return Err(malformed("sub is no workload's"));
    }
    let key = bundle.jwt_keys.iter().find(|key| key.get("kid").and_then(Value::as_str) == Some(kid));
    let point = key.and_then(jwk::point).filter(|_| alg == "ES256").ok_or(TokenError::UnknownKey)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
        .verify(token.signed.as_bytes(), &token.signature)
        .map_err(|_| TokenError::Forged)?;

    let now = unix_secs(now);
    if token.seconds("exp").ok_or(malformed("exp is missing"))? <= now {
        return Err(TokenError::Expired);
    }
    for claim in ["nbf", "iat"] {
        match token.claims.get(claim).map(Value::as_u64) {
            None => {}
            Some(Some(secs)) if secs <= now.saturating_add(SKEW_SECS) => {}
            Some(_) => return Err(malformed("it is not valid yet")),
        }
    }
    let is_for_us = match token.claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(audience)),
        _ => return Err(malformed("aud is missing")),
    };
    if !is_for_us {
        return Err(TokenError::OtherAudience);
    }
    Ok(JwtSvid { id, claims: token.claims })
}

#[cfg(test)]
mod tests;
