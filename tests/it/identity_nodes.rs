//! Nodes and the real cloudcore: joining in each way, coming back, being cut off; tokens that work
//! once; the CA that is never replaced silently.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kubeedge::identity::{
    KeyPair, NodeRequest, PeerIdentity, TrustBundle, X509POP_CONTEXT, cert_pem_from_der, new_node_csr, prove,
    proven, validity,
};
use kubeedge::model::identity::{Evidence, RenewalRequest};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair as RcgenPair, SanType};
use serde_json::Value;

use super::harness::cluster::Cloud;
use super::harness::machine::{Session, attest, call, join, jwt, keadm, node, reenter, token};
use super::harness::process::{PATIENCE, Process, http, until};

/// Waits until the cloud's audit log has a record with all of these words.
fn audited(cloud: &Cloud, words: &[&str]) -> Value {
    until(&format!("a record with {words:?}"), PATIENCE, || {
        let log = fs::read_to_string(cloud.dir.join("cloud/audit.log")).map_err(|err| err.to_string())?;
        let line = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
        line.map(|line| serde_json::from_str(line).unwrap()).ok_or(log)
    })
}

fn refused(answer: Result<impl Sized, (u16, String)>, code: u16, word: &str, case: &str) {
    match answer {
        Ok(_) => panic!("{case}: let in"),
        Err((got, why)) => assert!(got == code && why.contains(word), "{case}: {got} {why}"),
    }
}

fn nothing() -> Evidence {
    Evidence::JoinToken { token: String::new() }
}

#[test]
fn a_join_token_works_once_for_its_node_and_for_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), &[]);

    // Two machines at the same moment.
    for round in 0..3 {
        let evidence = token(&cloud, &[]);
        let names = [format!("left-{round}"), format!("right-{round}")];
        let answers: Vec<_> = std::thread::scope(|scope| {
            let machines: Vec<_> = names
                .iter()
                .map(|name| (name, evidence.clone()))
                .map(|(name, evidence)| scope.spawn(|| join(&cloud, name, evidence)))
                .collect();
            machines.into_iter().map(|machine| machine.join().unwrap()).collect()
        });
        let winner = answers.iter().position(Result::is_ok).expect("one machine joins");
        let loser = 1 - winner;
        refused(
            answers.into_iter().nth(loser).unwrap(),
            401,
            "the token was used by node",
            "the slower machine",
        );
        let record = audited(&cloud, &[&names[loser], "token_used"]);
        assert_eq!((&record["allowed"], &record["action"]), (&false.into(), &"refuse".into()), "{record}");
        audited(&cloud, &[&names[winner], "\"join\""]);
    }

    // The answer was lost: the same key asks again.
    let evidence = token(&cloud, &[]);
    let (request, _) = NodeRequest::new(&node("again")).unwrap();
    attest(&cloud, "again", evidence.clone(), &request, None).unwrap();
    attest(&cloud, "again", evidence.clone(), &request, None).unwrap();
    refused(join(&cloud, "again", evidence), 401, "was used", "another key of the same node");

    // For another node, after its time, after it was revoked.
    refused(join(&cloud, "other", token(&cloud, &["--node", "mine"])), 401, "bound to another node", "bound");
    let short = token(&cloud, &["--ttl", "1s"]);
    until("the short token is refused", PATIENCE, || match join(&cloud, "late", short.clone()) {
        Err((401, why)) if why.contains("expired") => Ok(()),
        // Good until its end, and then used.
        other => Err(format!("{:?}", other.map(drop))),
    });
    let whole = cloud.token();
    keadm(&cloud, &["token", "revoke", &whole]).unwrap();
    let revoked = whole.split_once('.').unwrap().1.to_owned();
    let evidence = Evidence::JoinToken { token: revoked };
    refused(join(&cloud, "revoked", evidence), 401, "the token was revoked", "revoked a moment ago");

    // Names that are not the node's, and a key that is none, cost no token.
    let evidence = token(&cloud, &["--node", "edge-1"]);
    let (good, _) = NodeRequest::new(&node("edge-1")).unwrap();
    let (other, _) = NodeRequest::new(&node("edge-2")).unwrap();
    let extra =
        csr(|params| params.subject_alt_names = vec![SanType::DnsName("evil.example".try_into().unwrap())]);
    for (case, csr, word) in
        [("an extra name", extra, "evil.example"), ("another node's name", other.csr, "system:node:edge-2")]
    {
        let request = kubeedge::model::identity::RenewalRequest { csr, ..good.clone() };
        refused(attest(&cloud, "edge-1", evidence.clone(), &request, None), 400, word, case);
    }
    let credentials = join(&cloud, "edge-1", evidence).unwrap();
    assert_eq!(credentials.trust_domain, "kubeedge.local");

    // What keadm says of all this.
    let list = keadm(&cloud, &["token", "list"]).unwrap();
    for words in [["mine", "good"], ["edge-1", "used by edge-1"], ["one node", "revoked"]] {
        assert!(list.lines().any(|line| words.iter().all(|word| line.contains(word))), "{words:?}\n{list}");
    }
    until("the identities are listed", PATIENCE, || {
        let list = keadm(&cloud, &["identity", "list"])?;
        let line = list.lines().find(|line| line.starts_with("edge-1 ")).ok_or_else(|| list.clone())?;
        if line.trim_end().ends_with("good") { Ok(()) } else { Err(list) }
    });
    let shown = keadm(&cloud, &["identity", "show", "edge-1"]).unwrap();
    assert!(shown.contains("spiffe://kubeedge.local/node/edge-1") && shown.contains("serial "), "{shown}");
    let complaint = keadm(&cloud, &["identity", "show", "nobody"]).unwrap_err();
    assert!(complaint.contains("no node nobody is known"), "{complaint}");
    let verified = keadm(&cloud, &["audit", "verify"]);
    assert!(verified.is_ok(), "{verified:?}");
    let (_, metrics) = http("GET", &cloud.monitor, "/metrics", &[]).unwrap();
    for line in [
        "kubeedge_identity_refused_total{reason=\"token_used\"}",
        "kubeedge_identity_issued_total{kind=\"node_ca\"}",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    assert!(!cloud.process.log().contains(&jwt(&cloud, &[])[..20]), "no token is logged");
}

