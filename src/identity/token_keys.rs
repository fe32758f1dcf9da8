//! Keys of authorities in a PKCS#11 token (a hardware module, a TPM behind its PKCS#11 module, or
//! SoftHSM). They are made there and never leave it.
//!
//! The file beside a certificate holds the key's name as a PKCS#11 URI (RFC 7512). Files that hold a
//! key of their own go on working, so a cloud moves to a token with its next rotation.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use parking_lot::Mutex;
use ring::rand::SecureRandom;

use super::key::{OID_P256, tagged, take};
use super::signer::{AuthorityKey, KeyStore, KeysInFiles, Signer};
use super::{IdentityError, files};
use crate::config::KeysConfig;

const SCHEME: &str = "pkcs11:";
const ID_BYTES: usize = 16;

/// Keys in one token.
pub(super) struct KeysInToken {
    token: Arc<Token>,
}

struct Token {
    module: Pkcs11,
    label: String,
    pin_file: PathBuf,
    /// Opened again when a call fails: tokens are pulled out and put back.
    session: Mutex<Option<Session>>,
}

impl KeysInToken {
    /// Loads the module and logs in.
    ///
    /// # Errors
    /// [`IdentityError::File`] naming the module, or the token's PIN file.
    pub fn open(config: &KeysConfig) -> Result<Self, IdentityError> {
        let fail = |op, path: &Path, why: String| IdentityError::File { op, path: path.to_path_buf(), why };
        let path = &config.pkcs11_module;
        let module = Pkcs11::new(path).map_err(|err| fail("load", path, err.to_string()))?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(err) => return Err(fail("initialize", path, err.to_string())),
        }
        let token = Token {
            module,
            label: config.pkcs11_token.clone(),
            pin_file: config.pkcs11_pin_file.clone(),
            session: Mutex::new(None),
        };
        token.with(|_| Ok(())).map_err(|why| fail("use", path, why))?;
        Ok(Self { token: Arc::new(token) })
    }
}

impl KeyStore for KeysInToken {
    fn create(&self) -> Result<(AuthorityKey, Vec<u8>), String> {
        let mut id = [0; ID_BYTES];
        ring::rand::SystemRandom::new().fill(&mut id).map_err(|_| "the system gave no random bytes")?;
        let shared = [
            Attribute::Token(true),
            Attribute::Id(id.to_vec()),
            Attribute::Label(b"kubeedge authority".to_vec()),
        ];
        let mut public = shared.to_vec();
        let curve = OID_P256.to_vec();
        public.extend([Attribute::Private(false), Attribute::Verify(true), Attribute::EcParams(curve)]);
        let mut private = shared.to_vec();
        private.extend([
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
        ]);
        self.token.with(|session| session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private))?;
        Ok((self.token.key(&id)?, uri(&self.token.label, &id).into_bytes()))
    }

    fn find(&self, content: &[u8]) -> Result<AuthorityKey, String> {
        if !content.starts_with(SCHEME.as_bytes()) {
            return KeysInFiles.find(content);
        }
        let id = id_of(content, &self.token.label)?;
        self.token.key(&id)
    }

    fn discard(&self, content: &[u8]) -> Result<(), String> {
        if !content.starts_with(SCHEME.as_bytes()) {
            return Ok(());
        }
        let id = id_of(content, &self.token.label)?;
        self.token.with(|session| {
            for object in session.find_objects(&[Attribute::Id(id.clone())])? {
                session.destroy_object(object)?;
            }
            Ok(())
        })
    }
}

impl Token {
    /// Runs one call in a session that is logged in; once more in a fresh one when it fails.
    fn with<T>(&self, call: impl Fn(&Session) -> Result<T, Error>) -> Result<T, String> {
        let mut session = self.session.lock();
        if let Some(open) = &*session
            && let Ok(result) = call(open)
        {
            return Ok(result);
        }
        // The old one first: some tokens allow one session only.
        *session = None;
        let fresh = session.insert(self.log_in()?);
        call(fresh).map_err(|err| format!("token {:?}: {err}", self.label))
    }

