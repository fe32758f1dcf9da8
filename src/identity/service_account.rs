//! Service-account tokens: ES256 JWTs with the claims Kubernetes writes ("bound" tokens).

use std::path::Path;
use std::time::SystemTime;

use ring::signature::{ECDSA_P256_SHA256_FIXED, EcdsaKeyPair, UnparsedPublicKey};
use serde_json::{Map, Value, json};

use super::jwt::{Compact, encode, unsigned};
use super::key::EcKey;
use super::{IdentityError, KEY_MODE, TokenError, files, unix_secs};

/// `iss` of every token, and the audience a token gets that asks for none.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// A token may be this many seconds "from the future": clocks of cloud and API differ a little.
const SKEW_SECS: u64 = 60;

/// Signs and verifies service-account tokens (ES256 JWT, claims as Kubernetes writes them).
pub struct ServiceAccountKeys {
    key: EcKey,
    signer: EcdsaKeyPair,
    kid: String,
}

/// What a service-account token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccountClaims {
    pub namespace: String,
    pub service_account: String,
    pub service_account_uid: String,
    /// Pod name and uid when the token is bound to one.
    pub pod: Option<(String, String)>,
    pub audiences: Vec<String>,
    /// Unix seconds.
    pub issued_at: u64,
    pub expires_at: u64,
}

impl ServiceAccountKeys {
    /// Reads the key (PEM, SEC1 or PKCS#8), or creates it 0600 if missing.
    ///
    /// # Errors
    /// [`IdentityError::File`] naming the file.
    pub fn load_or_create(key_file: &Path) -> Result<Self, IdentityError> {
        let fail = |op, why| IdentityError::File { op, path: key_file.into(), why };
        let key = match files::read_small(key_file)? {
            Some(pem) => EcKey::from_pem(&pem).map_err(|why| fail("use", why))?,
            None => {
                let key = EcKey::generate().map_err(|why| fail("create", why))?;
                files::write_atomic(key_file, key.to_pem().as_bytes(), KEY_MODE)?;
                key
            }
        };
        let signer = key.signer().map_err(|why| fail("use", why))?;
        let kid = encode(ring::digest::digest(&ring::digest::SHA256, &key.spki()).as_ref());
        Ok(Self { key, signer, kid })
    }

    /// The default audience and issuer of tokens.
    #[must_use]
    pub fn issuer() -> &'static str {
        ISSUER
    }

    /// The compact JWT.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] if the system has no randomness to sign with.
    pub fn sign(&self, claims: &ServiceAccountClaims) -> Result<String, IdentityError> {
        let mut bound = json!({
            "namespace": claims.namespace,
            "serviceaccount": {"name": claims.service_account, "uid": claims.service_account_uid},
        });
        if let (Some((name, uid)), Some(bound)) = (&claims.pod, bound.as_object_mut()) {
            bound.insert("pod".into(), json!({"name": name, "uid": uid}));
        }
        let body = json!({
            "iss": ISSUER,
            "sub": format!("system:serviceaccount:{}:{}", claims.namespace, claims.service_account),
            "aud": claims.audiences,
            "iat": claims.issued_at,
            "nbf": claims.issued_at,
            "exp": claims.expires_at,
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": bound,
        });
        let signed = unsigned(&json!({"alg": "ES256", "kid": self.kid}), &body);
        let signature = self
            .signer
            .sign(&ring::rand::SystemRandom::new(), signed.as_bytes())
            .map_err(|_| IdentityError::Certificate("a service-account token could not be signed".into()))?;
        Ok(format!("{signed}.{}", encode(signature.as_ref())))
    }

    /// Verifies signature, times and issuer. Whether the audience fits is the caller's question.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self, jwt: &str, now: SystemTime) -> Result<ServiceAccountClaims, TokenError> {
        let token = Compact::parse(jwt)?;
        token.require_alg("ES256")?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_point())
            .verify(token.signed.as_bytes(), &token.signature)
            .map_err(|_| TokenError::Forged)?;
        let claims = read_claims(&token)?;
        let now = unix_secs(now);
        if claims.expires_at <= now {
            return Err(TokenError::Expired);
        }
        let not_before = token.seconds("nbf").unwrap_or(claims.issued_at);
        if not_before > now.saturating_add(SKEW_SECS) {
            return Err(TokenError::Malformed("it is not valid yet"));
        }
        Ok(claims)
    }
}

pub(crate) fn read_claims(token: &Compact<'_>) -> Result<ServiceAccountClaims, TokenError> {
    let missing = TokenError::Malformed;
    if token.claims.get("iss").and_then(Value::as_str) != Some(ISSUER) {
        return Err(missing("iss is not this API"));
    }
    let bound = token.claims.get("kubernetes.io").and_then(Value::as_object);
    let bound = bound.ok_or(missing("kubernetes.io is missing"))?;
    let namespace = text(bound, "namespace").ok_or(missing("kubernetes.io.namespace is missing"))?;
    let account = bound.get("serviceaccount").and_then(named);
    let (service_account, service_account_uid) =
        account.ok_or(missing("kubernetes.io.serviceaccount is missing"))?;
    let subject = format!("system:serviceaccount:{namespace}:{service_account}");
    if token.claims.get("sub").and_then(Value::as_str) != Some(&subject) {
        return Err(missing("sub differs from kubernetes.io"));
    }
    let pod = match bound.get("pod") {
        None => None,
        Some(pod) => Some(named(pod).ok_or(missing("kubernetes.io.pod has no name or uid"))?),
    };
    let audiences = match token.claims.get("aud") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(many)) => many
            .iter()
            .map(|one| one.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or(missing("aud is not a list of texts"))?,
        _ => return Err(missing("aud is missing")),
    };
    Ok(ServiceAccountClaims {
        namespace,
        service_account,
        service_account_uid,
        pod,
        audiences,
        issued_at: token.seconds("iat").ok_or(missing("iat is missing"))?,
        expires_at: token.seconds("exp").ok_or(missing("exp is missing"))?,
    })
}

