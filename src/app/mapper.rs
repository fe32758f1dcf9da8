//! A mapper as a program: its command line, logs, signals.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use super::program::Fatal;
use crate::config::LoggingConfig;
use crate::mapper::{self, Driver, MapperSettings};
use crate::telemetry::logging;

#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// edgecore's DMI socket
    #[arg(long, value_name = "PATH", default_value = "/etc/kubeedge/dmi.sock")]
    dmi_socket: PathBuf,
    /// Folder of this mapper's own socket; edgecore connects to it [default: mappers beside edgecore's]
    #[arg(long, value_name = "DIR")]
    socket_dir: Option<PathBuf>,
    /// Name it registers under, and of its socket [default: the program's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Protocol name of the devices it serves [default: the program's]
    #[arg(long, value_name = "NAME")]
    protocol: Option<String>,
    /// Log filter: error, warn, info, debug, or parts like kubeedge::mapper=debug
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
}

/// Runs a mapper until SIGTERM or SIGINT. `name` and `protocol` are what the command line may
/// change.
#[must_use]
pub fn run(name: &str, protocol: &str, driver: impl Driver) -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(err) => {
            err.print().ok();
            return ExitCode::from(u8::try_from(err.exit_code()).unwrap_or(2));
        }
    };
    match serve(args, name, protocol, driver) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            std::io::stderr().write_all(format!("{name}: {err}\n").as_bytes()).ok();
            ExitCode::FAILURE
        }
    }
}

fn serve(args: Args, name: &str, protocol: &str, driver: impl Driver) -> Result<(), Fatal> {
    logging::init(&LoggingConfig { level: args.log, ..LoggingConfig::default() })?;
    let name = args.name.unwrap_or_else(|| name.to_owned());
    if name.is_empty() || name.contains('/') {
        return Err(format!("--name {name:?}: it is also a file name").into());
    }
    let settings = MapperSettings {
        name,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: args.protocol.unwrap_or_else(|| protocol.to_owned()),
        socket_dir: args.socket_dir.unwrap_or_else(|| args.dmi_socket.with_file_name("mappers")),
        dmi_socket: args.dmi_socket,
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
    runtime.block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let end = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("mapper ends");
        };
        mapper::run(settings, driver, end).await?;
        Ok(())
    })
}
