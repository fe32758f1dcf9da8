//! What hostile or mistaken people give us: config files, tokens, certificates, frames.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use kubeedge::identity::{KeyPair, client_tls};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::harness::cluster::{Cloud, Edge};
use super::harness::containerd::Containerd;
use super::harness::process::{PATIENCE, until};
use super::main_job::{World, sleeper};

fn run(binary: &str, file: &Path) -> Output {
    Command::new(binary).arg("--config").arg(file).output().unwrap()
}

#[test]
fn config_mistakes_name_the_key_and_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = env!("CARGO_BIN_EXE_cloudcore");
    let edge = env!("CARGO_BIN_EXE_edgecore");
    let head_cloud = "apiVersion: cloudcore.config.kubeedge.io/v1alpha1\nkind: CloudCore\n";
    let head_edge = "apiVersion: edgecore.config.kubeedge.io/v1alpha2\nkind: EdgeCore\n";
    for (binary, text, words) in [
        (
            cloud,
            format!("{head_cloud}modules:\n  cloudHub:\n    nodeLimit: many\n"),
            vec!["modules.cloudHub.nodeLimit", "line 5"],
        ),
        (
            cloud,
            format!("{head_cloud}modules:\n  cloudHub:\n    nodeLimt: 5\n"),
            vec!["modules.cloudHub.nodeLimt", "line 5", "nodeLimit"],
        ),
        (
            edge,
            format!("{head_edge}modules:\n  edgeHub:\n    heartbeat: soon\n"),
            vec!["modules.edgeHub.heartbeat", "line 5"],
        ),
        (edge, format!("{head_edge}modules:\n  edgedd: {{}}\n"), vec!["modules.edgedd", "line 4"]),
        (edge, "kind: [\n".to_owned(), vec!["line"]),
        (edge, head_cloud.to_owned(), vec!["apiVersion"]),
    ] {
        let file = dir.path().join("config.yaml");
        fs::write(&file, &text).unwrap();
        let out = run(binary, &file);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success(), "accepted:\n{text}");
        for word in words {
            assert!(said.contains(word), "no {word:?} in {said:?} for\n{text}");
        }
    }
    let absent = dir.path().join("absent.yaml");
    for binary in [cloud, edge] {
        let out = run(binary, &absent);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains("absent.yaml"), "{said}");
    }
}

/// What an edge is given at its join would replace the files of a cloud that has them at the same places.
#[test]
fn an_edge_beside_a_cloud_keeps_off_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::write(at("rootCA.crt"), "the cloud's").unwrap();
    fs::write(at("rootCA.key"), "the cloud's").unwrap();
    let text = format!(
        "dataDir: {}\ncommonConfig: {{monitorServer: {{bindAddress: \"127.0.0.1:0\"}}}}\n\
         modules: {{edgeHub: {{tlsCaFile: {}}}, edged: {{hostnameOverride: edge-1}}}}\n",
        at("data"),
        at("rootCA.crt")
    );
    fs::write(at("edgecore.yaml"), text).unwrap();
    let out = run(env!("CARGO_BIN_EXE_edgecore"), Path::new(&at("edgecore.yaml")));
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("is the root of a cloudcore on this machine"), "{said}");
    assert_eq!(fs::read_to_string(at("rootCA.crt")).unwrap(), "the cloud's");
    assert!(!Path::new(&at("data")).exists(), "nothing was begun");
}

