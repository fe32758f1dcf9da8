//! The administrator's way in: certificate of the server, kubeconfig of the administrator.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::identity::{self, Ca, ClientAuth, CloudServerTls, IdentityError};

/// Life of the administrator's certificate, made at each start; at most that of the issuing CA.
const ADMIN_TTL: Duration = Duration::from_secs(365 * 24 * 3600);
/// Life of the server's certificates, renewed at half of it.
const SERVER_TTL: Duration = Duration::from_secs(24 * 3600);

/// TLS for the API server: certificates of `ca` for this host and `names`; client certificates of
/// `ca` are optional, tokens are the other way in.
///
/// # Errors
/// [`IdentityError`] when the certificate cannot be made.
pub fn server_tls(
    ca: &Arc<Ca>,
    listen: SocketAddr,
    names: &[String],
) -> Result<CloudServerTls, IdentityError> {
    let names = server_names(listen, names);
    CloudServerTls::issued(Arc::clone(ca), "kube-apiserver", &names, SERVER_TTL, ClientAuth::Optional)
}

fn server_names(listen: SocketAddr, names: &[String]) -> Vec<String> {
    let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].into_iter().map(str::to_owned).collect();
    let service = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    all.extend(service.into_iter().map(str::to_owned));
    if let Ok(host) = nix::unistd::gethostname()
        && let Some(host) = host.to_str().filter(|host| !host.is_empty())
    {
        all.push(host.to_owned());
    }
    if !listen.ip().is_unspecified() {
        all.push(listen.ip().to_string());
    }
    all.extend(names.iter().cloned());
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|name| seen.insert(name.clone()));
    all
}

/// Where a client on this machine reaches the server.
#[must_use]
pub fn server_url(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V6(ip) if ip.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    format!("https://{ip}:{}", listen.port())
}

/// Writes the administrator's kubeconfig, 0600, with a fresh certificate (`kubernetes-admin` in
/// `system:masters`). Blocks.
///
/// # Errors
/// [`IdentityError`] naming the file.
pub fn write_admin(ca: &Ca, path: &Path, url: &str) -> Result<(), IdentityError> {
    let pair = ca.issue_client("kubernetes-admin", &["system:masters"], ADMIN_TTL)?;
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "kubeedge", "cluster": {
            "server": url, "certificate-authority-data": STANDARD.encode(ca.bundle().roots_pem()),
        }}],
        "users": [{"name": "kubernetes-admin", "user": {
            "client-certificate-data": STANDARD.encode(&pair.cert_pem),
            "client-key-data": STANDARD.encode(&pair.key_pem),
        }}],
        "contexts": [{"name": "kubernetes-admin@kubeedge", "context": {
            "cluster": "kubeedge", "user": "kubernetes-admin", "namespace": "default",
        }}],
        "current-context": "kubernetes-admin@kubeedge",
        "preferences": {},
    });
    let text = yaml_serde::to_string(&config).map_err(|err| IdentityError::File {
        op: "write",
        path: path.to_path_buf(),
        why: err.to_string(),
    })?;
    identity::write_atomic(path, text.as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_reachable() {
        for (listen, want) in [
            ("0.0.0.0:6443", "https://127.0.0.1:6443"),
            ("[::]:6443", "https://127.0.0.1:6443"),
            ("10.1.2.3:7", "https://10.1.2.3:7"),
            ("[::1]:7", "https://[::1]:7"),
        ] {
            assert_eq!(server_url(listen.parse().unwrap()), want);
        }
    }
}
