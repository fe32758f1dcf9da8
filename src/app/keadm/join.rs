//! `keadm join`: checks, then edgecore's config file and the file that holds the join token.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;

use super::Refusal;
use super::places::Places;
use super::preflight::{Cloud, Means, cloud, runtime};
use crate::config::{EdgeCoreConfig, differing_keys, parse};
use crate::cri::client::CriClient;
use crate::cri::runtime::Runtime;
use crate::identity::{KEY_MODE, KeyPair, PUBLIC_MODE, client_tls, split_join_token, write_atomic};
use crate::kube::names::{label_value, qualified_name};
use crate::model::NodeName;

/// Longest wait for one answer of the container runtime.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct JoinArgs {
    /// CloudHub's websocket, host:port
    #[arg(short = 'e', long, value_parser = host_port)]
    cloudcore_ipport: (String, u16),
    /// Token of keadm gettoken; it works once
    #[arg(short, long, required_unless_present = "factory_cert")]
    token: Option<String>,
    /// Certificate of this machine's factory, PEM: joins without a token
    #[arg(long, value_name = "FILE", requires = "factory_key", requires = "ca_cert")]
    factory_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "factory_cert")]
    factory_key: Option<PathBuf>,
    /// Root certificate of the cloud, PEM: without a token nothing else tells the right cloud
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    ca_cert: Option<PathBuf>,
    /// Name of this node [default: the host's name]
    #[arg(short = 'i', long)]
    edgenode_name: Option<String>,
    /// Socket of the container runtime
    #[arg(short = 'p', long, default_value = "unix:///run/containerd/containerd.sock")]
    remote_runtime_endpoint: String,
    /// Port of the cloud's join server
    #[arg(short = 's', long, default_value_t = 10002)]
    certport: u16,
    /// Labels of the node, key=value, comma-separated
    #[arg(short, long, value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,
    /// Sets one key of the config file; may be repeated
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    places: Places,
}

fn host_port(text: &str) -> Result<(String, u16), String> {
    let wrong = || "it is not host:port, such as 192.0.2.10:10000".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?.to_string(),
        None if host.is_empty() || host.contains([':', '/', '@', ' ']) => return Err(wrong()),
        None => host.to_owned(),
    };
    Ok((host, port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?))
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is not key=value")?;
    match qualified_name(key).into_iter().chain(label_value(value)).next() {
        None => Ok((key.to_owned(), value.to_owned())),
        Some(why) => Err(why),
    }
}

pub(super) async fn join(args: &JoinArgs, now: SystemTime, out: &mut dyn Write) -> Result<(), Refusal> {
    let endpoint = &args.remote_runtime_endpoint;
    let client = CriClient::new(endpoint, RUNTIME_TIMEOUT)
        .map_err(|err| Refusal::new(format!("--remote-runtime-endpoint: {err}")))?;
    join_on(&client, args, now, out).await
}

async fn join_on(
    container_runtime: &dyn Runtime,
    args: &JoinArgs,
    now: SystemTime,
    out: &mut dyn Write,
) -> Result<(), Refusal> {
    // What can be wrong without asking anyone comes first; nothing is written before all is well.
    let path = args.places.config("edgecore");
    if path.exists() {
        let path = path.display();
        return Err(Refusal::new(format!("{path} exists: this machine has joined; keadm reset edge first")));
    }
    let means = means(args)?;
    let node = node_name(args.edgenode_name.as_deref())?;
    let (host, port) = args.cloudcore_ipport.clone();
    let place = Cloud { host, port, certport: args.certport };
    let config = config(args, &place, &node)?;

    let mut lines = runtime(container_runtime, &args.remote_runtime_endpoint).await?;
    lines.extend(cloud(&place, &means, &node, now).await?);
    for line in lines {
        writeln!(out, "ok      {line}")?;
    }

    let hub = &config.modules.edge_hub;
    let written = match (&means, &args.token) {
        (Means::Roots(pem), _) => {
            write_atomic(&hub.tls_ca_file, pem.as_bytes(), KEY_MODE)?;
            format!("CA      {} (written)", hub.tls_ca_file.display())
        }
        (Means::Token { .. }, token) => {
            let token = token.as_deref().unwrap_or_default().trim();
            write_atomic(&hub.bootstrap_file, format!("{token}\n").as_bytes(), KEY_MODE)?;
            let file = hub.bootstrap_file.display();
            format!("token   {file} (written; edgecore removes it once it has a certificate)")
        }
    };
    let text = format!(
        "# Written by keadm join: what differs from the defaults (edgecore --defaultconfig prints them).\n{}",
        differing_keys(&config).map_err(Refusal::new)?
    );
    write_atomic(&path, text.as_bytes(), PUBLIC_MODE)?;
    writeln!(out, "config  {} (written)", path.display())?;
    writeln!(out, "{written}")?;
    writeln!(out, "\nStart the edge:\n\n  edgecore --config {}", args.places.config_shown("edgecore"))?;
    Ok(())
}

