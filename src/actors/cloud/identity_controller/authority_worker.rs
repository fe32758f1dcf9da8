//! Keeps cloudcore's certificates young: reads the authorities' files again, renews the certificates
//! of its listeners, and gives both to them. Everything here blocks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::identity::{
    Ca, IdentityError, KeyPair, ReloadableServerTls, cert_der_from_pem, sha256_hex, validity,
};
use crate::model::identity::BundleDocument;
use crate::telemetry::identity::IdentityMetrics;

/// Life of the certificates of cloudcore's listeners; renewed at half of it.
pub const SERVER_TTL: Duration = Duration::from_secs(24 * 3600);

/// A listener's TLS, and where its certificate comes from.
#[derive(Clone)]
pub struct Served {
    pub tls: ReloadableServerTls,
    pub from: CertificateFrom,
}

/// Where a listener's certificate comes from.
#[derive(Debug, Clone)]
pub enum CertificateFrom {
    /// Our issuing CA.
    Ca { common_name: String, names: Vec<String> },
    /// Files that somebody else renews.
    Files { cert: PathBuf, key: PathBuf },
}

/// What a look at the authorities brought.
#[derive(Debug)]
pub struct Looked {
    /// The roots; without keys for JWT-SVIDs.
    pub bundle: BundleDocument,
    /// Hash of the root in use.
    pub root: String,
    /// Another root is in use than at the look before.
    pub new_root: bool,
    /// Roots, issuing CA or chain changed.
    pub changed: bool,
    /// The root's key is away and the issuing CA is in the second half of its life.
    pub needs_root_key: bool,
}

/// The authorities and all that is served with their certificates.
pub struct Authority {
    ca: Arc<Ca>,
    listeners: Vec<Listener>,
    /// Generation of the authorities that listeners have.
    applied: Option<u64>,
    root: String,
}

struct Listener {
    served: Served,
    /// `None`: at once.
    renew_at: Option<SystemTime>,
    /// What was served last from files.
    last: String,
}

impl Authority {
    #[must_use]
    pub fn new(ca: Arc<Ca>, served: Vec<Served>) -> Self {
        let listener = |served| Listener { served, renew_at: None, last: String::new() };
        let root = ca.hash_hex();
        Self { ca, listeners: served.into_iter().map(listener).collect(), applied: None, root }
    }

    /// Looks at the files and does what is due. What fails is logged and tried again at the next look;
    /// what is served stays as it was.
    pub fn look(&mut self, now: SystemTime) -> Looked {
        if let Err(err) = self.ca.reload(now) {
            tracing::error!(%err, "the authorities' files cannot be used, the present ones stay in use");
        }
        let generation = self.ca.generation();
        let changed = self.applied != Some(generation);
        if changed && self.apply_anchors() {
            self.applied = Some(generation);
        }
        for listener in &mut self.listeners {
            if changed {
                listener.renew_at = None;
            }
            if let Err(err) = listener.renew(&self.ca, now) {
                tracing::error!(%err, "a certificate of cloudcore is not renewed");
            }
        }
        self.show();
        let root = self.ca.hash_hex();
        let new_root = std::mem::replace(&mut self.root, root.clone()) != root;
        let issuing = self.ca.issuing_validity();
        let life = issuing.not_after.duration_since(issuing.not_before).unwrap_or_default();
        Looked {
            bundle: self.ca.bundle().to_document(),
            root,
            new_root,
            changed,
            needs_root_key: !self.ca.has_root_key() && now > issuing.not_before + life / 2,
        }
    }

    fn apply_anchors(&self) -> bool {
        let anchors = self.ca.client_anchors_pem();
        let mut done = true;
        for listener in &self.listeners {
            if let Err(err) = listener.served.tls.replace_anchors(&anchors) {
                tracing::error!(%err, "a listener keeps its trusted authorities");
                done = false;
            }
        }
        done
    }

    fn show(&self) {
        IdentityMetrics::issuing_ca().set_end(self.ca.issuing_validity().not_after);
        if let Ok(root) = validity(&self.ca.cert_der()) {
            IdentityMetrics::root().set_end(root.not_after);
        }
    }
}

impl Listener {
    fn renew(&mut self, ca: &Ca, now: SystemTime) -> Result<(), IdentityError> {
        match &self.served.from {
            CertificateFrom::Ca { common_name, names } => {
                if self.renew_at.is_some_and(|at| now < at) {
                    return Ok(());
                }
                let pair = ca.issue_server(common_name, names, SERVER_TTL)?;
                self.served.tls.replace(&pair)?;
                // The issuing CA may end sooner, and its certificates with it.
                let end = show_end(&pair)?.unwrap_or(now + SERVER_TTL);
                self.renew_at = Some(now + end.duration_since(now).unwrap_or_default() / 2);
            }
            CertificateFrom::Files { cert, key } => {
                let read = |path: &PathBuf| {
                    let why = |err: std::io::Error| IdentityError::File {
                        op: "read",
                        path: path.clone(),
                        why: err.to_string(),
                    };
                    std::fs::read_to_string(path).map_err(why)
                };
                let pair = KeyPair { cert_pem: read(cert)?, key_pem: read(key)? };
                let seen = sha256_hex(pair.cert_pem.as_bytes());
                if seen != self.last {
                    self.served.tls.replace(&pair)?;
                    self.last = seen;
                    show_end(&pair)?;
                }
            }
        }
        Ok(())
    }
}

fn show_end(pair: &KeyPair) -> Result<Option<SystemTime>, IdentityError> {
    let Some(der) = cert_der_from_pem(&pair.cert_pem) else { return Ok(None) };
    let end = validity(&der)?.not_after;
    IdentityMetrics::cloud().set_end(end);
    Ok(Some(end))
}
