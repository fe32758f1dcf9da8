//! Cloud or edge: what a command is about when both may be on one machine.

use super::Refusal;
use super::places::Places;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Side {
    Cloud,
    Edge,
}

impl Side {
    pub fn program(self) -> &'static str {
        match self {
            Self::Cloud => "cloudcore",
            Self::Edge => "edgecore",
        }
    }

    /// What was asked for, or whatever has a config file here.
    pub fn found(asked: Option<Self>, places: &Places) -> Vec<Self> {
        match asked {
            Some(side) => vec![side],
            None => [Self::Cloud, Self::Edge]
                .into_iter()
                .filter(|side| places.config(side.program()).exists())
                .collect(),
        }
    }

    /// As [`Side::found`], but one: the cloud where both are.
    pub fn one(asked: Option<Self>, places: &Places) -> Result<Self, Refusal> {
        Self::found(asked, places).first().copied().ok_or_else(|| {
            Refusal::new(format!(
                "neither {} nor {} exists: run keadm init or keadm join, or name the file with --config",
                places.config_shown("cloudcore"),
                places.config_shown("edgecore")
            ))
        })
    }
}
