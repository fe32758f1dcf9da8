use std::time::Duration;

use proptest::prelude::*;
use ring::hmac;
use ring::rand::SystemRandom;
use serde_json::json;

use super::super::WorkloadIssuer;
use super::super::jwt::{encode, unsigned};
use super::super::key::EcKey;
use super::super::test_authority::{Authority, TRUST_DOMAIN};
use super::*;

const NOW: u64 = 1_790_000_000;

fn at(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
}

fn publishing(keys: &[Value]) -> TrustBundle {
    TrustBundle { trust_domain: TRUST_DOMAIN.into(), roots: Vec::new(), jwt_keys: keys.to_vec() }
}

#[test]
fn what_a_node_issues_verifies() {
    let authority = Authority::new();
    let (credentials, bundle) = authority.credentials("edge-1");
    let issuer = WorkloadIssuer::new(&credentials).expect("issuer");
    let id = SpiffeId::parse("spiffe://kubeedge.local/ns/default/sa/web").expect("id");
    let audiences = ["db".to_owned(), "queue".to_owned()];
    let (jwt, expires_at) =
        issuer.jwt(&id, &audiences, Duration::from_secs(300), authority.now).expect("jwt");
    assert_eq!(expires_at, unix_secs(authority.now) + 300);
    let check = |audience, keys: &[Value], now| verify_jwt_svid(&jwt, audience, &publishing(keys), now);
    for audience in ["db", "queue"] {
        let svid = check(audience, &bundle.jwt_keys, authority.now).expect("verifies");
        assert_eq!((svid.id, svid.claims["exp"].as_u64()), (id.clone(), Some(expires_at)));
    }
    assert_eq!(check("else", &bundle.jwt_keys, authority.now), Err(TokenError::OtherAudience));
    assert_eq!(check("db", &[], authority.now), Err(TokenError::UnknownKey));
    let (_, other) = authority.credentials("edge-2");
    assert_eq!(check("db", &other.jwt_keys, authority.now), Err(TokenError::UnknownKey));
    // A clock one hour off, either way.
    let hour = Duration::from_secs(3600);
    assert_eq!(check("db", &bundle.jwt_keys, authority.now + hour), Err(TokenError::Expired));
    let early = TokenError::Malformed("it is not valid yet");
    assert_eq!(check("db", &bundle.jwt_keys, authority.now - hour), Err(early));
}

#[test]
fn refusals() {
    let (key, other) = (EcKey::generate().expect("key"), EcKey::generate().expect("key"));
    let keys = [super::super::jwk::jwk(&key)];
    let kid = keys[0]["kid"].clone();
    let sign = |key: &EcKey, header: &Value, claims: &Value| {
        let signed = unsigned(header, claims);
        let signature = key.signer().expect("signer").sign(&SystemRandom::new(), signed.as_bytes());
        format!("{signed}.{}", encode(signature.expect("signature").as_ref()))
    };
    let header = json!({"alg": "ES256", "kid": kid, "typ": "JWT"});
    let claims =
        json!({"sub": "spiffe://kubeedge.local/ns/a/sa/b", "aud": ["db"], "exp": NOW + 60, "iat": NOW});
    let but = |value: &Value, member: &str, to: Value| {
        let mut value = value.clone();
        match to {
            Value::Null => drop(value.as_object_mut().expect("object").remove(member)),
            to => value[member] = to,
        }
        value
    };
    let good = sign(&key, &header, &claims);
    verify_jwt_svid(&good, "db", &publishing(&keys), at(NOW)).expect("verifies");
    let one_text = sign(&key, &header, &but(&claims, "aud", json!("db")));
    verify_jwt_svid(&one_text, "db", &publishing(&keys), at(NOW)).expect("aud may be one text");

    // The public key taken for an HMAC secret.
    let confused = {
        let signed = unsigned(&but(&header, "alg", json!("HS256")), &claims);
        let secret = hmac::Key::new(hmac::HMAC_SHA256, key.public_point());
        format!("{signed}.{}", encode(hmac::sign(&secret, signed.as_bytes()).as_ref()))
    };
    let malformed = TokenError::Malformed;
    let head = |member: &str, to: Value| sign(&key, &but(&header, member, to), &claims);
    let claim = |member: &str, to: Value| sign(&key, &header, &but(&claims, member, to));
    for (case, jwt, want) in [
        (
            "alg none",
            format!("{}.", unsigned(&but(&header, "alg", json!("none")), &claims)),
            malformed("the header's alg is none of those allowed"),
        ),
        ("alg HS256", confused, malformed("the header's alg is none of those allowed")),
        ("no alg", head("alg", Value::Null), malformed("the header's alg is none of those allowed")),
        ("an algorithm of no key", head("alg", json!("RS256")), TokenError::UnknownKey),
        ("typ", head("typ", json!("kubeedge-seal")), malformed("the header's typ is neither JWT nor JOSE")),
        ("crit", head("crit", json!(["b64"])), malformed("the header's crit names what is not known here")),
        ("no kid", head("kid", Value::Null), malformed("the header's kid is missing")),
        ("another kid", head("kid", json!("other")), TokenError::UnknownKey),
        ("another key", sign(&other, &header, &claims), TokenError::Forged),
        ("no sub", claim("sub", Value::Null), malformed("sub is missing")),
        (
            "sub is no ID",
            claim("sub", json!("system:serviceaccount:a:b")),
            malformed("sub is not a SPIFFE ID"),
        ),
        (
            "not canonical",
            claim("sub", json!("spiffe://kubeedge.local/ns/a/../b")),
            malformed("sub is not a SPIFFE ID"),
        ),
        (
            "another trust domain",
            claim("sub", json!("spiffe://else.where/ns/a/sa/b")),
            TokenError::OtherTrustDomain,
        ),
        (
            "a node",
            claim("sub", json!("spiffe://kubeedge.local/node/edge-1")),
            malformed("sub is no workload's"),
        ),
        ("no exp", claim("exp", Value::Null), malformed("exp is missing")),
        ("expired", claim("exp", json!(NOW)), TokenError::Expired),
        ("nbf ahead", claim("nbf", json!(NOW + 61)), malformed("it is not valid yet")),
        ("iat ahead", claim("iat", json!(NOW + 61)), malformed("it is not valid yet")),
        ("no aud", claim("aud", Value::Null), malformed("aud is missing")),
        ("empty aud", claim("aud", json!([])), TokenError::OtherAudience),
        ("another aud", claim("aud", json!(["queue"])), TokenError::OtherAudience),
        ("no JWT", "a.b".to_owned(), malformed("it is not a JWT")),
    ] {
        assert_eq!(verify_jwt_svid(&jwt, "db", &publishing(&keys), at(NOW)), Err(want), "{case}");
    }
}

proptest! {
    #[test]
    fn any_text_never_panics(text in "[a-zA-Z0-9_.=-]{0,80}|.{0,40}") {
        prop_assert!(verify_jwt_svid(&text, "db", &publishing(&[]), at(NOW)).is_err());
    }
}
