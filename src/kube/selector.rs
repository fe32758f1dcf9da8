//! Label and field selectors.

use serde_json::Value;

/// `a=b,c!=d,e in (x,y),f notin (z),g,!h`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {}

impl LabelSelector {
    /// # Errors
    /// Says what cannot be parsed, as the API server would.
    pub fn parse(text: &str) -> Result<Self, String> {
        Err(text.to_owned())
    }

    /// `labels` is `metadata.labels` of an object.
    #[must_use]
    pub fn matches(&self, labels: Option<&Value>) -> bool {
        labels.is_some()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        true
    }
}

/// `metadata.name=x,status.phase!=Failed`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {}

impl FieldSelector {
    /// # Errors
    /// Says what cannot be parsed.
    pub fn parse(text: &str) -> Result<Self, String> {
        Err(text.to_owned())
    }

    /// The fields named, for the caller to refuse unsupported ones.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }

    /// `field` returns the text of a field, empty when absent.
    pub fn matches(&self, field: impl Fn(&str) -> String) -> bool {
        field("").is_empty()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        true
    }
}