fn text(map: &Map<String, Value>, key: &str) -> Option<String> {
    map.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn named(value: &Value) -> Option<(String, String)> {
    let map = value.as_object()?;
    Some((text(map, "name")?, text(map, "uid")?))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_790_000_000;

    fn at(secs: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(secs)
    }

    fn keys() -> (tempfile::TempDir, ServiceAccountKeys) {
        let dir = tempfile::tempdir().expect("temp dir");
        let keys = ServiceAccountKeys::load_or_create(&dir.path().join("sa.key")).expect("keys");
        (dir, keys)
    }

    fn claims() -> ServiceAccountClaims {
        ServiceAccountClaims {
            namespace: "default".into(),
            service_account: "builder".into(),
            service_account_uid: "u-1".into(),
            pod: Some(("web-0".into(), "p-1".into())),
            audiences: vec![ISSUER.into()],
            issued_at: NOW,
            expires_at: NOW + 3600,
        }
    }

    fn raw(keys: &ServiceAccountKeys, header: &Value, body: &Value) -> String {
        let signed = unsigned(header, body);
        let signature = keys.signer.sign(&ring::rand::SystemRandom::new(), signed.as_bytes()).expect("sign");
        format!("{signed}.{}", encode(signature.as_ref()))
    }

    #[test]
    fn round_trip_and_kubernetes_claims() {
        let (dir, keys) = keys();
        let jwt = keys.sign(&claims()).expect("signed");
        let again = ServiceAccountKeys::load_or_create(&dir.path().join("sa.key")).expect("same key");
        assert_eq!(again.verify(&jwt, at(NOW + 10)), Ok(claims()));
        let token = Compact::parse(&jwt).expect("compact");
        assert_eq!(token.header.get("kid").and_then(Value::as_str), Some(keys.kid.as_str()));
        assert_eq!(token.claims["sub"], "system:serviceaccount:default:builder");
        assert_eq!(token.claims["nbf"], NOW);
        assert_eq!(token.claims["kubernetes.io"]["pod"], json!({"name": "web-0", "uid": "p-1"}));
        let unbound = ServiceAccountClaims { pod: None, ..claims() };
        assert_eq!(keys.verify(&keys.sign(&unbound).expect("signed"), at(NOW)), Ok(unbound));
    }

    #[test]
    fn refusals() {
        let (_dir, ours) = keys();
        let (_other_dir, theirs) = keys();
        let es256 = json!({"alg": "ES256"});
        let good = ours.sign(&claims()).expect("signed");
        let body = Value::Object(Compact::parse(&good).expect("compact").claims);
        let with = |key: &str, value: Value| {
            let mut body = body.clone();
            body[key] = value;
            raw(&ours, &es256, &body)
        };
        let malformed = TokenError::Malformed;
        for (case, jwt, want) in [
            ("another key", theirs.sign(&claims()).expect("signed"), TokenError::Forged),
            (
                "alg",
                raw(&ours, &json!({"alg": "none"}), &body),
                malformed("the header's alg is not the one used here"),
            ),
            ("expired", with("exp", json!(NOW)), TokenError::Expired),
            ("early", with("nbf", json!(NOW + 3600)), malformed("it is not valid yet")),
            ("issuer", with("iss", json!("x")), malformed("iss is not this API")),
            (
                "subject",
                with("sub", json!("system:serviceaccount:kube-system:admin")),
                malformed("sub differs from kubernetes.io"),
            ),
            ("unbound", with("kubernetes.io", json!(1)), malformed("kubernetes.io is missing")),
            ("audience", with("aud", json!([1])), malformed("aud is not a list of texts")),
            ("no audience", with("aud", Value::Null), malformed("aud is missing")),
        ] {
            assert_eq!(ours.verify(&jwt, at(NOW)), Err(want), "{case}");
        }
    }

    #[test]
    fn a_bad_key_file_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("sa.key");
        std::fs::write(&path, "nonsense").expect("write");
        let err = ServiceAccountKeys::load_or_create(&path).err().expect("refused").to_string();
        assert!(err.contains("sa.key") && err.contains("no PEM private key"), "{err}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_claims_never_panic(body in r#"\{"iss":"[a-z]{0,3}","kubernetes.io":(\{\}|\[\]|1|"x")\}|.{0,30}"#) {
            let (_dir, keys) = keys();
            let jwt = format!("{}.{}.{}", encode(br#"{"alg":"ES256"}"#), encode(body.as_bytes()), encode(b"x"));
            prop_assert!(keys.verify(&jwt, at(NOW)).is_err());
            if let Ok(token) = Compact::parse(&jwt) { prop_assert!(read_claims(&token).is_err()); }
        }
    }
}
