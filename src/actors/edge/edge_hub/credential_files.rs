//! The node's credentials on disk: a set of files that always belong together.
//!
//! A set is first written as one file, by one rename: from then on it counts. Its parts are then put
//! in their places, each by a rename of its own, and the one file goes. Whoever reads finishes what
//! was begun, so a crash at any point leaves the old set or the new one, never a mixture.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::certificate::Certificate;
use crate::config::EdgeHubConfig;
use crate::identity::{IdentityError, KEY_MODE, KeyPair, NodeCredentials, client_tls, write_atomic};
use crate::model::NodeName;
use crate::model::identity::RenewalRequest;

/// A temporary file that is older belongs to no write that still runs.
const ABANDONED: Duration = Duration::from_secs(60);

/// Where everything is. What KubeEdge has no key for stands beside `tlsPrivateKeyFile`.
#[derive(Debug, Clone)]
pub struct Places {
    /// All roots of the trust domain.
    pub roots: PathBuf,
    /// Chain of the SVID.
    pub svid: PathBuf,
    pub svid_key: PathBuf,
    pub node_ca: PathBuf,
    pub node_ca_key: PathBuf,
    pub jwt_key: PathBuf,
    /// A whole set that is being put in place.
    staged: PathBuf,
    /// What this node asked for with a token, until the answer is on disk.
    asked: PathBuf,
    /// When the newest document of registrations and policies was sealed. Identity's, and here because
    /// it must not stand in the store.
    pub newest_document: PathBuf,
}

impl Places {
    #[must_use]
    pub fn new(config: &EdgeHubConfig) -> Self {
        let beside = |name: &str| config.tls_private_key_file.with_file_name(name);
        Self {
            roots: config.tls_ca_file.clone(),
            svid: config.tls_cert_file.clone(),
            svid_key: config.tls_private_key_file.clone(),
            node_ca: beside("node-ca.crt"),
            node_ca_key: beside("node-ca.key"),
            jwt_key: beside("jwt.key"),
            staged: beside("credentials.next"),
            asked: beside("join.asked"),
            newest_document: beside("edge-identity.newest"),
        }
    }

    /// Every file that joining and renewing may leave, for whoever removes them.
    #[must_use]
    pub fn all(&self) -> Vec<PathBuf> {
        let own = [
            &self.node_ca,
            &self.node_ca_key,
            &self.jwt_key,
            &self.staged,
            &self.asked,
            &self.newest_document,
        ];
        [&self.roots, &self.svid, &self.svid_key].into_iter().chain(own).cloned().collect()
    }
}

/// What opens a session, and what it was read from.
#[derive(Debug, Clone)]
pub struct Identity {
    pub credentials: NodeCredentials,
    /// The leaf of the SVID.
    pub certificate: Certificate,
    pub node_ca: Option<Certificate>,
}

impl Identity {
    /// # Errors
    /// [`IdentityError`] when a certificate does not parse or a key is not its certificate's.
    pub fn new(credentials: NodeCredentials) -> Result<Self, IdentityError> {
        // Building a configuration compares key and certificate.
        client_tls(&credentials.roots_pem, Some(&credentials.svid))?;
        let certificate = Certificate::from_pem(&credentials.svid.cert_pem)?;
        let node_ca = match &credentials.node_ca {
            None => None,
            Some(pair) => {
                client_tls(&credentials.roots_pem, Some(pair))?;
                Some(Certificate::from_pem(&pair.cert_pem)?)
            }
        };
        Ok(Self { credentials, certificate, node_ca })
    }
}

/// A set as it is staged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Set {
    roots: String,
    svid: String,
    svid_key: String,
    node_ca: Option<String>,
    node_ca_key: Option<String>,
    jwt_key: Option<String>,
}

