//! TLS servers of cloudcore that follow its authorities.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustls::ServerConfig;

use super::{
    Ca, ClientAuth, IdentityError, KeyPair, ReloadableServerTls, Validity, cert_der_from_pem, validity,
};

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
    valid: Validity,
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

    /// Of the certificate served now.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.seen.lock().valid
    }

    /// The state of the authorities ([`Ca::generation`]) that is served.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.seen.lock().generation
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
        Ok(Self { generation, valid, renew_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{CaSettings, Rotation, chain_pem, client_tls, test_handshake::handshake};

    const HOUR: Duration = Duration::from_secs(3600);

    fn ca(dir: &tempfile::TempDir) -> (Arc<Ca>, CaSettings) {
        let settings = CaSettings::new(&dir.path().join("ca.crt"), &dir.path().join("ca.key"));
        (Arc::new(Ca::open(settings.clone(), SystemTime::now()).expect("ca")), settings)
    }

    fn leaf(pair: &KeyPair) -> Vec<u8> {
        cert_der_from_pem(&pair.cert_pem).expect("pem")
    }

    #[test]
    fn a_certificate_is_renewed_at_half_of_its_life() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (ca, _) = ca(&dir);
        let names = ["cloud.example".to_owned()];
        let tls = CloudServerTls::issued(Arc::clone(&ca), "KubeEdge", &names, HOUR, ClientAuth::Optional);
        let tls = tls.expect("tls");
        let client = client_tls(&ca.cert_pem(), None).expect("client");
        let served = || handshake(&tls.config(), &client, "cloud.example").expect("handshake").0;
        let (first, end) = (served(), tls.validity().not_after);
        let now = SystemTime::now();
        assert!(!tls.refresh(now).expect("nothing to do"));
        assert!(!tls.refresh(now + HOUR / 3).expect("nothing to do"));
        assert_eq!(served(), first);
        assert!(tls.refresh(now + HOUR * 2 / 3).expect("renewed"));
        assert_ne!(served(), first);
        assert!(tls.validity().not_after >= end);
        assert!(!tls.refresh(now).expect("nothing to do"));
    }

    /// Clients that know only the old root, or only the new one, get through all the time.
    #[test]
    fn certificate_and_anchors_follow_a_rotation() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (ca, settings) = ca(&dir);
        let now = SystemTime::now();
        let names = ["cloud.example".to_owned()];
        let own = CloudServerTls::issued(Arc::clone(&ca), "KubeEdge", &names, HOUR, ClientAuth::Required);
        let own = own.expect("tls");
        let foreign = ca.issue_server("x", &names, HOUR).expect("pair");
        let given = CloudServerTls::given(Arc::clone(&ca), &foreign, ClientAuth::Required).expect("tls");
        let old_root = ca.cert_pem();
        let old_pair = ca.issue_client("old", &[], HOUR).expect("client");
        let rotation = Rotation::new(&settings).expect("rotation");
        rotation.prepare(now).expect("prepared");
        rotation.activate(now).expect("activated");
        ca.reload(now).expect("reload");

        let new_pair = ca.issue_client("new", &[], HOUR).expect("client");
        // As a Go edge does: without its chain.
        let alone = KeyPair { cert_pem: chain_pem(&[leaf(&new_pair)]), ..new_pair.clone() };
        let enters = |tls: &CloudServerTls, root: &str, pair: &KeyPair| {
            let client = client_tls(root, Some(pair)).expect("client");
            handshake(&tls.config(), &client, "cloud.example").map(|seen| seen.0)
        };
        assert!(enters(&own, &old_root, &alone).is_err(), "the new issuing CA is not known before");
        for tls in [&own, &given] {
            assert!(tls.refresh(now).expect("follows"));
            assert!(!tls.refresh(now).expect("once"));
        }
        for (case, root, pair) in [
            ("was away", &old_root, &old_pair),
            ("knows the new root", &ca.cert_pem(), &new_pair),
            ("a Go edge", &ca.cert_pem(), &alone),
        ] {
            enters(&own, root, pair).unwrap_or_else(|err| panic!("{case}: {err}"));
        }
        let served = enters(&given, &old_root, &alone).expect("its clients' anchors follow");
        assert_eq!(served, leaf(&foreign), "a given certificate stays");
    }
}
