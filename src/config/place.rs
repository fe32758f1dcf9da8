//! Where a key stands in a YAML text.
//!
//! Values know nothing of lines, but the YAML reader puts a line on every error. So the text is read
//! once more with a reader that fails on purpose when it meets the key.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

const FOUND: &str = "key found here";

/// The line (from 1) of the key with this path; of its nearest section when it is not in the text.
pub(super) fn line_of(text: &str, path: &[&str]) -> Option<usize> {
    (1..=path.len()).rev().find_map(|length| {
        let keys = path.get(..length)?;
        let err = Descent { keys }.deserialize(yaml_serde::Deserializer::from_str(text)).err()?;
        if err.to_string().contains(FOUND) { err.location().map(|at| at.line()) } else { None }
    })
}

/// Goes down one level of mappings.
struct Descent<'p> {
    keys: &'p [&'p str],
}

impl<'de> DeserializeSeed<'de> for Descent<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Descent<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a section")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((key, below)) = self.keys.split_first() else { return Ok(()) };
        while let Some(is_it) = map.next_key_seed(Key { wanted: key, last: below.is_empty() })? {
            if is_it {
                return map.next_value_seed(Descent { keys: below });
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

/// Compares one key; fails when it is the last of the path, which is what marks the line.
struct Key<'p> {
    wanted: &'p str,
    last: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<bool, D::Error> {
        input.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        match (key == self.wanted, self.last) {
            (true, true) => Err(E::custom(FOUND)),
            (same, _) => Ok(same),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::line_of;

    const TEXT: &str =
        "# comment\nkind: X\n\nmodules:\n  a: {b: 1, c: 2}\n  d:\n    - x\n    - y\n  \"e\":\n    f: 3\n";

    #[test]
    fn lines() {
        for (path, want) in [
            (&["kind"][..], Some(2)),
            (&["modules"], Some(4)),
            (&["modules", "a", "c"], Some(5)),
            (&["modules", "d"], Some(6)),
            (&["modules", "e", "f"], Some(10)),
            (&["modules", "e", "missing"], Some(9)),
            (&["modules", "d", "below a list"], Some(6)),
            (&["missing"], None),
            (&[], None),
        ] {
            assert_eq!(line_of(TEXT, path), want, "{path:?}");
        }
        assert_eq!(line_of("", &["kind"]), None);
        assert_eq!(line_of("just a text", &["kind"]), None);
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in "[a-c:{}\\[\\] \n&*-]{0,60}") {
            if let Some(line) = line_of(&text, &["a", "b"]) {
                prop_assert!(line >= 1 && line <= text.lines().count());
            }
        }
    }
}