impl Set {
    fn of(credentials: &NodeCredentials) -> Self {
        let node_ca = credentials.node_ca.as_ref();
        Self {
            roots: credentials.roots_pem.clone(),
            svid: credentials.svid.cert_pem.clone(),
            svid_key: credentials.svid.key_pem.clone(),
            node_ca: node_ca.map(|pair| pair.cert_pem.clone()),
            node_ca_key: node_ca.map(|pair| pair.key_pem.clone()),
            jwt_key: credentials.jwt_key_pem.clone(),
        }
    }

    /// Puts every part in its place. Done again it changes nothing.
    fn install(&self, places: &Places) -> [Step; 7] {
        let put = |path: &Path, text: Option<&String>| match text {
            Some(text) => Step::Write(path.to_owned(), text.clone()),
            None => Step::Remove(path.to_owned()),
        };
        [
            put(&places.roots, Some(&self.roots)),
            put(&places.svid_key, Some(&self.svid_key)),
            put(&places.svid, Some(&self.svid)),
            put(&places.node_ca_key, self.node_ca_key.as_ref()),
            put(&places.node_ca, self.node_ca.as_ref()),
            put(&places.jwt_key, self.jwt_key.as_ref()),
            Step::Remove(places.staged.clone()),
        ]
    }
}

/// One change of the disk that happens as a whole or not at all.
enum Step {
    Write(PathBuf, String),
    Remove(PathBuf),
}

impl Step {
    fn run(&self) -> Result<(), IdentityError> {
        match self {
            Self::Write(path, text) => write_atomic(path, text.as_bytes(), KEY_MODE),
            Self::Remove(path) => remove(path),
        }
    }
}

fn saving(places: &Places, credentials: &NodeCredentials) -> Result<Vec<Step>, IdentityError> {
    let set = Set::of(credentials);
    let text = serde_json::to_string(&set).map_err(|err| wrong("write", &places.staged, &err))?;
    let mut steps = vec![Step::Write(places.staged.clone(), text)];
    steps.extend(set.install(places));
    Ok(steps)
}

/// Replaces the set on disk.
///
/// # Errors
/// [`IdentityError::File`] naming the file; [`load`] gives the old set or the new one then.
pub fn save(places: &Places, credentials: &NodeCredentials) -> Result<(), IdentityError> {
    saving(places, credentials)?.iter().try_for_each(Step::run)
}

/// Finishes what was begun, then reads the set; `None` when this node has no certificate.
///
/// A node CA that is missing or damaged is left out (the next renewal brings one); an SVID that is
/// damaged is an error.
///
/// # Errors
/// [`IdentityError::File`] naming the file.
pub fn load(places: &Places, node: &NodeName) -> Result<Option<Identity>, IdentityError> {
    finish(places)?;
    let (Some(cert_pem), Some(key_pem)) = (read(&places.svid)?, read(&places.svid_key)?) else {
        return Ok(None);
    };
    let Some(roots_pem) = read(&places.roots)? else {
        return Err(wrong("read", &places.roots, &"it is missing"));
    };
    let svid = KeyPair { cert_pem, key_pem };
    let certificate =
        Certificate::from_pem(&svid.cert_pem).map_err(|err| wrong("use", &places.svid, &err))?;
    let trust_domain = certificate.trust_domain.clone();
    let bare = NodeCredentials {
        node: node.clone(),
        trust_domain,
        svid,
        node_ca: None,
        jwt_key_pem: None,
        roots_pem,
    };
    let bare = Identity::new(bare).map_err(|err| wrong("use", &places.svid, &err))?;
    let parts = (read(&places.node_ca)?, read(&places.node_ca_key)?, read(&places.jwt_key)?);
    let (Some(cert_pem), Some(key_pem), Some(jwt_key)) = parts else { return Ok(Some(bare)) };
    let mut whole = bare.credentials.clone();
    whole.node_ca = Some(KeyPair { cert_pem, key_pem });
    whole.jwt_key_pem = Some(jwt_key);
    match Identity::new(whole) {
        Ok(whole) => Ok(Some(whole)),
        Err(err) => {
            tracing::warn!(file = %places.node_ca.display(), error = %err, "the node CA is not usable");
            Ok(Some(bare))
        }
    }
}

