//! Service-account tokens: which one is kept under which key, and when a new one is fetched.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::objects::text;

use crate::model::unix_secs;

/// Key prefix of stored tokens.
pub const PREFIX: &str = "token/";

/// What to do about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The stored one is good.
    Use,
    /// Ask the cloud; if that fails the stored one, if any, has to do, even an expired one: the
    /// pod must start, and the cloud refuses the token by itself.
    Fetch,
}

/// A stored token: the cloud's answer and when it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub answer: Value,
    /// Unix seconds by this edge's clock.
    pub fetched_at: u64,
}

impl Stored {
    #[must_use]
    pub fn new(answer: Value, now: SystemTime) -> Self {
        Self { answer, fetched_at: unix_secs(now) }
    }

    #[must_use]
    pub fn to_row(&self) -> String {
        json!({"answer": self.answer, "fetchedAt": self.fetched_at}).to_string()
    }

    #[must_use]
    pub fn from_row(row: &[u8]) -> Option<Self> {
        let mut row: Value = serde_json::from_slice(row).ok()?;
        let fetched_at = row.get("fetchedAt")?.as_u64()?;
        Some(Self { answer: row.get_mut("answer")?.take(), fetched_at })
    }

    /// Kubernetes renews at 80 percent of a token's life; so do we. A clock that went back, or an
    /// end that cannot be read, makes it due.
    #[must_use]
    pub fn decide(&self, now: SystemTime) -> Decision {
        let end = text(&self.answer, "/status/expirationTimestamp").parse::<jiff::Timestamp>();
        let end = end.ok().and_then(|end| u64::try_from(end.as_second()).ok());
        let now = unix_secs(now);
        match end {
            Some(end) if now >= self.fetched_at => {
                let life = end.saturating_sub(self.fetched_at);
                let renew_at = self.fetched_at + life / 5 * 4;
                if now < renew_at { Decision::Use } else { Decision::Fetch }
            }
            _ => Decision::Fetch,
        }
    }
}

/// Row key: the pod first, so that a removed pod's tokens go with it; then everything that makes
/// tokens differ.
#[must_use]
pub fn key(namespace: &str, account: &str, request: &Value) -> String {
    let pod = text(request, "/spec/boundObjectRef/uid");
    let bound = text(request, "/spec/boundObjectRef/name");
    let audiences = request.pointer("/spec/audiences").and_then(Value::as_array);
    let mut audiences: Vec<&str> = audiences.into_iter().flatten().filter_map(Value::as_str).collect();
    audiences.sort_unstable();
    let life = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(0);
    let rest = json!([namespace, account, audiences, life, bound]);
    format!("{}{rest}", pod_prefix(pod))
}

/// Start of the keys of one pod's tokens.
#[must_use]
pub fn pod_prefix(uid: &str) -> String {
    format!("{PREFIX}{uid}/")
}

/// Does the cloud's answer hold a token?
#[must_use]
pub fn is_token(answer: &Value) -> bool {
    !text(answer, "/status/token").is_empty()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn request() -> Value {
        json!({"spec": {"audiences": ["b", "a"], "expirationSeconds": 3607,
            "boundObjectRef": {"kind": "Pod", "name": "web", "uid": "u1"}}})
    }

    #[test]
    fn what_differs_has_its_own_key() {
        let base = key("default", "sa", &request());
        assert!(base.starts_with(&pod_prefix("u1")));
        let mut same = request();
        same["spec"]["audiences"] = json!(["a", "b"]);
        assert_eq!(key("default", "sa", &same), base, "the order of audiences does not matter");
        for (pointer, value) in [
            ("/spec/audiences", json!(["a"])),
            ("/spec/expirationSeconds", json!(600)),
            ("/spec/boundObjectRef/uid", json!("u2")),
        ] {
            let mut other = request();
            *other.pointer_mut(pointer).unwrap() = value;
            assert_ne!(key("default", "sa", &other), base, "{pointer}");
        }
        assert_ne!(key("default", "sa2", &request()), base);
        assert_ne!(key("other", "sa", &request()), base);
    }

    #[test]
    fn renewed_at_four_fifths_of_its_life() {
        let at = |secs: u64| UNIX_EPOCH + Duration::from_secs(secs);
        let answer = json!({"status": {"token": "t", "expirationTimestamp": "1970-01-01T00:30:00Z"}});
        let stored = Stored::new(answer, at(800));
        assert_eq!(Stored::from_row(stored.to_row().as_bytes()), Some(stored.clone()));
        for (case, now, want) in [
            ("fresh", 800, Decision::Use),
            ("just before", 1599, Decision::Use),
            ("at 80 percent", 1600, Decision::Fetch),
            ("expired", 5000, Decision::Fetch),
            ("the clock went back", 10, Decision::Fetch),
        ] {
            assert_eq!(stored.decide(at(now)), want, "{case}");
        }
        let endless = Stored::new(json!({"status": {"token": "t", "expirationTimestamp": "soon"}}), at(800));
        assert_eq!(endless.decide(at(900)), Decision::Fetch);
        assert_eq!(Stored::from_row(b"{}"), None);
    }

    #[test]
    fn an_error_is_no_token() {
        assert!(!is_token(&json!({"ErrStatus": {"code": 404}})));
        assert!(is_token(&json!({"status": {"token": "x"}})));
    }
}
