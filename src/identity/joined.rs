//! For tests: a cloud's CA, and nodes that joined it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Ca, CaSettings, KeyPair, NodeCredentials, NodeRequest, SpiffeId, WorkloadIssuer, chain_pem};
use crate::model::NodeName;
use crate::model::identity::RenewalReply;

pub const HOUR: Duration = Duration::from_secs(3_600);

/// A CA whose files are called `name`.
pub fn ca(dir: &Path, name: &str) -> Ca {
    let settings = CaSettings::new(&dir.join(format!("{name}.crt")), &dir.join(format!("{name}.key")));
    Ca::open(settings, SystemTime::now()).expect("ca")
}

pub fn join(ca: &Ca, name: &str) -> NodeCredentials {
    let (node, now) = (NodeName::parse(name).expect("name"), SystemTime::now());
    let (request, keys) = NodeRequest::new(&node).expect("request");
    let der = |text: &str| STANDARD.decode(text).expect("base64");
    let texts = |chain: Vec<Vec<u8>>| chain.iter().map(|der| STANDARD.encode(der)).collect();
    let reply = RenewalReply {
        svid: texts(ca.sign_node_csr(&der(&request.csr), &node, HOUR, None, now).expect("svid")),
        node_ca: texts(ca.sign_node_ca_csr(&der(&request.ca_csr), &node, HOUR, None, now).expect("ca")),
        bundle: ca.bundle().to_document(),
    };
    keys.credentials(&node, &reply).expect("credentials")
}

/// What the node issues to one of its workloads.
pub fn workload(node: &NodeCredentials, path: &str, ttl: Duration, now: SystemTime) -> KeyPair {
    let id = SpiffeId::parse(&format!("spiffe://{}{path}", node.trust_domain)).expect("id");
    let svid = WorkloadIssuer::new(node).expect("issuer").x509(&id, &[], ttl, now).expect("svid");
    KeyPair { cert_pem: chain_pem(&svid.chain), key_pem: super::key_pem_from_pkcs8(&svid.key_pkcs8) }
}
