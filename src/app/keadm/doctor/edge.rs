//! The edge's own checks: credentials, cloud, runtime, service.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::cloud_https::get;
use super::super::finding::Finding;
use super::super::places::Places;
use super::super::preflight::{Cloud, RUNTIME, clock, dial, look_at_runtime};
use super::files::{self, Content, Pair};
use super::ports::{self, Door};
use super::running;
use crate::actors::edge::edge_hub;
use crate::config::{EdgeCoreConfig, host};
use crate::cri::client::CriClient;
use crate::cri::runtime::Runtime;
use crate::identity::{KeyPair, client_tls};
use crate::model::unix_secs;

const PROGRAM: &str = "edgecore";
/// Longest wait for one answer of the container runtime.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(3);
const CLOUD: [&str; 4] = ["join server", "clock", "node", "CloudHub"];
const REJOIN: &str = "keadm gettoken on the cloud, put that token into modules.edgeHub.bootstrapFile \
                      (0600) and restart edgecore, or keadm reset edge and keadm join";

pub(super) async fn look(places: &Places, now: SystemTime) -> Vec<Finding> {
    let (config, is_valid) = match files::config::<EdgeCoreConfig>(places, "keadm join") {
        Ok(found) => found,
        Err(finding) => return vec![finding],
    };
    let mut all = vec![is_valid];
    all.push(files::data_dir(PROGRAM, &config.data_dir));
    all.push(files::disk(&config.data_dir));
    all.push(files::modes(&secret_files(&config)));
    all.extend(credentials(&config, now));
    all.extend(cloud(&config, now).await);
    all.extend(runtime(&config).await);
    let (service, is_running) = running::service(PROGRAM, config.monitor_address()).await;
    all.extend(ports::look(PROGRAM, &doors(&config), is_running));
    all.push(service);
    all.push(running::session(config.monitor_address(), is_running, unix_secs(now)).await);
    all
}

fn doors(config: &EdgeCoreConfig) -> Vec<Door> {
    let bus = &config.modules.event_bus;
    let mut doors = vec![Door::new("commonConfig.monitorServer.bindAddress", config.monitor_address())];
    if bus.enable && bus.mqtt_mode < 2 {
        let plain = bus.mqtt_server_internal.trim_start_matches("tcp://");
        doors.push(Door::new("modules.eventBus.mqttServerInternal", plain));
        for (key, address) in [
            ("modules.eventBus.internal.tlsAddress", &bus.internal.tls_address),
            ("modules.eventBus.internal.websocketAddress", &bus.internal.websocket_address),
        ] {
            if !address.is_empty() {
                doors.push(Door::new(key, address.as_str()));
            }
        }
    }
    if config.modules.console.enable {
        doors.push(Door::new("modules.console.bindAddress", config.console_address()));
    }
    doors
}

fn secret_files(config: &EdgeCoreConfig) -> Vec<PathBuf> {
    let hub = &config.modules.edge_hub;
    let places = edge_hub::Places::new(hub);
    let mut files = vec![
        places.svid_key,
        places.node_ca_key,
        places.jwt_key,
        config.store_key_file(),
        hub.bootstrap_file.clone(),
        config.data_dir.join("console.token"),
        config.identity.factory_key_file.clone(),
    ];
    files.retain(|file| !file.as_os_str().is_empty());
    files
}

/// What this node shows to the cloud, or what it will join with.
fn credentials(config: &EdgeCoreConfig, now: SystemTime) -> Vec<Finding> {
    const CHECK: &str = "certificate";
    let hub = &config.modules.edge_hub;
    let places = edge_hub::Places::new(hub);
    let has_token = !hub.token.is_empty() || hub.bootstrap_file.exists();
    let factory = &config.identity.factory_cert_file;
    if !places.svid.exists() {
        let shown = places.svid.display();
        if has_token {
            return vec![Finding::ok(
                CHECK,
                format!("{shown} is not there yet; edgecore joins with its token"),
            )];
        }
        if !factory.as_os_str().is_empty() {
            return vec![Finding::ok(
                CHECK,
                format!("{shown} is not there yet; edgecore joins with {}", factory.display()),
            )];
        }
        return vec![Finding::fail(
            CHECK,
            format!("{shown} is missing, and there is no token to join with"),
            REJOIN,
        )];
    }
    let pair =
        |check, cert, key| Pair { check, cert, key: Some(key), roots: &places.roots, fix: REJOIN.to_owned() };
    let mut all = vec![files::pair(&pair(CHECK, &places.svid, &places.svid_key), now)];
    if places.node_ca.exists() {
        all.push(files::pair(&pair("CA of this node", &places.node_ca, &places.node_ca_key), now));
    }
    all
}