#[test]
fn tokens_that_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(&dir.path().join("c"), &[]);
    let kubectl = cloud.kubectl();
    let keadm = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_keadm"))
            .args(args)
            .args(["--config"])
            .arg(cloud.dir.join("cloudcore.yaml"))
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    let good = cloud.token();
    let forged = {
        let (body, signature) = good.rsplit_once('.').unwrap();
        let flipped = if signature.starts_with('A') { 'B' } else { 'A' };
        format!("{body}.{flipped}{}", &signature[1..])
    };
    let other_ca = format!("{}{}", "0".repeat(64), &good[64..]);
    let expired = keadm(&["gettoken", "--ttl", "1s"]);
    let minted = std::time::Instant::now();
    let revoked = cloud.token();
    let id = {
        use base64::Engine;
        let claims = revoked.split('.').nth(2).unwrap();
        let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&json).unwrap();
        claims["jti"].as_str().unwrap().to_owned()
    };
    keadm(&["token", "revoke", &id]);
    until("the short token expired", PATIENCE, || {
        if minted.elapsed() > Duration::from_secs(3) { Ok(()) } else { Err("not yet".into()) }
    });
    let runtime = dir.path().join("no-runtime.sock");
    for (name, token, word) in [
        ("forged", forged, "signature"),
        ("other-ca", other_ca, "CA"),
        ("expired", expired, "expired"),
        ("revoked", revoked, "revoked"),
    ] {
        let mut edge = Edge::start(&cloud, &dir.path().join(name), name, &runtime, &token, &[]);
        until(&format!("the {name} token is explained"), PATIENCE, || {
            assert!(edge.process.is_running(), "{}", edge.process.tail());
            if edge.process.log().contains(word) { Ok(()) } else { Err(edge.process.tail()) }
        });
        assert!(!edge.dir.join("certs/server.crt").exists(), "{name} got a certificate");
        assert!(kubectl.try_run(&["get", "node", name]).is_err(), "{name} became a node");
    }
}

/// Dials CloudHub with the edge's own certificate.
async fn dial(
    cloud: &Cloud,
    edge: &Edge,
    node_id: &str,
) -> Result<WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>, WsError> {
    let read = |file: &str| fs::read_to_string(edge.dir.join(file)).unwrap();
    let pair = KeyPair { cert_pem: read("certs/server.crt"), key_pem: read("certs/server.key") };
    let tls = client_tls(&read("ca/rootCA.crt"), Some(&pair)).unwrap();
    let mut request =
        format!("wss://127.0.0.1:{}/p/{node_id}/events", cloud.hub_port).into_client_request().unwrap();
    for (name, value) in [("node_id", node_id), ("project_id", "p"), ("ConnectionUse", "msg")] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let socket = tokio::net::TcpStream::connect(("127.0.0.1", cloud.hub_port)).await?;
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let socket = tokio_rustls::TlsConnector::from(Arc::clone(&tls)).connect(name, socket).await?;
    client_async(request, socket).await.map(|(socket, _)| socket)
}

#[test]
fn a_certificate_speaks_for_its_own_node_only_and_bad_frames_do_no_harm() {
    let mut world = World::start();
    let kubectl = world.kubectl();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();

    let refused = runtime.block_on(dial(&world.cloud, &world.edge, "edge-2"));
    match refused {
        Err(WsError::Http(response)) => assert_eq!(response.status(), 403),
        other => panic!("another node's name was taken: {}", other.is_ok()),
    }

    // The edge itself goes silent, and something with its certificate sends rubbish.
    world.edge.process.kill9();
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let frame = |content: &str| {
        format!(
            "{{\"header\":{{\"msg_id\":\"x\",\"timestamp\":1}},\"route\":{{\"source\":\"edged\",\"group\":\"meta\",\"operation\":\"update\",\"resource\":\"default/thing/a\"}},\"content\":{content}}}"
        )
    };
    for rubbish in [
        "",
        "{",
        "null",
        "[]",
        "{\"header\":1,\"route\":2}",
        &deep,
        &frame(&deep),
        &frame("{\"kind\":\"Unheard\"}"),
    ] {
        let rubbish = rubbish.to_owned();
        runtime.block_on(async {
            let mut socket = dial(&world.cloud, &world.edge, "edge-1").await.unwrap();
            socket.send(Message::text(rubbish)).await.ok();
            socket.send(Message::binary(vec![0xff; 4096])).await.ok();
            tokio::time::timeout(Duration::from_millis(300), socket.next()).await.ok();
        });
    }
    // A frame of 100 MB is cut off, not stored.
    runtime.block_on(async {
        let mut socket = dial(&world.cloud, &world.edge, "edge-1").await.unwrap();
        let huge = frame(&format!("\"{}\"", "a".repeat(100 << 20)));
        let sent = tokio::time::timeout(Duration::from_secs(30), socket.send(Message::text(huge))).await;
        // What the cloud had to say before may still arrive first.
        let ends = async {
            while let Some(Ok(message)) = socket.next().await
                && !message.is_close()
            {}
        };
        let closed =
            matches!(sent, Ok(Err(_))) || tokio::time::timeout(Duration::from_secs(10), ends).await.is_ok();
        assert!(closed, "the session went on");
    });

    assert!(world.cloud.process.is_running());
    world.edge.restart(&[]);
    kubectl.apply(&sleeper("unharmed", ""));
    kubectl.wait_running("unharmed");
    kubectl.run(&["delete", "pod", "unharmed"]);
}

