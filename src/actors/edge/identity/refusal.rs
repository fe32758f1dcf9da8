//! Why a caller of the Workload API gets nothing, in its words and in the metrics'. Pure.

use tonic::Status;

use crate::telemetry::identity::Refused;

/// A call that was not answered with what it asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a process of a pod of this node, or not any more.
    #[error("no identity issued: {0}")]
    Unknown(String),
    /// The caller has identities, but not the one it asks for.
    #[error("no identity issued: {0} is none of the caller's")]
    NotTheirs(String),
    #[error("{0}")]
    Invalid(String),
    /// A token that does not hold.
    #[error("{0}")]
    BadToken(String),
    /// Right caller, wrong time: no credentials yet, the runtime does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// More streams than this node serves.
    #[error("too many streams of the Workload API on this node")]
    TooMany,
}

impl Refusal {
    /// What the metrics call it.
    #[must_use]
    pub fn counted(&self) -> Refused {
        match self {
            Self::Unknown(_) => Refused::NotAttested,
            Self::NotTheirs(_) => Refused::NoIdentity,
            Self::Invalid(_) => Refused::Malformed,
            Self::BadToken(_) => Refused::TokenInvalid,
            Self::Unavailable(_) => Refused::Unavailable,
            Self::TooMany => Refused::Limit,
        }
    }

    /// The same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TooMany)
    }

    /// As the caller gets it (protocol section 18).
    #[must_use]
    pub fn status(&self) -> Status {
        let text = self.to_string();
        match self {
            Self::Unknown(_) | Self::NotTheirs(_) => Status::permission_denied(text),
            Self::Invalid(_) | Self::BadToken(_) => Status::invalid_argument(text),
            Self::Unavailable(_) => Status::unavailable(text),
            Self::TooMany => Status::resource_exhausted(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn refusals_in_the_words_of_the_standard() {
        let text = || "why".to_owned();
        for (refusal, code, transient) in [
            (Refusal::Unknown(text()), Code::PermissionDenied, false),
            (Refusal::NotTheirs(text()), Code::PermissionDenied, false),
            (Refusal::Invalid(text()), Code::InvalidArgument, false),
            (Refusal::BadToken(text()), Code::InvalidArgument, false),
            (Refusal::Unavailable(text()), Code::Unavailable, true),
            (Refusal::TooMany, Code::ResourceExhausted, true),
        ] {
            assert_eq!(refusal.status().code(), code);
            assert_eq!(refusal.is_transient(), transient);
        }
        let denied = Refusal::Unknown("x".into()).status();
        assert!(denied.message().starts_with("no identity issued"), "{}", denied.message());
    }
}
