//! A DeviceStatus as a value that only moves forward: joining what is held with any reports, in any
//! order and however often, gives the newest of each value (protocol section 7.3). No clock, no I/O.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// A reported value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    pub value: String,
    /// Unix milliseconds by the edge's clock, which never runs backwards for one property.
    pub at_ms: i64,
    /// `int`, `string`, ..; may be empty.
    pub kind: String,
    /// The edge's count of changes. Tells two values of one millisecond apart; not kept in the API.
    pub version: i64,
}

impl Sample {
    fn rank(&self) -> (i64, i64, &str, &str) {
        (self.at_ms, self.version, &self.value, &self.kind)
    }

    /// Is it the same in the API?
    fn looks_like(&self, other: &Self) -> bool {
        (self.at_ms, &self.value, &self.kind) == (other.at_ms, &other.value, &other.kind)
    }

    fn read(value: &Value) -> Option<Self> {
        let text = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default();
        if text("/value").is_empty() && value.get("metadata").is_none() {
            return None;
        }
        Some(Self {
            value: text("/value").to_owned(),
            at_ms: text("/metadata/timestamp").parse().unwrap_or(0),
            kind: text("/metadata/type").to_owned(),
            version: 0,
        })
    }

    fn write(sample: Option<&Self>) -> Value {
        // KubeEdge writes a value that was never reported so.
        let Some(sample) = sample else { return json!({"value": ""}) };
        let mut metadata = Map::new();
        metadata.insert("timestamp".to_owned(), sample.at_ms.to_string().into());
        if !sample.kind.is_empty() {
            metadata.insert("type".to_owned(), sample.kind.as_str().into());
        }
        json!({"value": sample.value, "metadata": metadata})
    }
}

/// What is known of one property.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Twin {
    pub reported: Option<Sample>,
    /// The desired value the device acts on.
    pub observed_desired: Option<Sample>,
}

/// A text and when the edge said it; 0 when only the API told us.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    pub at_ms: i64,
    pub text: String,
}

/// `status` of a DeviceStatus, or the part of it that a report says something about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    pub twins: BTreeMap<String, Twin>,
    pub state: Option<Mark>,
    /// `lastOnlineTime`, RFC 3339; kept while the device is offline.
    pub online: Option<Mark>,
}

impl Status {
    /// Reads a DeviceStatus object. Total: what has another type is not there.
    #[must_use]
    pub fn read(object: &Value) -> Self {
        let text = |path: &str| {
            let found = object.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
            found.map(|text| Mark { at_ms: 0, text: text.to_owned() })
        };
        let twins = object.pointer("/status/twins").and_then(Value::as_array);
        let twin = |entry: &Value| {
            let name = entry.get("propertyName")?.as_str()?.to_owned();
            let sample = |field: &str| entry.get(field).and_then(Sample::read);
            let (reported, observed_desired) = (sample("reported"), sample("observedDesired"));
            Some((name, Twin { reported, observed_desired }))
        };
        Self {
            twins: twins.into_iter().flatten().filter_map(twin).collect(),
            state: text("/status/state"),
            online: text("/status/lastOnlineTime"),
        }
    }

    /// The newest of both, value by value.
    pub fn join(&mut self, other: &Self) {
        for (name, twin) in &other.twins {
            let own = self.twins.entry(name.clone()).or_default();
            newest(&mut own.reported, twin.reported.as_ref(), |a, b| a.rank() < b.rank());
            newest(&mut own.observed_desired, twin.observed_desired.as_ref(), |a, b| a.rank() < b.rank());
        }
        newest(&mut self.state, other.state.as_ref(), |a, b| a < b);
        newest(&mut self.online, other.online.as_ref(), |a, b| a < b);
    }

    /// What an edge says of a time after `limit_ms` is said at `now_ms`: its clock is wrong, and
    /// nothing it says later with a right one would ever be newer.
    pub fn not_after(&mut self, limit_ms: i64, now_ms: i64) {
        self.times(|at_ms| {
            if *at_ms > limit_ms {
                *at_ms = now_ms;
            }
        });
    }

