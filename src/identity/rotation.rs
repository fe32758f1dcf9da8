//! Replacing the root: prepare a next one, activate it, retire the old one.
//!
//! From `prepare` on both roots are trusted, so nodes that are there learn the next one; the next
//! one is also signed by the one in use (the cross certificate), so nodes that were away follow it
//! when they come back. Every step may be done again, and a crash at any instant leaves files that
//! open; who repeats the step finishes it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::authorities::is_signed_by;
use super::ca::CaSettings;
use super::ca_files::{Contents, Found, Places, ca_der, remove, resolve, wrong};
use super::issuing::{self, Authority};
use super::peer::parse;
use super::signer::{KeyStore, key_store};
use super::{IdentityError, PUBLIC_MODE, files, sha256_hex, unix_secs, validity};

/// Why a step of the rotation is not taken.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("there is no root yet: start cloudcore or run keadm init first")]
    NoRoot,
    #[error("the old root is still trusted: run keadm ca retire first")]
    NotRetired,
    #[error("there is no next root: run keadm ca prepare first")]
    NotPrepared,
    #[error("the next root is being activated: run keadm ca activate again")]
    HalfActivated,
    #[error("certificates of the old root may be in use until {} (unix time): wait, or use --force", unix_secs(*.until))]
    InUse { until: SystemTime },
    #[error("cloudcore still signs below the old root: start it with the new root's key, or use --force")]
    Signing,
}

/// Did a step change anything?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Done,
    /// It was done before.
    Already,
}

/// One authority, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityStatus {
    /// Lower-case hex sha256 of the certificate.
    pub hash: String,
    pub not_after: SystemTime,
    /// Is its key on this machine?
    pub has_key: bool,
}

/// Where a rotation stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationStatus {
    pub root: AuthorityStatus,
    pub next: Option<AuthorityStatus>,
    pub old: Option<AuthorityStatus>,
    pub issuing: Option<AuthorityStatus>,
    /// Did the root in use sign the issuing CA?
    pub issuing_follows: bool,
    pub activated_at: Option<SystemTime>,
}

/// When what was done, beside the root's certificate. Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Record {
    activated_at: Option<u64>,
}

/// Moves the root's files. Blocks.
pub struct Rotation {
    places: Places,
    keys: std::sync::Arc<dyn KeyStore>,
}

impl Rotation {
    /// # Errors
    /// [`IdentityError`] when the keys' place cannot be reached.
    pub fn new(settings: &CaSettings) -> Result<Self, IdentityError> {
        let places = Places::new(&settings.ca_file, &settings.ca_key_file);
        Ok(Self { places, keys: key_store(&settings.keys)? })
    }

    /// Makes the next root and has the one in use sign it. From now on both are trusted.
    ///
    /// # Errors
    /// [`RotationError`]. The key of the root in use must be there.
    pub fn prepare(&self, now: SystemTime) -> Result<Step, RotationError> {
        self.require_root()?;
        let _lock = self.places.lock()?;
        let (contents, root) = self.settled()?;
        if contents.old_root.is_some() {
            return Err(RotationError::NotRetired);
        }
        let Some(root_key) = root.key else {
            let why = "the key is needed to sign the next root: bring it back for this step";
            return Err(wrong(&self.places.root.key, why).into());
        };
        let root = Authority::new(root.der, root_key)?;
        let mut step = Step::Already;
        let next = match self.next(&contents)? {
            Some(next) => next,
            None => {
                step = Step::Done;
                let pair = &self.places.root;
                let (key, content) = self.keys.create().map_err(|why| wrong(&pair.next_key(), why))?;
                let generation: String = sha256_hex(&key.spki()).chars().take(8).collect();
                // Begins later than the one before: which of two is the newer one is told by that.
                let now = now.max(root.valid.not_before + issuing::BACKDATE + Duration::from_secs(1));
                let der = issuing::root(&key, &format!("root {generation}"), now)?;
                pair.write_next(&der, &content)?;
                Authority::new(der, key)?
            }
        };
        if !self.has_cross(&contents, &next.der, &root.der) {
            step = Step::Done;
            let cross = issuing::cross(&root, &next)?;
            let pem = super::cert_pem_from_der(&cross);
            files::write_atomic(&self.places.cross(), pem.as_bytes(), PUBLIC_MODE)?;
        }
        Ok(step)
    }

