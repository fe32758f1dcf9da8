//! Reading the edge's listing, part by part. Total and bounded. No I/O.

use serde_json::Value;

use super::compare::is_compared;
use crate::bus::edge_controller::ObjectVersion;
use crate::model::{Body, Resource};
use crate::wire::extensions::LISTED_PER_MESSAGE;

/// Objects of one node. A node runs some hundred pods; the rest is room.
const MAX_OBJECTS: usize = 100_000;
/// What they may take of memory: 240 bytes each, twice what the longest usual names need.
const MAX_BYTES: usize = 24 << 20;

/// A listing under way.
#[derive(Debug, Default)]
pub struct Listing {
    next_part: u64,
    objects: Vec<ObjectVersion>,
    bytes: usize,
}

/// Why a listing is not understood. The field is named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadListing {
    #[error("the listing's {0} is missing or has a wrong type")]
    Field(&'static str),
    #[error("part {got} of the listing came where {want} was due")]
    Order { want: u64, got: u64 },
    #[error("the listing has more than {0} objects")]
    TooMany(usize),
    #[error("the names and versions of the listing have more than {0} bytes")]
    TooLong(usize),
}

impl Listing {
    /// Takes the next part. The whole listing after the last one.
    ///
    /// # Errors
    /// [`BadListing`]; the listing starts over with part 0.
    pub fn add(&mut self, body: &Body) -> Result<Option<Vec<ObjectVersion>>, BadListing> {
        self.read(body).inspect_err(|_| *self = Self::default())
    }

    fn read(&mut self, body: &Body) -> Result<Option<Vec<ObjectVersion>>, BadListing> {
        let Body::Object(content) = body else { return Err(BadListing::Field("content")) };
        let part = content.get("part").and_then(Value::as_u64).ok_or(BadListing::Field("part"))?;
        let last = content.get("last").and_then(Value::as_bool).ok_or(BadListing::Field("last"))?;
        let rows = content.get("objects").and_then(Value::as_array).ok_or(BadListing::Field("objects"))?;
        if part == 0 {
            *self = Self::default();
        }
        if part != self.next_part {
            return Err(BadListing::Order { want: self.next_part, got: part });
        }
        if rows.len() > LISTED_PER_MESSAGE {
            return Err(BadListing::TooMany(LISTED_PER_MESSAGE));
        }
        if self.objects.len() + rows.len() > MAX_OBJECTS {
            return Err(BadListing::TooMany(MAX_OBJECTS));
        }
        self.next_part += 1;
        for row in rows {
            let text = |at: usize| row.get(at).and_then(Value::as_str);
            let [Some(resource), Some(uid), Some(version)] = [text(0), text(1), text(2)] else {
                return Err(BadListing::Field("objects"));
            };
            self.bytes += size_of::<ObjectVersion>() + resource.len() + uid.len() + version.len();
            if self.bytes > MAX_BYTES {
                return Err(BadListing::TooLong(MAX_BYTES));
            }
            let resource = Resource::parse(resource);
            if is_compared(&resource) {
                let resource_version = version.to_owned();
                self.objects.push(ObjectVersion { resource, uid: uid.to_owned(), resource_version });
            }
        }
        Ok(last.then(|| std::mem::take(self).objects))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn part(part: u64, last: bool, objects: Value) -> Body {
        Body::Object(json!({"objects": objects, "part": part, "last": last}))
    }

    #[test]
    fn parts() {
        let row = |name: &str| json!([[format!("ns/pod/{name}"), "u", "1"]]);
        let mut listing = Listing::default();
        assert_eq!(listing.add(&part(0, false, row("a"))), Ok(None));
        let whole = listing.add(&part(1, true, row("b"))).unwrap().unwrap();
        assert_eq!(whole.len(), 2);
        assert_eq!(listing.add(&part(1, true, row("b"))), Err(BadListing::Order { want: 0, got: 1 }));
        assert_eq!(listing.add(&part(0, false, row("a"))), Ok(None));
        assert_eq!(listing.add(&part(0, true, row("c"))).unwrap().unwrap().len(), 1, "starts over");
    }

    #[test]
    fn bad_parts() {
        for (body, want) in [
            (Body::Null, BadListing::Field("content")),
            (Body::Object(json!({"part": 0, "last": true})), BadListing::Field("objects")),
            (part(0, true, json!([["a/pod/b", "u".repeat(MAX_BYTES), "1"]])), BadListing::TooLong(MAX_BYTES)),
            (Body::Object(json!({"part": -1, "last": true, "objects": []})), BadListing::Field("part")),
            (part(0, true, json!([["a/pod/b", "u"]])), BadListing::Field("objects")),
            (part(0, true, json!([7])), BadListing::Field("objects")),
            (part(0, true, json!(vec![json!(["a/pod/b", "u", "1"]); 2_001])), BadListing::TooMany(2_000)),
        ] {
            assert_eq!(Listing::default().add(&body), Err(want));
        }
    }
}
