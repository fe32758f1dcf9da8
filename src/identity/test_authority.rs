//! Authorities for tests of what is signed by others: root, issuing CA, node CAs, cloudcore's
//! signer, all by rcgen alone, so that they can also be made wrong.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    GeneralSubtree, IsCa, Issuer, KeyUsagePurpose, NameConstraints, SanType,
};
use rustls_pki_types::CertificateSigningRequestDer;

use super::issuing::NODE_CA_ORGANIZATION;
use super::key::EcKey;
use super::{NodeCredentials, NodeRequest, TrustBundle, unix_secs};
use crate::model::NodeName;
use crate::model::identity::{BundleDocument, RenewalReply, RenewalRequest};

pub const TRUST_DOMAIN: &str = "kubeedge.local";
pub const DAY: Duration = Duration::from_secs(86_400);

/// A certificate and its key.
pub struct Pair {
    pub der: Vec<u8>,
    pub key: EcKey,
    params: CertificateParams,
}

pub struct Authority {
    pub root: Pair,
    pub issuing: Pair,
    pub now: SystemTime,
    /// Of what nodes get, from `now`.
    pub node_life: Duration,
}

pub fn params(organization: &str, cn: &str, uri: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if !organization.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, cn);
    params.subject_alt_names = uri.iter().map(|uri| SanType::URI((*uri).try_into().expect("uri"))).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params
}

pub fn ca(mut params: CertificateParams, path_length: Option<u8>) -> CertificateParams {
    params.is_ca =
        IsCa::Ca(path_length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    params
}

/// From an hour ago until `ttl` from `now`.
pub fn living(mut params: CertificateParams, now: SystemTime, ttl: Duration) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(unix_secs(now) - 3600);
    params.not_after = epoch + Duration::from_secs(unix_secs(now)) + ttl;
    params
}

pub fn bundle(roots: &[&Pair]) -> TrustBundle {
    let roots = roots.iter().map(|root| root.der.clone()).collect();
    TrustBundle { trust_domain: TRUST_DOMAIN.into(), roots, jwt_keys: Vec::new() }
}

impl Pair {
    pub fn root(params: CertificateParams) -> Self {
        let key = EcKey::generate().expect("key");
        let der = params.self_signed(&key.for_rcgen().expect("key")).expect("root").der().to_vec();
        Self { der, key, params }
    }

    pub fn issue(&self, params: CertificateParams) -> Self {
        self.sign(EcKey::generate().expect("key"), params)
    }

    pub fn sign(&self, key: EcKey, params: CertificateParams) -> Self {
        let der =
            params.signed_by(&key.for_rcgen().expect("key"), &self.issuer()).expect("cert").der().to_vec();
        Self { der, key, params }
    }

    fn issuer(&self) -> Issuer<'_, rcgen::KeyPair> {
        Issuer::from_params(&self.params, self.key.for_rcgen().expect("key"))
    }
}

impl Authority {
    pub fn new() -> Self {
        let now = SystemTime::now();
        let root = Pair::root(living(ca(params("", "KubeEdge", None), None), now, 365 * DAY));
        let td = format!("spiffe://{TRUST_DOMAIN}");
        let issuing =
            living(ca(params("KubeEdge", "KubeEdge issuing CA", Some(&td)), Some(1)), now, 30 * DAY);
        Self { issuing: root.issue(issuing), root, now, node_life: DAY }
    }

    pub fn bundle(&self) -> TrustBundle {
        bundle(&[&self.root])
    }

    pub fn node_ca_params(node: &str) -> CertificateParams {
        let mut params =
            ca(params(NODE_CA_ORGANIZATION, node, Some(&format!("spiffe://{TRUST_DOMAIN}"))), Some(0));
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(format!("{node}.nodes.{TRUST_DOMAIN}"))],
            excluded_subtrees: vec![
                GeneralSubtree::IpAddress(rcgen::CidrSubnet::from_v4_prefix([0; 4], 0)),
                GeneralSubtree::IpAddress(rcgen::CidrSubnet::from_v6_prefix([0; 16], 0)),
            ],
        });
        params
    }

    /// A node's chain without the root, and its key.
    pub fn node(&self, node: &str) -> (Vec<Vec<u8>>, String) {
        let uri = format!("spiffe://{TRUST_DOMAIN}/node/{node}");
        let params = params("system:nodes", &format!("system:node:{node}"), Some(&uri));
        let pair = self.issuing.issue(living(params, self.now, DAY));
        (vec![pair.der, self.issuing.der.clone()], pair.key.to_pem())
    }

    /// What a good cloud answers.
    pub fn reply(&self, node: &str, request: &RenewalRequest) -> RenewalReply {
        let uri = format!("spiffe://{TRUST_DOMAIN}/node/{node}");
        let svid = params("system:nodes", &format!("system:node:{node}"), Some(&uri));
        let sign = |csr: &str, params: CertificateParams| {
            let der = CertificateSigningRequestDer::from(STANDARD.decode(csr).expect("base64"));
            let csr = CertificateSigningRequestParams::from_der(&der).expect("csr");
            let cert = living(params, self.now, self.node_life)
                .signed_by(&csr.public_key, &self.issuing.issuer())
                .expect("cert");
            [cert.der().to_vec(), self.issuing.der.clone()].iter().map(|der| STANDARD.encode(der)).collect()
        };
        RenewalReply {
            svid: sign(&request.csr, svid),
            node_ca: sign(&request.ca_csr, Self::node_ca_params(node)),
            bundle: BundleDocument {
                trust_domain: TRUST_DOMAIN.into(),
                roots: vec![STANDARD.encode(&self.root.der)],
                jwt_keys: vec![request.jwt_key.clone()],
            },
        }
    }

    /// A node that joined, and the bundle it got.
    pub fn credentials(&self, node: &str) -> (NodeCredentials, BundleDocument) {
        let name = NodeName::parse(node).expect("name");
        let (request, keys) = NodeRequest::new(&name).expect("request");
        let reply = self.reply(node, &request);
        (keys.credentials(&name, &reply).expect("credentials"), reply.bundle)
    }

    /// What the cloud puts on an object for a node.
    pub fn seal(&self, kind: &str, node: &str, payload: &[u8]) -> String {
        let (chain, key) = self.cloudcore();
        let (node, signer) = (NodeName::parse(node).expect("name"), key.signer().expect("signer"));
        super::seal::sign(&signer, &chain, kind, &node, payload, self.now).expect("seal")
    }

    /// cloudcore's signing certificate; its chain without the root.
    pub fn cloudcore(&self) -> (Vec<Vec<u8>>, EcKey) {
        let params = params("KubeEdge", "cloudcore", Some(&format!("spiffe://{TRUST_DOMAIN}/cloudcore")));
        let pair = self.issuing.issue(living(params, self.now, DAY));
        (vec![pair.der, self.issuing.der.clone()], pair.key)
    }
}
