//! The API as a visitor: whom his token names, and a client that may do what he may.

use std::sync::Arc;

use ::kube::api::PostParams;
use ::kube::config::AuthInfo;
use ::kube::{Api, Client, Config};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;

use crate::apiserver::{ApiCore, User};
use crate::console::feed::Denied;
use crate::console::sign_in::Token;

const BAD: &str = "the token is not valid, or not any more";
/// Whom the API does not name.
const UNNAMED: &str = "(unnamed)";

/// The API that the console shows.
pub enum Access {
    /// Served by this program.
    Embedded(Arc<ApiCore>),
    /// Of a real cluster.
    Cluster(Box<Config>),
}

impl Access {
    /// A real cluster's, at the same address and with the same CA as cloudcore's own client; of its
    /// credentials nothing is kept.
    #[must_use]
    pub fn cluster(mut own: Config) -> Self {
        own.auth_info = AuthInfo::default();
        Self::Cluster(Box::new(own))
    }

    /// Whom the token names.
    pub(super) async fn admit(&self, token: &Token) -> Result<String, Denied> {
        match self {
            Self::Embedded(core) => Ok(user_of(core, token)?.name),
            Self::Cluster(config) => {
                let api: Api<SelfSubjectReview> = Api::all(client_with(config, token)?);
                match api.create(&PostParams::default(), &SelfSubjectReview::default()).await {
                    Ok(review) => {
                        let info = review.status.and_then(|status| status.user_info);
                        Ok(info.and_then(|info| info.username).unwrap_or_else(|| UNNAMED.to_owned()))
                    }
                    Err(::kube::Error::Api(status)) if status.code == 401 => {
                        Err(Denied::BadToken(BAD.to_owned()))
                    }
                    // Known to the API, which is older than this review or does not let him ask.
                    Err(::kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                        Ok(UNNAMED.to_owned())
                    }
                    Err(err) => {
                        tracing::warn!(error = %err, "a token for the console cannot be checked");
                        Err(Denied::Unavailable("the Kubernetes API does not answer".to_owned()))
                    }
                }
            }
        }
    }

    /// A client that may do what the visitor may.
    pub(super) async fn client(&self, token: &Token) -> Result<Client, Denied> {
        match self {
            Self::Embedded(core) => Ok(core.client_as(user_of(core, token)?)),
            Self::Cluster(config) => client_with(config, token),
        }
    }
}

fn user_of(core: &ApiCore, token: &Token) -> Result<User, Denied> {
    let header = format!("Bearer {}", token.expose());
    let bad = || Denied::BadToken(BAD.to_owned());
    core.authenticate(None, Some(&header)).map_err(|_| bad())?.ok_or_else(bad)
}

fn client_with(config: &Config, token: &Token) -> Result<Client, Denied> {
    let mut config = config.clone();
    config.auth_info.token = Some(token.expose().to_owned().into());
    Client::try_from(config).map_err(|err| {
        tracing::warn!(error = %err, "no client of the API for a console");
        Denied::Unavailable("the Kubernetes API cannot be reached".to_owned())
    })
}
