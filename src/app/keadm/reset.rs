//! `keadm reset`: removes what init or join and the program after them wrote. Without `--force` what
//! cannot be made again stays: a cloud's CA while it has nodes, and the stores.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::net::TcpStream;

use super::places::Places;
use super::{Refusal, revocation};
use crate::actors::edge::edge_hub::Places as CredentialPlaces;
use crate::config::{CloudCoreConfig, EdgeCoreConfig, load};
use crate::identity::authority_files;

#[derive(Debug, Args)]
pub(super) struct ResetArgs {
    /// Which side
    side: Side,
    /// Also remove the data folder and a cloud's CA, and do not mind a program still running
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    places: Places,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Side {
    Cloud,
    Edge,
}

pub(super) async fn reset(args: &ResetArgs, out: &mut dyn Write) -> Result<(), Refusal> {
    match args.side {
        Side::Cloud => reset_cloud(args, out).await,
        Side::Edge => reset_edge(args, out).await,
    }
}

async fn reset_cloud(args: &ResetArgs, out: &mut dyn Write) -> Result<(), Refusal> {
    let path = args.places.config("cloudcore");
    let config = if path.exists() { load(&path)?.config } else { args.places.cloud_defaults() };
    let ca_stays = if args.force { None } else { ca_is_needed(&config).await };
    refuse_while_running("cloudcore", config.monitor_address(), args.force).await?;
    let hub = &config.modules.cloud_hub;
    let mut files = vec![
        hub.tls_cert_file.clone(),
        hub.tls_private_key_file.clone(),
        config.modules.api_server.kubeconfig.clone(),
    ];
    match ca_stays {
        None => {
            files.extend(authority_files(&hub.tls_ca_file, &hub.tls_ca_key_file));
            files.extend([config.token_key_file(), config.service_account_key_file()]);
            files.push(config.token_key_file().with_file_name("minted-tokens.json"));
        }
        Some(why) => writeln!(out, "kept    {} ({why}; --force removes it)", hub.tls_ca_file.display())?,
    }
    files.push(path);
    remove_files(&files, out)?;
    remove_data(&config.data_dir, args.force, out)
}

/// Why the CA stays, if it does: nodes trust it, or nobody can tell whether any do.
async fn ca_is_needed(config: &CloudCoreConfig) -> Option<String> {
    if !config.modules.cloud_hub.tls_ca_file.exists() || !was_started(config) {
        return None;
    }
    let answer = match revocation::client(config).await {
        Ok(client) => revocation::has_nodes(client).await,
        Err(refusal) => Err(refusal),
    };
    match answer {
        Ok(true) => Some("nodes have joined with it".into()),
        Ok(false) => None,
        Err(refusal) => Some(format!("cannot tell whether nodes have joined with it: {refusal}")),
    }
}

/// A cloud that never ran has no nodes.
fn was_started(config: &CloudCoreConfig) -> bool {
    config.data_dir.exists() || config.modules.cloud_hub.tls_cert_file.exists()
}

async fn reset_edge(args: &ResetArgs, out: &mut dyn Write) -> Result<(), Refusal> {
    let path = args.places.config("edgecore");
    let config: EdgeCoreConfig =
        if path.exists() { load(&path)?.config } else { args.places.edge_defaults() };
    refuse_while_running("edgecore", config.monitor_address(), args.force).await?;
    let hub = &config.modules.edge_hub;
    let mut files = vec![hub.bootstrap_file.clone()];
    files.extend(CredentialPlaces::new(hub).all());
    // A cloud on the same machine may be using some of the same files: those are the cloud's.
    let cloud_path = args.places.below(Path::new("/etc/kubeedge/config/cloudcore.yaml"));
    if cloud_path.exists() {
        let cloud = load::<CloudCoreConfig>(&cloud_path)?.config.modules.cloud_hub;
        let theirs =
            [cloud.tls_ca_file, cloud.tls_ca_key_file, cloud.tls_cert_file, cloud.tls_private_key_file];
        files.retain(|file| !theirs.contains(file));
    }
    if args.force {
        // It opens the secrets in the data folder, and nothing else.
        files.push(config.store_key_file());
    }
    files.push(path);
    remove_files(&files, out)?;
    remove_data(&config.data_dir, args.force, out)
}

async fn refuse_while_running(program: &str, monitor: &str, force: bool) -> Result<(), Refusal> {
    let dial = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(monitor));
    match dial.await {
        Ok(Ok(_)) if !force => Err(Refusal::new(format!(
            "{program} seems to run ({monitor} answers): stop it first, or use --force"
        ))),
        _ => Ok(()),
    }
}

fn remove_files(files: &[PathBuf], out: &mut dyn Write) -> Result<(), Refusal> {
    for file in files {
        match std::fs::remove_file(file) {
            Ok(()) => writeln!(out, "removed {}", file.display())?,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => return Err(Refusal::new(format!("cannot remove {}: {err}", file.display()))),
        }
    }
    Ok(())
}

