//! L2: the embedded Kubernetes API (design D1), so that one machine needs no cluster.
//!
//! From the outside in: [`http`] and [`tower`] carry requests, [`service`] reads them, `verbs`
//! runs them, [`write`], [`delete`], [`namespaces`], [`subresources`] decide on a [`tx::Tx`],
//! [`registry`] holds what is and what is being committed, [`core`] commits. What is served is the
//! table in [`kinds`]: a new kind is one entry there.
//!
//! [`custom`] serves the kinds of `config/crds/` by what those files say.
//!
//! Not served yet: server-side apply, custom resource definitions of others, schemas for `kubectl explain`,
//! aggregation of ClusterRoles, `pods/log` and `pods/exec`.

mod admission;
pub mod authn;
pub mod authz;
mod bodies;
pub mod body;
pub mod core;
pub mod custom;
pub mod delete;
pub mod discovery;
mod enrolled;
pub mod errors;
pub mod grants;
pub mod http;
mod impersonate;
pub mod kinds;
pub mod kubeconfig;
pub mod namespaces;
pub mod object;
pub mod openapi;
pub mod paths;
pub mod query;
pub mod read;
pub mod registry;
pub mod render;
mod reviews;
pub mod roles;
pub mod service;
pub mod subresources;
#[cfg(test)]
mod tests;
pub mod tower;
pub mod tx;
mod verbs;
pub mod watch;
pub mod write;

pub use authn::User;
pub use core::{ApiCore, ApiSettings, Clock};
pub use enrolled::enrolled_nodes;
pub use errors::ApiError;
pub use service::{ApiBody, ApiRequest, ApiResponse};
