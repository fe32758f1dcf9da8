//! YAML in bounds: what a document costs follows its length, whatever its aliases and brackets say.

use std::cell::Cell;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Lists and maps in brackets. The parser goes through all that are open for each word it reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// Never fewer than there are.
    pub opened: usize,
    /// The deepest nesting, where no text or comment has brackets of its own.
    pub deepest: usize,
}

/// What brackets a text has.
#[must_use]
pub fn flow(text: &str) -> Flow {
    let (mut flow, mut open, mut before) = (Flow::default(), 0_usize, b'\n');
    for c in text.bytes() {
        // Elsewhere a bracket is part of a word.
        let begins = before.is_ascii_whitespace() || b"[{,:?-".contains(&before) || !before.is_ascii();
        match c {
            b'[' | b'{' if begins => {
                flow.opened += 1;
                open += 1;
                flow.deepest = flow.deepest.max(open);
            }
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        before = c;
    }
    flow
}

/// The documents of a text, of together at most `most` bytes once aliases are followed.
///
/// # Errors
/// The first document that cannot be read says why; nothing comes after it: the library would begin in the middle of what it
/// could not read, and panic there.
pub fn documents(text: &str, most: usize) -> impl Iterator<Item = Result<Value, String>> {
    let budget = Budget(Cell::new(most));
    let (mut all, mut is_broken) = (yaml_serde::Deserializer::from_str(text), false);
    std::iter::from_fn(move || {
        let document = if is_broken { None } else { all.next() }?;
        let read = Bounded(&budget).deserialize(document).map_err(|err| err.to_string());
        is_broken = read.is_err();
        Some(read)
    })
}

/// What a YAML document may still grow: a byte of text or a value costs one, so that only aliases
/// can make a document cost more than it is long.
struct Budget(Cell<usize>);

impl Budget {
    fn spend<E: Error>(&self, cost: usize) -> Result<(), E> {
        let left = self.0.get().checked_sub(cost);
        self.0.set(left.ok_or_else(|| E::custom("its aliases make it too large"))?);
        Ok(())
    }
}

/// Builds a [`Value`] and stops as soon as the budget is spent.
#[derive(Clone, Copy)]
struct Bounded<'b>(&'b Budget);

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has")
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Value, E> {
        self.0.spend(1).map(|()| flag.into())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        self.0.spend(1).map(|()| number.into())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        self.0.spend(1).map(|()| number.into())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        self.0.spend(1).map(|()| number.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.0.spend(text.len().max(1)).map(|()| text.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.0.spend(1).map(|()| Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        self.deserialize(input)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.0.spend(1)?;
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        self.0.spend(1)?;
        let mut all = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            self.0.spend(name.len())?;
            all.insert(name, members.next_value_seed(self)?);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_counted() {
        for (text, opened, deepest) in [
            ("a: b", 0, 0),
            ("a: [1, {b: [2]}]\nc: []", 4, 3),
            ("{\"a\":[{},{}]}", 4, 3),
            // Colours of a terminal in a script are no lists.
            ("a: |\n  \\033[0;31m \\033[0m x[1]", 0, 0),
            ("[[[[", 4, 4),
        ] {
            assert_eq!(flow(text), Flow { opened, deepest }, "{text}");
        }
    }

    #[test]
    fn documents_share_one_bound() {
        let all: Vec<_> = documents("a: 1\n---\nb: [x, y]\n---\n", 100).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(all[1], Ok(serde_json::json!({"b": ["x", "y"]})));
        let bomb = format!("a: &a {}\nb: [{}*a]\n", "x".repeat(1000), "*a, ".repeat(100));
        assert!(documents(&bomb, 10_000).any(|it| it.is_err()));
        assert!(documents(&bomb, 1_000_000).all(|it| it.is_ok()));
    }

    /// An alias that is not there leaves the ends of what is open behind.
    #[test]
    fn nothing_is_read_behind_what_is_broken() {
        for text in ["- &x 1\n- *c", "a: {b: *c}\nd: e\n---\nf: 1", "[*a, [], {}]"] {
            let all: Vec<_> = documents(text, 1000).collect();
            assert!(matches!(all.as_slice(), [Err(_)]), "{text:?}: {all:?}");
        }
    }
}