/// A request for edge-1 that asks for more than its name.
fn csr(change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, "system:node:edge-1");
    change(&mut params);
    STANDARD.encode(params.serialize_request(&RcgenPair::generate().unwrap()).unwrap().der())
}

#[test]
fn a_revoked_node_is_out_at_once_and_stays_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut cloud = Cloud::start(dir.path(), &[]);
    let old = join(&cloud, "edge-1", token(&cloud, &[])).unwrap();
    let bystander = join(&cloud, "edge-2", token(&cloud, &[])).unwrap();
    let mut took = Vec::new();
    for round in 0..3 {
        let credentials = join(&cloud, "victim", token(&cloud, &[])).unwrap();
        let session = Session::open(&cloud, "victim", &credentials.svid).unwrap();
        let waiting = std::thread::spawn(move || session.closed());
        let begun = std::time::Instant::now();
        keadm(&cloud, &["node", "revoke", "victim", "--reason", "lost on the road"]).unwrap();
        let asked = begun.elapsed();
        waiting.join().unwrap();
        took.push(format!("{} ms ({} of them keadm)", begun.elapsed().as_millis(), asked.as_millis()));
        keadm(&cloud, &["node", "allow", "victim"]).unwrap();
        until("the node may join again", PATIENCE, || {
            join(&cloud, "victim", token(&cloud, &[]))
                .map(drop)
                .map_err(|(code, why)| format!("{round}: {code} {why}"))
        });
    }
    println!("from `keadm node revoke` to the end of the session: {}", took.join(", "));

    let session = Session::open(&cloud, "edge-1", &old.svid).unwrap();
    let _other = Session::open(&cloud, "edge-2", &bystander.svid).unwrap();
    keadm(&cloud, &["node", "revoke", "edge-1"]).unwrap();
    session.closed();
    for restarted in [false, true] {
        if restarted {
            cloud.process.kill9();
            cloud.restart(&[]);
        }
        let case = format!("restarted: {restarted}");
        refused(Session::open(&cloud, "edge-1", &old.svid), 403, "edge-1 was revoked", &case);
        refused(join(&cloud, "edge-1", token(&cloud, &[])), 403, "keadm node allow edge-1", &case);
        refused(reenter(&cloud, "edge-1", &old.svid), 403, "was revoked", &case);
        let (request, _) = NodeRequest::new(&node("edge-1")).unwrap();
        refused(attest(&cloud, "edge-1", nothing(), &request, Some(&old.svid)), 403, "was revoked", &case);
        let (csr, _) = new_node_csr(&node("edge-1")).unwrap();
        let (code, _) =
            call(&cloud, "GET /edge.crt", Some(&old.svid), &[("NodeName", "edge-1")], &csr).unwrap();
        assert_eq!(code, 403, "{case}");
        drop(Session::open(&cloud, "edge-2", &bystander.svid).unwrap());
    }
    let list = keadm(&cloud, &["node", "list"]).unwrap();
    assert!(list.lines().any(|line| line.starts_with("edge-1 ") && line.contains("revoked at")), "{list}");
    audited(&cloud, &["\"revoke\"", "edge-1"]);
    let complaint = keadm(&cloud, &["node", "allow", "edge-2"]).unwrap_err();
    assert!(complaint.contains("edge-2 is not revoked"), "{complaint}");

    keadm(&cloud, &["node", "allow", "edge-1"]).unwrap();
    let back = until("the node joins again", PATIENCE, || {
        join(&cloud, "edge-1", token(&cloud, &[])).map_err(|(code, why)| format!("{code} {why}"))
    });
    refused(Session::open(&cloud, "edge-1", &old.svid), 403, "from before", "the old certificate");
    refused(reenter(&cloud, "edge-1", &old.svid), 403, "from before", "the old key");
    Session::open(&cloud, "edge-1", &back.svid).unwrap();
    refused(
        Session::open(&cloud, "edge-3", &back.svid),
        403,
        "the certificate is for node",
        "another node_id",
    );
}

