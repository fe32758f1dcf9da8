//! Proofs that somebody holds the key of a certificate: a factory's (X.509 proof of possession) or
//! the node's own last one (re-entry).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::SigningKey as _;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde_json::json;

use super::key::EcKey;
use super::peer::parse;
use super::seal::canonical;
use super::{IdentityError, TokenError};
use crate::model::NodeName;
use crate::model::identity::{Proof, RenewalRequest};

/// Context of a proof with a factory certificate.
pub const X509POP_CONTEXT: &str = "kubeedge x509pop v1";
/// Context of a proof with the node's last SVID.
pub const REENTRY_CONTEXT: &str = "kubeedge reentry v1";

const MAX_CHAIN: usize = 6;
/// Base64 of the largest certificate looked at.
const MAX_CERT_TEXT: usize = 24 * 1024;

/// The bytes of a request that a proof is over: all of it, because every key in it is given something.
/// (Whoever got hold of a proof over the SVID's CSR alone could have a CA signed with it.)
#[must_use]
pub fn proven(request: &RenewalRequest) -> Vec<u8> {
    let RenewalRequest { csr, ca_csr, jwt_key } = request;
    canonical(&json!({"csr": csr, "caCsr": ca_csr, "jwtKey": jwt_key}))
}

/// Signs `asked` ([`proven`]) for `node` with the key of the chain's leaf.
///
/// # Errors
/// [`IdentityError::Certificate`] when the key is not the leaf's.
pub fn prove(
    context: &str,
    node: &NodeName,
    asked: &[u8],
    chain: Vec<Vec<u8>>,
    key_pem: &str,
) -> Result<Proof, IdentityError> {
    let fail = IdentityError::Certificate;
    let key = EcKey::from_pem(key_pem.as_bytes()).map_err(fail)?;
    let leaf = chain.first().ok_or_else(|| fail("there is none to prove the key of".into()))?;
    if parse(leaf)?.public_key().raw != key.spki() {
        return Err(fail("the key is not the certificate's".into()));
    }
    let signature = key.for_rcgen().map_err(fail)?.sign(&message(context, node, asked));
    let signature = signature.map_err(|_| fail("the proof could not be signed".into()))?;
    Ok(Proof {
        chain: chain.iter().map(|der| STANDARD.encode(der)).collect(),
        signature: STANDARD.encode(signature),
    })
}

/// Checks that the holder of the leaf's key signed this request for this node. Returns the chain,
/// leaf first, DER. Whether the chain is to be trusted is the caller's question.
///
/// # Errors
/// [`TokenError::Malformed`] naming the part, [`TokenError::Forged`] for a signature of another key
/// or over something else.
pub fn verify_proof(
    context: &str,
    node: &NodeName,
    asked: &[u8],
    proof: &Proof,
) -> Result<Vec<Vec<u8>>, TokenError> {
    let malformed = TokenError::Malformed;
    if proof.chain.len() > MAX_CHAIN || proof.chain.iter().any(|text| text.len() > MAX_CERT_TEXT) {
        return Err(malformed("proof.chain is longer than 6 certificates of 16 KiB"));
    }
    let chain: Vec<Vec<u8>> = proof
        .chain
        .iter()
        .map(|text| STANDARD.decode(text))
        .collect::<Result<_, _>>()
        .map_err(|_| malformed("proof.chain is not base64"))?;
    let signature =
        STANDARD.decode(&proof.signature).map_err(|_| malformed("proof.signature is not base64"))?;
    let leaf = chain.first().ok_or(malformed("proof.chain is empty"))?;
    let leaf = parse(leaf).map_err(|_| malformed("proof.chain holds no X.509 certificate"))?;
    let point = leaf.public_key().subject_public_key.data.as_ref();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(&message(context, node, asked), &signature)
        .map_err(|_| TokenError::Forged)?;
    Ok(chain)
}

