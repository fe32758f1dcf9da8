//! Identity: certificates and requests, keys, tokens, seals, proofs, what nodes are told, records of the audit log.
//!
//! Signatures cannot be guessed, so each target also takes what stands behind them on its own.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::{cut, json, text};
use crate::actors::cloud::cloud_hub::attest;
use crate::actors::cloud::cloud_hub::join::{self, route};
use crate::actors::edge::edge_hub::certificate::{Certificate, next_renewal};
use crate::actors::edge::edge_hub::credential_files::{self as files, Identity, Places};
use crate::actors::edge::edged::gate::cosign::CosignKey;
use crate::actors::edge::identity::document;
use crate::config::EdgeHubConfig;
use crate::console::door::{Hosts, Origin};
use crate::console::page::takes_gzip;
use crate::console::sign_in::Token;
use crate::cri::runtime::ImageSignature;
use crate::identity::audit::{AuditChain, Head, Record};
use crate::identity::csr::{check_node_ca_csr, check_node_csr};
use crate::identity::jwk::point;
use crate::identity::jwt::Compact;
use crate::identity::key::EcKey;
use crate::identity::token_keys::{asn1, id_of, percent_decoded, uncompressed};
use crate::identity::{
    FactoryRoots, JoinTokens, NodePeer, PeerIdentity, REENTRY_CONTEXT, SpiffeId, TrustBundle,
    cert_ders_from_pem, cert_facts, chain_pem, check_jwt_key, seal, split_certificates, split_join_token,
    validity, verify_jwt_svid, verify_proof, verify_x509_svid,
};
use crate::model::NodeName;
use crate::model::identity::{BundleDocument, EdgeIdentity, Proof, RenewalReply, RenewalRequest};

const TRUST_DOMAIN: &str = "kubeedge.local";

/// When the certificates among the seeds are good.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn node() -> NodeName {
    NodeName::parse("edge-1").expect("a name")
}

/// The last certificate of a chain as the root of a trust domain.
fn bundle(chain: &[Vec<u8>]) -> TrustBundle {
    let roots = chain.last().cloned().into_iter().collect();
    TrustBundle { trust_domain: TRUST_DOMAIN.into(), roots, jwt_keys: Vec::new() }
}

/// Certificates, DER one after another or PEM: leaf first, root last.
pub fn certificates(bytes: &[u8]) {
    let chain = match text(bytes) {
        Some(pem) => {
            let chain = cert_ders_from_pem(pem);
            assert_eq!(cert_ders_from_pem(&chain_pem(&chain)), chain, "what is written is read");
            drop(Certificate::from_pem(pem));
            drop(TrustBundle::from_pem(TRUST_DOMAIN, pem));
            drop(FactoryRoots::from_pem(bytes));
            chain
        }
        None => split_certificates(bytes).unwrap_or_else(|_| vec![bytes.to_vec()]),
    };
    let (now, node) = (now(), node());
    for der in &chain {
        if let Ok(peer) = PeerIdentity::from_der(der) {
            assert!(peer.node().is_none_or(|node| peer.common_name.ends_with(node.as_str())));
        }
        drop(validity(der));
        drop(cert_facts(der));
        if let Ok(certificate) = Certificate::from_der(der) {
            certificate.standing(&node, now);
            drop(certificate.untimely(now));
            let (renewal, within) = (certificate.renew_at(0.5), certificate.within(now));
            assert!(renewal <= within.max(renewal));
            next_renewal(&certificate, Some(&certificate), 0.5, now);
        }
    }
    if let Ok(peer) = NodePeer::read(chain.iter().map(Vec::as_slice)) {
        drop(join::certified(&peer, &node, now));
    }
    let bundle = bundle(&chain);
    let below = chain.split_last().map(|(_, below)| below).unwrap_or_default();
    if let Ok(svid) = verify_x509_svid(below, &bundle, now) {
        assert_eq!(svid.id.trust_domain(), TRUST_DOMAIN);
        assert!(svid.not_before <= now && now <= svid.not_after, "{svid:?}");
    }
    drop(bundle.spiffe_bundle());
    if let Ok(roots) = FactoryRoots::from_pem(
        chain_pem(chain.get(chain.len().saturating_sub(1)..).unwrap_or_default()).as_bytes(),
    ) {
        drop(roots.node_of(below, now));
    }
}