fn remove_data(folder: &Path, force: bool, out: &mut dyn Write) -> Result<(), Refusal> {
    if !folder.exists() {
        return Ok(());
    }
    if !force {
        writeln!(out, "kept    {} (--force removes it)", folder.display())?;
        return Ok(());
    }
    if folder.components().count() < 3 {
        return Err(Refusal::new(format!(
            "dataDir {} is no folder of ours: remove it by hand",
            folder.display()
        )));
    }
    std::fs::remove_dir_all(folder)
        .map_err(|err| Refusal::new(format!("cannot remove {}: {err}", folder.display())))?;
    Ok(writeln!(out, "removed {}", folder.display())?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::keadm;

    fn files(root: &std::path::Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("list") {
                let path = entry.expect("entry").path();
                if path.is_dir() { folders.push(path) } else { found.push(path.display().to_string()) }
            }
        }
        found
    }

    #[tokio::test]
    async fn a_cloud_that_never_ran_leaves_nothing() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().display().to_string();
        // A free address, so that a cloudcore on this machine does not matter.
        let args = ["init", "--root", &root, "--set", "commonConfig.monitorServer.bindAddress=127.0.0.1:1"];
        keadm(&args).await.expect("init");
        assert_eq!(files(dir.path()).len(), 9);
        let out = keadm(&["reset", "cloud", "--root", &root]).await.expect("reset");
        assert!(out.contains("removed") && out.contains("rootCA.key"), "{out}");
        assert_eq!(files(dir.path()), Vec::<String>::new());
        // Without its config the default monitor port counts, and another cloudcore may hold it.
        let again = keadm(&["reset", "cloud", "--force", "--root", &root]).await;
        assert_eq!(again, Ok(String::new()), "nothing left to do");
    }

    #[tokio::test]
    async fn the_ca_of_a_cloud_that_ran_stays_without_force() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().display().to_string();
        let args = ["init", "--root", &root, "--set", "commonConfig.monitorServer.bindAddress=127.0.0.1:1"];
        keadm(&args).await.expect("init");
        let data = dir.path().join("var/lib/kubeedge/cloud");
        fs::create_dir_all(&data).expect("data");
        fs::write(data.join("CURRENT"), "x").expect("data");
        let config = dir.path().join("etc/kubeedge/config/cloudcore.yaml");
        let text = fs::read_to_string(&config).expect("config");
        let out = keadm(&["reset", "cloud", "--root", &root]).await.expect("reset");
        assert!(out.contains("rootCA.crt (cannot tell whether nodes have joined"), "{out}");
        assert!(dir.path().join("etc/kubeedge/ca/rootCA.key").exists() && data.exists() && !config.exists());
        fs::write(&config, text).expect("config");
        keadm(&["reset", "cloud", "--root", &root, "--force"]).await.expect("reset");
        assert_eq!(files(dir.path()), Vec::<String>::new());
    }

    #[tokio::test]
    async fn an_edge_goes_and_the_cloud_beside_it_stays() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().display().to_string();
        keadm(&["init", "--root", &root]).await.expect("init");
        let before = files(dir.path()).len();
        let etc = dir.path().join("etc/kubeedge");
        let text = format!(
            "commonConfig: {{monitorServer: {{bindAddress: '127.0.0.1:1'}}}}\ndataDir: {root}/edge\nmodules:\n  edgeHub:\n    \
             tlsCaFile: {root}/etc/kubeedge/ca/rootCA.crt\n    tlsCertFile: {root}/e.crt\n    tlsPrivateKeyFile: {root}/e.key\n    \
             bootstrapFile: {root}/b.conf\n"
        );
        fs::write(etc.join("config/edgecore.yaml"), text).expect("config");
        fs::create_dir(dir.path().join("edge")).expect("data");
        for name in [
            "e.crt",
            "e.key",
            "b.conf",
            "node-ca.crt",
            "node-ca.key",
            "jwt.key",
            "credentials.next",
            "edge-identity.newest",
            "edge/CURRENT",
        ] {
            fs::write(dir.path().join(name), "x").expect("write");
        }
        let out = keadm(&["reset", "edge", "--root", &root]).await.expect("reset");
        assert!(out.contains("kept") && out.contains("--force"), "{out}");
        assert_eq!(files(dir.path()).len(), before + 1, "{:?}", files(dir.path()));
        assert!(etc.join("ca/rootCA.crt").exists());
    }

    #[tokio::test]
    async fn a_running_program_is_not_reset() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().display().to_string();
        let path = dir.path().join("edgecore.yaml");
        let text =
            format!("dataDir: {root}/edge\ncommonConfig: {{monitorServer: {{bindAddress: '{address}'}}}}\n");
        fs::write(&path, text).expect("config");
        let config = path.display().to_string();
        let err = keadm(&["reset", "edge", "--root", &root, "--config", &config]).await.expect_err("running");
        assert!(err.contains("edgecore seems to run") && path.exists(), "{err}");
    }
}