#[test]
fn certificates_rotate_while_the_main_job_goes_on() {
    let world = World::with(&["identity.nodeSvidTtlSecs=20"], &[]);
    let kubectl = world.kubectl();
    let read = || fs::read_to_string(world.edge.dir.join("certs/server.crt")).unwrap();
    let first = read();
    kubectl.apply(&sleeper("before", ""));
    kubectl.wait_running("before");
    until(
        "the certificate was renewed",
        PATIENCE,
        || if read() == first { Err("same".into()) } else { Ok(()) },
    );
    kubectl.apply(&sleeper("during", ""));
    kubectl.wait_running("during");
    let second = read();
    until("and renewed again", PATIENCE, || if read() == second { Err("same".into()) } else { Ok(()) });
    kubectl.wait_node("edge-1", "True");
    for pod in ["before", "during"] {
        kubectl.run(&["delete", "pod", pod, "--wait=false"]);
    }
    for pod in ["before", "during"] {
        kubectl.wait_gone(&format!("pod/{pod}"));
    }
}

#[test]
fn what_is_seen_from_outside_is_clean() {
    let world = World::start();
    let kubectl = world.kubectl();
    kubectl.apply(&sleeper("seen", ""));
    kubectl.wait_running("seen");
    for (monitor, names) in [
        (
            &world.cloud.monitor,
            vec![
                "kubeedge_actor_restarts_total",
                "kubeedge_actor_panics_total",
                "kubeedge_actor_mailbox_depth",
                "kubeedge_actor_messages_total",
                "kubeedge_actor_handle_seconds_bucket",
                "kubeedge_cloudhub_connected_nodes 1",
                "kubeedge_cloudhub_messages_total",
                "kubeedge_cloudhub_unacked_messages",
                "kubeedge_cloudhub_ack_seconds_bucket",
                "kubeedge_cloudhub_resync_seconds_bucket",
                "kubeedge_apiserver_requests_total",
                "kubeedge_apiserver_request_seconds_bucket",
                "kubeedge_apiserver_watchers",
                "kubeedge_apiserver_objects",
                "kubeedge_identity_svid_expiry_seconds{kind=\"cloud\"}",
                "process_resident_memory_bytes",
            ],
        ),
        (
            &world.edge.monitor,
            vec![
                "kubeedge_actor_restarts_total",
                "kubeedge_actor_panics_total",
                "kubeedge_actor_mailbox_depth",
                "kubeedge_actor_messages_total",
                "kubeedge_actor_handle_seconds_bucket",
                "kubeedge_edgehub_connected 1",
                "kubeedge_edgehub_reconnects_total",
                "kubeedge_edgehub_messages_total",
                "kubeedge_edgehub_outbox_messages",
                "kubeedge_edgehub_outbox_dropped_total",
                "kubeedge_edged_pods{phase=\"Running\"} 1",
                "kubeedge_edged_pod_start_seconds_bucket",
                "kubeedge_edged_container_restarts_total",
                "kubeedge_edged_cri_seconds_bucket",
                "kubeedge_edged_cri_errors_total",
                "kubeedge_metamanager_objects",
                "kubeedge_metamanager_store_seconds_bucket",
                "kubeedge_metamanager_store_bytes",
                "kubeedge_identity_svid_expiry_seconds{kind=\"node\"}",
                "process_resident_memory_bytes",
            ],
        ),
    ] {
        let (status, text) = super::harness::process::http("GET", monitor, "/metrics", &[]).unwrap();
        assert_eq!(status, 200);
        for name in names {
            assert!(text.contains(name), "no {name} in\n{text}");
        }
        super::harness::exposition::parse(text).lint();
        assert_eq!(super::harness::process::http("GET", monitor, "/healthz", &[]).unwrap().0, 200);
        assert_eq!(super::harness::process::http("GET", monitor, "/readyz", &[]).unwrap().0, 200);
    }
    let admin = fs::metadata(world.cloud.dir.join("admin.conf")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&admin.permissions()) & 0o777, 0o600);
    drop(Containerd::start());
    kubectl.run(&["delete", "pod", "seen"]);
}