/// A certificate request of a node. What is taken is exactly a key.
pub fn csr(bytes: &[u8]) {
    let id = SpiffeId::parse("spiffe://kubeedge.local/node/edge-1").expect("an ID");
    for spki in [check_node_csr(bytes, &node(), &id), check_node_ca_csr(bytes, &node())].into_iter().flatten()
    {
        assert!(bytes.windows(spki.len()).any(|part| part == spki), "the key is in the request");
    }
}

/// Keys in files: PEM, and what a PKCS#11 token says.
pub fn keys(bytes: &[u8]) {
    if let Ok(key) = EcKey::from_pem(bytes) {
        let pem = key.to_pem();
        let again = EcKey::from_pem(pem.as_bytes()).expect("what is written is read");
        assert_eq!((again.public_point(), again.to_pem()), (key.public_point(), pem));
        key.signer().expect("a key that was read can sign");
    }
    drop(id_of(bytes, "t"));
    if let Some(point) = uncompressed(bytes) {
        assert!(bytes.ends_with(&point));
    }
    drop(asn1(bytes));
    if let Some(text) = text(bytes) {
        assert!(percent_decoded(text).is_none_or(|plain| plain.len() <= text.len()));
        if let Ok(id) = SpiffeId::parse(text) {
            assert_eq!(id.as_str(), text);
            assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
        }
    }
    if let Some(value) = json(bytes) {
        let checked = check_jwt_key(&value);
        assert!(checked.is_err() || point(&value).is_some(), "a key that is taken can be used");
    }
}

/// Tokens: of joining, of service accounts, of workloads; the join server's and the console's headers; seals.
pub fn tokens(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(token) = Compact::parse(text) {
        for claim in ["exp", "iat", "nbf"] {
            token.seconds(claim);
        }
        drop(crate::identity::service_account::read_claims(&token));
    }
    if let Ok((hash, jwt)) = split_join_token(text) {
        assert_eq!(format!("{hash}.{jwt}"), text.trim());
    }
    drop(JoinTokens::id_of(text));
    let bundle = bundle(&[]);
    drop(verify_jwt_svid(text, "audience", &bundle, now()));
    let refused = seal::verify(text, "pod", &node(), b"payload", &bundle);
    assert!(refused.is_err(), "there is no root that could hold");
    let (first, second) = text.split_once('\n').unwrap_or((text, ""));
    drop(join::credential(None, Some(first), Some(second), now()));
    route(first, second);
    if let Some(token) = Token::of(Some(first), Some(second)) {
        assert_eq!(
            Token::parse(token.expose()).map(|again| again.expose().to_owned()),
            Some(token.expose().to_owned())
        );
        drop(token.cookie(true));
    }
    takes_gzip(Some(text));
    let local = Hosts::of(SocketAddr::from(([127, 0, 0, 1], 9443)));
    if local.admit(Some(first)) {
        let digits = |c: char| c.is_ascii_digit() || matches!(c, '.' | ':' | '[' | ']');
        assert!(first.to_ascii_lowercase().starts_with("localhost") || first.contains(digits), "{first:?}");
    }
    Origin { host: Some(first), origin: Some(second), fetch_site: None }.is_own();
}

/// Bodies of `POST /identity/node`, of renewals and their answers, proofs.
pub fn attest(bytes: &[u8]) {
    drop(attest::read(bytes));
    let Some(value) = json(bytes) else { return };
    if let Ok(request) = serde_json::from_value::<RenewalRequest>(value.clone()) {
        drop(attest::Wanted::read(&request));
    }
    let proof = value.pointer("/evidence/proof").unwrap_or(&value);
    if let Ok(proof) = serde_json::from_value::<Proof>(proof.clone()) {
        drop(verify_proof(REENTRY_CONTEXT, &node(), b"asked", &proof));
    }
    drop(serde_json::from_value::<RenewalReply>(value));
}

