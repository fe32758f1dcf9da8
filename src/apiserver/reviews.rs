//! Create-only kinds: who a token belongs to, who I am, what I may do.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::authn::{MASTERS, User};
use super::authz::{self, Attributes};
use super::core::ApiCore;
use super::errors::ApiError;
use super::kinds::{self, KINDS, Kind, Sub};
use super::object;
use crate::identity::ServiceAccountKeys;
use crate::kube::rbac::{Ask, ResourceAsk};
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
            _ => self.rules_status(user, &review),
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
        let text = |pointer: &str| review.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let allowed = |allowed: bool| json!({"allowed": allowed});
        if user.is_in(MASTERS) {
            return allowed(true);
        }
        if review.pointer("/spec/resourceAttributes").is_none() {
            let (verb, path) =
                (text("/spec/nonResourceAttributes/verb"), text("/spec/nonResourceAttributes/path"));
            let ask = Ask::Path { verb, path };
            return allowed(self.read(|registry| registry.access().allows(user.subjects(), &ask)));
        }
        let text = |field: &str| text(&format!("/spec/resourceAttributes/{field}"));
        let kind = KINDS.iter().find(|kind| kind.group == text("group") && kind.plural == text("resource"));
        let sub = [Sub::Status, Sub::Binding, Sub::Eviction, Sub::Token]
            .into_iter()
            .find(|sub| sub.path() == text("subresource"));
        let Some(kind) = kind.filter(|_| sub.is_some() || text("subresource").is_empty()) else {
            // Roles may speak of what is not served, and of everything.
            let ask = Ask::Resource(ResourceAsk {
                verb: text("verb"),
                group: text("group"),
                resource: text("resource"),
                subresource: text("subresource"),
                namespace: text("namespace"),
                name: text("name"),
            });
            return allowed(self.read(|registry| registry.access().allows(user.subjects(), &ask)));
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
            Ok(()) => allowed(true),
            Err(err) => json!({"allowed": false, "reason": err.status.message}),
        }
    }

    /// Every rule that counts for the user in a namespace. What nodes may do follows from their
    /// pods and stands in no rule.
    fn rules_status(&self, user: &User, review: &Value) -> Value {
        let namespace = review.pointer("/spec/namespace").and_then(Value::as_str).unwrap_or_default();
        let (mut resources, mut urls): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
        // Of text: a user with thousands of rules must not hold up everybody else.
        let mut shown = HashSet::new();
        let mut add = |list: &mut Vec<Value>, rule: Value| {
            if shown.insert(rule.to_string()) {
                list.push(rule);
            }
        };
        if user.is_in(MASTERS) {
            add(&mut resources, json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
            add(&mut urls, json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        }
        self.read(|registry| {
            for rule in registry.access().rules_for(user.subjects(), namespace) {
                if !rule.resources.is_empty() {
                    let mut shown =
                        json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
                    if !rule.resource_names.is_empty() {
                        object::map(&mut shown).insert("resourceNames".into(), json!(rule.resource_names));
                    }
                    add(&mut resources, shown);
                }
                if !rule.non_resource_urls.is_empty() {
                    add(&mut urls, json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
                }
            }
        });
        json!({
            "resourceRules": resources,
            "nonResourceRules": urls,
            "incomplete": user.node().is_some(),
        })
    }
}