/// Join server, clock, node, hub: each needs the one before it.
async fn cloud(config: &EdgeCoreConfig, now: SystemTime) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Err(failed) = ask_cloud(config, now, &mut found).await {
        let after = CLOUD.into_iter().skip_while(|check| *check != failed.check).skip(1);
        let skipped: Vec<Finding> =
            after.map(|check| Finding::skip(check, format!("{} comes first", failed.check))).collect();
        found.push(failed);
        found.extend(skipped);
    }
    found
}

async fn ask_cloud(
    config: &EdgeCoreConfig,
    now: SystemTime,
    found: &mut Vec<Finding>,
) -> Result<(), Finding> {
    let [join, time, known, session] = CLOUD;
    let hub = &config.modules.edge_hub;
    let url: http::Uri = hub.http_server.parse().map_err(|_| {
        Finding::fail(join, format!("{} is no URL", hub.http_server), "correct modules.edgeHub.httpServer")
    })?;
    let place = Cloud {
        host: url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
        port: hub.websocket.server.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(10_000),
        certport: url.port_u16().unwrap_or(443),
    };
    let at = place.authority(place.certport);
    dial(&place.host, place.certport).await.map_err(|why| {
        Finding::fail(
            join,
            format!("{at} cannot be reached: {why}"),
            "start cloudcore there, open the port, or correct modules.edgeHub.httpServer",
        )
    })?;
    let roots = match files::read(&hub.tls_ca_file) {
        Content::Text(text) => text,
        Content::Missing => {
            found.push(Finding::ok(
                join,
                format!("{at} is reached; its certificate is checked once this node joined"),
            ));
            for check in [time, known, session] {
                found.push(Finding::skip(check, "this node has not joined yet"));
            }
            return Ok(());
        }
        Content::Denied => {
            return Err(Finding::skip(join, format!("only root may read {}", hub.tls_ca_file.display())));
        }
        Content::Bad(why) => {
            return Err(Finding::fail(join, format!("{}: {why}", hub.tls_ca_file.display()), REJOIN));
        }
    };
    let tls = client_tls(&roots, None).map_err(|err| {
        Finding::fail(join, format!("{} holds no CA: {err}", hub.tls_ca_file.display()), REJOIN)
    })?;
    let answer = get(&place.host, place.certport, "/ca.crt", &[], Arc::clone(&tls)).await.map_err(|why| {
        let fix = if why.contains("certificate") {
            "another cloud answers there, or its root was replaced: correct modules.edgeHub.httpServer, or keadm reset edge and join anew (a clock that is off looks like this too)"
        } else {
            "cloudcore hangs, or something on the way swallows packets: look there; nothing is wrong with this node's identity"
        };
        Finding::fail(join, format!("https://{at}: {why}"), fix)
    })?;
    found.push(Finding::ok(join, format!("{at} is reached, and is the cloud that this node joined")));
    found.push(match clock(now, answer.date) {
        Ok(text) => Finding::ok(time, text),
        Err(why) => Finding::fail(time, why, "set the time (timedatectl set-ntp true)"),
    });

    let name = &config.modules.edged.hostname_override;
    let name = if name.is_empty() { host().name } else { name.clone() };
    let answer = get(&place.host, place.certport, &format!("/node/{name}"), &[], tls).await;
    found.push(match answer.map(|answer| answer.status) {
        Ok(200) => Finding::ok(known, format!("the cloud has node {name}")),
        Ok(404) => Finding::fail(
            known,
            format!("the cloud has no node {name}"),
            "start edgecore, which registers it; if it was deleted with kubectl, restart edgecore",
        ),
        Ok(status) => Finding::skip(known, format!("the cloud does not tell (HTTP {status})")),
        Err(why) => Finding::skip(known, format!("the cloud does not tell: {why}")),
    });
    found.push(hub_takes_us(config, &place, &roots).await);
    Ok(())
}