/// What every node is told: bundle, registrations, policies; the seal over it.
pub fn edge_identity(bytes: &[u8]) {
    let Some(value) = json(bytes) else { return };
    if let Ok(document) = serde_json::from_value::<BundleDocument>(value.clone())
        && let Ok(bundle) = TrustBundle::from_document(&document)
    {
        assert_eq!(TrustBundle::from_document(&bundle.to_document()).ok().as_ref(), Some(&bundle));
        drop((bundle.spiffe_bundle(), bundle.jwk_set(), bundle.roots_pem()));
    }
    let bundle = bundle(&[]);
    drop(document::verify(&value, &node(), &bundle, None));
    if let Ok(identity) = serde_json::from_value::<EdgeIdentity>(value.clone()) {
        let said = serde_json::to_value(&identity).expect("what was read can be said");
        assert_eq!(serde_json::from_value::<EdgeIdentity>(said).as_ref().ok(), Some(&identity));
        super::edge::policies(&identity.spec);
    }
    let canonical = seal::canonical(&value);
    let again = json(&canonical).expect("canonical JSON is JSON");
    assert_eq!(seal::canonical(&again), canonical);
    drop(seal::pod_payload(&value));
}

/// What a crash may leave beside an edge's key, before and after a zero byte: a set that was being put in its places, and
/// what was asked with a token. A set is put there or dropped, and what is read then can be saved and read.
pub fn credentials(bytes: &[u8]) {
    let (set, asked) = cut(bytes, b"\0");
    // Every write is synced, which costs nothing in memory.
    let memory = Path::new("/dev/shm");
    let memory = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let thread = std::thread::current().id();
    let folder = memory.join(format!("kubeedge-fuzz-credentials-{}-{thread:?}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let places = Places::new(&EdgeHubConfig {
        tls_ca_file: folder.join("rootCA.crt"),
        tls_cert_file: folder.join("server.crt"),
        tls_private_key_file: folder.join("server.key"),
        ..EdgeHubConfig::default()
    });
    let (staged, node) = (folder.join("credentials.next"), node());
    fs::write(&staged, set).expect("a file");
    fs::write(folder.join("join.asked"), asked).expect("a file");

    let parts = |identity: Identity| {
        let held = identity.credentials;
        let ca = held.node_ca.map(|pair| (pair.cert_pem, pair.key_pem));
        (held.svid.cert_pem, held.svid.key_pem, ca, held.jwt_key_pem, held.roots_pem)
    };
    let loaded = files::load(&places, &node);
    assert!(!staged.exists(), "it is in its places, or dropped");
    if let Ok(Some(identity)) = loaded {
        files::save(&places, &identity.credentials).expect("what was read can be saved");
        let again = files::load(&places, &node).expect("what is saved is read").expect("it is there");
        assert_eq!(parts(again), parts(identity));
    }
    let hash = json(asked).and_then(|asked| Some(asked.get("token_hash")?.as_str()?.to_owned()));
    if let Ok(Some(asked)) = files::load_asked(&places, &hash.unwrap_or_default()) {
        files::save_asked(&places, &asked).expect("what was read can be saved");
        assert!(matches!(files::load_asked(&places, &asked.token_hash), Ok(Some(_))), "and read");
    }
    fs::remove_dir_all(&folder).expect("the folder goes");
}

/// A cosign signature: first line the key's file, base64 of the signature after it, then the payload.
pub fn cosign(bytes: &[u8]) {
    let (key, rest) = cut(bytes, b"\n\n");
    let (signature, payload) = cut(rest, b"\n\n");
    let (Some(pem), Some(signature)) = (text(key), text(signature)) else { return };
    let Ok(key) = CosignKey::from_pem(pem) else { return };
    let signature = ImageSignature { payload: payload.to_vec(), signature: signature.to_owned() };
    drop(key.verify(
        &signature,
        &["sha256:0000000000000000000000000000000000000000000000000000000000000000".to_owned()],
    ));
}

/// A line of the audit log; facts that are written are read back.
pub fn audit(bytes: &[u8]) {
    if let Ok(record) = Record::parse(bytes) {
        drop(record.head());
    }
    let Some(Value::Object(fact)) = json(bytes) else { return };
    let fact: Map<String, Value> = fact;
    let mut chain = AuditChain::after(Head::default());
    let lines = [chain.append(&fact, now()), chain.append(&fact, now())];
    for line in &lines {
        let record = Record::parse(line.trim_end_matches('\n').as_bytes()).expect("what is written is read");
        assert!(line.len() <= crate::identity::audit::MAX_LINE, "{}", line.len());
        drop(record.head());
    }
    assert_eq!(chain.head().seq, 2);
}
