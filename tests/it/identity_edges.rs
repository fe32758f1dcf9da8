//! Real edges at a real cloud: how they get in, come back, and follow a new root.

use std::fs;
use std::path::Path;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::harness::cluster::{Cloud, Edge};
use super::harness::containerd::Containerd;
use super::harness::machine::keadm;
use super::harness::process::{PATIENCE, http, until};
use super::main_job::{World, sleeper};

/// The sum of a counter over its labels; 0 while it is not there.
pub fn metric(monitor: &str, name: &str) -> f64 {
    let (_, text) = http("GET", monitor, "/metrics", &[]).unwrap();
    let series = text.lines().filter_map(|line| line.strip_prefix(name));
    let values = series.filter(|rest| rest.starts_with([' ', '{']));
    values.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Waits until it has a session.
pub fn wait_connected(edge: &mut Edge) {
    edge.wait_ready();
    let (monitor, process) = (edge.monitor.clone(), &mut edge.process);
    until("it has a session", PATIENCE, || {
        assert!(process.is_running(), "{}", process.tail());
        match metric(&monitor, "kubeedge_edgehub_connected") {
            1.0 => Ok(()),
            other => Err(format!("connected: {other}\n{}", process.tail())),
        }
    });
}

pub fn wait_expired(cert: &Path) {
    until("the certificate ran out", PATIENCE, || {
        let mut openssl = Command::new("openssl");
        let out = openssl.args(["x509", "-noout", "-checkend", "0", "-in"]).arg(cert).output().unwrap();
        if out.status.success() { Err("still good".into()) } else { Ok(()) }
    });
}

/// Waits until its log has a line with all of these words.
fn says(edge: &mut Edge, words: &[&str]) {
    let process = &mut edge.process;
    until(&format!("the log says {words:?}"), PATIENCE, || {
        assert!(process.is_running(), "{}", process.tail());
        let log = process.log();
        let told = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
        if told { Ok(()) } else { Err(process.tail()) }
    });
}

#[test]
fn a_machine_that_was_off_past_the_end_comes_back_by_its_old_key() {
    let settings = ["identity.nodeSvidTtlSecs=10", "identity.reentryGraceSecs=3600"];
    let mut world = World::with(&settings, &[]);
    let kubectl = world.kubectl();
    wait_connected(&mut world.edge);
    world.edge.process.kill9();
    let cert = world.edge.dir.join("certs/server.crt");
    wait_expired(&cert);
    world.edge.restart(&[]);
    wait_connected(&mut world.edge);
    kubectl.wait_node("edge-1", "True");

    // Beyond the grace the cloud says no, and the edge says what to do.
    world.edge.process.kill9();
    world.cloud.process.kill9();
    world.cloud.restart(&["identity.nodeSvidTtlSecs=10", "identity.reentryGraceSecs=0"]);
    wait_expired(&cert);
    world.edge.restart(&[]);
    says(&mut world.edge, &["did not take it back", "put a fresh join token into"]);
    fs::write(world.edge.dir.join("bootstrap-edgecore.conf"), world.cloud.token()).unwrap();
    wait_connected(&mut world.edge);
}

#[test]
fn one_token_joins_one_machine() {
    let world = World::start();
    let token = world.cloud.token();
    let start = |name: &str| {
        let dir = world.dir.path().join(name);
        Edge::start(&world.cloud, &dir, name, world.runtime.socket(), &token, &[])
    };
    let mut first = start("edge-2");
    wait_connected(&mut first);
    let mut second = start("edge-3");
    says(&mut second, &["/identity/node answered 401"]);
    assert!(!second.dir.join("certs/server.key").exists());
}

#[test]
fn a_revoked_edge_says_so_and_joins_again_with_a_new_token() {
    let mut world = World::start();
    let kubectl = world.kubectl();
    wait_connected(&mut world.edge);
    keadm(&world.cloud, &["node", "revoke", "edge-1", "--reason", "stolen van"]).unwrap();
    let refused = ["edge-1 was revoked", "to join anew put a fresh join token into"];
    says(&mut world.edge, &refused);
    // A token alone does not help against a revocation.
    fs::write(world.edge.dir.join("bootstrap-edgecore.conf"), world.cloud.token()).unwrap();
    says(&mut world.edge, &["/identity/node answered 403", "keadm node allow edge-1"]);
    keadm(&world.cloud, &["node", "allow", "edge-1"]).unwrap();
    wait_connected(&mut world.edge);
    kubectl.wait_node("edge-1", "True");
    until("the token is gone", PATIENCE, || {
        if world.edge.dir.join("bootstrap-edgecore.conf").exists() { Err("there".into()) } else { Ok(()) }
    });
}

#[test]
fn a_factory_certificate_brings_a_machine_in_without_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let named = |cn: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, cn);
        params
    };
    let (key, mut params) = (KeyPair::generate().unwrap(), named("factory"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let file = |name: &str, text: &str| {
        fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).display().to_string()
    };
    let root = file("factory.crt", &params.self_signed(&key).unwrap().pem());
    let factory = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let cert = file("machine.crt", &named("edge-1").signed_by(&key, &factory).unwrap().pem());
    let key = file("machine.key", &key.serialize_pem());

    let cloud = Cloud::start(&dir.path().join("c"), &[&format!("identity.factoryCaFile={root}")]);
    let runtime = Containerd::start();
    let settings = [format!("identity.factoryCertFile={cert}"), format!("identity.factoryKeyFile={key}")];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let mut edge = Edge::start(&cloud, &dir.path().join("e"), "edge-1", runtime.socket(), "", &settings);
    says(&mut edge, &["nothing vouches for the cloud: copy the cloud's root certificate to"]);
    fs::create_dir_all(edge.dir.join("ca")).unwrap();
    fs::copy(cloud.dir.join("ca/rootCA.crt"), edge.dir.join("ca/rootCA.crt")).unwrap();
    wait_connected(&mut edge);
    cloud.kubectl().wait_node("edge-1", "True");
}