/// What is signed ([`Proof`]).
fn message(context: &str, node: &NodeName, asked: &[u8]) -> Vec<u8> {
    [format!("{context}\n{node}\n").as_bytes(), asked].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::test_authority::Authority;
    use super::super::{NodeRequest, new_node_csr};
    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::parse(text).expect("name")
    }

    #[test]
    fn a_proof_is_good_for_its_request_and_node_only() {
        let authority = Authority::new();
        let (chain, key_pem) = authority.node("edge-1");
        let (csr, _) = new_node_csr(&name("edge-1")).expect("csr");
        let (other_csr, other_key) = new_node_csr(&name("edge-1")).expect("csr");
        let proof = prove(REENTRY_CONTEXT, &name("edge-1"), &csr, chain.clone(), &key_pem).expect("proof");
        assert_eq!(verify_proof(REENTRY_CONTEXT, &name("edge-1"), &csr, &proof), Ok(chain.clone()));

        let check = |context, node: &str, csr: &[u8], proof: &Proof| {
            verify_proof(context, &name(node), csr, proof).expect_err("refused")
        };
        let with = |change: fn(&mut Proof)| {
            let mut proof = proof.clone();
            change(&mut proof);
            check(REENTRY_CONTEXT, "edge-1", &csr, &proof).to_string()
        };
        assert_eq!(check(X509POP_CONTEXT, "edge-1", &csr, &proof), TokenError::Forged, "another context");
        assert_eq!(check(REENTRY_CONTEXT, "edge-2", &csr, &proof), TokenError::Forged, "another node");
        assert_eq!(check(REENTRY_CONTEXT, "edge-1", &other_csr, &proof), TokenError::Forged, "another CSR");
        let mut others = proof.clone();
        others.chain = vec![STANDARD.encode(&authority.node("edge-1").0[0])];
        assert_eq!(check(REENTRY_CONTEXT, "edge-1", &csr, &others), TokenError::Forged, "another key");
        assert!(with(|proof| proof.chain.clear()).contains("proof.chain is empty"));
        assert!(with(|proof| proof.chain = vec!["!".into()]).contains("proof.chain is not base64"));
        assert!(with(|proof| proof.chain = vec!["AAAA".into()]).contains("holds no X.509 certificate"));
        assert!(with(|proof| proof.chain = vec![String::new(); 7]).contains("longer than 6"));
        assert!(with(|proof| proof.signature = "!".into()).contains("proof.signature"));
        assert!(with(|proof| proof.signature = "AAAA".into()).contains("signature does not verify"));

        let err = prove(REENTRY_CONTEXT, &name("edge-1"), &csr, chain, &other_key).expect_err("other key");
        assert!(err.to_string().contains("the key is not the certificate's"), "{err}");
    }

    #[test]
    fn a_proof_is_over_every_key_of_a_request() {
        let (request, _) = NodeRequest::new(&name("edge-1")).expect("request");
        let (other, _) = NodeRequest::new(&name("edge-1")).expect("request");
        let (csr, ca_csr, jwt_key) = (other.csr, other.ca_csr, other.jwt_key);
        for (case, changed) in [
            ("csr", RenewalRequest { csr, ..request.clone() }),
            ("caCsr", RenewalRequest { ca_csr, ..request.clone() }),
            ("jwtKey", RenewalRequest { jwt_key, ..request.clone() }),
        ] {
            assert_ne!(proven(&changed), proven(&request), "{case}");
        }
        let text = serde_json::to_string(&request).expect("JSON");
        let read: RenewalRequest = serde_json::from_str(&text).expect("request");
        assert_eq!(proven(&read), proven(&request), "the same on both sides");
    }

    proptest! {
        #[test]
        fn any_text_never_panics(chain in proptest::collection::vec(".{0,40}|[A-Za-z0-9+/]{0,80}", 0..3),
                                 signature in ".{0,40}|[A-Za-z0-9+/]{0,80}") {
            let proof = Proof { chain, signature };
            prop_assert!(verify_proof(REENTRY_CONTEXT, &name("edge-1"), b"csr", &proof).is_err());
        }
    }
}
