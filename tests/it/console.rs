//! The console of both programs without a browser: who comes in, what the stream tells, and what keeps
//! on working when something else does not.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use kubeedge::identity;
use rustls::{ClientConnection, StreamOwned};
use serde_json::{Value, json};

use super::harness::cluster::{Cloud, Edge};
use super::harness::console::{EVERYTHING, Stream, allow, ask, lasting_token, sign_in, token};
use super::harness::process::{PATIENCE, http, until};
use super::main_job::{World, sleeper};

fn is(change: &Value, kind: &str) -> bool {
    change["type"] == kind
}

/// The token of an edge, as its owner reads it.
fn edge_token(edge: &Edge) -> String {
    let path = edge.dir.join("edge/console.token");
    until("the edge has made its token", PATIENCE, || {
        fs::read_to_string(&path).map_err(|err| err.to_string())
    })
    .trim()
    .to_owned()
}

#[test]
fn strangers_get_the_page_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), &["commonConfig.logging.level=debug"]);
    let at = cloud.console.as_str();
    let json = ("Content-Type", "application/json");

    // The page is everybody's, packed and named, and may load nothing from elsewhere.
    let home = ask("GET", at, "/", &[], "");
    assert_eq!((home.status, home.header("location")), (302, Some("/console/")));
    let page = ask("GET", at, "/console/", &[("Accept-Encoding", "gzip")], "");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{policy}");
    for (name, want) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("x-frame-options", "DENY"),
        ("cache-control", "no-cache"),
    ] {
        assert_eq!(page.header(name), Some(want), "{name}");
    }
    assert_eq!(page.header("access-control-allow-origin"), None);
    let etag = page.header("etag").unwrap();
    let again = ask("GET", at, "/console/", &[("If-None-Match", etag)], "");
    assert_eq!((again.status, again.body.len()), (304, 0));
    for path in ["/console/../Cargo.toml", "/console/%2e%2e/mod.rs", "/console/nothing.js", "/etc/passwd"] {
        assert_eq!(ask("GET", at, path, &[], "").status, 404, "{path}");
    }

    // No credential, one that is none, one that has ended.
    let Err(none) = Stream::open(at, "other=1") else { panic!("a stream for nobody") };
    assert_eq!((none.status, none.json()["error"].as_str()), (401, Some("sign in first")));
    let secret = "wrong-wrong-wrong-wrong-wrong";
    for body in [json!({"token": secret}).to_string(), json!({"token": "a b"}).to_string()] {
        let wrong = ask("POST", at, "/console/session", &[json], &body);
        assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None), "{wrong:?}");
    }
    let Err(wrong) = Stream::open(at, &format!("kubeedge-console={secret}")) else { panic!("a stream") };
    assert_eq!(wrong.status, 401);

    // Other pages, other names, other kinds of body.
    let good = token(&cloud.kubectl(), "visitor");
    let body = json!({"token": good}).to_string();
    let post =
        |headers: &[(&str, &str)], body: &str| ask("POST", at, "/console/session", headers, body).status;
    assert_eq!(post(&[json, ("Host", "evil.example:9443")], &body), 421, "DNS rebinding");
    assert_eq!(post(&[json, ("Origin", "https://evil.example")], &body), 403);
    assert_eq!(post(&[json, ("Sec-Fetch-Site", "cross-site")], &body), 403);
    assert_eq!(post(&[("Content-Type", "application/x-www-form-urlencoded")], &body), 415);
    assert_eq!(post(&[("Content-Type", "text/plain")], &body), 415);
    assert_eq!(post(&[json], &"x".repeat(9_000)), 400);
    assert_eq!(post(&[json], "{"), 400);
    assert_eq!(
        post(&[json, ("Origin", &format!("http://{at}")), ("Sec-Fetch-Site", "same-origin")], &body),
        204
    );
    assert_eq!(ask("PUT", at, "/console/session", &[json], &body).status, 405);
    assert_eq!(ask("POST", at, "/console/app.js", &[json], "").status, 405);
    let cookie = sign_in(at, &good).unwrap();
    let stream = Stream::open(at, &cookie).unwrap_or_else(|answer| panic!("{answer:?}"));
    let hello = stream.wait("hello", |change| is(change, "hello"));
    assert_eq!(
        (&hello["program"], &hello["user"]),
        (&json!("cloudcore"), &json!("system:serviceaccount:default:visitor"))
    );
    let out = ask("DELETE", at, "/console/session", &[json, ("Cookie", &cookie)], "");
    assert!(out.status == 204 && out.header("set-cookie").unwrap().contains("Max-Age=0"), "{out:?}");

    // Who guesses waits. (What was wrong above counts too.)
    let refused = until("guesses are refused", PATIENCE, || match post(&[json], r#"{"token": "guess"}"#) {
        429 => Ok(429),
        status => Err(status.to_string()),
    });
    assert_eq!(refused, 429);

    let log = cloud.process.log();
    for secret in [secret, &good, "guess", "eyJ"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "the log tells a token: {line:?}");
    }
    let (_, metrics) = http("GET", &cloud.monitor, "/metrics", &[]).unwrap();
    for line in [
        "kubeedge_console_streams 1",
        "kubeedge_console_sessions 1",
        "kubeedge_console_refused_total{reason=\"host\"} 1",
        "kubeedge_console_refused_total{reason=\"origin\"} 2",
        "kubeedge_console_requests_total{code=\"304\"} 1",
    ] {
        assert!(metrics.contains(line), "no {line:?} in\n{metrics}");
    }
}

