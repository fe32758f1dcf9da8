//! The command line of cloudcore and edgecore, and what it asks for. Printing and exit codes are the
//! binaries' business.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser};

use super::loader::{ConfigFile, Host, Loaded, load_with};
use crate::model::NodeName;

// The options of both programs; clap prints doc comments, and the programs differ.
#[derive(Debug, Parser)]
pub struct CoreArgs {
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print every key with its default and meaning
    #[arg(long, conflicts_with_all = ["minconfig", "config"])]
    defaultconfig: bool,
    /// Print a short config file that works on this machine
    #[arg(long, conflicts_with = "config")]
    minconfig: bool,
    /// Print the version
    #[arg(long)]
    version: bool,
    /// Sets one key over the file's; may be repeated
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
}

/// What a program is to do.
#[derive(Debug)]
pub enum RunMode<T> {
    /// Run with this configuration; log the warnings first.
    Run(Box<Loaded<T>>),
    /// Print this to standard output and end well.
    Print(String),
    /// Print this to standard error and end with this code: 2 for a wrong option, 1 for a wrong file.
    Refuse { message: String, code: u8 },
}

/// Reads the command line (with the program's name first) and, if it is to run, the config file.
pub fn run_mode<T: ConfigFile>(args: impl IntoIterator<Item = OsString>) -> RunMode<T> {
    let config = format!("Config file [default: /etc/kubeedge/config/{}.yaml]", T::PROGRAM);
    let command = CoreArgs::command()
        .name(T::PROGRAM)
        .bin_name(T::PROGRAM)
        .about(T::ABOUT)
        .mut_arg("config", |arg| arg.help(config));
    let parsed = command.try_get_matches_from(args).and_then(|matches| CoreArgs::from_arg_matches(&matches));
    let args = match parsed {
        Ok(args) => args,
        Err(err) if err.use_stderr() => return RunMode::Refuse { message: err.to_string(), code: 2 },
        Err(help) => return RunMode::Print(help.to_string()),
    };
    if args.version {
        return RunMode::Print(format!("{} {}\n", T::PROGRAM, env!("CARGO_PKG_VERSION")));
    }
    if args.defaultconfig {
        return RunMode::Print(T::DEFAULTS.to_owned());
    }
    if args.minconfig {
        return RunMode::Print(T::minimal(&host()));
    }
    let default = || PathBuf::from(format!("/etc/kubeedge/config/{}.yaml", T::PROGRAM));
    match load_with(&args.config.unwrap_or_else(default), &args.set) {
        Ok(loaded) => RunMode::Run(Box::new(loaded)),
        Err(err) => RunMode::Refuse { message: format!("{}: {err}\n", T::PROGRAM), code: 1 },
    }
}

/// This machine's name as a node name, and its address on the default route (no packet is sent).
#[must_use]
pub fn host() -> Host {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let name =
        NodeName::parse(&name.to_lowercase()).map_or_else(|_| "edge-1".into(), |name| name.to_string());
    let address = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| {
            socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
            socket.local_addr()
        })
        .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |local| local.ip());
    Host { name, address }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CloudCoreConfig, EdgeCoreConfig, parse};

    fn mode<T: ConfigFile>(args: &[&str]) -> RunMode<T> {
        run_mode(std::iter::once(T::PROGRAM).chain(args.iter().copied()).map(OsString::from))
    }

    fn printed<T: ConfigFile + std::fmt::Debug>(args: &[&str]) -> String {
        match mode::<T>(args) {
            RunMode::Print(text) => text,
            other => panic!("{args:?}: {other:?}"),
        }
    }

    #[test]
    fn what_each_option_asks_for() {
        assert_eq!(
            printed::<EdgeCoreConfig>(&["--version"]),
            concat!("edgecore ", env!("CARGO_PKG_VERSION"), "\n")
        );
        let help = printed::<CloudCoreConfig>(&["--help"]);
        for want in ["The cloud side", "Usage: cloudcore [OPTIONS]", "/etc/kubeedge/config/cloudcore.yaml"] {
            assert!(help.contains(want), "{help}");
        }
        assert!(printed::<CloudCoreConfig>(&["--defaultconfig"]).contains("kind: CloudCore"));

        for (args, want, want_code) in [
            (&["--nonsense"][..], "--nonsense", 2),
            (&["--minconfig", "--defaultconfig"], "cannot be used with", 2),
            (&["--config", "/nonexistent/x.yaml"], "/nonexistent/x.yaml does not exist: keadm writes it", 1),
        ] {
            match mode::<CloudCoreConfig>(args) {
                RunMode::Refuse { message, code } => {
                    assert!(message.contains(want), "{message}");
                    assert_eq!(code, want_code, "{message}");
                }
                other => panic!("{args:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_file_and_set_options_run() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("edgecore.yaml");
        std::fs::write(&path, "modules:\n  edgeHub:\n    heartbeat: 5\n").expect("write");
        let path = path.display().to_string();
        let args = [
            "--config",
            &path,
            "--set",
            "modules.edged.hostnameOverride=e1",
            "--set",
            "modules.edgeHub.messageQPS=7",
        ];
        match mode::<EdgeCoreConfig>(&args) {
            RunMode::Run(loaded) => {
                assert_eq!(loaded.config.modules.edge_hub.heartbeat, 5);
                assert_eq!(loaded.config.modules.edge_hub.message_qps, 7);
                assert_eq!(loaded.config.modules.edged.hostname_override, "e1");
            }
            other => panic!("{other:?}"),
        }
    }

    /// Go's `--minconfig` prints a file with `cloudHub` and `edgeHub` off; ours must work.
    #[test]
    fn minconfig_works() {
        let cloud = parse::<CloudCoreConfig>(&printed::<CloudCoreConfig>(&["--minconfig"]), "min", &[]);
        let cloud = cloud.expect("loads");
        assert!(cloud.warnings.is_empty());
        assert!(cloud.config.modules.cloud_hub.enable && cloud.config.modules.api_server.enable);
        assert_eq!(cloud.config.modules.cloud_hub.advertise_address.len(), 1);

        let edge = parse::<EdgeCoreConfig>(&printed::<EdgeCoreConfig>(&["--minconfig"]), "min", &[]);
        let edge = edge.expect("loads");
        assert!(edge.warnings.is_empty());
        assert!(edge.config.modules.edge_hub.enable && edge.config.modules.edged.enable);
        assert!(!edge.config.modules.edged.hostname_override.is_empty());

        let v6 = Host { name: "edge-9".into(), address: "fd00::1".parse().expect("address") };
        let edge = parse::<EdgeCoreConfig>(&EdgeCoreConfig::minimal(&v6), "min", &[]).expect("loads");
        assert_eq!(edge.config.modules.edge_hub.http_server, "https://[fd00::1]:10002");
    }
}
