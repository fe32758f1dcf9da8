//! `keadm console`: where the console is, and a token to sign in with.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Refusal;
use super::places::Places;
use super::revocation::{NAMESPACE, api_failed, client, created};
use super::side::Side;
use crate::config::{CloudCoreConfig, ConsoleConfig, ConsoleTls, EdgeCoreConfig, load};
use crate::kube::rbac::GROUP;

/// Service account whose token is given out; also the ClusterRole with what `view` has not.
const ACCOUNT: &str = "console";
const ROLE: &str = "kubeedge-console";
/// Kubernetes gives no shorter token.
const SHORTEST: Duration = Duration::from_secs(600);

#[derive(Debug, Args)]
pub(super) struct ConsoleArgs {
    /// Whose console [default: the cloud's where both are on this machine]
    side: Option<Side>,
    /// How long the cloud's token is good, in minutes (10m), hours (1h) or days (1d)
    #[arg(long, default_value = "1h", value_parser = duration)]
    duration: Duration,
    /// Prints the token only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    places: Places,
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "it is not a time such as 30m, 1h or 2d".to_owned();
    let unit = match text.bytes().last() {
        Some(b'm') => 60,
        Some(b'h') => 3_600,
        Some(b'd') => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = text.get(..text.len() - 1).and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
    let time = Duration::from_secs(u64::from(number) * unit);
    if time < SHORTEST { Err("the shortest is 10m".to_owned()) } else { Ok(time) }
}

pub(super) async fn console(args: &ConsoleArgs, out: &mut dyn Write) -> Result<(), Refusal> {
    let (url, token, until) = match Side::one(args.side, &args.places)? {
        Side::Cloud => {
            let config = args.places.load_cloud()?.config;
            let url = url(&config.modules.console, config.console_address())?;
            let (token, until) = cloud_token(&config, args.duration).await?;
            (url, token, format!("good until {until}; it may read everything but Secrets"))
        }
        Side::Edge => {
            let config = load::<EdgeCoreConfig>(&args.places.config("edgecore"))?.config;
            let url = url(&config.modules.console, config.console_address())?;
            let file = config.data_dir.join("console.token");
            let token = edge_token(&file)?;
            (url, token, format!("of {}; good as long as that file", file.display()))
        }
    };
    if args.quiet {
        return Ok(writeln!(out, "{token}")?);
    }
    writeln!(out, "URL    {url}\ntoken  {token}\n       {until}")?;
    Ok(())
}

/// Where a browser on this machine finds it.
fn url(config: &ConsoleConfig, address: &str) -> Result<String, Refusal> {
    if !config.enable {
        return Err(Refusal::new("modules.console.enable is false: there is no console"));
    }
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let ip: Option<IpAddr> = address.parse::<SocketAddr>().ok().map(|at| at.ip());
    let local = host == "localhost" || ip.is_some_and(|ip| ip.to_canonical().is_loopback());
    let tls = match config.tls {
        ConsoleTls::On => true,
        ConsoleTls::Off => false,
        ConsoleTls::Auto => !local,
    };
    let scheme = if tls { "https" } else { "http" };
    let host = match ip {
        Some(ip) if ip.is_unspecified() => "127.0.0.1",
        _ => host,
    };
    Ok(format!("{scheme}://{host}:{port}/console/"))
}

fn edge_token(file: &Path) -> Result<String, Refusal> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            let file = file.display();
            Err(Refusal::new(format!("{file} does not exist: start edgecore, which makes it")))
        }
        Err(err) => Err(Refusal::new(format!("cannot read {}: {err}", file.display()))),
    }
}

