//! Create-only kinds: who a token belongs to, who I am, what I may do.

use serde_json::{Value, json};

use super::authn::{MASTERS, User};
use super::authz::{self, Attributes};
use super::core::ApiCore;
use super::errors::ApiError;
use super::kinds::{self, KINDS, Kind, Sub};
use super::object;
use crate::identity::ServiceAccountKeys;
use crate::kube::selector::FieldSelector;

impl ApiCore {
    /// Answers a review with its `status`.
    ///
    /// # Errors
    /// 400 for a body that is not of this kind.
    pub(super) fn review(&self, kind: &Kind, user: &User, mut review: Value) -> Result<Value, ApiError> {
        super::body::check_kind(kind, &review)?;
        let status = match kind.plural {
            "tokenreviews" => self.token_status(&review),
            "selfsubjectreviews" => json!({"userInfo": user.info()}),
            "selfsubjectaccessreviews" => self.access_status(user, &review),
            _ => rules_status(user),
        };
        let map = object::map(&mut review);
        map.insert("apiVersion".into(), kind.api_version().into());
        map.insert("kind".into(), kind.kind.into());
        map.insert("status".into(), status);
        if let Some(spec) = map.get_mut("spec").and_then(Value::as_object_mut)
            && kind.plural == "tokenreviews"
        {
            spec.remove("token");
        }
        Ok(review)
    }

    fn token_status(&self, review: &Value) -> Value {
        let token = review.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
        let wanted: Vec<String> = review
            .pointer("/spec/audiences")
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .filter(|list: &Vec<String>| !list.is_empty())
            .unwrap_or_else(|| vec![ServiceAccountKeys::issuer().to_owned()]);
        match self.review_token(token) {
            Err(why) => json!({"authenticated": false, "error": why}),
            Ok((user, audiences)) => {
                let common: Vec<String> = audiences.into_iter().filter(|own| wanted.contains(own)).collect();
                if common.is_empty() {
                    return json!({"authenticated": false, "error": "the token is for another audience"});
                }
                json!({"authenticated": true, "user": user.info(), "audiences": common})
            }
        }
    }

    fn access_status(&self, user: &User, review: &Value) -> Value {
        let Some(asked) = review.pointer("/spec/resourceAttributes") else {
            return json!({"allowed": user.is_in(MASTERS)});
        };
        if user.is_in(MASTERS) {
            return json!({"allowed": true});
        }
        let text = |field: &str| asked.get(field).and_then(Value::as_str).unwrap_or_default();
        let kind = KINDS.iter().find(|kind| kind.group == text("group") && kind.plural == text("resource"));
        let sub = [Sub::Status, Sub::Binding, Sub::Eviction, Sub::Token]
            .into_iter()
            .find(|sub| sub.path() == text("subresource"));
        let Some(kind) = kind.filter(|_| sub.is_some() || text("subresource").is_empty()) else {
            return json!({"allowed": false, "reason": "no such resource"});
        };
        let attributes = Attributes {
            verb: text("verb"),
            kind: kinds::at(kind.id),
            sub,
            namespace: text("namespace"),
            name: text("name"),
            fields: &FieldSelector::default(),
        };
        match self.read(|registry| authz::authorize(user, &attributes, registry)) {
            Ok(()) => json!({"allowed": true}),
            Err(err) => json!({"allowed": false, "reason": err.status.message}),
        }
    }
}

fn rules_status(user: &User) -> Value {
    let everything = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
    let own = json!([{
        "verbs": ["create"], "apiGroups": ["authorization.k8s.io", "authentication.k8s.io"],
        "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"],
    }]);
    let masters = user.is_in(MASTERS);
    json!({
        "resourceRules": if masters { everything } else { own },
        "nonResourceRules": [{"verbs": [if masters { "*" } else { "get" }], "nonResourceURLs": ["*"]}],
        "incomplete": user.node().is_some(),
    })
}
