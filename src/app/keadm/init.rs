//! `keadm init`: the cloud's config file, CA and join-token key, and the command that joins an edge.
//! A second run keeps all three and prints a new join command.

use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use clap::Args;

use super::Refusal;
use super::places::Places;
use super::token::mint;
use crate::config::{CloudCoreConfig, Loaded, differing_keys, host, load, load_with, parse};
use crate::identity::{Ca, CaSettings, MintOptions, PUBLIC_MODE, write_atomic};

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// IP addresses edges dial, comma-separated [default: this machine's]
    #[arg(long, value_delimiter = ',')]
    advertise_address: Vec<IpAddr>,
    /// Sets one key of the config file; may be repeated
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    places: Places,
}

pub(super) fn init(args: &InitArgs, now: SystemTime, out: &mut dyn Write) -> Result<(), Refusal> {
    let path = args.places.config("cloudcore");
    let (loaded, written) =
        if path.exists() { (load::<CloudCoreConfig>(&path)?, false) } else { (write_config(args)?, true) };
    let config = loaded.config;
    let outcome = if written { "written" } else { "kept" };
    writeln!(out, "config  {} ({outcome})", path.display())?;
    for warning in loaded.warnings {
        writeln!(out, "        {warning}")?;
    }
    let hub = &config.modules.cloud_hub;
    if !written {
        let asked = load_with::<CloudCoreConfig>(&path, &args.set)?.config;
        let addresses: Vec<String> = args.advertise_address.iter().map(ToString::to_string).collect();
        if asked != config || (!addresses.is_empty() && addresses != hub.advertise_address) {
            writeln!(
                out,
                "        it differs from the options given now; they were not applied, edit the file"
            )?;
        }
    }

    let outcome = if hub.tls_ca_file.exists() { "kept" } else { "created" };
    // Where an API has been, nodes may know its CA.
    let may_create = !config.api_server_data_dir().exists();
    let ca = Ca::open(CaSettings { may_create, ..CaSettings::from(&config) }, now)?;
    writeln!(out, "CA      {} ({outcome})", hub.tls_ca_file.display())?;

    let ttl = Duration::from_secs(config.identity.join_token_ttl_secs);
    let token = mint(&config, &ca.hash_hex(), MintOptions::once(ttl), now)?;
    let address = match hub.advertise_address.first() {
        Some(address) => address.parse().unwrap_or_else(|_| host().address),
        None => host().address,
    };
    let server = std::net::SocketAddr::new(address, hub.websocket.port);
    let certport = match hub.https.port {
        10002 => String::new(),
        port => format!(" --certport {port}"),
    };
    writeln!(out, "\nStart the cloud:\n\n  cloudcore --config {}", args.places.config_shown("cloudcore"))?;
    writeln!(
        out,
        "\nJoin an edge; run this there within {} minutes, it works once:\n",
        ttl.as_secs().div_ceil(60)
    )?;
    writeln!(out, "  keadm join --cloudcore-ipport {server}{certport} --token {token}")?;
    Ok(())
}

fn write_config(args: &InitArgs) -> Result<Loaded<CloudCoreConfig>, Refusal> {
    let mut config = args.places.cloud_defaults();
    let addresses = &args.advertise_address;
    config.modules.cloud_hub.advertise_address = if addresses.is_empty() {
        vec![host().address.to_string()]
    } else {
        addresses.iter().map(ToString::to_string).collect()
    };
    let loaded =
        parse::<CloudCoreConfig>(&differing_keys(&config).map_err(Refusal::new)?, "defaults", &args.set)?;
    let text = format!(
        "# Written by keadm init: what differs from the defaults (cloudcore --defaultconfig prints them).\n{}",
        differing_keys(&loaded.config).map_err(Refusal::new)?
    );
    write_atomic(&args.places.config("cloudcore"), text.as_bytes(), PUBLIC_MODE)?;
    Ok(loaded)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::super::tests::keadm;
    use super::*;
    use crate::identity::{JoinTokens, split_join_token};

    #[tokio::test]
    async fn init_twice_keeps_everything_and_gives_two_working_tokens() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().display().to_string();
        let args = [
            "init",
            "--root",
            &root,
            "--advertise-address",
            "10.0.0.7",
            "--set",
            "modules.cloudHub.https.port=10444",
        ];
        let first = keadm(&args).await.expect("init");
        for want in [
            "cloudcore.yaml (written)",
            "rootCA.crt (created)",
            "--cloudcore-ipport 10.0.0.7:10000 --certport 10444",
        ] {
            assert!(first.contains(want), "{want} in {first}");
        }
        let path = dir.path().join("etc/kubeedge/config/cloudcore.yaml");
        let text = fs::read_to_string(&path).expect("config");
        let config = load::<CloudCoreConfig>(&path).expect("loads").config;
        assert_eq!(config.modules.cloud_hub.advertise_address, ["10.0.0.7"]);
        assert_eq!(config.data_dir, dir.path().join("var/lib/kubeedge/cloud"));

        let second = keadm(&args).await.expect("init again");
        for want in ["cloudcore.yaml (kept)", "rootCA.crt (kept)"] {
            assert!(second.contains(want), "{want} in {second}");
        }
        assert!(!second.contains("not applied"), "{second}");
        assert_eq!(fs::read_to_string(&path).expect("config"), text);

        let ca = Ca::open(CaSettings::from(&config), SystemTime::now());
        let ca_hash = ca.expect("ca").hash_hex();
        let tokens = JoinTokens::load_or_create(&config.token_key_file()).expect("key");
        let mut ids = Vec::new();
        for output in [&first, &second] {
            let token = output.trim_end().rsplit(' ').next().expect("token");
            let (hash, jwt) = split_join_token(token).expect("splits");
            assert_eq!(hash, ca_hash);
            ids.push(tokens.verify(&jwt, SystemTime::now()).expect("verifies").id);
        }
        assert_ne!(ids[0], ids[1]);
        for (file, mode) in
            [("ca/rootCA.key", 0o600), ("ca/join-token.key", 0o600), ("config/cloudcore.yaml", 0o644)]
        {
            let meta = fs::metadata(dir.path().join("etc/kubeedge").join(file)).expect(file);
            assert_eq!(meta.permissions().mode() & 0o777, mode, "{file}");
        }

        let third = keadm(&["init", "--root", &root, "--advertise-address", "10.0.0.8"]).await.expect("kept");
        assert!(third.contains("not applied"), "{third}");
        fs::remove_file(&config.modules.cloud_hub.tls_ca_key_file).expect("remove");
        let offline = keadm(&args).await.expect("the root's key may be elsewhere");
        assert!(offline.contains("rootCA.crt (kept)"), "{offline}");
        fs::remove_file(config.modules.cloud_hub.tls_ca_key_file.with_file_name("issuing.key")).expect("key");
        let err = keadm(&args).await.expect_err("half a CA");
        assert!(err.contains("rootCA.key: it is missing") && !err.contains('\n'), "{err}");
    }

    #[tokio::test]
    async fn a_wrong_setting_writes_nothing() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().display().to_string();
        let err = keadm(&["init", "--root", &root, "--set", "modules.cloudHub.nodeLimits=1"])
            .await
            .expect_err("typo");
        assert_eq!(err, "--set: modules.cloudHub.nodeLimits: unknown key, did you mean nodeLimit?");
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
    }
}