/// Makes what the token needs to be of use, then a fresh token and its end.
async fn cloud_token(config: &CloudCoreConfig, life: Duration) -> Result<(String, String), Refusal> {
    let client = client(config).await?;
    let create = PostParams::default();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = object(json!({"metadata": {"name": NAMESPACE}}))?;
    created(namespaces.create(&create, &namespace).await, "namespace kubeedge")?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let account = object(json!({"metadata": {"name": ACCOUNT}}))?;
    created(accounts.create(&create, &account).await, "serviceaccount kubeedge/console")?;

    let roles: Api<ClusterRole> = Api::all(client.clone());
    let what = format!("clusterrole {ROLE}");
    let role = json!({"metadata": {"name": ROLE}, "rules": rules()});
    created(roles.create(&create, &object(role)?).await, &what)?;
    // One of an older version gets today's rules.
    let patch = Patch::Merge(json!({"rules": rules()}));
    let patched = roles.patch(ROLE, &PatchParams::default(), &patch).await;
    patched.map_err(|err| api_failed(&what, &err))?;

    let bindings: Api<ClusterRoleBinding> = Api::all(client);
    for (name, role) in [(ROLE, ROLE), ("kubeedge-console-view", "view")] {
        let binding = json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "namespace": NAMESPACE, "name": ACCOUNT}],
        });
        let what = format!("clusterrolebinding {name}");
        created(bindings.create(&create, &object(binding)?).await, &what)?;
    }

    let spec = TokenRequestSpec {
        expiration_seconds: Some(i64::try_from(life.as_secs()).unwrap_or(3_600)),
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer = accounts.create_token_request(ACCOUNT, &create, &request).await;
    let answer = answer.map_err(|err| api_failed("token of serviceaccount kubeedge/console", &err))?;
    let status = answer.status.ok_or_else(|| Refusal::new("the API gave no token"))?;
    Ok((status.token, status.expiration_timestamp.0.to_string()))
}

/// Nodes are of the cluster and in no namespace: `view` does not have them.
fn rules() -> Value {
    let read = ["get", "list", "watch"];
    json!([
        {"apiGroups": [""], "resources": ["nodes", "events", "pods"], "verbs": read},
        {"apiGroups": ["devices.kubeedge.io"], "resources": ["devices", "devicemodels", "devicestatuses"],
            "verbs": read},
    ])
}

fn object<T: DeserializeOwned>(value: Value) -> Result<T, Refusal> {
    serde_json::from_value(value).map_err(|err| Refusal::new(err.to_string()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::keadm;
    use super::*;

    #[test]
    fn urls_are_reachable() {
        let with = |tls| ConsoleConfig { tls, ..ConsoleConfig::default() };
        for (tls, address, want) in [
            (ConsoleTls::Auto, "127.0.0.1:9443", "http://127.0.0.1:9443/console/"),
            (ConsoleTls::Auto, "0.0.0.0:9443", "https://127.0.0.1:9443/console/"),
            (ConsoleTls::Auto, "localhost:1", "http://localhost:1/console/"),
            (ConsoleTls::Auto, "[::1]:9443", "http://[::1]:9443/console/"),
            (ConsoleTls::On, "127.0.0.1:9443", "https://127.0.0.1:9443/console/"),
            (ConsoleTls::Off, "10.0.0.7:9443", "http://10.0.0.7:9443/console/"),
        ] {
            assert_eq!(url(&with(tls), address).expect("enabled"), want);
        }
        let off = ConsoleConfig { enable: false, ..ConsoleConfig::default() };
        assert!(url(&off, "127.0.0.1:1").expect_err("off").message.contains("modules.console.enable"));
    }

    #[test]
    fn durations() {
        for (text, want) in [
            ("10m", Some(600)),
            ("1h", Some(3_600)),
            ("2d", Some(172_800)),
            ("9m", None),
            ("x", None),
            ("", None),
            ("h", None),
            ("1µ", None),
        ] {
            assert_eq!(duration(text).ok().map(|time| time.as_secs()), want, "{text}");
        }
    }

    #[tokio::test]
    async fn the_edges_token_is_the_one_of_its_file() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().display().to_string();
        let args = ["console", "--root", &root];
        let err = keadm(&args).await.expect_err("nothing here");
        assert!(err.contains("edgecore.yaml exists: run keadm init"), "{err}");
        fs::create_dir_all(dir.path().join("etc/kubeedge/config")).expect("folder");
        let config = format!("dataDir: {root}/data\n");
        fs::write(dir.path().join("etc/kubeedge/config/edgecore.yaml"), config).expect("write");
        let err = keadm(&args).await.expect_err("no token");
        assert!(err.contains("console.token does not exist: start edgecore"), "{err}");
        fs::create_dir_all(dir.path().join("data")).expect("folder");
        fs::write(dir.path().join("data/console.token"), "abc\n").expect("write");
        let said = keadm(&args).await.expect("token");
        assert!(said.starts_with("URL    http://127.0.0.1:9444/console/\ntoken  abc\n"), "{said}");
        assert_eq!(keadm(&["console", "-q", "--root", &root]).await.expect("token"), "abc\n");
    }
}
