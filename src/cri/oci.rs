//! Manifests and indexes of images, as far as we look into them (OCI image specification 1.1,
//! "Image Manifest" and "Image Index"; Docker's schema 2 has the same fields). Pure: any bytes.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Entries of an index that are looked at; platforms are a handful.
const MAX_ENTRIES: usize = 64;
/// Layers of a manifest that are looked at.
const MAX_LAYERS: usize = 128;

/// A document that an image's name points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Manifests of several platforms, by digest.
    Index(Vec<String>),
    Manifest(Manifest),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Digest of the configuration: what the CRI calls the image's id.
    pub config: String,
    pub layers: Vec<Layer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    schema_version: u32,
    config: Option<Entry>,
    layers: Option<Vec<Layer>>,
    manifests: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
}

impl Document {
    /// Reads a document by its content alone: media types are only claims.
    ///
    /// # Errors
    /// What is wrong with it. One that could be read as both kinds is refused (CVE-2021-41190).
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let fields: Fields =
            serde_json::from_slice(bytes).map_err(|_| "it is no manifest and no index of manifests")?;
        if fields.schema_version != 2 {
            return Err("its schemaVersion is not 2");
        }
        let document = match (fields.config, fields.layers, fields.manifests) {
            (Some(config), layers, None) => {
                let layers = layers.unwrap_or_default().into_iter().take(MAX_LAYERS).collect();
                Self::Manifest(Manifest { config: config.digest, layers })
            }
            (None, None, Some(entries)) => {
                Self::Index(entries.into_iter().take(MAX_ENTRIES).map(|entry| entry.digest).collect())
            }
            (None, _, None) => return Err("it has neither config nor manifests"),
            _ => return Err("it has the fields of a manifest and those of an index"),
        };
        let digests: Vec<&str> = match &document {
            Self::Index(digests) => digests.iter().map(String::as_str).collect(),
            Self::Manifest(manifest) => {
                let layers = manifest.layers.iter().map(|layer| layer.digest.as_str());
                layers.chain([manifest.config.as_str()]).collect()
            }
        };
        match digests.into_iter().all(is_digest) {
            true => Ok(document),
            false => Err("one of its digests is not sha256 and 64 hex digits"),
        }
    }
}

/// `sha256:` and 64 lower-case hex digits.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    digest_hex(text).is_some()
}

/// The hex digits of a `sha256:` digest.
#[must_use]
pub fn digest_hex(text: &str) -> Option<&str> {
    let hex = text.strip_prefix("sha256:")?;
    let fine = hex.len() == 64 && hex.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    fine.then_some(hex)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn digest(of: char) -> String {
        format!("sha256:{}", of.to_string().repeat(64))
    }

    #[test]
    fn documents() {
        let (a, b) = (digest('a'), digest('b'));
        let manifest = json!({
            "schemaVersion": 2, "config": {"digest": a, "size": 1},
            "layers": [{"mediaType": "m", "digest": b, "annotations": {"k": "v"}}],
        });
        let index = json!({"schemaVersion": 2, "manifests": [{"digest": a, "platform": {"os": "linux"}}]});
        let mut both = manifest.clone();
        both["manifests"] = index["manifests"].clone();
        let mut old = manifest.clone();
        old["schemaVersion"] = json!(1);
        let mut odd = manifest.clone();
        odd["layers"][0]["digest"] = json!("sha256:AB");
        let parse = |value: &serde_json::Value| Document::parse(value.to_string().as_bytes());
        let layer = Layer {
            media_type: "m".into(),
            digest: b,
            annotations: [("k".to_owned(), "v".to_owned())].into(),
        };
        assert_eq!(
            parse(&manifest),
            Ok(Document::Manifest(Manifest { config: a.clone(), layers: vec![layer] }))
        );
        assert_eq!(parse(&index), Ok(Document::Index(vec![a])));
        for (case, value, want) in [
            ("both", both, "fields of a manifest and those of an index"),
            ("schema 1", old, "schemaVersion"),
            ("a bad digest", odd, "digests"),
            ("neither", json!({"schemaVersion": 2}), "neither"),
            ("no object", json!([1]), "no manifest"),
        ] {
            let err = parse(&value).expect_err(case);
            assert!(err.contains(want), "{case}: {err}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Document::parse(&raw).is_err() || raw.contains(&b'{'), "{:?}", raw);
        }

        #[test]
        fn only_true_digests(text in "(sha256:)?[0-9a-fA-F]{0,70}") {
            let lower = text.to_lowercase() == text;
            prop_assert_eq!(is_digest(&text), text.len() == 71 && lower);
        }
    }
}