/// Removes what writes left behind that were killed: temporary files (`.{name}.{8 hex digits}.tmp`),
/// with keys in them. Younger ones stay: somebody may be writing.
pub fn sweep(places: &Places, now: SystemTime) {
    for file in places.all() {
        let (Some(folder), Some(name)) = (file.parent(), file.file_name().and_then(|name| name.to_str()))
        else {
            continue;
        };
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            let found = entry.file_name();
            let random = found.to_str().and_then(|found| {
                found.strip_prefix('.')?.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".tmp")
            });
            let is_ours = random.is_some_and(|it| it.len() == 8 && it.bytes().all(|c| c.is_ascii_hexdigit()));
            let written = entry.metadata().and_then(|meta| meta.modified());
            let is_old = written.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > ABANDONED));
            if is_ours
                && is_old
                && let Err(err) = remove(&entry.path())
            {
                tracing::warn!(error = %err, "an abandoned temporary file stays");
            }
        }
    }
}

fn finish(places: &Places) -> Result<(), IdentityError> {
    let Some(bytes) = read_bytes(&places.staged)? else { return Ok(()) };
    match serde_json::from_slice::<Set>(&bytes) {
        Ok(set) => set.install(places).iter().try_for_each(Step::run),
        Err(err) => {
            // It was written as a whole, so the disk is at fault; the files in place are read then.
            let file = places.staged.display();
            tracing::error!(%file, error = %err, "staged credentials are damaged and are dropped");
            remove(&places.staged)
        }
    }
}

/// What was asked with a join token. A token works once, but the same keys are answered again: an
/// answer that was lost does not strand this machine.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// SHA-256 of the token, hex.
    pub token_hash: String,
    pub request: RenewalRequest,
    pub svid_key: String,
    pub ca_key: String,
    pub jwt_key: String,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("token_hash", &self.token_hash).finish_non_exhaustive()
    }
}

/// Writes down what is about to be asked.
///
/// # Errors
/// [`IdentityError::File`] naming the file.
pub fn save_asked(places: &Places, asked: &Asked) -> Result<(), IdentityError> {
    let text = serde_json::to_string(asked).map_err(|err| wrong("write", &places.asked, &err))?;
    write_atomic(&places.asked, text.as_bytes(), KEY_MODE)
}

/// What was asked with this token and not answered; `None` if nothing was.
///
/// # Errors
/// [`IdentityError::File`] naming the file.
pub fn load_asked(places: &Places, token_hash: &str) -> Result<Option<Asked>, IdentityError> {
    let Some(bytes) = read_bytes(&places.asked)? else { return Ok(None) };
    let asked = serde_json::from_slice::<Asked>(&bytes).ok();
    Ok(asked.filter(|asked| asked.token_hash == token_hash))
}

/// The answer is on disk: the token is of no more use.
///
/// # Errors
/// [`IdentityError::File`] naming the file.
pub fn forget_asked(places: &Places, bootstrap_file: &Path) -> Result<(), IdentityError> {
    remove(bootstrap_file)?;
    remove(&places.asked)
}

/// Reads a text file; `None` when it does not exist.
///
/// # Errors
/// [`IdentityError::File`] naming the file.
pub fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    let Some(bytes) = read_bytes(path)? else { return Ok(None) };
    String::from_utf8(bytes).map(Some).map_err(|err| wrong("read", path, &err))
}

fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(wrong("read", path, &err)),
    }
}

fn remove(path: &Path) -> Result<(), IdentityError> {
    match std::fs::remove_file(path) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(wrong("remove", path, &err)),
        _ => Ok(()),
    }
}

fn wrong(op: &'static str, path: &Path, why: &dyn fmt::Display) -> IdentityError {
    IdentityError::File { op, path: path.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests;
