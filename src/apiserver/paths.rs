//! URL paths of the Kubernetes API: the only parser of them on this side.

use super::errors::ApiError;
use super::kinds::{self, Kind, Nature, Sub};

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    Health,
    Version,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/{group}`.
    Group(String),
    /// `/api/v1`, `/apis/{group}/{version}`.
    Resources {
        group: String,
        version: String,
    },
    /// `/openapi/v2`: older than v3, asked for kinds that are not in v3.
    OpenApiV2,
    OpenApiIndex,
    /// `/openapi/v3/{api/v1 | apis/group/version}`.
    OpenApi {
        group: String,
        version: String,
    },
    Resource(Target),
}

/// A collection or an object.
#[derive(Debug, Clone)]
pub struct Target {
    pub kind: &'static Kind,
    /// `None` for cluster-scoped kinds and for all namespaces.
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub sub: Option<Sub>,
    /// An old `/watch/` prefix.
    pub watch: bool,
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        self.kind.id == other.kind.id
            && (&self.namespace, &self.name, self.sub, self.watch)
                == (&other.namespace, &other.name, other.sub, other.watch)
    }
}

impl Eq for Target {}

/// Longest path accepted, bytes.
const MAX_PATH_BYTES: usize = 4096;

/// Reads a path, without its query.
///
/// # Errors
/// 404 for what is not served.
pub fn parse(path: &str) -> Result<Path, ApiError> {
    if path.len() > MAX_PATH_BYTES {
        return Err(ApiError::bad_request("the path is longer than 4096 bytes"));
    }
    let parts = path
        .split('/')
        .filter(|part| !part.is_empty())
        .map(decode)
        .collect::<Option<Vec<String>>>()
        .ok_or_else(|| ApiError::bad_request("the path is not UTF-8 after decoding"))?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => Ok(Path::Health),
        ["version"] => Ok(Path::Version),
        ["api"] => Ok(Path::CoreVersions),
        ["apis"] => Ok(Path::Groups),
        ["apis", group] => Ok(Path::Group((*group).to_owned())),
        ["api", version] => resources("", version),
        ["apis", group, version] => resources(group, version),
        ["openapi", "v2"] => Ok(Path::OpenApiV2),
        ["openapi", "v3"] => Ok(Path::OpenApiIndex),
        ["openapi", "v3", "api", version] => openapi("", version),
        ["openapi", "v3", "apis", group, version] => openapi(group, version),
        ["api", version, rest @ ..] => target("", version, rest),
        ["apis", group, version, rest @ ..] => target(group, version, rest),
        _ => Err(ApiError::no_route()),
    }
}

fn served(group: &str, version: &str) -> Result<(), ApiError> {
    let known = kinds::KINDS.iter().any(|kind| kind.group == group && kind.version == version);
    if known { Ok(()) } else { Err(ApiError::no_route()) }
}

fn resources(group: &str, version: &str) -> Result<Path, ApiError> {
    served(group, version)?;
    Ok(Path::Resources { group: group.to_owned(), version: version.to_owned() })
}

fn openapi(group: &str, version: &str) -> Result<Path, ApiError> {
    served(group, version)?;
    Ok(Path::OpenApi { group: group.to_owned(), version: version.to_owned() })
}

fn target(group: &str, version: &str, rest: &[&str]) -> Result<Path, ApiError> {
    let (watch, rest) = match rest {
        ["watch", rest @ ..] => (true, rest),
        _ => (false, rest),
    };
    let (namespace, rest) = match rest {
        // The namespace object itself and its subresources.
        ["namespaces"] | ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => (None, rest),
        ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
        _ => (None, rest),
    };
    let (plural, name, sub) = match rest {
        [plural] => (*plural, None, None),
        [plural, name] => (*plural, Some((*name).to_owned()), None),
        [plural, name, sub] => (*plural, Some((*name).to_owned()), Some(*sub)),
        _ => return Err(ApiError::no_route()),
    };
    let kind = kinds::find(group, version, plural).ok_or_else(ApiError::no_route)?;
    if kind.namespaced && namespace.is_none() && name.is_some() || !kind.namespaced && namespace.is_some() {
        return Err(ApiError::no_route());
    }
    if kind.nature == Nature::Review && name.is_some() {
        return Err(ApiError::no_route());
    }
    let sub = match sub {
        None => None,
        Some(text) => {
            let found = kind.subresources.iter().copied().find(|sub| sub.path() == text);
            Some(found.ok_or_else(|| ApiError::no_subresource(kind, text))?)
        }
    };
    Ok(Path::Resource(Target { kind, namespace, name, sub, watch }))
}

/// Percent-decodes a part of a path or query.
#[must_use]
pub fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resource(path: &str) -> (String, Option<String>, Option<String>, Option<Sub>) {
        match parse(path) {
            Ok(Path::Resource(t)) => (t.kind.plural.to_owned(), t.namespace, t.name, t.sub),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn resources_are_found() {
        let some = |text: &str| Some(text.to_owned());
        for (path, plural, namespace, name, sub) in [
            ("/api/v1/pods", "pods", None, None, None),
            ("/api/v1/namespaces/a/pods", "pods", some("a"), None, None),
            ("/api/v1/namespaces/a/pods/b", "pods", some("a"), some("b"), None),
            ("/api/v1/namespaces/a/pods/b/status", "pods", some("a"), some("b"), Some(Sub::Status)),
            ("/api/v1/namespaces/a", "namespaces", None, some("a"), None),
            ("/api/v1/namespaces/a/status", "namespaces", None, some("a"), Some(Sub::Status)),
            ("/api/v1/nodes/n%2d1", "nodes", None, some("n-1"), None),
            ("/apis/coordination.k8s.io/v1/namespaces/x/leases/y", "leases", some("x"), some("y"), None),
        ] {
            assert_eq!(resource(path), (plural.to_owned(), namespace, name, sub), "{path}");
        }
    }

    #[test]
    fn what_is_not_served_is_not_found() {
        for path in [
            "/api/v2",
            "/api/v1/pods/x",
            "/api/v1/namespaces/a/nodes/n",
            "/api/v1/namespaces/a/pods/b/nonsense",
            "/api/v1/namespaces/a/pods/b/status/more",
            "/apis/apps/v1/deployments",
            "/openapi/v1",
            "/metrics",
            "/apis/authentication.k8s.io/v1/tokenreviews/x",
        ] {
            assert_eq!(parse(path).unwrap_err().code(), 404, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_survived(path in "\\PC{0,60}") {
            if let Err(err) = parse(&path) {
                prop_assert!(matches!(err.code(), 400 | 404));
            }
        }
    }
}