#[test]
fn a_node_whose_certificate_ended_comes_back_within_the_grace() {
    let dir = tempfile::tempdir().unwrap();
    let settings = ["identity.nodeSvidTtlSecs=10", "identity.reentryGraceSecs=25"];
    let cloud = Cloud::start(dir.path(), &settings);
    let first = join(&cloud, "edge-1", token(&cloud, &[])).unwrap();
    // A Go edge that does not renew loses its session with its certificate.
    let session = Session::open(&cloud, "edge-1", &first.svid).unwrap();
    session.closed();
    let (_, metrics) = http("GET", &cloud.monitor, "/metrics", &[]).unwrap();
    assert!(metrics.contains("kubeedge_cloudhub_sessions_total{reason=\"expired\"} 1"), "{metrics}");
    let (request, _) = NodeRequest::new(&node("edge-1")).unwrap();
    let ended = attest(&cloud, "edge-1", nothing(), &request, Some(&first.svid));
    // In its last second TLS still takes it.
    assert!(matches!(&ended, Err((0 | 401, _))), "a certificate that ended: {ended:?}");

    let second = reenter(&cloud, "edge-1", &first.svid).expect("within the grace");
    assert!(ends(&second.svid) > ends(&first.svid));
    Session::open(&cloud, "edge-1", &second.svid).unwrap();
    audited(&cloud, &["\"join\"", "\"svid\"", "edge-1"]);
    until("the grace is over", PATIENCE, || match reenter(&cloud, "edge-1", &first.svid) {
        Err((401, why)) if why.contains("identity.reentryGraceSecs") => Ok(()),
        other => Err(format!("{:?}", other.map(drop))),
    });
    refused(reenter(&cloud, "edge-2", &second.svid), 403, "cannot ask for node edge-2", "another node");
}

fn ends(pair: &KeyPair) -> std::time::SystemTime {
    validity(&kubeedge::identity::cert_der_from_pem(&pair.cert_pem).unwrap()).unwrap().not_after
}