/// What the options give to join with.
fn means(args: &JoinArgs) -> Result<Means, Refusal> {
    let Some(token) = &args.token else {
        let file = |flag: &str, path: Option<&PathBuf>| {
            let path = path.map(PathBuf::as_path).unwrap_or(Path::new(""));
            std::fs::read_to_string(path)
                .map_err(|err| Refusal::new(format!("{flag}: cannot read {}: {err}", path.display())))
        };
        let pair = KeyPair {
            cert_pem: file("--factory-cert", args.factory_cert.as_ref())?,
            key_pem: file("--factory-key", args.factory_key.as_ref())?,
        };
        let roots = file("--ca-cert", args.ca_cert.as_ref())?;
        client_tls(&roots, None).map_err(|err| Refusal::new(format!("--ca-cert: {err}")))?;
        // Compares the key with the certificate.
        client_tls(&roots, Some(&pair)).map_err(|err| Refusal::new(format!("--factory-cert: {err}")))?;
        return Ok(Means::Roots(roots));
    };
    let (ca_hash, jwt) = split_join_token(token)?;
    Ok(Means::Token { ca_hash, jwt })
}

fn node_name(asked: Option<&str>) -> Result<NodeName, Refusal> {
    match asked {
        Some(name) => NodeName::parse(name).map_err(|err| Refusal::new(format!("--edgenode-name: {err}"))),
        None => {
            let host =
                nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
            NodeName::parse(&host.to_lowercase()).map_err(|err| {
                Refusal::new(format!("this host's name cannot name a node: {err}; use --edgenode-name"))
            })
        }
    }
}

