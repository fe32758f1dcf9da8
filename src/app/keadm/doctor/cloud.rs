//! The cloud's own checks.

use std::path::PathBuf;
use std::time::SystemTime;

use super::super::finding::Finding;
use super::super::places::Places;
use super::super::revocation::client;
use super::files::{self, Pair};
use super::ports::{self, Door};
use super::running;
use crate::config::CloudCoreConfig;
use crate::identity::authority_files;

const PROGRAM: &str = "cloudcore";

pub(super) async fn look(places: &Places, now: SystemTime) -> Vec<Finding> {
    let (config, is_valid) = match files::config::<CloudCoreConfig>(places, "keadm init") {
        Ok(found) => found,
        Err(finding) => return vec![finding],
    };
    let mut all = vec![is_valid];
    all.push(files::data_dir(PROGRAM, &config.data_dir));
    all.push(files::disk(&config.data_dir));
    all.push(files::modes(&secret_files(&config)));
    all.extend(authorities(&config, now));
    let (service, is_running) = running::service(PROGRAM, config.monitor_address()).await;
    all.extend(ports::look(PROGRAM, &doors(&config), is_running));
    all.push(service);
    all.push(api(&config, is_running).await);
    all
}

fn doors(config: &CloudCoreConfig) -> Vec<Door> {
    let (hub, api) = (&config.modules.cloud_hub, &config.modules.api_server);
    let join = |address: &str, port: u16| {
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    };
    let mut doors = vec![
        Door::new("modules.cloudHub.websocket", join(&hub.websocket.address, hub.websocket.port)),
        Door::new("modules.cloudHub.https", join(&hub.https.address, hub.https.port)),
        Door::new("commonConfig.monitorServer.bindAddress", config.monitor_address()),
    ];
    if config.serves_api() {
        doors.push(Door::new("modules.apiServer.port", join(&api.address, api.port)));
    }
    if config.modules.console.enable {
        doors.push(Door::new("modules.console.bindAddress", config.console_address()));
    }
    doors
}

fn secret_files(config: &CloudCoreConfig) -> Vec<PathBuf> {
    let hub = &config.modules.cloud_hub;
    let mut files: Vec<PathBuf> = authority_files(&hub.tls_ca_file, &hub.tls_ca_key_file)
        .into_iter()
        .filter(|file| file.extension().is_some_and(|end| end == "key" || end == "next"))
        .collect();
    files.extend([
        hub.tls_private_key_file.clone(),
        config.token_key_file(),
        config.service_account_key_file(),
        config.modules.api_server.kubeconfig.clone(),
        config.identity.keys.pkcs11_pin_file.clone(),
    ]);
    files.retain(|file| !file.as_os_str().is_empty());
    files
}

/// Root and issuing CA. A root whose key is kept elsewhere is as it should be.
fn authorities(config: &CloudCoreConfig, now: SystemTime) -> Vec<Finding> {
    let hub = &config.modules.cloud_hub;
    let on_token = !config.identity.keys.pkcs11_module.as_os_str().is_empty();
    let root = &hub.tls_ca_file;
    let root_key = (!on_token && hub.tls_ca_key_file.exists()).then_some(hub.tls_ca_key_file.as_path());
    let fix = "put it back from a backup (a new one makes every node join again)".to_owned();
    let first = Pair { check: "root CA", cert: root, key: root_key, roots: root, fix };
    let (cert, key) = (
        hub.tls_ca_key_file.with_file_name("issuing.crt"),
        hub.tls_ca_key_file.with_file_name("issuing.key"),
    );
    let mut all = vec![files::pair(&first, now)];
    if cert.exists() || key.exists() {
        let fix = "put the root's key in place and restart cloudcore, which makes a new one".to_owned();
        let key = (!on_token).then_some(key.as_path());
        all.push(files::pair(&Pair { check: "issuing CA", cert: &cert, key, roots: &cert, fix }, now));
    } else {
        all.push(Finding::skip("issuing CA", "cloudcore makes it when it starts"));
    }
    all
}

/// Does the Kubernetes API answer the administrator?
async fn api(config: &CloudCoreConfig, is_running: bool) -> Finding {
    const CHECK: &str = "Kubernetes API";
    if config.serves_api() && !is_running {
        return Finding::skip(CHECK, "cloudcore does not run");
    }
    let fix = if config.serves_api() {
        "see cloudcore's log; restart it: it writes a new kubeconfig"
    } else {
        "correct kubeAPIConfig, or start that API server"
    };
    let client = match client(config).await {
        Ok(client) => client,
        Err(refusal) => return Finding::fail(CHECK, refusal, fix),
    };
    match client.apiserver_version().await {
        Ok(version) => Finding::ok(CHECK, format!("answers as {}", version.git_version)),
        Err(err) => Finding::fail(CHECK, crate::app::program::chain(&err), fix),
    }
}
