//! The files of the authorities: where they are, in which order they are written.
//!
//! An authority is two files, key and certificate. A new pair is first written beside the old one
//! (`.next.key`, `.next.crt`) and then renamed, key first. So at every instant the key file belongs
//! either to the certificate file or to the one beside it, and whoever reads them knows what is
//! meant; [`Pair::settle`] finishes what a crash left.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::key::{cert_ders_from_pem, cert_pem_from_der, chain_pem};
use super::peer::parse;
use super::signer::{AuthorityKey, KeyStore};
use super::{IdentityError, KEY_MODE, PUBLIC_MODE, files};

/// Where an authority's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    pub fn next_cert(&self) -> PathBuf {
        beside(&self.cert, "next")
    }

    pub fn next_key(&self) -> PathBuf {
        beside(&self.key, "next")
    }

    /// Replaces key and certificate by those beside them, both of which are there.
    pub fn advance(&self) -> Result<(), IdentityError> {
        rename(&self.next_key(), &self.key)?;
        self.settle()
    }

    /// The second half of it, for a pair whose key was moved ([`Found::unsettled`]).
    pub fn settle(&self) -> Result<(), IdentityError> {
        rename(&self.next_cert(), &self.cert)
    }

    /// Writes a new pair beside the old one.
    pub fn write_next(&self, cert_der: &[u8], key: &[u8]) -> Result<(), IdentityError> {
        // A certificate left there by a crash would go with the wrong key.
        remove(&self.next_cert())?;
        files::write_atomic(&self.next_key(), key, KEY_MODE)?;
        files::write_atomic(&self.next_cert(), cert_pem_from_der(cert_der).as_bytes(), PUBLIC_MODE)
    }
}

/// All files of a trust domain's authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    pub root: Pair,
    pub issuing: Pair,
}

impl Places {
    pub fn new(root_cert: &Path, root_key: &Path) -> Self {
        let issuing = Pair {
            cert: root_key.with_file_name("issuing.crt"),
            key: root_key.with_file_name("issuing.key"),
        };
        Self { root: Pair { cert: root_cert.into(), key: root_key.into() }, issuing }
    }

    /// The root before the one in use: still trusted.
    pub fn old_root(&self) -> PathBuf {
        beside(&self.root.cert, "old")
    }

    /// The root in use (or the next one) signed by the root before it.
    pub fn cross(&self) -> PathBuf {
        beside(&self.root.cert, "cross")
    }

    /// When what happened to the roots.
    pub fn rotation(&self) -> PathBuf {
        self.root.cert.with_file_name("rotation.json")
    }

    /// Issuing CAs before the one in use: certificates of theirs still live.
    pub fn former_issuing(&self) -> PathBuf {
        beside(&self.issuing.cert, "old")
    }

    fn lock_file(&self) -> PathBuf {
        self.root.key.with_file_name(".ca.lock")
    }

    /// Keeps other programs off the files as long as it is held.
    pub fn lock(&self) -> Result<Flock<File>, IdentityError> {
        let path = self.lock_file();
        let fail = |why: String| IdentityError::File { op: "lock", path: path.clone(), why };
        let folder = path.parent().unwrap_or(std::path::Path::new("."));
        std::fs::create_dir_all(folder).map_err(|err| fail(err.to_string()))?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(KEY_MODE)
            .open(&path)
            .map_err(|err| fail(err.to_string()))?;
        files::give_to_owner_of(folder, &file).map_err(|err| fail(err.to_string()))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| fail(errno.to_string()))
    }

    pub fn read(&self) -> Result<Contents, IdentityError> {
        Ok(Contents {
            root_cert: files::read_small(&self.root.cert)?,
            root_key: files::read_small(&self.root.key)?,
            next_root: files::read_small(&self.root.next_cert())?,
            old_root: files::read_small(&self.old_root())?,
            cross: files::read_small(&self.cross())?,
            issuing_cert: files::read_small(&self.issuing.cert)?,
            issuing_key: files::read_small(&self.issuing.key)?,
            next_issuing: files::read_small(&self.issuing.next_cert())?,
            former_issuing: files::read_small(&self.former_issuing())?,
        })
    }

    /// Notes an issuing CA that is about to be replaced, and forgets those that ended.
    pub fn write_former(&self, ders: &[Vec<u8>]) -> Result<(), IdentityError> {
        files::write_atomic(&self.former_issuing(), chain_pem(ders).as_bytes(), PUBLIC_MODE)
    }
}

/// Every file of the authorities that there may be, the root's certificate and key first.
#[must_use]
pub fn authority_files(ca_file: &Path, ca_key_file: &Path) -> Vec<PathBuf> {
    let places = Places::new(ca_file, ca_key_file);
    let mut files = Vec::new();
    for pair in [&places.root, &places.issuing] {
        files.extend([pair.cert.clone(), pair.key.clone(), pair.next_cert(), pair.next_key()]);
    }
    files.extend([places.old_root(), places.cross(), places.rotation(), places.former_issuing()]);
    files.push(places.lock_file());
    files
}