#[test]
fn a_token_that_ends_ends_its_stream() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), &[]);
    let kubectl = cloud.kubectl();
    // As short as the API gives them: the account's end is the token's.
    let cookie = sign_in(&cloud.console, &lasting_token(&kubectl, "guest", 600)).unwrap();
    let stream = Stream::open(&cloud.console, &cookie).unwrap_or_else(|answer| panic!("{answer:?}"));
    stream.wait("hello", |change| is(change, "hello"));
    kubectl.run(&["delete", "serviceaccount", "guest"]);
    stream.wait_end();
    let Err(refused) = Stream::open(&cloud.console, &cookie) else { panic!("it is welcome") };
    assert_eq!(refused.status, 401);
}

#[test]
fn who_may_list_pods_sees_pods() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), &[]);
    let kubectl = cloud.kubectl();
    let cookie = sign_in(&cloud.console, &token(&kubectl, "clerk")).unwrap();
    allow(&kubectl, "clerk", &["pods"]);
    let stream = Stream::open(&cloud.console, &cookie).unwrap_or_else(|answer| panic!("{answer:?}"));
    stream.wait("pods", |change| is(change, "synced") && change["kind"] == "pod");
    for kind in ["node", "event", "device"] {
        let trouble = stream.wait("trouble", |change| is(change, "trouble") && change["kind"] == kind);
        assert!(trouble["why"].as_str().unwrap().contains("forbidden"), "{trouble}");
    }
    // A name is at most what the API lets through; a label is anybody's text and no part of the page.
    kubectl.apply(&sleeper("web", ""));
    stream.item("pod", "default/web", |pod| pod["status"] == "Pending");
    kubectl.run(&["delete", "pod", "web", "--wait=false"]);
    stream.wait("it goes", |change| is(change, "gone") && change["key"] == "default/web");
    stream.wait("ping", |change| is(change, "ping"));
    let seen = stream.changes();
    assert!(!seen.iter().any(|change| is(change, "actors")), "actors are for who may list nodes");
    // More rights end the trouble without a new stream.
    allow(&kubectl, "clerk", &EVERYTHING);
    stream.wait("nodes", |change| is(change, "synced") && change["kind"] == "node");
    stream.wait("actors", |change| is(change, "actors") && change["source"] == "cloudcore");
}