fn config(args: &JoinArgs, place: &Cloud, node: &NodeName) -> Result<EdgeCoreConfig, Refusal> {
    let mut config = args.places.edge_defaults();
    let hub = &mut config.modules.edge_hub;
    let cloud = args.places.below(Path::new("/etc/kubeedge/config/cloudcore.yaml"));
    if cloud.exists() || hub.tls_ca_file.with_extension("key").exists() {
        // A cloud on the same machine has its own files at the default places.
        for (path, name) in [
            (&mut hub.tls_ca_file, "rootCA.crt"),
            (&mut hub.tls_cert_file, "server.crt"),
            (&mut hub.tls_private_key_file, "server.key"),
        ] {
            *path = args.places.below(&Path::new("/etc/kubeedge/edge").join(name));
        }
    }
    if let (Some(cert), Some(key)) = (&args.factory_cert, &args.factory_key) {
        // They stay where they are; edgecore may start in another folder.
        let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        (config.identity.factory_cert_file, config.identity.factory_key_file) = (whole(cert), whole(key));
    }
    let hub = &mut config.modules.edge_hub;
    hub.http_server = format!("https://{}", place.authority(place.certport));
    hub.websocket.server = place.authority(place.port);
    let edged = &mut config.modules.edged;
    edged.hostname_override = node.to_string();
    edged.node_labels = args.labels.iter().cloned().collect::<BTreeMap<_, _>>();
    edged.tailored_kubelet_config.container_runtime_endpoint = match args.remote_runtime_endpoint.as_str() {
        path if path.starts_with('/') => format!("unix://{path}"),
        endpoint => endpoint.to_owned(),
    };
    let text = differing_keys(&config).map_err(Refusal::new)?;
    Ok(parse::<EdgeCoreConfig>(&text, "options", &args.set)?.config)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;

    use super::super::cloud_https::tests::{ca, hub, serve};
    use super::super::{Args as AllArgs, Command};
    use super::*;
    use crate::config::load;
    use crate::cri::fake::FakeRuntime;

    async fn join(args: &[&str], root: &Path) -> Result<String, String> {
        let root = root.display().to_string();
        let all = [&["keadm", "join", "--root", &root], args].concat();
        let parsed = AllArgs::try_parse_from(all).map_err(|err| err.to_string())?;
        let Command::Join(args) = parsed.command else { panic!("join") };
        let mut out = Vec::new();
        let now = SystemTime::now();
        join_on(&FakeRuntime::new(), &args, now, &mut out).await.map_err(|refusal| refusal.message)?;
        Ok(String::from_utf8(out).expect("text"))
    }

    #[tokio::test]
    async fn a_join_writes_a_config_that_loads_and_a_secret_token() {
        let ca = ca();
        let answers = BTreeMap::from([("/ca.crt".to_owned(), ca.cert_der())]);
        let port = serve(&ca, answers, "").await;
        let (at, certport) = (format!("127.0.0.1:{}", hub().await), port.to_string());
        let token = format!("{}.a.b.c", ca.hash_hex());
        let dir = tempfile::tempdir().expect("temp dir");
        let base = ["-e", &at, "-s", &certport, "-t", &token, "-i", "edge-7"];
        let args = [&base[..], &["-l", "zone=a,tier=", "--set", "modules.edgeHub.heartbeat=5"]].concat();
        let out = join(&args, dir.path()).await.expect("joined");
        assert_eq!(out.matches("ok      ").count(), 8, "{out}");

        let etc = dir.path().join("etc/kubeedge");
        let config = load::<EdgeCoreConfig>(&etc.join("config/edgecore.yaml")).expect("loads").config;
        assert_eq!(config.modules.edge_hub.http_server, format!("https://127.0.0.1:{port}"));
        assert_eq!(config.modules.edge_hub.websocket.server, at);
        assert_eq!(config.modules.edge_hub.heartbeat, 5);
        assert_eq!(config.modules.edge_hub.tls_cert_file, etc.join("certs/server.crt"));
        assert_eq!(config.modules.edged.hostname_override, "edge-7");
        assert_eq!(config.modules.edged.node_labels.get("zone").map(String::as_str), Some("a"));
        let bootstrap = etc.join("bootstrap-edgecore.conf");
        assert_eq!(fs::read_to_string(&bootstrap).expect("token").trim(), token);
        assert_eq!(fs::metadata(&bootstrap).expect("metadata").permissions().mode() & 0o777, 0o600);
        assert!(!fs::read_to_string(etc.join("config/edgecore.yaml")).expect("config").contains(&token));

        let err = join(&args, dir.path()).await.expect_err("twice");
        assert!(err.contains("edgecore.yaml exists"), "{err}");

        // Beside a cloud on the same machine, the edge keeps to its own files.
        let shared = tempfile::tempdir().expect("temp dir");
        fs::create_dir_all(shared.path().join("etc/kubeedge/config")).expect("folder");
        fs::write(shared.path().join("etc/kubeedge/config/cloudcore.yaml"), "").expect("write");
        join(&base, shared.path()).await.expect("joined");
        let path = shared.path().join("etc/kubeedge/config/edgecore.yaml");
        let config = load::<EdgeCoreConfig>(&path).expect("loads").config;
        assert_eq!(config.modules.edge_hub.tls_ca_file, shared.path().join("etc/kubeedge/edge/rootCA.crt"));
    }

    #[tokio::test]
    async fn a_factory_certificate_needs_no_token() {
        let ca = ca();
        let port = serve(&ca, BTreeMap::from([("/ca.crt".to_owned(), ca.cert_der().to_vec())]), "").await;
        let (at, certport) = (format!("127.0.0.1:{}", hub().await), port.to_string());
        let dir = tempfile::tempdir().expect("temp dir");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("write");
            path.display().to_string()
        };
        let hour = Duration::from_secs(3600);
        let pair = ca.issue_client("edge-7", &[], hour).expect("pair");
        let other = ca.issue_client("edge-7", &[], hour).expect("pair");
        let (cert, key) = (file("f.crt", &pair.cert_pem), file("f.key", &pair.key_pem));
        let (root, other_key) = (file("ca.crt", &ca.cert_pem()), file("o.key", &other.key_pem));
        let base = ["-e", &at, "-s", &certport, "-i", "edge-7"];
        let with =
            |more: &[&str]| [&base[..], more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
        for (args, want) in [
            (with(&[]), "--token"),
            (with(&["--factory-cert", &cert]), "--factory-key"),
            (with(&["--factory-cert", &cert, "--factory-key", &key]), "--ca-cert"),
            (
                with(&["--factory-cert", "/none", "--factory-key", &key, "--ca-cert", &root]),
                "--factory-cert: cannot",
            ),
            (
                with(&["--factory-cert", &cert, "--factory-key", &other_key, "--ca-cert", &root]),
                "--factory-cert: ",
            ),
            (with(&["--factory-cert", &cert, "--factory-key", &key, "--ca-cert", &key]), "--ca-cert: "),
        ] {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let err = join(&args, dir.path()).await.expect_err(want);
            assert!(err.contains(want), "want {want}, got {err}");
        }
        assert!(!dir.path().join("etc").exists(), "nothing was written");
        let args = with(&["--factory-cert", &cert, "--factory-key", &key, "--ca-cert", &root]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        join(&args, dir.path()).await.expect("joined");
        let etc = dir.path().join("etc/kubeedge");
        let config = load::<EdgeCoreConfig>(&etc.join("config/edgecore.yaml")).expect("loads").config;
        assert_eq!(config.identity.factory_cert_file.display().to_string(), cert);
        assert_eq!(fs::read_to_string(etc.join("ca/rootCA.crt")).expect("CA"), ca.cert_pem());
        assert!(!etc.join("bootstrap-edgecore.conf").exists());
    }

    #[tokio::test]
    async fn mistakes_are_named_and_nothing_is_written() {
        let dir = tempfile::tempdir().expect("temp dir");
        let token = format!("{}.a.b.c", "0".repeat(64));
        let base = ["-e", "127.0.0.1:1", "-t", &token, "-i", "edge-7"];
        for (args, want) in [
            (vec!["-e", "127.0.0.1", "-t", &token], "it is not host:port"),
            (vec!["-e", "127.0.0.1:0", "-t", &token], "it is not host:port"),
            (vec!["-e", "127.0.0.1:1", "-t", "abc"], "--token: the token is malformed"),
            (
                vec!["-e", "127.0.0.1:1", "-t", &token, "-i", "Edge"],
                "--edgenode-name: \"Edge\" is not a valid node name",
            ),
            ([&base[..], &["-l", "zone"]].concat(), "it is not key=value"),
            ([&base[..], &["-l", "zone=a,b!=c"]].concat(), "name part must consist of"),
            ([&base[..], &["--set", "modules.edgeHubb.x=1"]].concat(), "did you mean edgeHub?"),
            (base.to_vec(), "--cloudcore-ipport: 127.0.0.1:1 cannot be reached"),
        ] {
            let err = join(&args, dir.path()).await.expect_err(want);
            assert!(err.contains(want), "want {want}, got {err}");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
        assert_eq!(host_port("[fd00::1]:10000"), Ok(("fd00::1".into(), 10000)));
    }

    #[tokio::test]
    async fn an_absent_runtime_is_the_first_thing_said() {
        let dir = tempfile::tempdir().expect("temp dir");
        let socket = dir.path().join("none.sock").display().to_string();
        let token = format!("{}.a.b.c", "0".repeat(64));
        let root = dir.path().display().to_string();
        let args = ["join", "--root", &root, "-e", "127.0.0.1:1", "-t", &token, "-i", "e", "-p", &socket];
        let err = super::super::tests::keadm(&args).await.expect_err("no runtime");
        assert!(err.starts_with(&format!("container runtime {socket} does not answer: ")), "{err}");
        assert!(!err.contains('\n'), "{err}");
    }
}
