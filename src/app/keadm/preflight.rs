//! What an edge needs before it may join, asked in the order in which a user would fix it. Each check
//! gives one line of good news or fails with one line that says what is missing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_cri::v1::CgroupDriver;
use tokio::net::TcpStream;

use super::Refusal;
use super::cloud_https::get;
use crate::cri::runtime::Runtime;
use crate::identity::{cert_pem_from_der, client_tls, client_tls_unverified, sha256_hex};
use crate::model::NodeName;

/// Longest wait for a TCP connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Clocks further apart than this break certificates and tokens.
const MAX_SKEW: Duration = Duration::from_secs(300);

/// Socket, CNI, cgroup driver: all asked from the runtime, nothing from flags.
pub(super) async fn runtime(runtime: &dyn Runtime, endpoint: &str) -> Result<Vec<String>, Refusal> {
    let version = runtime.version().await.map_err(|err| {
        let why = err.message.replace('\n', " ");
        Refusal::new(format!(
            "container runtime {endpoint} does not answer: {why}; start it, or name its socket with \
             --remote-runtime-endpoint"
        ))
    })?;
    let status = runtime.status().await.map_err(|err| {
        Refusal::new(format!("container runtime {endpoint} does not tell its status: {err}"))
    })?;
    for (name, cure) in [
        ("RuntimeReady", "see the runtime's own log"),
        (
            "NetworkReady",
            "install a CNI configuration (containerd reads /etc/cni/net.d unless told otherwise)",
        ),
    ] {
        let condition = status.conditions.iter().find(|condition| condition.r#type == name);
        let ready = condition.is_some_and(|condition| condition.status);
        if !ready {
            let why = condition.map_or("the runtime does not say why", |condition| condition.message.trim());
            let why = why.replace('\n', " ");
            return Err(Refusal::new(format!(
                "container runtime {endpoint}: {name} is false: {why}; {cure}"
            )));
        }
    }
    let driver = match runtime.cgroup_driver().await {
        Ok(Some(CgroupDriver::Systemd)) => "systemd, as the runtime says",
        Ok(Some(CgroupDriver::Cgroupfs)) => "cgroupfs, as the runtime says",
        Ok(None) | Err(_) => "left to the runtime, which does not tell (containerd before 2.0)",
    };
    Ok(vec![
        format!("container runtime: {} {} at {endpoint}", version.runtime_name, version.runtime_version),
        "CNI: ready".into(),
        format!("cgroup driver: {driver}"),
    ])
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
        let at = cloud.authority(port);
        let dial = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect((cloud.host.as_str(), port)));
        let why = match dial.await {
            Ok(Ok(_)) => continue,
            Ok(Err(err)) => err.to_string(),
            Err(_) => format!("no connection within {} s", DIAL_TIMEOUT.as_secs()),
        };
        return Err(Refusal::new(format!("{flag}: {at} cannot be reached: {why}")));
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
    let clock = match answer.date {
        None => "clock: the cloud does not tell its own".to_owned(),
        Some(theirs) => {
            let (skew, word) = match now.duration_since(theirs) {
                Ok(skew) => (skew, "ahead of"),
                Err(err) => (err.duration(), "behind"),
            };
            if skew > MAX_SKEW {
                return Err(Refusal::new(format!(
                    "clock: this machine is {} s {word} the cloud, at most {} s are allowed; set the time",
                    skew.as_secs(),
                    MAX_SKEW.as_secs()
                )));
            }
            format!("clock: within {} s of the cloud", MAX_SKEW.as_secs())
        }
    };

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
    if let Ok(answer) = get(&cloud.host, cloud.port, "/", &[], tls).await
        && String::from_utf8_lossy(&answer.body).contains("\"Status\"")
    {
        let at = cloud.authority(cloud.port);
        return Err(Refusal::new(format!(
            "--cloudcore-ipport: {at} is a Kubernetes API; CloudHub's port is wanted, 10000 unless it was changed"
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

    use super::super::cloud_https::tests::{ca, serve};
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
        let no_ca = serve(&ours, BTreeMap::new(), date).await;
        let place = |port, certport| Cloud { host: "127.0.0.1".into(), port, certport };
        let name = |text: &str| NodeName::parse(text).expect("name");
        let token = |hash: &str| Means::Token { ca_hash: hash.to_owned(), jwt: "a.b.c".to_owned() };
        let hash = ours.hash_hex();

        let lines = cloud(&place(port, port), &token(&hash), &name("edge-1"), then).await.expect("fine");
        assert_eq!(lines.len(), 5);
        let lines = cloud(&place(port, silent), &token(&hash), &name("edge-1"), then).await.expect("fine");
        assert!(lines[2].contains("does not tell"), "{lines:?}");

        let roots = Means::Roots(ours.cert_pem());
        let lines = cloud(&place(port, port), &roots, &name("edge-1"), then).await.expect("fine");
        assert!(lines.iter().any(|line| line == "CA: the one of --ca-cert"), "{lines:?}");
        let strangers = Means::Roots(ca().cert_pem());
        let err = cloud(&place(port, port), &strangers, &name("edge-1"), then).await.expect_err("strangers");
        assert!(err.message.contains("/ca.crt: "), "{}", err.message);

        let other = "0".repeat(64);
        let (late, early) = (then + Duration::from_secs(301), then - Duration::from_secs(4000));
        for (place, hash, node, now, want) in [
            (place(1, port), &hash, "edge-1", then, "--cloudcore-ipport: 127.0.0.1:1 cannot be reached: "),
            (place(port, 1), &hash, "edge-1", then, "--certport: 127.0.0.1:1 cannot be reached: "),
            (place(port, no_ca), &hash, "edge-1", then, "/ca.crt: HTTP 404"),
            (
                place(port, port),
                &other,
                "edge-1",
                then,
                "--token: it is bound to another CA than the one at 127.0.0.1:",
            ),
            (place(port, port), &hash, "edge-1", late, "clock: this machine is 301 s ahead of the cloud"),
            (place(port, port), &hash, "edge-1", early, "clock: this machine is 4000 s behind the cloud"),
            (place(api, port), &hash, "edge-1", then, "is a Kubernetes API; CloudHub's port is wanted"),
            (place(port, port), &hash, "taken", then, "--edgenode-name: the cloud already has a node taken"),
        ] {
            let err = cloud(&place, &token(hash), &name(node), now).await.expect_err(want).message;
            assert!(err.contains(want) && !err.contains('\n'), "want {want}, got {err}");
        }
        assert_eq!(Cloud { host: "fd00::1".into(), port: 1, certport: 2 }.authority(2), "[fd00::1]:2");
    }
}