#[test]
fn a_factory_certificate_joins_its_node_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let maker = |cn: &str| {
        let key = RcgenPair::generate().unwrap();
        let mut params = named(cn);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        (pem, Issuer::new(params, key))
    };
    let ((root, ours), (_, theirs)) = (maker("factory"), maker("another factory"));
    fs::create_dir_all(dir.path()).unwrap();
    let file = dir.path().join("factory.crt");
    fs::write(&file, root).unwrap();
    let setting = format!("identity.factoryCaFile={}", file.display());
    let cloud = Cloud::start(dir.path(), &[&setting]);
    let evidence = |certified: &str, asked: &str, request: &RenewalRequest, maker: &Issuer<'_, RcgenPair>| {
        let key = RcgenPair::generate().unwrap();
        let leaf = named(certified).signed_by(&key, maker).unwrap();
        let chain = vec![leaf.der().to_vec()];
        Evidence::X509pop {
            proof: prove(X509POP_CONTEXT, &node(asked), &proven(request), chain, &key.serialize_pem())
                .unwrap(),
        }
    };
    let (request, keys) = NodeRequest::new(&node("edge-1")).unwrap();
    let good = evidence("edge-1", "edge-1", &request, &ours);
    let reply = attest(&cloud, "edge-1", good.clone(), &request, None).unwrap();
    let credentials = keys.credentials(&node("edge-1"), &reply).unwrap();
    Session::open(&cloud, "edge-1", &credentials.svid).unwrap();
    audited(&cloud, &["\"join\"", "x509pop", "edge-1"]);

    let (other, _) = NodeRequest::new(&node("edge-1")).unwrap();
    for (case, evidence, request, code, word) in [
        ("another factory", evidence("edge-1", "edge-1", &request, &theirs), &request, 401, "factory"),
        ("another node", evidence("edge-2", "edge-1", &request, &ours), &request, 403, "edge-2 cannot ask"),
        ("sent again with another key", good, &other, 401, "signature"),
    ] {
        refused(attest(&cloud, "edge-1", evidence, request, None), code, word, case);
    }
    let plain = dir.path().join("none");
    let complaint = start_and_fail(&cloud, &["identity.factoryCaFile=/nowhere/factory.crt"], &plain);
    assert!(complaint.contains("/nowhere/factory.crt"), "{complaint}");
}

fn named(cn: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, cn);
    params
}

/// A second cloudcore with the config file of this one, on a data folder of its own: its log once it
/// has given up.
fn start_and_fail(cloud: &Cloud, settings: &[&str], data: &Path) -> String {
    fs::create_dir_all(data).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloudcore"));
    command.arg("--config").arg(cloud.dir.join("cloudcore.yaml"));
    command.arg("--set").arg(format!("dataDir={}", data.display()));
    for port in ["apiServer.port", "cloudHub.websocket.port", "cloudHub.https.port"] {
        command.arg("--set").arg(format!("modules.{port}=0"));
    }
    command.arg("--set").arg("commonConfig.monitorServer.bindAddress=127.0.0.1:0");
    command.arg("--set").arg("modules.console.bindAddress=127.0.0.1:0");
    for setting in settings {
        command.args(["--set", setting]);
    }
    let mut process = Process::start("cloudcore-again", data, &mut command);
    assert!(!process.wait(PATIENCE).success(), "{}", process.tail());
    process.log()
}

