//! `Impersonate-*` headers (`kubectl --as`): who may act as whom. Pure.
//!
//! Semantics of kubernetes.io, "User impersonation": the verb is `impersonate`, on `users`,
//! `groups`, `serviceaccounts`, and in the group `authentication.k8s.io` on `uids` and
//! `userextras/{key}`.

use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value};

use super::authn::{AUTHENTICATED, MASTERS, User, account_groups};
use super::errors::ApiError;
use crate::kube::rbac::{Access, Ask, ResourceAsk, service_account_user};
use crate::model::Reason;

/// Group of whoever shows no credentials.
const UNAUTHENTICATED: &str = "system:unauthenticated";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// The user a request is done as: its own, or whom its headers name.
///
/// # Errors
/// 403 when the user may not act as that one; 400 for headers without a user.
pub(super) fn impersonated(user: User, headers: &HeaderMap, access: &Access) -> Result<User, ApiError> {
    let text = |value: &HeaderValue| value.to_str().map(str::to_owned).ok();
    let Some(name) = headers.get("impersonate-user").and_then(text) else {
        let other = headers.keys().any(|name| name.as_str().starts_with("impersonate-"));
        return if other {
            Err(ApiError::bad_request("impersonation without Impersonate-User"))
        } else {
            Ok(user)
        };
    };
    let may = |ask: ResourceAsk<'_>| {
        let ask = ResourceAsk { verb: "impersonate", ..ask };
        if user.is_in(MASTERS) || access.allows(user.subjects(), &Ask::Resource(ask)) {
            Ok(())
        } else {
            Err(refusal(&user, &ask))
        }
    };
    let account = account_of(&name);
    match account {
        Some((namespace, name)) => {
            may(ResourceAsk { resource: "serviceaccounts", namespace, name, ..ResourceAsk::default() })?;
        }
        None => may(ResourceAsk { resource: "users", name: &name, ..ResourceAsk::default() })?,
    }
    let mut groups: Vec<String> = headers.get_all("impersonate-group").iter().filter_map(text).collect();
    for group in &groups {
        may(ResourceAsk { resource: "groups", name: group, ..ResourceAsk::default() })?;
    }
    let uid = headers.get("impersonate-uid").and_then(text).unwrap_or_default();
    if !uid.is_empty() {
        may(ResourceAsk { group: AUTHENTICATION, resource: "uids", name: &uid, ..ResourceAsk::default() })?;
    }
    let mut extra = Map::new();
    for key in headers.keys() {
        let Some(field) = key.as_str().strip_prefix(EXTRA) else { continue };
        let values: Vec<String> = headers.get_all(key).iter().filter_map(text).collect();
        for value in &values {
            may(ResourceAsk {
                group: AUTHENTICATION,
                resource: "userextras",
                subresource: field,
                name: value,
                ..ResourceAsk::default()
            })?;
        }
        extra.insert(field.to_owned(), values.into_iter().map(Value::from).collect());
    }
    // A service account is in its groups without being told so.
    if let Some((namespace, _)) = account.filter(|_| groups.is_empty()) {
        groups = account_groups(namespace);
    }
    let known = groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED);
    if !known {
        let group = if name == "system:anonymous" { UNAUTHENTICATED } else { AUTHENTICATED };
        groups.push(group.to_owned());
    }
    Ok(User { name, uid, groups, extra })
}

/// Namespace and name of a service account's user name.
fn account_of(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (service_account_user(namespace, name) == user && !namespace.is_empty() && !name.is_empty())
        .then_some((namespace, name))
}

fn refusal(user: &User, ask: &ResourceAsk<'_>) -> ApiError {
    let resource = match ask.subresource {
        "" => ask.resource.to_owned(),
        sub => format!("{}/{sub}", ask.resource),
    };
    let qualified = if ask.group.is_empty() {
        ask.resource.to_owned()
    } else {
        format!("{}.{}", ask.resource, ask.group)
    };
    let place = match ask.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    let message = format!(
        "{qualified} \"{}\" is forbidden: User \"{}\" cannot impersonate resource \"{resource}\" in API group \"{}\" {place}",
        ask.name, user.name, ask.group
    );
    ApiError::new(Reason::Forbidden, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn access() -> Access {
        let mut access = Access::default();
        access.put(
            "ClusterRole",
            &json!({"metadata": {"name": "as"}, "rules": [
                {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["ann"]},
                {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["groups"], "resourceNames": ["team"]},
                {"verbs": ["impersonate"], "apiGroups": ["authentication.k8s.io"],
                    "resources": ["uids", "userextras/scopes"]},
            ]}),
        );
        access.put(
            "ClusterRoleBinding",
            &json!({"metadata": {"name": "as"}, "roleRef": {"kind": "ClusterRole", "name": "as"},
                "subjects": [{"kind": "User", "name": "bob"}]}),
        );
        access.put(
            "Role",
            &json!({"metadata": {"name": "as", "namespace": "a"}, "rules": [
                {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["serviceaccounts"]}]}),
        );
        access.put(
            "RoleBinding",
            &json!({"metadata": {"name": "as", "namespace": "a"}, "roleRef": {"kind": "Role", "name": "as"},
                "subjects": [{"kind": "User", "name": "bob"}]}),
        );
        access
    }

    fn act(who: &str, headers: &[(&'static str, &'static str)]) -> Result<User, u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        let user = User { name: who.into(), ..User::default() };
        impersonated(user, &map, &access()).map_err(|err| err.code())
    }

    #[test]
    fn only_whom_a_role_names() {
        let own = act("bob", &[]).unwrap();
        assert_eq!((own.name.as_str(), own.groups.len()), ("bob", 0));
        let ann = act(
            "bob",
            &[
                ("impersonate-user", "ann"),
                ("impersonate-group", "team"),
                ("impersonate-uid", "1"),
                ("impersonate-extra-scopes", "view"),
            ],
        )
        .unwrap();
        assert_eq!((ann.name.as_str(), ann.uid.as_str()), ("ann", "1"));
        assert_eq!(ann.groups, ["team", "system:authenticated"]);
        assert_eq!(ann.extra["scopes"], json!(["view"]));
        let bot = act("bob", &[("impersonate-user", "system:serviceaccount:a:bot")]).unwrap();
        assert_eq!(
            bot.groups,
            ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]
        );
        for (who, headers, code) in [
            ("bob", &[("impersonate-user", "eve")][..], 403),
            ("bob", &[("impersonate-user", "ann"), ("impersonate-group", "system:masters")], 403),
            ("bob", &[("impersonate-user", "system:serviceaccount:b:bot")], 403),
            ("bob", &[("impersonate-user", "ann"), ("impersonate-extra-other", "x")], 403),
            ("eve", &[("impersonate-user", "ann")], 403),
            ("bob", &[("impersonate-group", "team")], 400),
        ] {
            assert_eq!(act(who, headers).unwrap_err(), code, "{who} {headers:?}");
        }
    }
}
