//! P-256 keys between the formats that matter: SEC1 on disk (what Go reads), PKCS#8 for ring.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::PKCS_ECDSA_P256_SHA256;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// OBJECT IDENTIFIER 1.2.840.10045.3.1.7 (prime256v1), with tag and length.
pub(super) const OID_P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// OBJECT IDENTIFIER 1.2.840.10045.2.1 (ecPublicKey), with tag and length.
const OID_EC: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// A P-256 private key: the scalar and the uncompressed public point.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EcKey {
    private: [u8; 32],
    public: [u8; 65],
}

impl fmt::Debug for EcKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EcKey(..)")
    }
}

impl EcKey {
    /// A fresh key from the system's random source.
    pub fn generate() -> Result<Self, String> {
        let random = ring::rand::SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map_err(|_| "the system gave no random bytes".to_owned())?;
        Self::from_pkcs8(document.as_ref()).ok_or_else(|| "a generated key does not parse".to_owned())
    }

    /// Reads `EC PRIVATE KEY` (SEC1) or `PRIVATE KEY` (PKCS#8); the error is a clause without the
    /// key in it.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| "it holds no PEM private key".to_owned())?;
        let key = match &der {
            PrivateKeyDer::Sec1(der) => Self::from_sec1(der.secret_sec1_der(), false),
            PrivateKeyDer::Pkcs8(der) => Self::from_pkcs8(der.secret_pkcs8_der()),
            _ => None,
        };
        let key = key.ok_or_else(|| "the key is not an ECDSA P-256 key with its public part".to_owned())?;
        key.signer()?;
        Ok(key)
    }

    /// RFC 5915 `ECPrivateKey`. Inside PKCS#8 the curve stands outside (`curve_known`).
    fn from_sec1(der: &[u8], curve_known: bool) -> Option<Self> {
        let (body, rest) = take(der, 0x30)?;
        let (version, body) = take(body, 0x02)?;
        let (private, mut body) = take(body, 0x04)?;
        if !rest.is_empty() || version != [1] {
            return None;
        }
        match take(body, 0xa0) {
            Some((curve, after)) if curve == OID_P256 => body = after,
            Some(_) => return None,
            None if curve_known => {}
            None => return None,
        }
        let (public, rest) = take(body, 0xa1)?;
        let (bits, inner_rest) = take(public, 0x03)?;
        let (unused_bits, point) = bits.split_first()?;
        if !rest.is_empty() || !inner_rest.is_empty() || *unused_bits != 0 || point.first() != Some(&4) {
            return None;
        }
        Some(Self { private: private.try_into().ok()?, public: point.try_into().ok()? })
    }

    /// RFC 5208 `PrivateKeyInfo`.
    fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let (body, _) = take(der, 0x30)?;
        let (_version, body) = take(body, 0x02)?;
        let (algorithm, body) = take(body, 0x30)?;
        if algorithm != [OID_EC.as_slice(), OID_P256.as_slice()].concat() {
            return None;
        }
        let (sec1, _attributes) = take(body, 0x04)?;
        Self::from_sec1(sec1, true)
    }

    /// `EC PRIVATE KEY`, with curve and public key, as Go writes it.
    pub fn to_pem(&self) -> String {
        let mut body = self.sec1_head();
        body.extend(tagged(0xa0, &OID_P256));
        body.extend(self.sec1_public());
        pem("EC PRIVATE KEY", &tagged(0x30, &body))
    }

    fn to_pkcs8(&self) -> Vec<u8> {
        let mut sec1 = self.sec1_head();
        sec1.extend(self.sec1_public());
        let algorithm = [OID_EC.as_slice(), OID_P256.as_slice()].concat();
        let mut body = vec![0x02, 0x01, 0x00];
        body.extend(tagged(0x30, &algorithm));
        body.extend(tagged(0x04, &tagged(0x30, &sec1)));
        tagged(0x30, &body)
    }

    fn sec1_head(&self) -> Vec<u8> {
        let mut head = vec![0x02, 0x01, 0x01];
        head.extend(tagged(0x04, &self.private));
        head
    }

    fn sec1_public(&self) -> Vec<u8> {
        let mut bits = vec![0];
        bits.extend_from_slice(&self.public);
        tagged(0xa1, &tagged(0x03, &bits))
    }

    /// Uncompressed point: 0x04, x, y.
    pub fn public_point(&self) -> &[u8; 65] {
        &self.public
    }

    /// `SubjectPublicKeyInfo`, DER.
    pub fn spki(&self) -> Vec<u8> {
        spki_of(&self.public)
    }

    /// For JWTs (fixed-length signatures). Fails when the public key is not the private key's.
    pub fn signer(&self) -> Result<EcdsaKeyPair, String> {
        let random = ring::rand::SystemRandom::new();
        EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &self.private,
            &self.public,
            &random,
        )
        .map_err(|_| "the key's private and public parts do not belong together".to_owned())
    }

    /// For certificates and requests.
    pub fn for_rcgen(&self) -> Result<rcgen::KeyPair, String> {
        let der = PrivatePkcs8KeyDer::from(self.to_pkcs8());
        rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
            .map_err(|_| "the key is not an ECDSA P-256 key".to_owned())
    }
}

