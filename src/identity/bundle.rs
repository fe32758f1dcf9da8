//! The trust bundle: the roots and JWT keys of a trust domain, in the forms others read.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::key::{cert_ders_from_pem, chain_pem};
use super::peer::parse;
use super::{IdentityError, SpiffeId};
use crate::model::identity::BundleDocument;

/// Roots or keys in a bundle: more is no bundle of ours.
const MAX_ENTRIES: usize = 4_096;

/// Whom a trust domain's members believe.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustBundle {
    pub trust_domain: String,
    /// Root certificates, DER, the one in use first.
    pub roots: Vec<Vec<u8>>,
    /// Public keys (JWK with `kid`) that sign JWT-SVIDs.
    pub jwt_keys: Vec<Value>,
}

impl TrustBundle {
    /// # Errors
    /// [`IdentityError::Certificate`] naming the entry that is no root.
    pub fn from_document(document: &BundleDocument) -> Result<Self, IdentityError> {
        if document.roots.len() > MAX_ENTRIES || document.jwt_keys.len() > MAX_ENTRIES {
            return Err(fail("more than 4096 entries".into()));
        }
        let mut roots = Vec::with_capacity(document.roots.len());
        for (i, text) in document.roots.iter().enumerate() {
            roots.push(STANDARD.decode(text).map_err(|_| fail(format!("roots[{i}] is not base64")))?);
        }
        Self { trust_domain: document.trust_domain.clone(), roots, jwt_keys: document.jwt_keys.clone() }
            .checked()
    }

    #[must_use]
    pub fn to_document(&self) -> BundleDocument {
        BundleDocument {
            trust_domain: self.trust_domain.clone(),
            roots: self.roots.iter().map(|der| STANDARD.encode(der)).collect(),
            jwt_keys: self.jwt_keys.clone(),
        }
    }

    /// # Errors
    /// [`IdentityError::Certificate`] when there is no certificate in it, or one that is no CA's.
    pub fn from_pem(trust_domain: &str, pem: &str) -> Result<Self, IdentityError> {
        let roots = cert_ders_from_pem(pem);
        Self { trust_domain: trust_domain.to_owned(), roots, jwt_keys: Vec::new() }.checked()
    }

    fn checked(self) -> Result<Self, IdentityError> {
        match SpiffeId::parse(&format!("spiffe://{}", self.trust_domain)) {
            Ok(id) if id.path().is_empty() => {}
            _ => return Err(fail(format!("trust domain {:?}", self.trust_domain))),
        }
        if self.roots.is_empty() {
            return Err(fail("it has no root".into()));
        }
        for (i, der) in self.roots.iter().enumerate() {
            let is_ca = parse(der).map_err(|err| fail(format!("roots[{i}]: {err}")))?.is_ca();
            if !is_ca {
                return Err(fail(format!("roots[{i}] is not the certificate of a CA")));
            }
        }
        Ok(self)
    }

    /// The roots, PEM.
    #[must_use]
    pub fn roots_pem(&self) -> String {
        chain_pem(&self.roots)
    }

    /// The keys of JWT-SVIDs as a JWK set.
    #[must_use]
    pub fn jwk_set(&self) -> Value {
        json!({"keys": self.jwt_keys})
    }

    /// As a SPIFFE bundle (SPIFFE Trust Domain and Bundle, section 4): a JWK set whose keys say what
    /// they are for.
    #[must_use]
    pub fn spiffe_bundle(&self) -> Value {
        let roots = self.roots.iter().filter_map(|der| root_jwk(der));
        let keys = self.jwt_keys.iter().cloned().map(|mut key| {
            if let Some(key) = key.as_object_mut() {
                key.insert("use".into(), "jwt-svid".into());
            }
            key
        });
        json!({"keys": roots.chain(keys).collect::<Vec<_>>()})
    }
}