#[test]
fn the_api_of_a_cluster_is_shown_as_its_visitor() {
    let dir = tempfile::tempdir().unwrap();
    let mut api = Cloud::start(&dir.path().join("api"), &["modules.console.enable=false"]);
    let config = format!("kubeAPIConfig.kubeConfig={}", api.dir.join("admin.conf").display());
    // Another cloudcore, to which that API is a real cluster's.
    let cloud = Cloud::start(&dir.path().join("c"), &[&config]);
    let kubectl = api.kubectl();
    let Err(wrong) = sign_in(&cloud.console, "a.b.c") else { panic!("it came in") };
    assert_eq!(wrong.status, 401);
    allow(&kubectl, "clerk", &["pods"]);
    let cookie = sign_in(&cloud.console, &token(&kubectl, "clerk")).unwrap();
    let stream = Stream::open(&cloud.console, &cookie).unwrap_or_else(|answer| panic!("{answer:?}"));
    let hello = stream.wait("hello", |change| is(change, "hello"));
    assert_eq!(hello["user"], "system:serviceaccount:default:clerk");
    stream.wait("pods", |change| is(change, "synced") && change["kind"] == "pod");
    // As the visitor, not as cloudcore.
    let trouble = stream.wait("nodes", |change| is(change, "trouble") && change["kind"] == "node");
    assert!(trouble["why"].as_str().unwrap().contains("forbidden"), "{trouble}");
    kubectl.apply(&sleeper("web", ""));
    stream.item("pod", "default/web", |pod| pod["status"] == "Pending");

    // Without its API it says so, and takes nobody's token for wrong.
    api.process.kill9();
    let trouble = stream.wait("no pods", |change| is(change, "trouble") && change["kind"] == "pod");
    assert!(trouble["why"].as_str().unwrap().contains("does not answer"), "{trouble}");
    let Err(refused) = Stream::open(&cloud.console, &cookie) else { panic!("nobody could know it") };
    assert_eq!(refused.status, 503);
    api.restart(&["modules.console.enable=false"]);
    let pods = || stream.changes().iter().filter(|it| is(it, "synced") && it["kind"] == "pod").count();
    until("pods are shown again", PATIENCE, || match pods() {
        0 | 1 => Err("not yet".to_owned()),
        _ => Ok(()),
    });
}

#[test]
fn what_happens_in_the_cluster_arrives() {
    let mut world = World::start();
    let kubectl = world.kubectl();
    allow(&kubectl, "viewer", &EVERYTHING);
    let cookie = sign_in(&world.cloud.console, &token(&kubectl, "viewer")).unwrap();
    let open =
        |cookie: &str, at: &str| Stream::open(at, cookie).unwrap_or_else(|answer| panic!("{answer:?}"));
    let stream = open(&cookie, &world.cloud.console);
    for kind in ["node", "pod", "device", "event"] {
        stream.wait(kind, |change| is(change, "synced") && change["kind"] == kind);
    }
    let node = stream.item("node", "edge-1", |node| node["ready"] == "True");
    assert!(node["runtime"].as_str().unwrap().starts_with("containerd://"), "{node}");
    kubectl.apply(&sleeper("web", ""));
    let pod = stream.item("pod", "default/web", |pod| pod["status"] == "Running" && pod["ready"] == 1);
    assert_eq!((&pod["node"], &pod["containers"][0]["state"]), (&json!("edge-1"), &json!("running")));
    stream.wait("its events", |change| {
        change["item"]["kind"] == "event" && change["item"]["reason"] == "Started"
    });

    // An actor panics, and its restart is seen.
    let restarts = |change: &Value, actor: &str| {
        let rows = change["tree"]["actors"].as_array().cloned().unwrap_or_default();
        rows.iter().find(|row| row["name"] == actor).and_then(|row| row["restarts"].as_u64())
    };
    stream.wait("the tree", |change| restarts(change, "Scheduler") == Some(0));
    assert_eq!(http("POST", &world.cloud.monitor, "/actors/Scheduler/panic", &[]).unwrap().0, 202);
    stream.wait("the restart", |change| restarts(change, "Scheduler") == Some(1));

    // Three consoles of one visitor and a fourth; the fifth is one too many.
    let others: Vec<Stream> = (0..3).map(|_| open(&cookie, &world.cloud.console)).collect();
    let Err(refused) = Stream::open(&world.cloud.console, &cookie) else { panic!("five of one token") };
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("5")));
    drop(others);

    // The edge goes away for a while: its page works without the cloud, and the cloud's own comes back.
    let own = sign_in(&world.edge.console, &edge_token(&world.edge)).unwrap();
    world.cloud.process.kill9();
    stream.wait_end();
    assert!(TcpStream::connect(&world.cloud.console).is_err());
    assert_eq!(ask("GET", &world.edge.console, "/console/", &[], "").status, 200);
    let local = open(&own, &world.edge.console);
    let hello = local.wait("hello", |change| is(change, "hello"));
    assert_eq!((&hello["program"], &hello["node"]), (&json!("edgecore"), &json!("edge-1")));
    local.wait("offline", |change| is(change, "link") && change["connected"] == false);
    local.item("pod", "default/web", |pod| pod["status"] == "Running");
    local.item("node", "edge-1", |node| node["ready"] == "True");
    local.wait("its actors", |change| is(change, "actors") && change["source"] == "edge-1");
    local.wait("its events", |change| {
        change["item"]["kind"] == "event" && change["item"]["reason"] == "Started"
    });
    local.wait("devices", |change| is(change, "synced") && change["kind"] == "device");

    world.cloud.restart(&[]);
    let stream = open(&cookie, &world.cloud.console);
    stream.item("pod", "default/web", |pod| pod["status"] == "Running");
    local.wait("online", |change| is(change, "link") && change["connected"] == true);
}