/// Roots in the edge's own file.
fn roots(edge: &Edge) -> usize {
    fs::read_to_string(edge.dir.join("ca/rootCA.crt")).unwrap().matches("BEGIN CERTIFICATE").count()
}

fn wait_roots(edge: &Edge, want: usize) {
    until(&format!("{want} roots"), PATIENCE, || {
        let is = roots(edge);
        if is == want { Ok(()) } else { Err(format!("{is}\n{}", edge.process.tail())) }
    });
}

/// Who signed the chain on disk: does it lead to this root alone?
fn leads_to(edge: &Edge, root: &Path) -> Result<(), String> {
    let chain = edge.dir.join("certs/server.crt");
    let mut openssl = Command::new("openssl");
    let out =
        openssl.arg("verify").arg("-CAfile").arg(root).arg("-untrusted").arg(&chain).arg(&chain).output();
    let out = out.unwrap();
    if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
}

#[test]
fn a_new_root_reaches_edges_that_are_there_and_edges_that_were_away() {
    let settings = ["identity.nodeSvidTtlSecs=40", "identity.nodeCaTtlSecs=80"];
    let mut world = World::with(&settings, &[]);
    let kubectl = world.kubectl();
    let token = world.cloud.token();
    let dir = world.dir.path().join("away");
    let mut away = Edge::start(&world.cloud, &dir, "edge-2", world.runtime.socket(), &token, &[]);
    wait_connected(&mut away);
    away.process.kill9();
    wait_connected(&mut world.edge);
    let first = world.cloud.dir.join("first.crt");
    fs::copy(world.cloud.dir.join("ca/rootCA.crt"), &first).unwrap();

    keadm(&world.cloud, &["ca", "prepare"]).unwrap();
    wait_roots(&world.edge, 2);
    keadm(&world.cloud, &["ca", "activate"]).unwrap();
    let new = world.cloud.dir.join("ca/rootCA.crt");
    assert_ne!(fs::read(&first).unwrap(), fs::read(&new).unwrap());
    until("the new root signs", PATIENCE, || leads_to(&world.edge, &new));

    // It knows the old root only.
    assert_eq!(roots(&away), 1);
    away.restart(&[]);
    wait_connected(&mut away);
    wait_roots(&away, 2);
    until("the new root signs here too", PATIENCE, || leads_to(&away, &new));
    kubectl.wait_node("edge-2", "True");

    keadm(&world.cloud, &["ca", "retire", "--force"]).unwrap();
    for edge in [&world.edge, &away] {
        wait_roots(edge, 1);
        assert_eq!(fs::read(edge.dir.join("ca/rootCA.crt")).unwrap(), fs::read(&new).unwrap());
    }
    let reconnects = metric(&world.edge.monitor, "kubeedge_edgehub_reconnects_total");
    assert!(reconnects.abs() < f64::EPSILON, "{reconnects} reconnects");
    kubectl.apply(&sleeper("after-the-rotation", ""));
    kubectl.wait_running("after-the-rotation");
    // Handshakes still work with what is left.
    let (cloud, edges) = (&mut world.cloud, [&mut world.edge, &mut away]);
    cloud.process.kill9();
    cloud.restart(&settings);
    for edge in edges {
        wait_connected(edge);
    }
    kubectl.wait_node("edge-1", "True");
    kubectl.wait_node("edge-2", "True");
}
