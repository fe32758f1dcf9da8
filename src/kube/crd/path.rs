//! The paths of printer columns: `.spec.nodeName`, `.status.twins[*].reported.value`.

use serde::Deserialize;
use serde_json::Value;

/// A path of names, positions and `[*]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Member(String),
    Item(usize),
    All,
}

/// A path that is written in another way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no path of names, positions and [*] that starts with a dot")]
pub struct NotAPath(String);

impl TryFrom<String> for JsonPath {
    type Error = NotAPath;

    fn try_from(text: String) -> Result<Self, NotAPath> {
        parse(&text).map(Self).ok_or(NotAPath(text))
    }
}

fn parse(text: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    for part in text.strip_prefix('.')?.split('.') {
        let (name, positions) = match part.find('[') {
            Some(at) => part.split_at(at),
            None => (part, ""),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || !name.chars().all(plain) {
            return None;
        }
        steps.push(Step::Member(name.to_owned()));
        let mut rest = positions;
        while !rest.is_empty() {
            let (inside, after) = rest.strip_prefix('[')?.split_once(']')?;
            steps.push(if inside == "*" { Step::All } else { Step::Item(inside.parse().ok()?) });
            rest = after;
        }
    }
    Some(steps)
}

impl JsonPath {
    /// `.metadata.creationTimestamp`.
    pub fn creation() -> Self {
        Self(vec![Step::Member("metadata".into()), Step::Member("creationTimestamp".into())])
    }

    /// Can it lead to several values?
    pub fn is_many(&self) -> bool {
        self.0.contains(&Step::All)
    }

    /// The values it leads to; `None` for an item of a list that has none.
    pub fn find<'v>(&self, object: &'v Value) -> Vec<Option<&'v Value>> {
        let mut found = vec![Some(object)];
        for step in &self.0 {
            found = match step {
                Step::Member(name) => found.into_iter().map(|it| it.and_then(|it| it.get(name))).collect(),
                Step::Item(index) => found.into_iter().map(|it| it.and_then(|it| it.get(index))).collect(),
                Step::All => found
                    .into_iter()
                    .flatten()
                    .flat_map(|it| it.as_array().map_or(&[][..], Vec::as_slice))
                    .map(Some)
                    .collect(),
            };
        }
        found
    }
}