#[test]
fn go_edges_join_with_a_certificate_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut cloud = Cloud::start(dir.path(), &[]);
    let ask = |cloud: &Cloud, name: &str, jwt: &str, csr: &[u8]| {
        let auth = format!("Bearer {jwt}");
        call(cloud, "GET /edge.crt", None, &[("NodeName", name), ("Authorization", &auth)], csr).unwrap()
    };
    let csr = |name: &str| new_node_csr(&node(name)).unwrap();
    let (code, root) = call(&cloud, "GET /ca.crt", None, &[], b"").unwrap();
    assert_eq!(
        (code, cert_pem_from_der(&root)),
        (200, fs::read_to_string(dir.path().join("ca/rootCA.crt")).unwrap())
    );

    let once = jwt(&cloud, &[]);
    let (request, key_pem) = csr("go-1");
    let (code, der) = ask(&cloud, "go-1", &once, &request);
    assert_eq!(code, 200, "{}", String::from_utf8_lossy(&der));
    assert_eq!(
        PeerIdentity::from_der(&der).unwrap().node(),
        Some(node("go-1")),
        "the body is one certificate"
    );
    let pair = KeyPair { cert_pem: cert_pem_from_der(&der), key_pem };
    Session::open(&cloud, "go-1", &pair).expect("its leaf alone is enough");
    let (code, why) = ask(&cloud, "go-2", &once, &csr("go-2").0);
    assert_eq!(code, 401, "{}", String::from_utf8_lossy(&why));
    let (code, der) =
        call(&cloud, "GET /edge.crt", Some(&pair), &[("NodeName", "go-1")], &csr("go-1").0).unwrap();
    assert_eq!(code, 200, "rotation by certificate: {}", String::from_utf8_lossy(&der));

    let complaint = keadm(&cloud, &["gettoken", "--reusable"]).unwrap_err();
    assert!(complaint.contains("identity.reusableTokens"), "{complaint}");
    let config = dir.path().join("cloudcore.yaml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}identity: {{ reusableTokens: true }}\n")).unwrap();
    let many = jwt(&cloud, &["--reusable"]);
    let (code, why) = ask(&cloud, "go-3", &many, &csr("go-3").0);
    let why = String::from_utf8(why).unwrap();
    assert!(
        code == 401 && why.contains("identity.reusableTokens is off"),
        "not before it is allowed: {code} {why}"
    );
    cloud.process.kill9();
    cloud.restart(&[]);
    for name in ["go-3", "go-4", "go-3"] {
        let (code, why) = ask(&cloud, name, &many, &csr(name).0);
        assert_eq!(code, 200, "{name}: {}", String::from_utf8_lossy(&why));
    }
    let evidence = Evidence::JoinToken { token: many };
    refused(join(&cloud, "edge-1", evidence), 401, "KubeEdge's own edges", "a node of ours");

    let (code, body) = call(&cloud, "GET /bundle.json", None, &[], b"").unwrap();
    let root = fs::read_to_string(dir.path().join("ca/rootCA.crt")).unwrap();
    let want = TrustBundle::from_pem("kubeedge.local", &root).unwrap();
    let bundle: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((code, &bundle["keys"][0]), (200, &want.spiffe_bundle()["keys"][0]));
}

#[test]
fn a_ca_that_is_gone_is_not_replaced_where_nodes_are_enrolled() {
    let dir = tempfile::tempdir().unwrap();
    let mut cloud = Cloud::start(dir.path(), &[]);
    for name in ["edge-1", "edge-2"] {
        cloud.kubectl().apply(&format!("apiVersion: v1\nkind: Node\nmetadata: {{ name: {name} }}\n"));
    }
    assert!(cloud.process.terminate(PATIENCE).success(), "{}", cloud.process.tail());
    let (ca, away) = (dir.path().join("ca"), dir.path().join("away"));
    fs::rename(&ca, &away).unwrap();
    let start = |name: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloudcore"));
        command.arg("--config").arg(dir.path().join("cloudcore.yaml"));
        Process::start(name, dir.path(), &mut command)
    };
    let mut process = start("without-ca");
    assert!(!process.wait(Duration::from_secs(30)).success());
    let log = process.log();
    for word in ["rootCA.crt", "2 nodes are enrolled"] {
        assert!(log.contains(word), "{word} is not in\n{log}");
    }
    assert!(!ca.join("rootCA.crt").exists(), "a new CA was made");
    if ca.exists() {
        fs::remove_dir_all(&ca).unwrap();
    }
    fs::rename(&away, &ca).unwrap();
    cloud.restart(&[]);
    join(&cloud, "edge-3", token(&cloud, &[])).expect("the CA is back");
}