    fn log_in(&self) -> Result<Session, String> {
        let fail = |err: Error| format!("token {:?}: {err}", self.label);
        let slots = self.module.get_slots_with_token().map_err(fail)?;
        let slot = slots
            .into_iter()
            .find(|slot| self.module.get_token_info(*slot).is_ok_and(|info| info.label() == self.label))
            .ok_or_else(|| format!("it has no token {:?}", self.label))?;
        let pin = files::read_small(&self.pin_file).map_err(|err| err.to_string())?;
        let pin = pin.ok_or_else(|| format!("{}, the token's PIN, is missing", self.pin_file.display()))?;
        warn_if_open(&self.pin_file);
        let pin = String::from_utf8(pin).map_err(|_| format!("{} is no text", self.pin_file.display()))?;
        let session = self.module.open_rw_session(slot).map_err(fail)?;
        match session.login(UserType::User, Some(&AuthPin::new(pin.trim_end().into()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(err) => Err(fail(err)),
        }
    }

    /// The key of this id.
    fn key(self: &Arc<Self>, id: &[u8]) -> Result<AuthorityKey, String> {
        let point = self.with(|session| {
            let Some(object) = one(session, id, ObjectClass::PUBLIC_KEY)? else { return Ok(None) };
            let found = session.get_attributes(object, &[AttributeType::EcPoint])?;
            Ok(found.into_iter().find_map(|attribute| match attribute {
                Attribute::EcPoint(point) => Some(point),
                _ => None,
            }))
        })?;
        let point = point.ok_or_else(|| format!("token {:?} has no such key", self.label))?;
        let point = uncompressed(&point).ok_or("the token's key is not ECDSA P-256")?;
        let signer = TokenKey { token: Arc::clone(self), id: id.to_vec(), point };
        Ok(AuthorityKey::new(Arc::new(signer)))
    }
}

struct TokenKey {
    token: Arc<Token>,
    id: Vec<u8>,
    point: [u8; 65],
}

impl Signer for TokenKey {
    fn public_point(&self) -> [u8; 65] {
        self.point
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        // Hashed here: not every token knows ECDSA with SHA-256 as one mechanism.
        let digest = ring::digest::digest(&ring::digest::SHA256, message);
        let signature =
            self.token.with(|session| match one(session, &self.id, ObjectClass::PRIVATE_KEY)? {
                Some(object) => session.sign(&Mechanism::Ecdsa, object, digest.as_ref()).map(Some),
                None => Ok(None),
            })?;
        let signature = signature.ok_or("the token no longer has the key")?;
        asn1(&signature).ok_or_else(|| "the token's signature has another length".to_owned())
    }
}

fn one(session: &Session, id: &[u8], class: ObjectClass) -> Result<Option<ObjectHandle>, Error> {
    let found = session.find_objects(&[Attribute::Class(class), Attribute::Id(id.to_vec())])?;
    Ok(found.first().copied())
}

/// The point inside the OCTET STRING that PKCS#11 wraps it in; some tokens leave that out.
pub(crate) fn uncompressed(value: &[u8]) -> Option<[u8; 65]> {
    let point: [u8; 65] = match take(value, 0x04) {
        Some((point, [])) if point.len() == 65 => point.try_into().ok()?,
        _ => value.try_into().ok()?,
    };
    (point.first() == Some(&4)).then_some(point)
}

/// `r` and `s` side by side, as tokens sign, into ASN.1.
pub(crate) fn asn1(signature: &[u8]) -> Option<Vec<u8>> {
    let (r, s) = signature.split_at_checked(32)?;
    if s.len() != 32 {
        return None;
    }
    let integer = |number: &[u8]| {
        let zeros = number.iter().take(31).take_while(|byte| **byte == 0).count();
        let mut content = number.get(zeros..).unwrap_or_default().to_vec();
        if content.first().is_some_and(|byte| *byte >= 0x80) {
            content.insert(0, 0);
        }
        tagged(0x02, &content)
    };
    Some(tagged(0x30, &[integer(r), integer(s)].concat()))
}

/// What the key's file holds.
fn uri(label: &str, id: &[u8]) -> String {
    let label = label.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    let id = id.iter().map(|byte| format!("%{byte:02X}"));
    format!("{SCHEME}token={};id={};type=private\n", label.collect::<String>(), id.collect::<String>())
}

pub(crate) fn id_of(content: &[u8], label: &str) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(content).map_err(|_| "it is neither a key nor a PKCS#11 URI")?;
    let path = text.trim_end().strip_prefix(SCHEME).ok_or("it is no PKCS#11 URI")?;
    let part = |name: &str| {
        let mut parts = path.split(';').filter_map(|part| part.split_once('='));
        parts.find(|(key, _)| *key == name).and_then(|(_, value)| percent_decoded(value))
    };
    if part("token").as_deref() != Some(label.as_bytes()) {
        return Err(format!("its key is in another token than {label:?}"));
    }
    part("id").filter(|id| !id.is_empty()).ok_or_else(|| "it names no id".to_owned())
}

pub(crate) fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let (hex, after) = rest.split_at_checked(2)?;
        out.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
        rest = after;
    }
    Some(out)
}

fn warn_if_open(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0) {
        tracing::warn!(path = %path.display(), "others can read the PIN of the token: chmod 600");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_keys() {
        let text = uri("my token;1", &[0, 0xab]);
        assert_eq!(text, "pkcs11:token=my%20token%3B1;id=%00%AB;type=private\n");
        assert_eq!(id_of(text.as_bytes(), "my token;1"), Ok(vec![0, 0xab]));
        assert!(id_of(text.as_bytes(), "another").expect_err("token").contains("another token"));
        for (bad, want) in [
            ("pkcs11:token=t", "no id"),
            ("pkcs11:token=t;id=", "no id"),
            ("pkcs11:token=t;id=%zz", "no id"),
            ("pkcs11:id=%01", "another token"),
            ("nonsense", "no PKCS#11 URI"),
        ] {
            let err = id_of(bad.as_bytes(), "t").expect_err(bad);
            assert!(err.contains(want), "{bad}: {err}");
        }
    }

    #[test]
    fn points_come_wrapped_or_bare() {
        let mut point = [7; 65];
        point[0] = 4;
        assert_eq!(uncompressed(&tagged(0x04, &point)), Some(point));
        assert_eq!(uncompressed(&point), Some(point));
        assert_eq!(uncompressed(&tagged(0x04, &[4; 33])), None);
        assert_eq!(uncompressed(&[2; 65]), None);
    }

    proptest! {
        #[test]
        fn signatures_are_what_ring_verifies(message in proptest::collection::vec(any::<u8>(), 0..50)) {
            use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
            let key = crate::identity::key::EcKey::generate().expect("key");
            let fixed = key.signer().expect("signer").sign(&ring::rand::SystemRandom::new(), &message);
            let der = asn1(fixed.expect("signed").as_ref()).expect("asn.1");
            let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_point());
            prop_assert!(public.verify(&message, &der).is_ok());
        }

        #[test]
        fn any_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..80), text in "(pkcs11:)?.{0,40}") {
            prop_assert!(id_of(&raw, "t").is_err());
            prop_assert!(id_of(text.as_bytes(), "t").is_err() || text.contains("id="));
            prop_assert!(uncompressed(&raw).is_none_or(|point| raw.ends_with(&point)));
            prop_assert_eq!(asn1(&raw).is_some(), raw.len() == 64);
        }
    }
}
