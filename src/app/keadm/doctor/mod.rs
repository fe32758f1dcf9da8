//! `keadm doctor`: everything that has to be right on this machine, one line each, and what to do
//! where it is not. It only looks: nothing is written, made or started.

mod cloud;
mod edge;
mod files;
mod machine;
mod ports;
mod running;

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use clap::Args;

use super::Refusal;
use super::finding::Finding;
use super::places::Places;
use super::side::Side;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// What to look at [default: what has a config file on this machine]
    side: Option<Side>,
    /// How to print the findings
    #[arg(short, long, default_value = "text")]
    output: Output,
    #[command(flatten)]
    places: Places,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Prints the findings; it is a refusal when one of them is a failure.
pub(super) async fn doctor(args: &DoctorArgs, now: SystemTime, out: &mut dyn Write) -> Result<(), Refusal> {
    let findings = findings(args.side, &args.places, now).await;
    match args.output {
        Output::Text => findings.iter().try_for_each(|finding| writeln!(out, "{finding}"))?,
        Output::Json => {
            let text = serde_json::to_string_pretty(&findings);
            writeln!(out, "{}", text.map_err(|err| Refusal::new(err.to_string()))?)?;
        }
    }
    match findings.iter().filter(|finding| finding.failed()).count() {
        0 => Ok(()),
        failed => Err(Refusal::new(format!("{failed} of {} checks failed", findings.len()))),
    }
}

/// What there is to say about one side, or about what is configured here.
pub(super) async fn findings(side: Option<Side>, places: &Places, now: SystemTime) -> Vec<Finding> {
    let root = Path::new("/");
    let sides = Side::found(side, places);
    let mut all = Vec::new();
    if sides.is_empty() {
        let (cloud, edge) = (places.config_shown("cloudcore"), places.config_shown("edgecore"));
        let text = format!("neither {cloud} nor {edge} exists");
        all.push(Finding::fail(
            "config",
            text,
            "keadm init makes a cloud of this machine, keadm join an edge",
        ));
        all.extend(machine::look(root));
    }
    for side in sides {
        match side {
            Side::Cloud => all.extend(cloud::look(places, now).await),
            Side::Edge => {
                all.extend(edge::look(places, now).await);
                all.extend(machine::look(root));
            }
        }
    }
    all
}

/// Whether this process may look everywhere.
fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Args as Keadm, Command};
    use super::*;

    /// What is printed, and the refusal's line.
    async fn said(args: &[&str]) -> (String, Option<String>) {
        let all = ["keadm", "doctor"].iter().chain(args);
        let Command::Doctor(args) = Keadm::try_parse_from(all).expect("args").command else {
            panic!("doctor")
        };
        let mut out = Vec::new();
        let result = doctor(&args, SystemTime::now(), &mut out).await;
        (String::from_utf8(out).expect("text"), result.err().map(|refusal| refusal.message))
    }

    #[tokio::test]
    async fn a_machine_with_nothing_and_one_with_a_mistake() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().display().to_string();
        let (out, refused) = said(&["--root", &root]).await;
        assert!(out.starts_with("FAIL  config: neither ") && out.contains("; fix: keadm init"), "{out}");
        assert!(refused.expect("failed").ends_with(&format!(" of {} checks failed", out.lines().count())));
        let (out, _) = said(&["edge", "--root", &root]).await;
        assert!(out.contains("edgecore.yaml does not exist") && out.contains("; fix: keadm join"), "{out}");

        let file = dir.path().join("edgecore.yaml");
        std::fs::write(&file, "modules:\n  edgeHubb: {}\n").expect("write");
        let (out, _) = said(&["edge", "-o", "json", "--config", &file.display().to_string()]).await;
        let json: serde_json::Value = serde_json::from_str(&out).expect("json");
        assert_eq!((&json[0]["check"], &json[0]["verdict"]), (&"config".into(), &"fail".into()));
        assert!(json[0]["text"].as_str().expect("text").contains("line 2: modules.edgeHubb"), "{json}");
        assert!(json[0]["fix"].as_str().expect("fix").contains("correct that line"), "{json}");
    }
}
