//! Why a node has no identity, in words for the operator.

use std::path::PathBuf;

use http::StatusCode;

use crate::identity::{IdentityError, TokenError};
use crate::model::NodeName;

/// Why there is no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("{} was issued for {found:?}, not for node {node}: remove it and its key to join anew, or correct hostnameOverride", file.display())]
    OtherNode { file: PathBuf, found: String, node: NodeName },
    #[error("{why}: put a fresh join token into {} (`keadm gettoken` prints one on the cloud side)", bootstrap_file.display())]
    NeedsToken { why: String, bootstrap_file: PathBuf },
    #[error("join token: {0}")]
    Token(#[from] TokenError),
    #[error("the CA at {server} is not the one the join token names: wrong server, or somebody in between")]
    WrongCa { server: String },
    #[error(
        "identity.factoryCertFile joins without a token, so nothing vouches for the cloud: copy the cloud's root certificate to {} (modules.edgeHub.tlsCaFile)",
        file.display()
    )]
    NeedsRoots { file: PathBuf },
    #[error("{url} answered {status}: {text}")]
    Refused { url: String, status: StatusCode, text: String },
    /// A KubeEdge cloud, which does not talk about certificates that ran out.
    #[error("the certificate that ran out was not renewed: {0}")]
    NotTakenBack(String),
    #[error("cannot get {url}: {why}")]
    Http { url: String, why: String },
    #[error("{url}: the answer is no set of credentials: {why}")]
    BadAnswer { url: String, why: String },
    #[error("modules.edgeHub.httpServer: {0}")]
    BadServer(String),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl JoinError {
    /// The join server answered, and says no to what it was shown.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if matches!(status.as_u16(), 400 | 401 | 403))
    }

    /// The server does not know `POST /identity/node`: it is Go's.
    #[must_use]
    pub fn is_unknown_path(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if matches!(status.as_u16(), 404 | 405))
    }
}
