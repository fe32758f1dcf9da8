//! Renewing over the session: the question and what its answer means.

use crate::model::identity::{RenewalReply, RenewalRequest};
use crate::model::{Body, Envelope, Resource, operation};

/// Group and source of these messages: ours, KubeEdge has none.
pub const GROUP: &str = "identity";
const SOURCE: &str = "edgehub";

/// The question to the cloud.
///
/// # Errors
/// Never in practice: the request is plain text.
pub fn question(request: &RenewalRequest, now_ms: i64) -> Result<Envelope, String> {
    let body = serde_json::to_value(request).map_err(|err| err.to_string())?;
    let resource = Resource::IdentityRenewal;
    Ok(Envelope::new(SOURCE, GROUP, operation::QUERY, resource, Body::Object(body), now_ms))
}

/// Why an answer renews nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRenewed {
    /// In the cloud's words.
    #[error("the cloud refuses: {0}")]
    Refused(String),
    #[error("the cloud's answer is no renewal: {0}")]
    Garbled(String),
}

/// What the cloud answered.
///
/// # Errors
/// [`NotRenewed`].
pub fn answer(envelope: Envelope) -> Result<RenewalReply, NotRenewed> {
    match envelope.body {
        Body::Object(value) => {
            serde_json::from_value(value).map_err(|err| NotRenewed::Garbled(err.to_string()))
        }
        Body::Text(why) => Err(NotRenewed::Refused(clip(&why))),
        Body::Error(status) => Err(NotRenewed::Refused(clip(&status.status.inner.message))),
        _ => Err(NotRenewed::Garbled("it is neither an object nor a text".to_owned())),
    }
}

fn clip(text: &str) -> String {
    text.trim().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::identity::BundleDocument;

    #[test]
    fn questions_and_answers() {
        let request = RenewalRequest { csr: "a".into(), ca_csr: "b".into(), jwt_key: json!({"kty": "EC"}) };
        let question = question(&request, 1).unwrap();
        assert_eq!(question.route.resource.to_string(), "identity/renewal");
        let Body::Object(body) = &question.body else { panic!("{question:?}") };
        assert_eq!(body, &json!({"csr": "a", "caCsr": "b", "jwtKey": {"kty": "EC"}}));

        let reply = RenewalReply {
            svid: vec!["s".into()],
            node_ca: vec!["c".into()],
            bundle: BundleDocument { trust_domain: "td".into(), ..BundleDocument::default() },
        };
        let good = question.response(Body::Object(serde_json::to_value(&reply).unwrap()), 2);
        assert_eq!(answer(good), Ok(reply));
        for (case, body, want) in [
            ("refused", Body::Text(" revoked: stolen\n".into()), "the cloud refuses: revoked: stolen"),
            ("long", Body::Text("x".repeat(5000)), "the cloud refuses: xxx"),
            ("half", Body::Object(json!({"svid": []})), "is no renewal: missing field"),
            ("nothing", Body::Null, "is no renewal: it is neither"),
            ("a list", Body::Unknown(json!([1])), "is no renewal: it is neither"),
        ] {
            let err = answer(question.response(body, 2)).unwrap_err().to_string();
            assert!(err.contains(want) && err.len() < 300, "{case}: {err}");
        }
    }
}