    /// Puts the next root to use; the one before stays trusted, its key goes.
    ///
    /// # Errors
    /// [`RotationError`]. The next root's key and the cross certificate must be there.
    pub fn activate(&self, now: SystemTime) -> Result<Step, RotationError> {
        self.require_root()?;
        let _lock = self.places.lock()?;
        let pair = &self.places.root;
        let contents = self.places.read()?;
        let root = self.root(&contents)?;
        if root.unsettled {
            pair.settle()?;
            return Ok(Step::Done);
        }
        let Some(next) = self.next(&contents)? else {
            return match (&contents.old_root, &contents.next_root) {
                (_, Some(_)) => {
                    let why = "the key of the next root is missing: bring it back for this step";
                    Err(wrong(&pair.next_key(), why).into())
                }
                (Some(_), None) => Ok(Step::Already),
                (None, None) => Err(RotationError::NotPrepared),
            };
        };
        if !self.has_cross(&contents, &next.der, &root.der) {
            return Err(RotationError::NotPrepared);
        }
        let pem = super::cert_pem_from_der(&root.der);
        files::write_atomic(&self.places.old_root(), pem.as_bytes(), PUBLIC_MODE)?;
        self.write_record(Record { activated_at: Some(unix_secs(now)) })?;
        pair.advance()?;
        if let Some(before) = &contents.root_key
            && let Err(why) = self.keys.discard(before)
        {
            tracing::warn!(why, "the key of the old root stays in its token");
        }
        Ok(Step::Done)
    }

    /// Ends trust in the old root. Refused while certificates below it may be in use: `linger`, the
    /// longest life of what nodes hold, counted from the activation.
    ///
    /// # Errors
    /// [`RotationError`].
    pub fn retire(&self, linger: Duration, force: bool, now: SystemTime) -> Result<Step, RotationError> {
        self.require_root()?;
        let _lock = self.places.lock()?;
        let contents = self.places.read()?;
        let root = self.root(&contents)?;
        let old = contents.old_root.as_deref().map(|pem| ca_der(&self.places.old_root(), pem)).transpose()?;
        if root.unsettled || old.as_ref() == Some(&root.der) {
            return Err(RotationError::HalfActivated);
        }
        if old.is_none() && (contents.cross.is_none() || contents.next_root.is_some()) {
            return Ok(Step::Already);
        }
        if old.is_some() && !force {
            // Without a record of the activation it may have been just now.
            let activated =
                self.record()?.activated_at.map_or(now, |at| UNIX_EPOCH + Duration::from_secs(at));
            let until = activated.checked_add(linger).unwrap_or(activated);
            if now < until {
                return Err(RotationError::InUse { until });
            }
            let follows = self.issuing(&contents).is_some_and(|der| is_signed_by(&der, &root.der));
            if !follows {
                return Err(RotationError::Signing);
            }
        }
        // Trust ends with the first step; without the old root the cross certificate is not sent.
        remove(&self.places.old_root())?;
        remove(&self.places.rotation())?;
        remove(&self.places.cross())?;
        Ok(Step::Done)
    }

