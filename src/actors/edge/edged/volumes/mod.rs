//! Volumes of a pod: what they hold ([`material`], pure), how it gets on disk ([`payload`],
//! [`disk`]), and where containers see it ([`mounts`]). The async front is `volumes_worker`.

pub mod disk;
pub mod last_words;
pub mod material;
pub mod mounts;
pub mod payload;
mod subpath;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::fields::FieldError;
use super::names::UnsafeName;

/// Everything the pod's volumes hold at this moment. Prepare it again when a source changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodVolumes {
    pub volumes: Vec<Volume>,
    /// `spec.securityContext.fsGroup`: group of what we create.
    pub fs_group: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub material: VolumeMaterial,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeMaterial {
    /// Scratch space with the pod's life, on disk or in memory.
    EmptyDir { memory: bool, size_limit_bytes: Option<i64> },
    /// A place of the host's, checked and made as its type says.
    HostPath { path: PathBuf, check: HostPathCheck },
    /// Files that we write and keep up to date.
    Files {
        /// The kubelet's folder name, e.g. `kubernetes.io~configmap`.
        plugin: &'static str,
        /// By path under the volume's root; never empty, absolute, or with `..`.
        files: BTreeMap<String, FileMaterial>,
        /// Kept off the disk where possible: secrets and tokens.
        memory: bool,
    },
}

/// `hostPath.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPathCheck {
    Unchecked,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

/// One file to write. `Debug` shows no content: it may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct FileMaterial {
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// User who owns it; root when absent.
    pub owner: Option<u32>,
}

impl fmt::Debug for FileMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileMaterial({} bytes, {:o})", self.data.len(), self.mode)
    }
}

/// Why a volume is not there. Texts follow the kubelet's `FailedMount` events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {why}")]
    Setup { volume: String, why: Why },
    #[error("failed to prepare subPath for volumeMount {mount:?} of container {container:?}: {why}")]
    SubPath { mount: String, container: String, why: String },
    #[error("container {container:?}: volumeMount {mount:?} names no volume of the pod")]
    NoVolume { mount: String, container: String },
    #[error(transparent)]
    Name(#[from] UnsafeName),
    #[error("cannot {op} {}: {why}", path.display())]
    Io { op: &'static str, path: PathBuf, why: String },
}

/// What is wrong with one volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// `kind` is `configmap` or `secret`.
    #[error("{kind} {name:?} not found")]
    ObjectNotFound { kind: &'static str, name: String },
    #[error("references non-existent {what} key: {key}")]
    KeyNotFound { what: &'static str, key: String },
    #[error("no token for service account {0:?} yet")]
    NoToken(String),
    #[error("path {path:?} {rule}")]
    BadPath { path: String, rule: &'static str },
    #[error("hostPath type check failed: {} {what}", path.display())]
    HostPath { path: PathBuf, what: &'static str },
    #[error("hostPath type {0:?} is not known")]
    HostPathType(String),
    #[error("this kind of volume is not supported")]
    Unsupported,
    #[error("{0}")]
    Field(#[from] FieldError),
    #[error("container {0} not found")]
    NoContainer(String),
    #[error("{0}")]
    Disk(String),
}

impl VolumeError {
    pub(super) fn setup(volume: &str, why: impl Into<Why>) -> Self {
        Self::Setup { volume: volume.to_owned(), why: why.into() }
    }
}