#[test]
fn an_edge_shows_itself_with_no_cloud_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut cloud = Cloud::start(&dir.path().join("c"), &[]);
    let none = dir.path().join("none.sock");
    cloud.process.kill9();
    let edge = Edge::start(&cloud, &dir.path().join("e"), "edge-1", &none, "", &[]);
    let token = edge_token(&edge);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(edge.dir.join("edge/console.token")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let Err(wrong) = sign_in(&edge.console, "not-the-token") else { panic!("it came in") };
    assert_eq!(wrong.status, 401);
    let cookie = sign_in(&edge.console, &token).unwrap();
    let stream = Stream::open(&edge.console, &cookie).unwrap_or_else(|answer| panic!("{answer:?}"));
    // No runtime either: the node says so.
    let node = stream.item("node", "edge-1", |node| node["ready"] == "False");
    assert!(node["why"].as_str().unwrap().contains("container runtime is down"), "{node}");
    stream.wait("devices", |change| is(change, "synced") && change["kind"] == "device");
    stream.wait("pods", |change| is(change, "trouble") && change["kind"] == "pod");

    // Sixty-four consoles and no more; who closes makes room.
    let mut open: Vec<Stream> = (1..64)
        .map(|_| Stream::open(&edge.console, &cookie).unwrap_or_else(|answer| panic!("{answer:?}")))
        .collect();
    let Err(refused) = Stream::open(&edge.console, &cookie) else { panic!("the sixty-fifth") };
    assert_eq!(refused.status, 429);
    assert!(refused.json()["error"].as_str().unwrap().contains("too many"), "{refused:?}");
    open.truncate(10);
    until("there is room", PATIENCE, || {
        Stream::open(&edge.console, &cookie).map(drop).map_err(|_| "429".to_owned())
    });
    drop(open);
}

