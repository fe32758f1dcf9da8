//! TLS servers of cloudcore that follow its authorities.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustls::ServerConfig;

use super::{Ca, ClientAuth, IdentityError, KeyPair, ReloadableServerTls, cert_der_from_pem, validity};

/// A TLS server of cloudcore. [`CloudServerTls::refresh`] renews its certificate at half of its
/// life and whenever the authorities changed; handshakes under way and connections go on.
pub struct CloudServerTls {
    ca: Arc<Ca>,
    tls: ReloadableServerTls,
    /// `None`: the certificate comes from a file, only the clients' anchors follow.
    issue: Option<Issue>,
    seen: Mutex<Seen>,
}

struct Issue {
    cn: String,
    names: Vec<String>,
    ttl: Duration,
}

#[derive(Clone, Copy)]
struct Seen {
    generation: u64,
    not_after: SystemTime,
    renew_at: Option<SystemTime>,
}

impl CloudServerTls {
    /// With certificates of `ca` for these names.
    ///
    /// # Errors
    /// [`IdentityError`] naming the name that is none.
    pub fn issued(
        ca: Arc<Ca>,
        cn: &str,
        names: &[String],
        ttl: Duration,
        auth: ClientAuth,
    ) -> Result<Self, IdentityError> {
        let issue = Issue { cn: cn.to_owned(), names: names.to_vec(), ttl };
        let generation = ca.generation();
        let pair = ca.issue_server(cn, names, ttl)?;
        Self::new(ca, generation, &pair, Some(issue), auth)
    }

    /// With a certificate of somebody else.
    ///
    /// # Errors
    /// [`IdentityError`] when it is none, or the key is not its.
    pub fn given(ca: Arc<Ca>, pair: &KeyPair, auth: ClientAuth) -> Result<Self, IdentityError> {
        let generation = ca.generation();
        Self::new(ca, generation, pair, None, auth)
    }

    fn new(
        ca: Arc<Ca>,
        generation: u64,
        pair: &KeyPair,
        issue: Option<Issue>,
        auth: ClientAuth,
    ) -> Result<Self, IdentityError> {
        let tls = ReloadableServerTls::new(pair, &ca.client_anchors_pem(), auth)?;
        let seen = Mutex::new(Seen::of(generation, pair, issue.is_some())?);
        Ok(Self { ca, tls, issue, seen })
    }

    /// For a listener.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.tls.config()
    }

    /// When the certificate served now ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.seen.lock().not_after
    }

    /// Follows the authorities, if there is something to follow: says whether there was. Cheap
    /// otherwise; signs, so it may block.
    ///
    /// # Errors
    /// [`IdentityError`]; what was served is served on.
    pub fn refresh(&self, now: SystemTime) -> Result<bool, IdentityError> {
        let generation = self.ca.generation();
        let seen = *self.seen.lock();
        if generation == seen.generation && seen.renew_at.is_none_or(|at| now < at) {
            return Ok(false);
        }
        self.tls.replace_anchors(&self.ca.client_anchors_pem())?;
        let mut fresh = Seen { generation, ..seen };
        if let Some(Issue { cn, names, ttl }) = &self.issue {
            let pair = self.ca.issue_server(cn, names, *ttl)?;
            fresh = Seen::of(generation, &pair, true)?;
            self.tls.replace(&pair)?;
        }
        *self.seen.lock() = fresh;
        Ok(true)
    }
}

impl Seen {
    fn of(generation: u64, pair: &KeyPair, renewed: bool) -> Result<Self, IdentityError> {
        let der = cert_der_from_pem(&pair.cert_pem)
            .ok_or_else(|| IdentityError::Tls("there is no PEM certificate".into()))?;
        let valid = validity(&der)?;
        let life = valid.not_after.duration_since(valid.not_before).unwrap_or_default();
        let renew_at = renewed.then(|| valid.not_before + life / 2);
        Ok(Self { generation, not_after: valid.not_after, renew_at })
    }
}
