//! `keadm audit verify`: does the audit log hold?

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::Refusal;
use super::places::Places;
use crate::config::{CloudCoreConfig, ConfigError, EdgeCoreConfig, Loaded, load};
use crate::identity::audit::{Summary, verify_log};

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Checks that no record was changed, removed or cut off; exits with 1 when one was
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Log to check, with its head and older files beside it [default: audit.log in the dataDir of
    /// this machine's cloudcore or edgecore]
    file: Option<PathBuf>,
    #[command(flatten)]
    places: Places,
}

pub(super) fn audit(command: AuditCommand, out: &mut dyn Write) -> Result<(), Refusal> {
    let AuditCommand::Verify(args) = command;
    let logs = match args.file {
        Some(file) => vec![file],
        None => configured(&args.places)?,
    };
    for log in logs {
        let summary = verify_log(&log).map_err(|err| Refusal::new(err.to_string()))?;
        writeln!(out, "{}: {}", log.display(), describe(&summary))?;
    }
    Ok(())
}

/// The logs of the programs whose config file is here. `--config` names one file, of either.
fn configured(places: &Places) -> Result<Vec<PathBuf>, Refusal> {
    let (cloud, edge) = (places.config("cloudcore"), places.config("edgecore"));
    if cloud == edge {
        let folder = cloud_folder(&cloud).or_else(|as_cloud| {
            edge_folder(&edge).map_err(|as_edge| {
                Refusal::new(format!("it is no cloudcore's ({as_cloud}) and no edgecore's ({as_edge})"))
            })
        })?;
        return Ok(vec![folder.join("audit.log")]);
    }
    let mut logs = Vec::new();
    if cloud.exists() {
        logs.push(cloud_folder(&cloud)?.join("audit.log"));
    }
    if edge.exists() {
        logs.push(edge_folder(&edge)?.join("audit.log"));
    }
    if logs.is_empty() {
        return Err(Refusal::new(format!(
            "neither {} nor {} exists: name the log, or a config file with --config",
            cloud.display(),
            edge.display()
        )));
    }
    Ok(logs)
}

fn cloud_folder(path: &Path) -> Result<PathBuf, ConfigError> {
    let loaded: Loaded<CloudCoreConfig> = load(path)?;
    Ok(loaded.config.data_dir)
}

fn edge_folder(path: &Path) -> Result<PathBuf, ConfigError> {
    let loaded: Loaded<EdgeCoreConfig> = load(path)?;
    Ok(loaded.config.data_dir)
}

fn describe(summary: &Summary) -> String {
    match (&summary.first, &summary.last) {
        (Some((first, from)), Some((last, to))) => format!(
            "{} records in {} files, {first} to {last}, {from} to {to}: OK",
            summary.records, summary.files
        ),
        _ => "no records: OK".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::SystemTime;

    use serde_json::json;

    use super::super::tests::keadm;
    use crate::identity::audit::{AuditFile, AuditLimits};

    #[tokio::test]
    async fn a_good_log_a_changed_one_and_none() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("audit.log");
        let name = path.to_str().expect("path").to_owned();
        let (mut log, _) = AuditFile::open(&path, AuditLimits::default(), SystemTime::now()).expect("opens");
        assert!(keadm(&["audit", "verify", &name]).await.expect("empty").ends_with("no records: OK\n"));
        for node in ["edge-1", "edge-2"] {
            let fact = json!({"action": "join", "subject": node}).as_object().cloned().expect("object");
            log.append(&[(SystemTime::now(), fact)]).expect("append");
        }
        let said = keadm(&["audit", "verify", &name]).await.expect("good");
        assert!(said.contains("2 records in 1 files, 1 to 2, 2") && said.ends_with(": OK\n"), "{said}");

        // The log of a program is found by its configuration.
        let config = dir.path().join("config.yaml");
        for head in [
            "apiVersion: edgecore.config.kubeedge.io/v1alpha2\nkind: EdgeCore",
            "apiVersion: cloudcore.config.kubeedge.io/v1alpha1\nkind: CloudCore",
        ] {
            fs::write(&config, format!("{head}\ndataDir: {}\n", dir.path().display())).expect("write");
            let args = ["audit", "verify", "--config", config.to_str().expect("path")];
            assert!(keadm(&args).await.expect("good").contains("2 records"));
        }
        let nowhere = dir.path().join("nowhere");
        let nowhere = nowhere.to_str().expect("path");
        let err = keadm(&["audit", "verify", "--root", nowhere]).await.expect_err("no config");
        assert!(err.contains("edgecore.yaml exists: name the log"), "{err}");

        let text = fs::read_to_string(&path).expect("log").replace("edge-2", "edge-9");
        fs::write(&path, text).expect("write");
        let err = keadm(&["audit", "verify", &name]).await.expect_err("changed");
        assert!(err.contains("audit.log, line 2: the record was changed"), "{err}");
        let err = keadm(&["audit", "verify", nowhere]).await.expect_err("missing");
        assert!(err.contains("cannot read"), "{err}");
    }
}
