//! Cosign's signatures, verified with a given key and nothing else: no network, no transparency log
//! (sigstore/cosign, specs/SIGNATURE_SPEC.md; "simple signing" of containers/image). Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

use crate::cri::runtime::ImageSignature;

/// DER of `SubjectPublicKeyInfo` up to the point, for an uncompressed key on P-256 (RFC 5480).
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const TYPE: &str = "cosign container image signature";

/// Why a signature says nothing about an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CosignError {
    #[error("the key is not a PEM public key on P-256")]
    Key,
    #[error("the signature is not base64")]
    Encoding,
    #[error("the signature does not verify with the key")]
    Forged,
    #[error("the signed text is not cosign's: {0}")]
    Payload(String),
    #[error("it signs {0}, which is not the image")]
    OtherImage(String),
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    r#type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Image {
    docker_manifest_digest: String,
}

/// A public key that signs images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CosignKey(Vec<u8>);

impl CosignKey {
    /// # Errors
    /// [`CosignError::Key`].
    pub fn from_pem(pem: &str) -> Result<Self, CosignError> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|_| CosignError::Key)?;
        let point = der.as_ref().strip_prefix(P256_PREFIX.as_slice());
        match point.filter(|point| point.len() == 65 && point.first() == Some(&4)) {
            Some(point) => Ok(Self(point.to_owned())),
            None => Err(CosignError::Key),
        }
    }

    /// Does `signature` say, with this key, that one of `digests` is good?
    ///
    /// # Errors
    /// Why not.
    pub fn verify(&self, signature: &ImageSignature, digests: &[String]) -> Result<(), CosignError> {
        let raw = STANDARD.decode(signature.signature.trim()).map_err(|_| CosignError::Encoding)?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0);
        key.verify(&signature.payload, &raw).map_err(|_| CosignError::Forged)?;
        let payload: Payload = serde_json::from_slice(&signature.payload)
            .map_err(|err| CosignError::Payload(err.to_string()))?;
        if payload.critical.r#type != TYPE {
            return Err(CosignError::Payload(format!("its type is not {TYPE:?}")));
        }
        let signed = payload.critical.image.docker_manifest_digest;
        if digests.contains(&signed) { Ok(()) } else { Err(CosignError::OtherImage(signed)) }
    }
}

/// A key, its PEM text, and a maker of signatures, for the tests of this folder.
#[cfg(test)]
pub mod fixture {
    use super::{ImageSignature, STANDARD, TYPE};
    use base64::Engine;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
    use serde_json::json;

    pub struct Signer {
        pair: EcdsaKeyPair,
        pub pem: String,
    }

    impl Signer {
        pub fn fresh() -> Self {
            let key = rcgen::KeyPair::generate().expect("key");
            let rng = SystemRandom::new();
            let der = key.serialize_der();
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der, &rng);
            Self { pair: pair.expect("pair"), pem: key.public_key_pem() }
        }

        pub fn sign(&self, digest: &str) -> ImageSignature {
            let payload = json!({
                "critical": {
                    "identity": {"docker-reference": "registry.local/web"},
                    "image": {"docker-manifest-digest": digest},
                    "type": TYPE,
                },
                "optional": null,
            });
            self.sign_text(payload.to_string().into_bytes())
        }

        pub fn sign_text(&self, payload: Vec<u8>) -> ImageSignature {
            let signature = self.pair.sign(&SystemRandom::new(), &payload).expect("signature");
            ImageSignature { payload, signature: STANDARD.encode(signature) }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fixture::Signer;
    use super::*;

    const DIGEST: &str = "sha256:aaaa";

    #[test]
    fn signatures() {
        let (signer, other) = (Signer::fresh(), Signer::fresh());
        let key = CosignKey::from_pem(&signer.pem).expect("key");
        let digests = ["sha256:index".to_owned(), DIGEST.to_owned()];
        assert_eq!(key.verify(&signer.sign(DIGEST), &digests), Ok(()));
        assert_eq!(key.verify(&signer.sign("sha256:index"), &digests), Ok(()), "over the index");
        let mut changed = signer.sign("sha256:evil");
        changed.payload = signer.sign(DIGEST).payload;
        let mut broken = signer.sign(DIGEST);
        broken.signature.push('!');
        let plain = signer.sign_text(
            br#"{"critical":{"image":{"docker-manifest-digest":"sha256:aaaa"},"type":"x"}}"#.to_vec(),
        );
        for (case, signature, want) in [
            ("another key", other.sign(DIGEST), "does not verify"),
            ("another text", changed, "does not verify"),
            ("no base64", broken, "base64"),
            ("another image", signer.sign("sha256:bbbb"), "sha256:bbbb, which is not the image"),
            ("no image", signer.sign_text(b"{}".to_vec()), "not cosign's"),
            ("another type", plain, "its type"),
        ] {
            let err = key.verify(&signature, &digests).expect_err(case).to_string();
            assert!(err.contains(want), "{case}: {err}");
        }
    }

    #[test]
    fn keys() {
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("p384");
        let private = rcgen::KeyPair::generate().expect("key").serialize_pem();
        for (case, pem) in
            [("empty", String::new()), ("another curve", p384.public_key_pem()), ("a private key", private)]
        {
            assert_eq!(CosignKey::from_pem(&pem), Err(CosignError::Key), "{case}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_pass(payload in proptest::collection::vec(any::<u8>(), 0..80), signature in ".{0,100}") {
            let key = CosignKey(vec![4; 65]);
            let signature = ImageSignature { payload, signature };
            prop_assert!(key.verify(&signature, &[DIGEST.to_owned()]).is_err());
        }
    }
}