#[test]
fn who_reads_nothing_is_cut_off_and_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), &[]);
    let kubectl = cloud.kubectl();
    allow(&kubectl, "viewer", &EVERYTHING);
    let cookie = sign_in(&cloud.console, &token(&kubectl, "viewer")).unwrap();
    // More than fits into the sockets between.
    let image = "x".repeat(1_000);
    let containers: Vec<Value> =
        (0..100).map(|n| json!({"name": format!("c{n}"), "image": format!("{image}:{n}")})).collect();
    let pods: Vec<Value> = (10..60)
        .map(|n| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("fat-{n}")},
                "spec": {"containers": containers}})
        })
        .collect();
    kubectl.apply(&json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let deaf = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        socket.connect(cloud.console.parse().unwrap()).await.unwrap().into_std().unwrap()
    });
    deaf.set_nonblocking(false).unwrap();
    let request =
        format!("GET /console/stream HTTP/1.0\r\nHost: {}\r\nCookie: {cookie}\r\n\r\n", cloud.console);
    (&deaf).write_all(request.as_bytes()).unwrap();
    let counted = |line: &str| {
        let (_, text) = http("GET", &cloud.monitor, "/metrics", &[])?;
        let line = text.lines().any(|own| own == line);
        if line { Ok(()) } else { Err(text.lines().filter(|own| own.contains("console")).collect()) }
    };
    until("it is open", PATIENCE, || counted("kubeedge_console_streams 1"));
    let stream = Stream::open(&cloud.console, &cookie).unwrap_or_else(|answer| panic!("{answer:?}"));
    stream.item("pod", "default/fat-59", |_| true);
    let slow = "kubeedge_console_refused_total{reason=\"slow_reader\"} 1";
    until("the deaf one is cut off", PATIENCE, || counted(slow));
    until("its place is free", PATIENCE, || counted("kubeedge_console_streams 1"));
    kubectl.apply(&sleeper("after", ""));
    stream.item("pod", "default/after", |_| true);
    drop(deaf);
}

/// Who reads may ask as much as he likes on one line; who does not is in `neighbours.rs`.
#[test]
fn who_asks_on_and_on_and_reads_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), &[]);
    let mut line = TcpStream::connect(&cloud.console).unwrap();
    line.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET /console/app.js HTTP/1.1\r\nHost: {}\r\n\r\n", cloud.console).repeat(200);
    line.write_all(request.as_bytes()).unwrap();
    let mut answers = Vec::new();
    // The console ends a line on which nothing more is asked.
    line.read_to_end(&mut answers).unwrap();
    let count = String::from_utf8_lossy(&answers).matches("HTTP/1.1 200 OK").count();
    assert_eq!(count, 200);
}

/// One request over TLS; all that came back. The server closes after HTTP/1.0.
fn over_tls(address: &str, tls: Arc<rustls::ClientConfig>, request: &str) -> Result<String, String> {
    let stream = TcpStream::connect(address).map_err(|err| err.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let session = ClientConnection::new(tls, "localhost".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(session, stream);
    stream.write_all(request.as_bytes()).map_err(|err| err.to_string())?;
    let mut answer = Vec::new();
    // The end may come without a goodbye.
    stream.read_to_end(&mut answer).ok();
    match answer.is_empty() {
        true => Err("nothing came back".to_owned()),
        false => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

#[test]
fn over_tls_the_certificate_is_ours_and_the_cookie_secure() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(&dir.path().join("c"), &["modules.console.tls=on"]);
    let ca_pem = fs::read_to_string(cloud.dir.join("ca/rootCA.crt")).unwrap();
    let verified = || identity::client_tls(&ca_pem, None).unwrap();
    let body = json!({"token": token(&cloud.kubectl(), "visitor")}).to_string();
    let request = |address: &str, body: &str| {
        format!(
            "POST /console/session HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let answer = over_tls(&cloud.console, verified(), &request(&cloud.console, &body)).unwrap();
    assert!(
        answer.split(' ').nth(1) == Some("204") && answer.contains("; SameSite=Strict; Secure"),
        "{answer}"
    );
    let plain = http("GET", &cloud.console, "/console/", &[]);
    assert!(!matches!(plain, Ok((200, _))), "{plain:?}");

    // An edge has its certificate from the cloud: its console is there when it has joined.
    let none = dir.path().join("none.sock");
    let settings = ["modules.console.tls=on"];
    let edge = Edge::start(&cloud, &dir.path().join("e"), "edge-1", &none, &cloud.token(), &settings);
    let body = json!({"token": edge_token(&edge)}).to_string();
    let answer = until("the edge's console speaks TLS", PATIENCE, || {
        let blind = identity::client_tls_unverified().unwrap();
        over_tls(&edge.console, blind, &request(&edge.console, &body))
    });
    assert!(answer.split(' ').nth(1) == Some("204") && answer.contains("; Secure"), "{answer}");
}