/// CloudHub speaks to nodes that are not revoked only; a plain GET is enough to hear what it thinks.
async fn hub_takes_us(config: &EdgeCoreConfig, place: &Cloud, roots: &str) -> Finding {
    const CHECK: &str = "CloudHub";
    let hub = &config.modules.edge_hub;
    let at = place.authority(place.port);
    if let Err(why) = dial(&place.host, place.port).await {
        let fix = "start cloudcore there, open the port, or correct modules.edgeHub.websocket.server";
        return Finding::fail(CHECK, format!("{at} cannot be reached: {why}"), fix);
    }
    let (cert, key) = (files::read(&hub.tls_cert_file), files::read(&hub.tls_private_key_file));
    let (Content::Text(cert_pem), Content::Text(key_pem)) = (cert, key) else {
        return Finding::skip(CHECK, "reached; what it thinks of this node needs the node's key (root)");
    };
    let tls = match client_tls(roots, Some(&KeyPair { cert_pem, key_pem })) {
        Ok(tls) => tls,
        Err(err) => return Finding::skip(CHECK, format!("reached; {err}")),
    };
    let name = config.modules.edged.hostname_override.as_str();
    let path = format!("/{}/{name}/events", hub.project_id);
    match get(&place.host, place.port, &path, &[("ConnectionUse", "msg")], tls).await {
        Ok(answer) if matches!(answer.status, 401 | 403) => {
            let why = String::from_utf8_lossy(&answer.body).into_owned();
            Finding::fail(
                CHECK,
                format!("{at} refuses this node: {why}"),
                format!("keadm node allow {name} on the cloud if it was revoked, then {REJOIN}"),
            )
        }
        Ok(answer) if answer.status == 404 => Finding::fail(
            CHECK,
            format!("{at} is no CloudHub (HTTP 404)"),
            "correct modules.edgeHub.websocket.server: CloudHub's port is 10000 unless it was changed",
        ),
        Ok(_) => Finding::ok(CHECK, format!("{at} is reached and takes this node's certificate")),
        Err(why) => {
            Finding::fail(CHECK, format!("{at} does not take this node's certificate: {why}"), REJOIN)
        }
    }
}

async fn runtime(config: &EdgeCoreConfig) -> Vec<Finding> {
    const KEY: &str = "modules.edged.tailoredKubeletConfig.containerRuntimeEndpoint";
    let endpoint = &config.modules.edged.tailored_kubelet_config.container_runtime_endpoint;
    let socket = endpoint.trim_start_matches("unix://");
    if nix::unistd::access(socket, nix::unistd::AccessFlags::W_OK) == Err(nix::errno::Errno::EACCES) {
        return vec![Finding::skip(RUNTIME, format!("only root may speak to {socket}"))];
    }
    let client = match CriClient::new(endpoint, RUNTIME_TIMEOUT) {
        Ok(client) => client,
        Err(err) => return vec![Finding::fail(RUNTIME, err, format!("correct {KEY}"))],
    };
    let mut found = look_at_runtime(&client, endpoint, KEY).await;
    found.push(pause_image(&client).await);
    found
}

async fn pause_image(runtime: &dyn Runtime) -> Finding {
    const CHECK: &str = "pause image";
    let Ok(images) = runtime.list_images().await else {
        return Finding::skip(CHECK, "the container runtime does not list its images");
    };
    let mut names = images.iter().flat_map(|image| &image.repo_tags);
    match names.find(|name| name.rsplit('/').next().is_some_and(|last| last.starts_with("pause:"))) {
        Some(name) => Finding::ok(CHECK, name),
        None => Finding::skip(
            CHECK,
            "not on this machine yet: the first pod pulls it; offline, ctr -n k8s.io images import it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::fake::FakeRuntime;

    #[tokio::test]
    async fn what_is_missing_is_not_made_up() {
        let fake = FakeRuntime::new();
        assert!(pause_image(&fake).await.to_string().starts_with("skip  pause image: not on this machine"));
        let dir = tempfile::tempdir().expect("temp dir");
        let mut config = EdgeCoreConfig::default();
        let hub = &mut config.modules.edge_hub;
        hub.tls_ca_file = dir.path().join("ca.crt");
        hub.tls_cert_file = dir.path().join("server.crt");
        hub.tls_private_key_file = dir.path().join("server.key");
        hub.bootstrap_file = dir.path().join("token");
        hub.http_server = "https://127.0.0.1:1".into();
        let now = SystemTime::now();
        let found = credentials(&config, now);
        assert!(found[0].text.contains("server.crt is missing, and there is no token"), "{found:?}");
        std::fs::write(dir.path().join("token"), "t").expect("write");
        assert!(credentials(&config, now)[0].text.ends_with("edgecore joins with its token"));
        let lines: Vec<String> = cloud(&config, now).await.iter().map(ToString::to_string).collect();
        assert!(lines[0].starts_with("FAIL  join server: 127.0.0.1:1 cannot be reached: "), "{lines:?}");
        assert_eq!(lines[1..].iter().filter(|line| line.contains("join server comes first")).count(), 3);
    }

    #[test]
    fn doors_are_those_that_open() {
        let mut config = EdgeCoreConfig::default();
        let names = |config: &EdgeCoreConfig| -> Vec<String> {
            doors(config).into_iter().map(|door| door.address).collect()
        };
        assert_eq!(names(&config), ["127.0.0.1:9092", "127.0.0.1:1884", "127.0.0.1:9444"]);
        config.modules.event_bus.internal.tls_address = "0.0.0.0:8883".into();
        config.modules.console.enable = false;
        assert_eq!(names(&config), ["127.0.0.1:9092", "127.0.0.1:1884", "0.0.0.0:8883"]);
        config.modules.event_bus.mqtt_mode = 2;
        assert_eq!(names(&config), ["127.0.0.1:9092"]);
    }
}
