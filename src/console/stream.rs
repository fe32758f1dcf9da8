//! Changes as server-sent events.

use std::collections::HashMap;

use bytes::Bytes;

use super::protocol::Change;

/// One event: `data: {..}` and an empty line. JSON has no line breaks of its own, so nothing in it can
/// begin another field.
///
/// # Errors
/// Never for what this program makes: views always become JSON.
pub fn encode(change: &Change) -> Result<Bytes, serde_json::Error> {
    let mut frame = b"data: ".to_vec();
    serde_json::to_writer(&mut frame, change)?;
    frame.extend_from_slice(b"\n\n");
    Ok(frame.into())
}

/// Open streams: how many there are, and how many of one credential.
#[derive(Debug)]
pub struct Streams {
    most: usize,
    most_of_one: usize,
    /// By credential, in a form that does not give it away.
    open: HashMap<u64, usize>,
}

impl Streams {
    #[must_use]
    pub fn new(most: usize, most_of_one: usize) -> Self {
        Self { most, most_of_one, open: HashMap::new() }
    }

    /// Is there room for one more of this credential? Then it is counted until [`Streams::close`].
    pub fn open(&mut self, credential: u64) -> bool {
        let own = self.open.get(&credential).copied().unwrap_or_default();
        if self.count() >= self.most || own >= self.most_of_one {
            return false;
        }
        self.open.insert(credential, own + 1);
        true
    }

    pub fn close(&mut self, credential: u64) {
        let Some(own) = self.open.get_mut(&credential) else { return };
        *own = own.saturating_sub(1);
        if *own == 0 {
            self.open.remove(&credential);
        }
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.open.values().sum()
    }

    /// Credentials with an open stream.
    #[must_use]
    pub fn credentials(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::console::protocol::{Item, Kind, PodView};

    #[test]
    fn events_are_json_in_camel_case() {
        let text = |change: Change| String::from_utf8(encode(&change).unwrap().to_vec()).unwrap();
        assert_eq!(text(Change::Ping { now_ms: 5 }), "data: {\"type\":\"ping\",\"nowMs\":5}\n\n");
        let synced = Change::Synced { kind: Kind::Device };
        assert_eq!(text(synced), "data: {\"type\":\"synced\",\"kind\":\"device\"}\n\n");
        let hello =
            Change::Hello { program: "cloudcore", version: "1", node: None, user: "u".to_owned(), now_ms: 1 };
        let said: Value = serde_json::from_str(text(hello).trim().trim_start_matches("data: ")).unwrap();
        assert_eq!(
            said,
            json!({"type": "hello", "program": "cloudcore", "version": "1", "user": "u", "nowMs": 1})
        );
    }

    #[test]
    fn streams_are_bounded_in_all_and_for_each_credential() {
        let mut streams = Streams::new(3, 2);
        assert!(streams.open(1) && streams.open(1));
        assert!(!streams.open(1), "two of one");
        assert!(streams.open(2));
        assert!(!streams.open(3), "three in all");
        assert_eq!((streams.count(), streams.credentials()), (3, 2));
        streams.close(1);
        streams.close(9);
        assert!(streams.open(3));
    }

    proptest! {
        /// Names and messages of anybody cannot make an event of their own.
        #[test]
        fn hostile_text_stays_in_its_event(name in "\\PC*", message in "(\\PC|[\r\n\u{2028}])*") {
            let view = PodView { key: name, message: message.clone(), ..PodView::default() };
            let frame = encode(&Change::Put { item: Box::new(Item::Pod(view)) }).unwrap();
            let text = std::str::from_utf8(&frame).unwrap();
            let line = text.strip_prefix("data: ").and_then(|rest| rest.strip_suffix("\n\n")).unwrap();
            prop_assert!(!line.contains(['\r', '\n']));
            let back: Value = serde_json::from_str(line).unwrap();
            prop_assert_eq!(&back["item"]["message"], &Value::from(message));
        }
    }
}
