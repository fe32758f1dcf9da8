//! The Secrets about join tokens in the API: used ones, taken by compare-and-swap, and revoked ones.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ::kube::api::{Api, ObjectMeta, PostParams};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use parking_lot::Mutex;

use super::join::Denied;
use super::token_use::{Claim, Uses, claim, unused};
use crate::identity::JoinClaims;
use crate::model::{NodeName, unix_secs};
use crate::telemetry::identity::Refused;

const NAMESPACE: &str = "kubeedge";
/// One key a used token ([`super::token_use::Use`]).
const USED: &str = "used-tokens";
/// Ids of revoked join tokens are the keys of its data.
const REVOKED: &str = "revoked-tokens";
/// How long an answer about revocations is good for turning callers away, and for tokens that are
/// not used up.
const REVOKED_TTL: Duration = Duration::from_secs(5);
const API_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait of a caller until its token is taken.
const TAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// Others may write at the same moment: so often it is tried again.
const TRIES: u32 = 10;

/// Who used which token, as the API has it.
pub struct TokenUses {
    client: ::kube::Client,
    secrets: Api<Secret>,
    revoked: Mutex<Option<(Instant, Arc<HashSet<String>>)>>,
}

impl TokenUses {
    #[must_use]
    pub fn new(client: ::kube::Client) -> Self {
        let secrets = Api::namespaced(client.clone(), NAMESPACE);
        Self { client, secrets, revoked: Mutex::new(None) }
    }

    /// Was the token revoked? When the API cannot be asked, nobody joins by token: a revoked token
    /// must not come back through an outage, and without the API the node could not register anyway.
    ///
    /// # Errors
    /// [`Denied`] with 401 for a revoked token, 503 when nobody knows.
    pub async fn check_revoked(&self, token: &JoinClaims) -> Result<(), Denied> {
        self.check_revoked_since(token, REVOKED_TTL).await
    }

    async fn check_revoked_since(&self, token: &JoinClaims, max_age: Duration) -> Result<(), Denied> {
        if self.revoked(max_age).await?.contains(&token.id) {
            return Err(Denied::new(401, Refused::TokenRevoked, "the token was revoked"));
        }
        Ok(())
    }

    async fn revoked(&self, max_age: Duration) -> Result<Arc<HashSet<String>>, Denied> {
        if let Some((at, ids)) = &*self.revoked.lock()
            && at.elapsed() < max_age
        {
            return Ok(Arc::clone(ids));
        }
        let secret = deadline(self.secrets.get_opt(REVOKED)).await?;
        let ids = Arc::new(secret.and_then(|it| it.data).unwrap_or_default().into_keys().collect());
        *self.revoked.lock() = Some((Instant::now(), Arc::clone(&ids)));
        Ok(ids)
    }

    /// Could `node` still use it?
    ///
    /// # Errors
    /// [`Denied`] with 401 when it was used, 503 when nobody knows.
    pub async fn check_unused(&self, token: &JoinClaims, node: &NodeName) -> Result<(), Denied> {
        let secret = deadline(self.secrets.get_opt(USED)).await?;
        unused(&uses(secret.as_ref()), token, node)
    }

    /// Takes the token for this key of this node. Of two machines at once one succeeds: the API takes
    /// a write only from who has seen the newest state. `true`: the same key took it before.
    ///
    /// # Errors
    /// [`Denied`] with 401 when another key or node has it or it was revoked, 503 when the API does
    /// not answer.
    pub async fn take(&self, token: &JoinClaims, node: &NodeName, key_hash: &str) -> Result<bool, Denied> {
        let taken = tokio::time::timeout(TAKE_TIMEOUT, self.try_to_take(token, node, key_hash)).await;
        taken.unwrap_or_else(|_| Err(away(&"no answer in time")))
    }

    async fn try_to_take(&self, token: &JoinClaims, node: &NodeName, key_hash: &str) -> Result<bool, Denied> {
        self.check_revoked_since(token, Duration::ZERO).await?;
        for attempt in 0..TRIES {
            if attempt > 0 {
                let pause = Duration::from_millis(fastrand::u64(1..=20) << attempt.min(4));
                tokio::time::sleep(pause).await;
            }
            let there = deadline(self.secrets.get_opt(USED)).await?;
            let after =
                match claim(&uses(there.as_ref()), token, node, key_hash, unix_secs(SystemTime::now()))? {
                    Claim::Again => return Ok(true),
                    Claim::Write(after) => after,
                };
            if self.write(there, after).await? {
                return Ok(false);
            }
        }
        Err(Denied::new(503, Refused::Unavailable, "too many nodes join at this moment, try again later"))
    }

    /// `false`: somebody else wrote meanwhile.
    async fn write(&self, there: Option<Secret>, after: Uses) -> Result<bool, Denied> {
        let data = Some(after.into_iter().map(|(id, value)| (id, ByteString(value))).collect());
        let post = PostParams::default();
        let written = match there {
            Some(secret) => {
                let secret = Secret { data, ..secret };
                timely(self.secrets.replace(USED, &post, &secret)).await?
            }
            None => {
                self.ensure_namespace().await?;
                let metadata = ObjectMeta { name: Some(USED.to_owned()), ..ObjectMeta::default() };
                let type_ = Some("Opaque".to_owned());
                let secret = Secret { metadata, data, type_, ..Secret::default() };
                timely(self.secrets.create(&post, &secret)).await?
            }
        };
        match written {
            Ok(_) => Ok(true),
            // Changed, made or removed by another.
            Err(::kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
            Err(err) => Err(away(&err)),
        }
    }

    async fn ensure_namespace(&self) -> Result<(), Denied> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        if deadline(namespaces.get_opt(NAMESPACE)).await?.is_some() {
            return Ok(());
        }
        let metadata = ObjectMeta { name: Some(NAMESPACE.to_owned()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        match timely(namespaces.create(&PostParams::default(), &namespace)).await? {
            Ok(_) => Ok(()),
            Err(::kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(err) => Err(away(&err)),
        }
    }
}

fn uses(secret: Option<&Secret>) -> Uses {
    let data = secret.and_then(|secret| secret.data.as_ref()).into_iter().flatten();
    data.map(|(id, value)| (id.clone(), value.0.clone())).collect()
}

fn away(err: &dyn std::fmt::Display) -> Denied {
    tracing::warn!(error = %err, "call to the api server failed");
    Denied::new(503, Refused::Unavailable, "the Kubernetes API cannot be asked, try again later")
}

async fn timely<T>(
    call: impl Future<Output = Result<T, ::kube::Error>>,
) -> Result<Result<T, ::kube::Error>, Denied> {
    tokio::time::timeout(API_TIMEOUT, call).await.map_err(|_| away(&"no answer in time"))
}

async fn deadline<T>(call: impl Future<Output = Result<T, ::kube::Error>>) -> Result<T, Denied> {
    timely(call).await?.map_err(|err| away(&err))
}
