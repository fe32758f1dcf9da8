//! What an edge needs before it may join, asked in the order in which a user would fix it. Each check
//! gives one line of good news or fails with one line that says what is missing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_cri::v1::CgroupDriver;
use tokio::net::TcpStream;

use super::Refusal;
use super::cloud_https::get;
use super::finding::Finding;
use crate::cri::runtime::Runtime;
use crate::identity::{cert_pem_from_der, client_tls, client_tls_unverified, sha256_hex};
use crate::model::NodeName;

/// Longest wait for a TCP connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Clocks further apart than this break certificates and tokens.
const MAX_SKEW: Duration = Duration::from_secs(300);

/// What is looked at, in this order; the first that fails makes the others pointless.
pub(super) const RUNTIME: &str = "container runtime";
pub(super) const CNI: &str = "CNI";
pub(super) const CGROUP_DRIVER: &str = "cgroup driver";

/// Socket, CNI, cgroup driver: all asked from the runtime, nothing from flags.
pub(super) async fn runtime(runtime: &dyn Runtime, endpoint: &str) -> Result<Vec<String>, Refusal> {
    let findings = look_at_runtime(runtime, endpoint, "--remote-runtime-endpoint").await;
    match findings.iter().find(|finding| finding.failed()) {
        Some(failed) => Err(Refusal::new(format!("container runtime {}; {}", failed.text, failed.fix))),
        None => Ok(findings.iter().map(|finding| format!("{}: {}", finding.check, finding.text)).collect()),
    }
}

/// The same, for whoever wants to see everything. `named_by` is where the endpoint comes from.
pub(super) async fn look_at_runtime(runtime: &dyn Runtime, endpoint: &str, named_by: &str) -> Vec<Finding> {
    let version = match runtime.version().await {
        Ok(version) => version,
        Err(err) => {
            let text = format!("{endpoint} does not answer: {}", err.message);
            return vec![Finding::fail(
                RUNTIME,
                text,
                format!("start it, or name its socket with {named_by}"),
            )];
        }
    };
    let name = format!("{} {} at {endpoint}", version.runtime_name, version.runtime_version);
    let status = match runtime.status().await {
        Ok(status) => status,
        Err(err) => {
            let text = format!("{endpoint} does not tell its status: {err}");
            return vec![Finding::fail(RUNTIME, text, "see the runtime's own log")];
        }
    };
    let mut findings = Vec::new();
    for (condition, check, well, cure) in [
        ("RuntimeReady", RUNTIME, name.as_str(), "see the runtime's own log"),
        (
            "NetworkReady",
            CNI,
            "ready",
            "install a CNI configuration (containerd reads /etc/cni/net.d unless told otherwise)",
        ),
    ] {
        let found = status.conditions.iter().find(|it| it.r#type == condition);
        if found.is_some_and(|it| it.status) {
            findings.push(Finding::ok(check, well));
        } else {
            let why = found.map_or("the runtime does not say why", |it| it.message.trim());
            findings.push(Finding::fail(check, format!("{endpoint}: {condition} is false: {why}"), cure));
        }
    }
    let driver = match runtime.cgroup_driver().await {
        Ok(Some(CgroupDriver::Systemd)) => "systemd, as the runtime says",
        Ok(Some(CgroupDriver::Cgroupfs)) => "cgroupfs, as the runtime says",
        Ok(None) | Err(_) => "left to the runtime, which does not tell (containerd before 2.0)",
    };
    findings.push(Finding::ok(CGROUP_DRIVER, driver));
    findings
}

/// Where the cloud is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cloud {
    pub host: String,
    /// Of the websocket.
    pub port: u16,
    /// Of the join server.
    pub certport: u16,
}

impl Cloud {
    /// `host:port` as a URL has it.
    pub fn authority(&self, port: u16) -> String {
        if self.host.contains(':') {
            format!("[{}]:{port}", self.host)
        } else {
            format!("{}:{port}", self.host)
        }
    }
}

/// Does anything listen there?
pub(super) async fn dial(host: &str, port: u16) -> Result<(), String> {
    match tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(err)) => Err(err.to_string()),
        Err(_) => Err(format!("no connection within {} s", DIAL_TIMEOUT.as_secs())),
    }
}

/// This machine's clock beside the cloud's.
pub(super) fn clock(now: SystemTime, cloud: Option<SystemTime>) -> Result<String, String> {
    let Some(cloud) = cloud else { return Ok("the cloud does not tell its own".to_owned()) };
    let (skew, word) = match now.duration_since(cloud) {
        Ok(skew) => (skew, "ahead of"),
        Err(err) => (err.duration(), "behind"),
    };
    let most = MAX_SKEW.as_secs();
    if skew > MAX_SKEW {
        let skew = skew.as_secs();
        return Err(format!("this machine is {skew} s {word} the cloud, at most {most} s are allowed"));
    }
    Ok(format!("within {most} s of the cloud"))
}