/// `SubjectPublicKeyInfo` of an uncompressed P-256 point, DER.
pub(super) fn spki_of(point: &[u8; 65]) -> Vec<u8> {
    let algorithm = [OID_EC.as_slice(), OID_P256.as_slice()].concat();
    let mut bits = vec![0];
    bits.extend_from_slice(point);
    tagged(0x30, &[tagged(0x30, &algorithm), tagged(0x03, &bits)].concat())
}

/// One DER value of this tag at the head of `input`: (content, rest). Lengths up to 65535.
pub(super) fn take(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, input) = input.split_first()?;
    if *first != tag {
        return None;
    }
    let (length, input) = input.split_first()?;
    let (length, input) = match *length {
        short @ 0..=0x7f => (usize::from(short), input),
        0x81 => {
            let (length, input) = input.split_first()?;
            (usize::from(*length), input)
        }
        0x82 => {
            let (length, input) = input.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), input)
        }
        _ => return None,
    };
    input.split_at_checked(length)
}

/// DER tag, length and content; contents here are shorter than 256 bytes.
pub(super) fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap_or(u8::MAX);
    let mut out = if length < 0x80 { vec![tag, length] } else { vec![tag, 0x81, length] };
    out.extend_from_slice(content);
    out
}

/// RFC 7468 text, 64 columns.
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(64).unwrap_or((rest, ""));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// A private key (PKCS#8 DER) as PEM.
#[must_use]
pub fn key_pem_from_pkcs8(der: &[u8]) -> String {
    pem("PRIVATE KEY", der)
}

/// A certificate's PEM text.
#[must_use]
pub fn cert_pem_from_der(der: &[u8]) -> String {
    pem("CERTIFICATE", der)
}

/// DER of the first certificate in a PEM text; `None` if there is none.
#[must_use]
pub fn cert_der_from_pem(pem: &str) -> Option<Vec<u8>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok().map(|der| der.to_vec())
}

/// DER of every certificate in a PEM text, in its order; text that is none is skipped.
#[must_use]
pub fn cert_ders_from_pem(pem: &str) -> Vec<Vec<u8>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().map(|der| der.to_vec()).collect()
}

/// PEM text of a chain, in its order.
#[must_use]
pub fn chain_pem<D: AsRef<[u8]>>(chain: &[D]) -> String {
    chain.iter().map(|der| cert_pem_from_der(der.as_ref())).collect()
}

/// Lower-case hex SHA-256: of a CA's DER it is the first part of a join token.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_formats_give_the_same_key() {
        let key = EcKey::generate().expect("key");
        assert!(key.to_pem().starts_with("-----BEGIN EC PRIVATE KEY-----\n"));
        assert_eq!(EcKey::from_pem(key.to_pem().as_bytes()).expect("sec1"), key);
        let pkcs8 = pem("PRIVATE KEY", &key.to_pkcs8());
        assert_eq!(EcKey::from_pem(pkcs8.as_bytes()).expect("pkcs8"), key);
        assert_eq!(key.for_rcgen().expect("rcgen").public_key_raw(), key.public_point());
    }

    #[test]
    fn refusals() {
        let key = EcKey::generate().expect("key");
        let mut swapped = key.clone();
        swapped.public = EcKey::generate().expect("key").public;
        let p384 =
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("p384").serialize_pem();
        for (case, text, want) in [
            ("empty", String::new(), "no PEM private key"),
            ("a certificate", cert_pem_from_der(b"x"), "no PEM private key"),
            ("another curve", p384, "not an ECDSA P-256"),
            ("garbage", pem("EC PRIVATE KEY", b"garbage"), "not an ECDSA P-256"),
            ("parts of two keys", swapped.to_pem(), "do not belong together"),
        ] {
            let err = EcKey::from_pem(text.as_bytes()).expect_err(case);
            assert!(err.contains(want), "{case}: {err}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(EcKey::from_sec1(&raw, true).is_none());
            prop_assert!(EcKey::from_pkcs8(&raw).is_none());
            prop_assert!(EcKey::from_pem(&raw).is_err());
        }

        #[test]
        fn a_damaged_key_never_panics(at in 0usize..119, byte: u8) {
            let key = EcKey { private: [7; 32], public: [4; 65] };
            let mut der = key.to_pkcs8();
            if let Some(old) = der.get_mut(at) { *old = byte; }
            let parsed = EcKey::from_pkcs8(&der);
            prop_assert!(parsed.is_none_or(|parsed| parsed.public[0] == 4));
        }

        #[test]
        fn pem_round_trip(der in proptest::collection::vec(any::<u8>(), 1..300)) {
            prop_assert_eq!(cert_der_from_pem(&cert_pem_from_der(&der)), Some(der));
        }
    }
}
