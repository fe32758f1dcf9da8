//! One device as this edge remembers it: the row on disk, and how it looks in messages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::value::{DEFAULT_TYPE, DELETED};
use crate::model::device::{MsgTwin, Twin, TwinValue, TwinVersion, TypeMetadata, ValueMetadata};

/// Everything about a device that must survive. Written as one row of JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// A membership message named it.
    pub is_member: bool,
    /// Its Device object is stored at this edge.
    pub has_object: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// RFC 3339 UTC; empty when never, or when the last state was neither `online` nor `ok`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_online: String,
    /// When the state was last reported, Unix milliseconds; only grows, as the cloud ignores older
    /// ones.
    #[serde(skip_serializing_if = "is_never")]
    pub state_ms: i64,
    /// Number of the state's change that the cloud has not confirmed; 0: it has.
    #[serde(skip_serializing_if = "is_zero")]
    pub state_mark: u64,
    pub properties: BTreeMap<String, Property>,
}

/// One property.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Property {
    /// The desired value in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<Held>,
    /// The reported value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual: Option<Held>,
    /// It cannot be deleted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// `None`: nobody gave it a type yet.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    pub expected_version: TwinVersion,
    pub actual_version: TwinVersion,
    /// The desired value last seen in the Device object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud_desired: Option<String>,
    /// The value in force was set here, not in the Device object.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_overridden: bool,
    /// The newest timestamp given to any value, Unix milliseconds. The cloud ignores older ones,
    /// so the next is greater even when the clock was set back.
    pub newest_ms: i64,
    /// Number of the first change the cloud has not confirmed; 0: it has all.
    #[serde(skip_serializing_if = "is_zero")]
    pub since: u64,
    /// Number of the last change.
    #[serde(skip_serializing_if = "is_zero")]
    pub mark: u64,
}

/// A value and when it was set, Unix milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub value: String,
    pub at_ms: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands references")]
fn is_never(time: &i64) -> bool {
    *time == 0
}

impl Held {
    fn message(&self) -> TwinValue {
        let metadata = Some(ValueMetadata { timestamp: self.at_ms });
        TwinValue { value: Some(self.value.clone()), metadata }
    }
}

impl Property {
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.kind.as_deref() == Some(DELETED)
    }

    /// The type as it is told.
    #[must_use]
    pub fn type_name(&self) -> &str {
        match self.kind.as_deref() {
            None | Some("") => DEFAULT_TYPE,
            Some(kind) => kind,
        }
    }

    fn metadata(&self) -> Option<TypeMetadata> {
        Some(TypeMetadata { kind: self.type_name().to_owned() })
    }

    /// As local applications see it: without versions.
    #[must_use]
    pub fn message(&self) -> MsgTwin {
        MsgTwin {
            expected: self.expected.as_ref().map(Held::message),
            actual: self.actual.as_ref().map(Held::message),
            optional: Some(!self.required),
            metadata: self.metadata(),
            ..MsgTwin::default()
        }
    }

    /// As the cloud sees it. A deleted property has the type `deleted`: a `null` would crash Go.
    #[must_use]
    pub fn report(&self) -> MsgTwin {
        let spoken =
            |held: bool, version: TwinVersion| (held || version != TwinVersion::default()).then_some(version);
        MsgTwin {
            expected_version: spoken(self.expected.is_some(), self.expected_version),
            actual_version: spoken(self.actual.is_some(), self.actual_version),
            ..self.message()
        }
    }

    /// The time of a value set now.
    pub fn next_ms(&mut self, now_ms: i64) -> i64 {
        self.newest_ms = now_ms.max(self.newest_ms.saturating_add(1));
        self.newest_ms
    }
}

impl Device {
    /// What `twin/get` answers: without versions, without deleted properties.
    #[must_use]
    pub fn twin(&self) -> Twin {
        let there = self.properties.iter().filter(|(_, property)| !property.is_deleted());
        there.map(|(name, property)| (name.clone(), Some(property.message()))).collect()
    }

    /// Every property that has a desired value, and the desired values that are not reported yet.
    /// `None` when there is no difference.
    #[must_use]
    pub fn delta(&self) -> Option<(Twin, BTreeMap<String, String>)> {
        let mut delta = BTreeMap::new();
        for (name, property) in &self.properties {
            let Some(expected) = property.expected.as_ref().filter(|held| !held.value.is_empty()) else {
                continue;
            };
            if property.actual.as_ref().is_none_or(|actual| actual.value != expected.value) {
                delta.insert(name.clone(), expected.value.clone());
            }
        }
        if delta.is_empty() {
            return None;
        }
        let wanted = self.properties.iter().filter(|(_, property)| property.expected.is_some());
        Some((wanted.map(|(name, property)| (name.clone(), Some(property.message()))).collect(), delta))
    }

    /// The desired values in force.
    #[must_use]
    pub fn desired(&self) -> BTreeMap<String, String> {
        let wanted = self.properties.iter().filter_map(|(name, property)| {
            property.expected.as_ref().map(|expected| (name.clone(), expected.value.clone()))
        });
        wanted.collect()
    }

    /// What the cloud has not confirmed, and the marks that its confirmation will settle.
    #[must_use]
    pub fn unconfirmed(&self) -> (Twin, Vec<(String, u64)>) {
        let open = || self.properties.iter().filter(|(_, property)| property.mark != 0);
        (
            open().map(|(name, property)| (name.clone(), Some(property.report()))).collect(),
            open().map(|(name, property)| (name.clone(), property.mark)).collect(),
        )
    }

    /// Number of the first change of a property that the cloud has not confirmed.
    #[must_use]
    pub fn twin_since(&self) -> Option<u64> {
        self.properties.values().map(|property| property.since).filter(|since| *since != 0).min()
    }

    /// Marks everything that was ever reported, with this number where it has none; says whether there is
    /// something.
    pub fn unsettle(&mut self, number: u64) -> bool {
        let spoken = |property: &&mut Property| property.actual.is_some() || property.expected.is_some();
        let mut any = false;
        for property in self.properties.values_mut().filter(spoken) {
            any = true;
            if property.mark == 0 {
                (property.mark, property.since) = (number, number);
            }
        }
        if !self.state.is_empty() {
            any = true;
            self.state_mark = if self.state_mark == 0 { number } else { self.state_mark };
        }
        any
    }

    /// The cloud has what these marks stood for; says whether anything was settled.
    pub fn settle(&mut self, marks: &[(String, u64)]) -> bool {
        let mut settled = false;
        for (name, mark) in marks {
            let Some(property) = self.properties.get_mut(name) else { continue };
            if property.mark == *mark {
                (property.mark, property.since) = (0, 0);
                settled = true;
            } else if property.mark > *mark {
                // Changed since: it waits behind those that wait longer.
                property.since = property.mark;
                settled = true;
            }
        }
        settled
    }
}