/// What the edge will join with, as far as the cloud can be asked about it beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Means {
    Token {
        ca_hash: String,
        jwt: String,
    },
    /// A factory certificate; these roots (PEM) tell the right cloud.
    Roots(String),
}

/// Ports, CA, clock, name, token.
pub(super) async fn cloud(
    cloud: &Cloud,
    means: &Means,
    node: &NodeName,
    now: SystemTime,
) -> Result<Vec<String>, Refusal> {
    for (port, flag) in [(cloud.port, "--cloudcore-ipport"), (cloud.certport, "--certport")] {
        dial(&cloud.host, port).await.map_err(|why| {
            Refusal::new(format!("{flag}: {} cannot be reached: {why}", cloud.authority(port)))
        })?;
    }
    let at = cloud.authority(cloud.certport);
    let failed = |path: &str, why: String| Refusal::new(format!("https://{at}{path}: {why}"));

    let tls = match means {
        Means::Token { .. } => client_tls_unverified()?,
        Means::Roots(pem) => client_tls(pem, None)?,
    };
    let answer =
        get(&cloud.host, cloud.certport, "/ca.crt", &[], tls).await.map_err(|why| failed("/ca.crt", why))?;
    if answer.status != 200 {
        return Err(failed("/ca.crt", format!("HTTP {}: is this cloudcore's join server?", answer.status)));
    }
    if let Means::Token { ca_hash, .. } = means
        && sha256_hex(&answer.body) != *ca_hash
    {
        return Err(Refusal::new(format!(
            "--token: it is bound to another CA than the one at {at}; get a new one there (keadm gettoken)"
        )));
    }
    let clock = clock(now, answer.date).map_err(|why| Refusal::new(format!("clock: {why}; set the time")))?;
    let clock = format!("clock: {clock}");

    // From here on the server must show a certificate of that CA for the address dialled.
    let tls = match means {
        Means::Token { .. } => client_tls(&cert_pem_from_der(&answer.body), None)?,
        Means::Roots(pem) => client_tls(pem, None)?,
    };
    let path = format!("/node/{node}");
    let answer = get(&cloud.host, cloud.certport, &path, &[], Arc::clone(&tls))
        .await
        .map_err(|why| failed(&path, why))?;
    match answer.status {
        404 => {}
        200 => {
            return Err(Refusal::new(format!(
                "--edgenode-name: the cloud already has a node {node}; choose another name, or kubectl delete node {node}"
            )));
        }
        status => return Err(failed(&path, format!("HTTP {status}"))),
    }
    let by = match means {
        Means::Roots(_) => "factory certificate: the cloud judges it when edgecore joins",
        Means::Token { jwt, .. } => {
            // Without a certificate request it signs nothing and spends no token, but looks at it first.
            let bearer = format!("Bearer {jwt}");
            let headers = [("NodeName", node.as_str()), ("Authorization", bearer.as_str())];
            let path = "/edge.crt";
            let answer = get(&cloud.host, cloud.certport, path, &headers, Arc::clone(&tls))
                .await
                .map_err(|why| failed(path, why))?;
            if matches!(answer.status, 401 | 403) {
                let why = String::from_utf8_lossy(&answer.body);
                return Err(Refusal::new(format!(
                    "--token: the cloud refuses it: {}; get a new one there (keadm gettoken)",
                    why.trim().replace('\n', " ")
                )));
            }
            "token: accepted"
        }
    };
    // CloudHub does not speak to strangers: whatever answers here is something else.
    if let Ok(answer) = get(&cloud.host, cloud.port, "/", &[], tls).await {
        let at = cloud.authority(cloud.port);
        let is_api = String::from_utf8_lossy(&answer.body).contains("\"Status\"");
        let what = if is_api { "a Kubernetes API" } else { "no CloudHub" };
        return Err(Refusal::new(format!(
            "--cloudcore-ipport: {at} is {what}; CloudHub's port is wanted, 10000 unless it was changed"
        )));
    }
    Ok(vec![
        format!("cloud: reached at {} and {at}", cloud.authority(cloud.port)),
        match means {
            Means::Token { .. } => "CA: the one the token is bound to".into(),
            Means::Roots(_) => "CA: the one of --ca-cert".into(),
        },
        clock,
        format!("node name: {node} is free"),
        by.into(),
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::cloud_https::tests::{ca, hub, serve};
    use super::*;
    use crate::cri::fake::FakeRuntime;
    use crate::cri::runtime::CriErrorKind;

    #[tokio::test]
    async fn what_the_runtime_lacks() {
        let fake = FakeRuntime::new();
        let lines = runtime(&fake, "unix:///x.sock").await.expect("ready");
        assert!(lines[2].contains("cgroupfs"), "{lines:?}");

        fake.set_condition("NetworkReady", false, "cni plugin not initialized\n");
        let err = runtime(&fake, "unix:///x.sock").await.expect_err("no CNI").message;
        assert_eq!(
            err,
            "container runtime unix:///x.sock: NetworkReady is false: cni plugin not initialized; install a CNI \
             configuration (containerd reads /etc/cni/net.d unless told otherwise)"
        );
        fake.set_condition("RuntimeReady", false, "shutting down");
        let err = runtime(&fake, "unix:///x.sock").await.expect_err("not ready").message;
        assert!(err.contains("RuntimeReady is false: shutting down"), "{err}");
        fake.set_down(true);
        let err = runtime(&fake, "unix:///x.sock").await.expect_err("down").message;
        assert!(err.starts_with("container runtime unix:///x.sock does not answer: "), "{err}");
        fake.set_down(false);
        fake.fail("Status", CriErrorKind::Other, "odd");
        let err = runtime(&fake, "unix:///x.sock").await.expect_err("no status").message;
        assert!(err.contains("does not tell its status"), "{err}");

        let old = FakeRuntime::new();
        old.fail("RuntimeConfig", CriErrorKind::Other, "unknown method");
        let lines = runtime(&old, "unix:///x.sock").await.expect("containerd 1.6");
        assert!(lines[2].contains("left to the runtime"), "{lines:?}");
    }

    #[tokio::test]
    async fn what_the_cloud_says() {
        let ours = ca();
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let then = std::time::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let answers = |node: &str| {
            BTreeMap::from([
                ("/ca.crt".to_owned(), ours.cert_der()),
                (format!("/node/{node}"), b"Node found".to_vec()),
            ])
        };
        let port = serve(&ours, answers("taken"), date).await;
        let silent = serve(&ours, answers("taken"), "").await;
        let status = BTreeMap::from([("/".to_owned(), br#"{"kind":"Status"}"#.to_vec())]);
        let api = serve(&ours, status, date).await;
        let (no_ca, hub) = (serve(&ours, BTreeMap::new(), date).await, hub().await);
        let place = |port, certport| Cloud { host: "127.0.0.1".into(), port, certport };
        let name = |text: &str| NodeName::parse(text).expect("name");
        let token = |hash: &str| Means::Token { ca_hash: hash.to_owned(), jwt: "a.b.c".to_owned() };
        let hash = ours.hash_hex();

        let lines = cloud(&place(hub, port), &token(&hash), &name("edge-1"), then).await.expect("fine");
        assert_eq!(lines.len(), 5);
        let lines = cloud(&place(hub, silent), &token(&hash), &name("edge-1"), then).await.expect("fine");
        assert!(lines[2].contains("does not tell"), "{lines:?}");

        let roots = Means::Roots(ours.cert_pem());
        let lines = cloud(&place(hub, port), &roots, &name("edge-1"), then).await.expect("fine");
        assert!(lines.iter().any(|line| line == "CA: the one of --ca-cert"), "{lines:?}");
        let strangers = Means::Roots(ca().cert_pem());
        let err = cloud(&place(hub, port), &strangers, &name("edge-1"), then).await.expect_err("strangers");
        assert!(err.message.contains("/ca.crt: "), "{}", err.message);

        let other = "0".repeat(64);
        let (late, early) = (then + Duration::from_secs(301), then - Duration::from_secs(4000));
        for (place, hash, node, now, want) in [
            (place(1, port), &hash, "edge-1", then, "--cloudcore-ipport: 127.0.0.1:1 cannot be reached: "),
            (place(hub, 1), &hash, "edge-1", then, "--certport: 127.0.0.1:1 cannot be reached: "),
            (place(hub, no_ca), &hash, "edge-1", then, "/ca.crt: HTTP 404"),
            (
                place(hub, port),
                &other,
                "edge-1",
                then,
                "--token: it is bound to another CA than the one at 127.0.0.1:",
            ),
            (place(hub, port), &hash, "edge-1", late, "clock: this machine is 301 s ahead of the cloud"),
            (place(hub, port), &hash, "edge-1", early, "clock: this machine is 4000 s behind the cloud"),
            (place(api, port), &hash, "edge-1", then, "is a Kubernetes API; CloudHub's port is wanted"),
            (place(port, port), &hash, "edge-1", then, "is no CloudHub; CloudHub's port is wanted"),
            (place(hub, port), &hash, "taken", then, "--edgenode-name: the cloud already has a node taken"),
        ] {
            let err = cloud(&place, &token(hash), &name(node), now).await.expect_err(want).message;
            assert!(err.contains(want) && !err.contains('\n'), "want {want}, got {err}");
        }
        assert_eq!(Cloud { host: "fd00::1".into(), port: 1, certport: 2 }.authority(2), "[fd00::1]:2");
    }
}
