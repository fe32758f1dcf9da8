//! Role-based access control: who may do what by roles and bindings.
//!
//! The semantics are those of kubernetes.io, "Using RBAC Authorization": rights only add up, a
//! RoleBinding gives rights in its own namespace, whatever role it names, and only a
//! ClusterRoleBinding gives rights to cluster-scoped resources and to URLs that are no resources.
//! Aggregation (`aggregationRule`) is not followed: a ClusterRole has the rules written in it.

mod access;
mod covers;
mod rule;
#[cfg(test)]
mod tests;

pub use access::{Access, Subjects};
pub use covers::{Missing, missing};
pub use rule::{Ask, ResourceAsk, Rule, rules_of};

/// API group of the four kinds.
pub const GROUP: &str = "rbac.authorization.k8s.io";
/// May grant what he does not hold: Kubernetes lets this group past every check.
pub const MASTERS: &str = "system:masters";

/// The user name of a service account.
#[must_use]
pub fn service_account_user(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}
