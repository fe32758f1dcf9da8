//! A cloud's authorities, for tests.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::identity::{Ca, CaSettings, NodeCredentials, NodeRequest};
use crate::model::NodeName;
use crate::model::identity::{RenewalReply, RenewalRequest};

pub const HOUR: Duration = Duration::from_secs(3600);

pub struct Authority {
    pub ca: Ca,
    _dir: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        Self::since(SystemTime::now())
    }

    /// One that began to work at `then`.
    pub fn since(then: SystemTime) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = CaSettings::new(&dir.path().join("ca.crt"), &dir.path().join("ca.key"));
        Self { ca: Ca::open(settings, then).unwrap(), _dir: dir }
    }

    pub fn reply(
        &self,
        node: &str,
        request: &RenewalRequest,
        ttl: Duration,
        now: SystemTime,
    ) -> RenewalReply {
        let node = NodeName::parse(node).unwrap();
        let der = |text: &str| STANDARD.decode(text).unwrap();
        let text = |chain: Vec<Vec<u8>>| chain.iter().map(|der| STANDARD.encode(der)).collect();
        let svid = self.ca.sign_node_csr(&der(&request.csr), &node, ttl, None, now).unwrap();
        let node_ca = self.ca.sign_node_ca_csr(&der(&request.ca_csr), &node, ttl, None, now).unwrap();
        RenewalReply { svid: text(svid), node_ca: text(node_ca), bundle: self.ca.bundle().to_document() }
    }

    pub fn credentials(&self, node: &str) -> NodeCredentials {
        self.credentials_for(node, HOUR, SystemTime::now())
    }

    pub fn credentials_for(&self, node: &str, ttl: Duration, now: SystemTime) -> NodeCredentials {
        let (request, keys) = NodeRequest::new(&NodeName::parse(node).unwrap()).unwrap();
        keys.credentials(&NodeName::parse(node).unwrap(), &self.reply(node, &request, ttl, now)).unwrap()
    }
}
