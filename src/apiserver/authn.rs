//! Who asks: the verified client certificate, or a service-account token whose account still lives.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::core::ApiCore;
use super::errors::ApiError;
use super::kinds::{self, PODS, SERVICEACCOUNTS};
use super::object;
use crate::identity::{PeerIdentity, ServiceAccountClaims, ServiceAccountKeys};
pub use crate::kube::rbac::MASTERS;
use crate::kube::rbac::{Subjects, service_account_user};

/// Group of nodes.
pub const NODES_GROUP: &str = "system:nodes";
/// Group of everybody who is known.
pub const AUTHENTICATED: &str = "system:authenticated";

/// An authenticated caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: Map<String, Value>,
}

impl User {
    /// The controllers inside this program.
    #[must_use]
    pub fn system(name: &str) -> Self {
        Self { name: name.to_owned(), groups: vec![MASTERS.into(), AUTHENTICATED.into()], ..Self::default() }
    }

    /// The bearer of a certificate of our CA; `None` without a name, or for a node whose names
    /// contradict each other.
    #[must_use]
    pub fn from_certificate(peer: &PeerIdentity) -> Option<Self> {
        let claims_node = peer.organizations.iter().any(|group| group == NODES_GROUP);
        if peer.common_name.is_empty() || claims_node && peer.node().is_none() {
            return None;
        }
        let groups = peer.organizations.iter().cloned().chain([AUTHENTICATED.to_owned()]).collect();
        Some(Self { name: peer.common_name.clone(), groups, ..Self::default() })
    }

    #[must_use]
    pub fn from_claims(claims: &ServiceAccountClaims) -> Self {
        let mut extra = Map::new();
        if let Some((pod, uid)) = &claims.pod {
            extra.insert("authentication.kubernetes.io/pod-name".into(), json!([pod]));
            extra.insert("authentication.kubernetes.io/pod-uid".into(), json!([uid]));
        }
        Self {
            name: service_account_user(&claims.namespace, &claims.service_account),
            uid: claims.service_account_uid.clone(),
            groups: account_groups(&claims.namespace),
            extra,
        }
    }

    #[must_use]
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The node this is: `system:node:{name}` in `system:nodes`.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|name| !name.is_empty() && self.is_in(NODES_GROUP))
    }

    /// As bindings name him.
    #[must_use]
    pub fn subjects(&self) -> Subjects<'_> {
        Subjects { user: &self.name, groups: &self.groups }
    }

    /// `UserInfo` of reviews.
    #[must_use]
    pub fn info(&self) -> Value {
        json!({"username": self.name, "uid": self.uid, "groups": self.groups, "extra": self.extra})
    }
}

/// The groups of every service account of a namespace.
#[must_use]
pub fn account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}"), AUTHENTICATED.into()]
}

impl ApiCore {
    /// The caller behind a certificate or an `Authorization` header; `None` if neither is there.
    /// A token counts before a certificate.
    ///
    /// # Errors
    /// 401 for a token or certificate that is not good.
    pub fn authenticate(
        &self,
        peer: Option<&PeerIdentity>,
        authorization: Option<&str>,
    ) -> Result<Option<User>, ApiError> {
        if let Some(header) = authorization {
            let token = header
                .split_once(' ')
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
                .map(|(_, token)| token.trim())
                .ok_or_else(ApiError::unauthorized)?;
            let audience = ServiceAccountKeys::issuer();
            let (user, audiences) = self.review_token(token).map_err(|why| {
                tracing::debug!(%why, "service account token refused");
                ApiError::unauthorized()
            })?;
            if !audiences.iter().any(|own| own == audience) {
                return Err(ApiError::unauthorized());
            }
            return Ok(Some(user));
        }
        match peer {
            None => Ok(None),
            Some(peer) => User::from_certificate(peer).map(Some).ok_or_else(ApiError::unauthorized),
        }
    }

    /// Checks a service-account token: signature, life, and that its account (and pod) still
    /// exist with the same uid. Returns the user and the audiences of the token.
    ///
    /// # Errors
    /// Why it is not good, for logs and reviews; names no secret.
    pub fn review_token(&self, token: &str) -> Result<(User, Vec<String>), String> {
        let now = SystemTime::from(self.now());
        let claims = self.keys.verify(token, now).map_err(|err| err.to_string())?;
        let same = |kind: usize, name: &str, uid: &str| {
            let found = self.find(kinds::at(kind), &claims.namespace, name);
            let value = found.and_then(|object| object.value().ok());
            value.is_some_and(|value| object::text(&value, "uid") == uid)
        };
        if !same(SERVICEACCOUNTS, &claims.service_account, &claims.service_account_uid) {
            return Err(format!(
                "service account {}/{} has been deleted or made anew",
                claims.namespace, claims.service_account
            ));
        }
        if let Some((pod, uid)) = &claims.pod
            && !same(PODS, pod, uid)
        {
            return Err(format!("pod {}/{pod} that the token is bound to is gone", claims.namespace));
        }
        Ok((User::from_claims(&claims), claims.audiences))
    }
}