fn root_jwk(der: &[u8]) -> Option<Value> {
    let cert = parse(der).ok()?;
    let (tag, point) = cert.public_key().subject_public_key.data.split_first()?;
    let (x, y) = point.split_at_checked(32)?;
    if *tag != 4 || y.len() != 32 {
        return None;
    }
    Some(json!({
        "use": "x509-svid", "kty": "EC", "crv": "P-256",
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        "x5c": [STANDARD.encode(der)],
    }))
}

fn fail(why: String) -> IdentityError {
    IdentityError::Certificate(format!("trust bundle: {why}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::test_chain::{DOMAIN, World};

    fn bundle() -> TrustBundle {
        let key = json!({"kty": "EC", "crv": "P-256", "kid": "k1", "x": "a", "y": "b"});
        TrustBundle { jwt_keys: vec![key], ..World::new().bundle() }
    }

    #[test]
    fn there_and_back() {
        let bundle = bundle();
        assert_eq!(TrustBundle::from_document(&bundle.to_document()).expect("document"), bundle);
        let from_pem = TrustBundle::from_pem(DOMAIN, &bundle.roots_pem()).expect("pem");
        assert_eq!(from_pem.roots, bundle.roots);
        assert_eq!(bundle.jwk_set()["keys"][0]["kid"], "k1");
    }

    #[test]
    fn a_spiffe_bundle_says_what_each_key_is_for() {
        let bundle = bundle();
        let document = bundle.spiffe_bundle();
        let (root, jwt) = (&document["keys"][0], &document["keys"][1]);
        assert_eq!(
            (&root["use"], &root["kty"], &root["crv"]),
            (&json!("x509-svid"), &json!("EC"), &json!("P-256"))
        );
        assert_eq!(root["x5c"], json!([STANDARD.encode(&bundle.roots[0])]));
        let point = parse(&bundle.roots[0]).expect("root").public_key().subject_public_key.data.to_vec();
        let coordinate =
            |name: &str| URL_SAFE_NO_PAD.decode(root[name].as_str().expect("text")).expect("base64url");
        assert_eq!([vec![4], coordinate("x"), coordinate("y")].concat(), point);
        assert_eq!((&jwt["use"], &jwt["kid"]), (&json!("jwt-svid"), &json!("k1")));
        assert!(document["keys"].as_array().is_some_and(|keys| keys.len() == 2));
    }

    #[test]
    fn refusals_name_the_entry() {
        let good = bundle().to_document();
        let world = World::new();
        let leaf = STANDARD.encode(&world.leaf("/node/a", std::time::Duration::from_secs(60))[0]);
        let roots = |roots: Vec<String>| BundleDocument { roots, ..good.clone() };
        for (case, document, want) in [
            ("no base64", roots(vec!["?".into()]), "roots[0] is not base64"),
            ("no certificate", roots(vec![good.roots[0].clone(), "AAAA".into()]), "roots[1]"),
            ("a leaf", roots(vec![leaf]), "roots[0] is not the certificate of a CA"),
            ("none", roots(vec![]), "it has no root"),
            ("too many", roots(vec![String::new(); MAX_ENTRIES + 1]), "more than 4096"),
            ("no domain", BundleDocument { trust_domain: String::new(), ..good.clone() }, "trust domain"),
            ("a path", BundleDocument { trust_domain: "a/b".into(), ..good.clone() }, "trust domain"),
        ] {
            let err = TrustBundle::from_document(&document).expect_err(case).to_string();
            assert!(err.contains(want), "{case}: {err}");
        }
        assert!(TrustBundle::from_pem(DOMAIN, "nonsense").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..300), text in ".{0,60}") {
            let bundle = TrustBundle { trust_domain: DOMAIN.into(), roots: vec![raw.clone()], jwt_keys: vec![] };
            prop_assert!(TrustBundle::from_document(&bundle.to_document()).is_err());
            prop_assert_eq!(bundle.spiffe_bundle(), json!({"keys": []}));
            prop_assert!(TrustBundle::from_pem(&text, &text).is_err());
        }
    }
}
