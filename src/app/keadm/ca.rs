//! `keadm ca prepare|activate|retire|status`: replacing the root of a cloud while it runs.
//!
//! The commands move files; cloudcore reads them again every few seconds. Every one may be repeated,
//! also after it was interrupted.

use std::io::Write;
use std::time::{Duration, SystemTime};

use clap::Subcommand;

use super::Refusal;
use super::places::Places;
use super::records::shown;
use crate::config::CloudCoreConfig;
use crate::identity::{AuthorityStatus, CaSettings, Rotation, RotationError, Step};
use crate::model::unix_secs;

#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// Makes the next root; from then on nodes trust both
    Prepare {
        #[command(flatten)]
        places: Places,
    },
    /// Puts the next root to use; the old one stays trusted
    Activate {
        #[command(flatten)]
        places: Places,
    },
    /// Ends trust in the old root
    Retire {
        /// Although certificates of the old root may still be in use: their nodes must join again
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        places: Places,
    },
    /// Shows the roots and where a rotation stands
    Status {
        #[command(flatten)]
        places: Places,
    },
}

impl From<RotationError> for Refusal {
    fn from(err: RotationError) -> Self {
        match err {
            RotationError::InUse { until } => Self::new(format!(
                "certificates of the old root may be in use until {}: wait, or use --force (nodes that still \
                 have one must then join again)",
                shown(unix_secs(until))
            )),
            err => Self::new(err.to_string()),
        }
    }
}

pub(super) fn ca(command: &CaCommand, now: SystemTime, out: &mut dyn Write) -> Result<(), Refusal> {
    let (CaCommand::Prepare { places }
    | CaCommand::Activate { places }
    | CaCommand::Retire { places, .. }
    | CaCommand::Status { places }) = command;
    let config = places.load_cloud()?.config;
    let rotation = Rotation::new(&CaSettings::from(&config))?;
    match command {
        CaCommand::Prepare { .. } => {
            let said = match rotation.prepare(now)? {
                Step::Done => "the next root is made: nodes that are connected learn it within seconds",
                Step::Already => "the next root was made before",
            };
            writeln!(out, "{said}; then run: keadm ca activate")?;
        }
        CaCommand::Activate { .. } => {
            let said = match rotation.activate(now)? {
                Step::Done => "the next root is in use",
                Step::Already => "the root in use was activated before",
            };
            let days = linger(&config).as_secs().div_ceil(86_400);
            writeln!(out, "{said}; tokens of the old one are void, mint new ones: keadm gettoken")?;
            writeln!(out, "after {days} days or more run: keadm ca retire")?;
        }
        CaCommand::Retire { force, .. } => {
            let said = match rotation.retire(linger(&config), *force, now)? {
                Step::Done => "the old root is no longer trusted",
                Step::Already => "there is no old root",
            };
            writeln!(out, "{said}")?;
        }
        CaCommand::Status { .. } => status(&rotation, &config, out)?,
    }
    Ok(())
}

/// So long after the activation certificates below the old root may be in use: the longest life of
/// what a node holds, and the grace in which it comes back with an ended one.
fn linger(config: &CloudCoreConfig) -> Duration {
    let node_ca = Duration::from_secs(config.identity.node_ca_ttl_secs);
    let grace = Duration::from_secs(config.identity.reentry_grace_secs);
    node_ca.max(config.node_certificate_ttl().saturating_add(grace))
}

fn status(rotation: &Rotation, config: &CloudCoreConfig, out: &mut dyn Write) -> Result<(), Refusal> {
    let status = rotation.status()?;
    writeln!(out, "{:<10}{:<18}{:<22}KEY", "", "SHA256", "ENDS")?;
    let mut line = |name: &str, authority: &AuthorityStatus, key: &str| {
        let hash: String = authority.hash.chars().take(16).collect();
        writeln!(out, "{name:<10}{hash:<18}{:<22}{key}", shown(unix_secs(authority.not_after)))
    };
    let key = |authority: &AuthorityStatus| if authority.has_key { "here" } else { "elsewhere" };
    line("root", &status.root, key(&status.root))?;
    if let Some(next) = &status.next {
        line("next", next, key(next))?;
    }
    if let Some(old) = &status.old {
        line("old", old, "destroyed")?;
    }
    if let Some(issuing) = &status.issuing {
        line("issuing", issuing, key(issuing))?;
        if !status.issuing_follows {
            writeln!(
                out,
                "\nThe issuing CA is not of the root in use: start cloudcore, with the root's key."
            )?;
        }
    }
    if let (Some(_), Some(activated)) = (&status.old, status.activated_at) {
        let until = activated.checked_add(linger(config)).unwrap_or(activated);
        writeln!(
            out,
            "\nActivated {}. The old root can be retired after {}.",
            shown(unix_secs(activated)),
            shown(unix_secs(until))
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::keadm;
    use crate::config::load;
    use crate::identity::{Ca, CaSettings};

    #[tokio::test]
    async fn a_rotation_step_by_step() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().display().to_string();
        let run = async |step: &'static [&'static str]| {
            let all: Vec<&str> =
                ["ca"].into_iter().chain(step.iter().copied()).chain(["--root", &root]).collect();
            keadm(&all).await
        };
        let err = run(&["status"]).await.expect_err("no config");
        assert!(err.contains("run keadm init"), "{err}");
        keadm(&["init", "--root", &root]).await.expect("init");

        let status = run(&["status"]).await.expect("status");
        assert!(
            status.contains("root") && status.contains("issuing") && !status.contains("next"),
            "{status}"
        );
        let err = run(&["activate"]).await.expect_err("nothing prepared");
        assert!(err.contains("keadm ca prepare first"), "{err}");
        assert!(run(&["prepare"]).await.expect("prepare").contains("is made"));
        assert!(run(&["prepare"]).await.expect("again").contains("was made before"));
        assert!(run(&["status"]).await.expect("status").contains("next"));
        let activated = run(&["activate"]).await.expect("activate");
        assert!(activated.contains("is in use") && activated.contains("after 8 days"), "{activated}");
        assert!(run(&["activate"]).await.expect("again").contains("activated before"));
        let status = run(&["status"]).await.expect("status");
        assert!(status.contains("destroyed") && status.contains("not of the root in use"), "{status}");
        assert!(status.contains("can be retired after"), "{status}");

        let err = run(&["retire"]).await.expect_err("too early");
        assert!(err.contains("may be in use until 2") && !err.contains('\n'), "{err}");
        let config = load(&dir.path().join("etc/kubeedge/config/cloudcore.yaml")).expect("config").config;
        Ca::open(CaSettings::from(&config), std::time::SystemTime::now()).expect("cloudcore follows");
        assert!(run(&["retire", "--force"]).await.expect("forced").contains("no longer trusted"));
        assert!(run(&["retire"]).await.expect("again").contains("there is no old root"));
        let status = run(&["status"]).await.expect("status");
        assert!(!status.contains("old") && !status.contains("not of the root"), "{status}");

        keadm(&["reset", "cloud", "--root", &root]).await.expect("reset");
        let left: Vec<_> = std::fs::read_dir(dir.path().join("etc/kubeedge/ca")).expect("list").collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