    /// Values of a time after `limit_ms` are older than whatever comes: an earlier report, or
    /// somebody's hand, put them there.
    pub fn doubt_after(&mut self, limit_ms: i64) {
        self.times(|at_ms| {
            if *at_ms > limit_ms {
                *at_ms = 0;
            }
        });
    }

    fn times(&mut self, mut change: impl FnMut(&mut i64)) {
        for twin in self.twins.values_mut() {
            let samples = [&mut twin.reported, &mut twin.observed_desired];
            samples.into_iter().flatten().for_each(|sample| change(&mut sample.at_ms));
        }
        [&mut self.state, &mut self.online].into_iter().flatten().for_each(|mark| change(&mut mark.at_ms));
    }

    /// Leaves out what the device does not have. Returns how many properties that were.
    pub fn keep_only(&mut self, properties: &BTreeSet<String>) -> usize {
        let before = self.twins.len();
        self.twins.retain(|name, _| properties.contains(name));
        before - self.twins.len()
    }

    /// Takes over from `older` what the API does not keep, where the API's value is still that one.
    pub fn remember(&mut self, older: &Self) {
        let sample = |new: &mut Option<Sample>, old: Option<&Sample>| {
            if let (Some(new), Some(old)) = (new, old)
                && new.looks_like(old)
            {
                new.version = old.version;
            }
        };
        for (name, twin) in &mut self.twins {
            let Some(old) = older.twins.get(name) else { continue };
            sample(&mut twin.reported, old.reported.as_ref());
            sample(&mut twin.observed_desired, old.observed_desired.as_ref());
        }
        let mark = |new: &mut Option<Mark>, old: Option<&Mark>| {
            if let (Some(new), Some(old)) = (new, old)
                && new.text == old.text
            {
                new.at_ms = old.at_ms;
            }
        };
        mark(&mut self.state, older.state.as_ref());
        mark(&mut self.online, older.online.as_ref());
    }

    /// The `status` of a merge patch that makes `held` look like this; `None` if it does already.
    /// `twins` is an array, which a merge patch replaces: it is always complete.
    #[must_use]
    pub fn patch(&self, held: &Self) -> Option<Value> {
        let mut status = Map::new();
        if !self.twins_look_like(held) {
            status.insert("twins".to_owned(), self.twins_value());
        }
        let mark = |new: &Option<Mark>, old: &Option<Mark>| -> Option<Value> {
            let (new, old) = (new.as_ref()?, old.as_ref());
            old.is_none_or(|old| old.text != new.text).then(|| new.text.as_str().into())
        };
        if let Some(state) = mark(&self.state, &held.state) {
            status.insert("state".to_owned(), state);
        }
        if let Some(online) = mark(&self.online, &held.online) {
            status.insert("lastOnlineTime".to_owned(), online);
        }
        (!status.is_empty()).then_some(Value::Object(status))
    }

    fn twins_look_like(&self, other: &Self) -> bool {
        let same = |a: &Option<Sample>, b: &Option<Sample>| match (a, b) {
            (Some(a), Some(b)) => a.looks_like(b),
            (None, None) => true,
            _ => false,
        };
        self.twins.len() == other.twins.len()
            && self.twins.iter().zip(&other.twins).all(|((name, twin), (other_name, other))| {
                name == other_name
                    && same(&twin.reported, &other.reported)
                    && same(&twin.observed_desired, &other.observed_desired)
            })
    }

    fn twins_value(&self) -> Value {
        let twin = |(name, twin): (&String, &Twin)| {
            json!({
                "propertyName": name,
                "reported": Sample::write(twin.reported.as_ref()),
                "observedDesired": Sample::write(twin.observed_desired.as_ref()),
            })
        };
        self.twins.iter().map(twin).collect()
    }
}

fn newest<T: Clone>(own: &mut Option<T>, other: Option<&T>, is_older: impl Fn(&T, &T) -> bool) {
    let Some(other) = other else { return };
    if own.as_ref().is_none_or(|own| is_older(own, other)) {
        *own = Some(other.clone());
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