/// What the files hold.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Contents {
    pub root_cert: Option<Vec<u8>>,
    pub root_key: Option<Vec<u8>>,
    pub next_root: Option<Vec<u8>>,
    pub old_root: Option<Vec<u8>>,
    pub cross: Option<Vec<u8>>,
    pub issuing_cert: Option<Vec<u8>>,
    pub issuing_key: Option<Vec<u8>>,
    pub next_issuing: Option<Vec<u8>>,
    pub former_issuing: Option<Vec<u8>>,
}

/// An authority as its files say.
pub(super) struct Found {
    pub der: Vec<u8>,
    /// `None`: it is kept elsewhere (offline).
    pub key: Option<AuthorityKey>,
    /// A crash or another program is between the two renames: this is the certificate beside.
    pub unsettled: bool,
}

/// Which certificate and key belong together; `None` when there is neither.
pub(super) fn resolve(
    pair: &Pair,
    cert: Option<&[u8]>,
    key: Option<&[u8]>,
    next: Option<&[u8]>,
    keys: &dyn KeyStore,
) -> Result<Option<Found>, IdentityError> {
    let cert = cert.map(|pem| ca_der(&pair.cert, pem)).transpose()?;
    let key = key.map(|content| keys.find(content).map_err(|why| wrong(&pair.key, why))).transpose()?;
    let belongs =
        |der: &[u8], key: &AuthorityKey| parse(der).is_ok_and(|cert| cert.public_key().raw == key.spki());
    let Some(key) = key else {
        return Ok(cert.map(|der| Found { der, key: None, unsettled: false }));
    };
    if let Some(der) = &cert
        && belongs(der, &key)
    {
        return Ok(Some(Found { der: der.clone(), key: Some(key), unsettled: false }));
    }
    let next = next.and_then(|pem| ca_der(&pair.next_cert(), pem).ok());
    match next {
        Some(der) if belongs(&der, &key) => Ok(Some(Found { der, key: Some(key), unsettled: true })),
        _ if cert.is_some() => Err(wrong(&pair.key, format!("it is not the key of {}", pair.cert.display()))),
        _ => Err(missing(&pair.cert, &pair.key)),
    }
}

/// The first certificate of a PEM file, which must be a CA's.
pub(super) fn ca_der(path: &Path, pem: &[u8]) -> Result<Vec<u8>, IdentityError> {
    let der = std::str::from_utf8(pem)
        .ok()
        .and_then(super::cert_der_from_pem)
        .ok_or_else(|| wrong(path, "it holds no PEM certificate"))?;
    let cert = parse(&der).map_err(|err| wrong(path, err.to_string()))?;
    if !cert.is_ca() {
        return Err(wrong(path, "it is not the certificate of a CA"));
    }
    Ok(der)
}

/// All certificates of a PEM file.
pub(super) fn ders(pem: Option<&[u8]>) -> Vec<Vec<u8>> {
    pem.and_then(|pem| std::str::from_utf8(pem).ok()).map(cert_ders_from_pem).unwrap_or_default()
}

pub(super) fn missing(path: &Path, other: &Path) -> IdentityError {
    IdentityError::File {
        op: "read",
        path: path.into(),
        why: format!(
            "it is missing while {} exists; bring it back, or move that one away to start with a new CA \
             (every node must then join again)",
            other.display()
        ),
    }
}

pub(super) fn wrong(path: &Path, why: impl Into<String>) -> IdentityError {
    IdentityError::File { op: "use", path: path.into(), why: why.into() }
}

/// `rootCA.crt` and `next` give `rootCA.next.crt`.
pub(super) fn beside(path: &Path, what: &str) -> PathBuf {
    let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
    path.with_extension(if extension.is_empty() { what.to_owned() } else { format!("{what}.{extension}") })
}

/// Moves a file over another; done already is fine.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), IdentityError> {
    #[cfg(test)]
    files::power::check(from)?;
    match std::fs::rename(from, to) {
        Ok(()) => files::sync_folder(to),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
        Err(err) => {
            Err(IdentityError::File { op: "move to its place", path: from.into(), why: err.to_string() })
        }
    }
}

/// Removes a file; gone already is fine.
pub(super) fn remove(path: &Path) -> Result<(), IdentityError> {
    #[cfg(test)]
    files::power::check(path)?;
    match std::fs::remove_file(path) {
        Ok(()) => files::sync_folder(path),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
        Err(err) => Err(IdentityError::File { op: "remove", path: path.into(), why: err.to_string() }),
    }
}
