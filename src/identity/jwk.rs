//! P-256 public keys as JSON Web Keys (RFC 7517, RFC 7518 section 6.2), and their thumbprints.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::jwt::encode;
use super::key::EcKey;

/// The public part of a key: `kty`, `crv`, `x`, `y`, `alg` and `kid`, its thumbprint.
pub(super) fn jwk(key: &EcKey) -> Value {
    let (x, y) = coordinates(key.public_point());
    json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": thumbprint(key.public_point()), "x": x, "y": y})
}

/// RFC 7638: the hash of the members that make the key, in their order.
pub(super) fn thumbprint(point: &[u8; 65]) -> String {
    let (x, y) = coordinates(point);
    let text = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref())
}

/// The uncompressed point of a P-256 key that may verify ES256; `None` for every other JWK.
pub(crate) fn point(jwk: &Value) -> Option<[u8; 65]> {
    let text = |key: &str| jwk.get(key).and_then(Value::as_str);
    if text("kty") != Some("EC") || text("crv") != Some("P-256") || text("alg").is_some_and(|a| a != "ES256")
    {
        return None;
    }
    let coordinate = |key| URL_SAFE_NO_PAD.decode(text(key)?).ok().filter(|bytes| bytes.len() == 32);
    let bytes = [vec![4], coordinate("x")?, coordinate("y")?].concat();
    bytes.try_into().ok()
}

fn coordinates(point: &[u8; 65]) -> (String, String) {
    let (_, xy) = point.split_at(1);
    let (x, y) = xy.split_at(32);
    (encode(x), encode(y))
}

/// Checks a node's JWK for its JWT-SVIDs: exactly a P-256 key whose `kid` is its thumbprint, so that
/// no node can claim another's. Returns the `kid`.
///
/// # Errors
/// A clause that names the member.
pub fn check_jwt_key(jwk: &Value) -> Result<String, &'static str> {
    let members = jwk.as_object().ok_or("it is no JSON object")?;
    let known = ["kty", "crv", "alg", "kid", "x", "y", "use"];
    if members.keys().any(|member| !known.contains(&member.as_str())) {
        return Err("it has members that a public P-256 key has not");
    }
    let point = point(jwk).ok_or("it is no P-256 key for ES256")?;
    let kid = thumbprint(&point);
    if members.get("kid").and_then(Value::as_str) != Some(&kid) {
        return Err("kid is not the key's thumbprint (RFC 7638)");
    }
    Ok(kid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_the_way_through_json() {
        let key = EcKey::generate().expect("key");
        let jwk = jwk(&key);
        assert_eq!(point(&jwk).as_ref(), Some(key.public_point()));
        assert_eq!(check_jwt_key(&jwk).as_deref(), Ok(thumbprint(key.public_point()).as_str()));
    }

    /// Another key of the same node, another curve, a private key: none is published.
    #[test]
    fn what_is_no_key_of_ours_is_named() {
        let key = jwk(&EcKey::generate().expect("key"));
        let with = |member: &str, value: Value| {
            let mut jwk = key.clone();
            jwk[member] = value;
            jwk
        };
        let other = jwk(&EcKey::generate().expect("key"));
        for (case, jwk, want) in [
            ("another kid", with("kid", other["kid"].clone()), "thumbprint"),
            ("no kid", with("kid", Value::Null), "thumbprint"),
            ("another curve", with("crv", json!("P-384")), "P-256"),
            ("another algorithm", with("alg", json!("HS256")), "P-256"),
            ("a short coordinate", with("x", json!("AAAA")), "P-256"),
            ("a private key", with("d", json!("AAAA")), "members"),
            ("a text", json!("key"), "object"),
        ] {
            let err = check_jwt_key(&jwk).expect_err(case);
            assert!(err.contains(want), "{case}: {err}");
        }
    }
}
