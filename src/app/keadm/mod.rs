//! keadm's commands. Each writes what a user reads to `out` and fails with one line that names the
//! file, flag or peer. No network call goes anywhere but to the cloud's own address.

mod audit;
pub(crate) mod bundle;
mod ca;
mod cloud_https;
mod console;
mod doctor;
mod finding;
mod health;
mod identity;
mod init;
mod join;
mod node;
mod places;
mod preflight;
mod records;
mod reset;
mod revocation;
mod side;
mod svid;
mod token;

use std::ffi::OsString;
use std::io::Write;
use std::time::SystemTime;

use clap::{Parser, Subcommand};

use crate::config::ConfigError;
use crate::identity::{IdentityError, TokenError};

/// Sets up clouds and edges of kubeedge-rs
#[derive(Debug, Parser)]
#[command(name = "keadm", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prepares this machine as a cloud: config file, CA, and the command to join an edge
    Init(init::InitArgs),
    /// Prints a fresh join token
    #[command(name = "gettoken")]
    GetToken(token::GetTokenArgs),
    /// Lists or revokes join tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Shows, revokes or allows nodes
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Shows who is who, and until when
    #[command(subcommand)]
    Identity(identity::IdentityCommand),
    /// Replaces the cloud's root CA while it runs
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Checks this machine and prepares it as an edge
    Join(join::JoinArgs),
    /// Removes what init or join wrote
    Reset(reset::ResetArgs),
    /// Prints where the console is, and a token to sign in with
    Console(console::ConsoleArgs),
    /// Looks at everything that has to be right on this machine, and says what to do where it is not
    Doctor(doctor::DoctorArgs),
    /// Collects logs, figures, state and configuration for whoever helps, without secrets
    SupportBundle(bundle::BundleArgs),
    /// Checks the audit log
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Asks this node's Workload API for the identities of the process that runs it
    Svid(svid::SvidArgs),
    /// Asks a program's monitor whether it is well
    Health(health::HealthArgs),
    /// Prints the version
    Version,
}

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// One line (several for a wrong option, as clap prints it).
    pub message: String,
    /// 2 for a wrong option, 1 for anything else.
    pub code: u8,
}

impl Refusal {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1 }
    }
}

impl From<ConfigError> for Refusal {
    fn from(err: ConfigError) -> Self {
        Self::new(err.to_string())
    }
}

impl From<IdentityError> for Refusal {
    fn from(err: IdentityError) -> Self {
        Self::new(err.to_string())
    }
}

impl From<TokenError> for Refusal {
    fn from(err: TokenError) -> Self {
        Self::new(format!("--token: {err}"))
    }
}

impl From<std::io::Error> for Refusal {
    fn from(err: std::io::Error) -> Self {
        Self::new(format!("cannot write the output: {err}"))
    }
}

/// Runs one command; `args` begins with the program's name.
///
/// # Errors
/// [`Refusal`], to be printed to standard error.
pub async fn run(args: impl IntoIterator<Item = OsString>, out: &mut dyn Write) -> Result<(), Refusal> {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(err) if err.use_stderr() => return Err(Refusal { message: err.to_string(), code: 2 }),
        Err(help) => return Ok(write!(out, "{help}")?),
    };
    let now = SystemTime::now();
    match args.command {
        Command::Init(args) => init::init(&args, now, out),
        Command::GetToken(args) => token::get_token(&args, now, out),
        Command::Token(command) => token::token(command, now, out).await,
        Command::Node(command) => node::node(command, now, out).await,
        Command::Identity(command) => identity::identity(command, now, out).await,
        Command::Ca(command) => ca::ca(&command, now, out),
        Command::Join(args) => join::join(&args, now, out).await,
        Command::Reset(args) => reset::reset(&args, out).await,
        Command::Console(args) => console::console(&args, out).await,
        Command::Doctor(args) => doctor::doctor(&args, now, out).await,
        Command::SupportBundle(args) => bundle::bundle(&args, now, out).await,
        Command::Audit(command) => audit::audit(command, out),
        Command::Svid(args) => svid::svid(&args, now, out).await,
        Command::Health(args) => health::health(&args, out).await,
        Command::Version => Ok(writeln!(out, "keadm {}", env!("CARGO_PKG_VERSION"))?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs keadm and gives its output, or the refusal's line.
    pub(super) async fn keadm(args: &[&str]) -> Result<String, String> {
        let mut out = Vec::new();
        let all = std::iter::once("keadm").chain(args.iter().copied()).map(OsString::from);
        run(all, &mut out).await.map_err(|refusal| refusal.message)?;
        Ok(String::from_utf8(out).expect("text"))
    }

    #[tokio::test]
    async fn help_version_and_wrong_options() {
        assert_eq!(keadm(&["version"]).await, Ok(concat!("keadm ", env!("CARGO_PKG_VERSION"), "\n").into()));
        assert!(keadm(&["--help"]).await.expect("help").contains("gettoken"));
        assert!(keadm(&["join"]).await.expect_err("required").contains("--cloudcore-ipport"));
        assert!(
            keadm(&["init", "--advertise-address", "x"])
                .await
                .expect_err("address")
                .contains("invalid value 'x'")
        );
    }
}