    /// # Errors
    /// [`RotationError`] when there is no root or a file is wrong.
    pub fn status(&self) -> Result<RotationStatus, RotationError> {
        self.require_root()?;
        let contents = self.places.read()?;
        let root = self.root(&contents)?;
        let key_is_there = root.key.is_some();
        let next_key = self.places.root.next_key().exists();
        let next = contents.next_root.as_deref().filter(|_| !root.unsettled);
        let next = next.map(|pem| ca_der(&self.places.root.next_cert(), pem)).transpose()?;
        let old = contents.old_root.as_deref();
        let old = old.map(|pem| ca_der(&self.places.old_root(), pem)).transpose()?;
        let issuing = self.issuing(&contents);
        Ok(RotationStatus {
            issuing_follows: issuing.as_ref().is_some_and(|der| is_signed_by(der, &root.der)),
            issuing: issuing.map(|der| shown(&der, contents.issuing_key.is_some())).transpose()?,
            root: shown(&root.der, key_is_there)?,
            next: next.map(|der| shown(&der, next_key)).transpose()?,
            old: old.map(|der| shown(&der, false)).transpose()?,
            activated_at: self.record()?.activated_at.map(|at| UNIX_EPOCH + Duration::from_secs(at)),
        })
    }

    fn require_root(&self) -> Result<(), RotationError> {
        let pair = &self.places.root;
        if pair.cert.exists() || pair.key.exists() { Ok(()) } else { Err(RotationError::NoRoot) }
    }

    fn root(&self, contents: &Contents) -> Result<Found, RotationError> {
        let found = resolve(
            &self.places.root,
            contents.root_cert.as_deref(),
            contents.root_key.as_deref(),
            contents.next_root.as_deref(),
            &*self.keys,
        )?;
        found.ok_or(RotationError::NoRoot)
    }

    /// The root in use, after what an interrupted activation left was finished.
    fn settled(&self) -> Result<(Contents, Found), RotationError> {
        let contents = self.places.read()?;
        let root = self.root(&contents)?;
        if !root.unsettled {
            return Ok((contents, root));
        }
        self.places.root.settle()?;
        let contents = self.places.read()?;
        let root = self.root(&contents)?;
        Ok((contents, root))
    }

    /// The next root, if certificate and key are there and belong together.
    fn next(&self, contents: &Contents) -> Result<Option<Authority>, RotationError> {
        let pair = &self.places.root;
        let key = files::read_small(&pair.next_key())?;
        let (Some(pem), Some(key)) = (&contents.next_root, key) else { return Ok(None) };
        let der = ca_der(&pair.next_cert(), pem)?;
        let key = self.keys.find(&key).map_err(|why| wrong(&pair.next_key(), why))?;
        let belongs = parse(&der)?.public_key().raw == key.spki();
        Ok(if belongs { Some(Authority::new(der, key)?) } else { None })
    }

    fn has_cross(&self, contents: &Contents, next: &[u8], root: &[u8]) -> bool {
        let cross = contents.cross.as_deref().and_then(|pem| ca_der(&self.places.cross(), pem).ok());
        cross.is_some_and(|cross| {
            let same = parse(&cross).ok().zip(parse(next).ok());
            same.is_some_and(|(cross, next)| cross.public_key().raw == next.public_key().raw)
                && is_signed_by(&cross, root)
        })
    }

    fn issuing(&self, contents: &Contents) -> Option<Vec<u8>> {
        contents.issuing_cert.as_deref().and_then(|pem| ca_der(&self.places.issuing.cert, pem).ok())
    }

    fn record(&self) -> Result<Record, IdentityError> {
        let path = self.places.rotation();
        let Some(text) = files::read_small(&path)? else { return Ok(Record::default()) };
        serde_json::from_slice(&text).map_err(|err| wrong(&path, err.to_string()))
    }

    fn write_record(&self, record: Record) -> Result<(), IdentityError> {
        let path = self.places.rotation();
        let text = serde_json::to_vec(&record).map_err(|err| wrong(&path, err.to_string()))?;
        files::write_atomic(&path, &text, PUBLIC_MODE)
    }
}

fn shown(der: &[u8], has_key: bool) -> Result<AuthorityStatus, IdentityError> {
    Ok(AuthorityStatus { hash: sha256_hex(der), not_after: validity(der)?.not_after, has_key })
}

#[cfg(test)]
mod tests;
