//! The page itself: files in `assets/`, part of the program, packed once at its start. A file is found by
//! its name in a table: there is no path to wander off.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest;

/// Where the page is.
pub const HOME: &str = "/console/";

/// What the page may load and do: its own files and its own server, nothing else.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self' data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

/// Headers of every answer of the console, names in lower case.
pub const HEADERS: [(&str, &str); 5] = [
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
];

macro_rules! assets {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_bytes!(concat!("assets/", $name)))),+]
    };
}

/// Every file of the page. The first is the page.
const ASSETS: &[(&str, &[u8])] = assets![
    "index.html",
    "actors.js",
    "app.js",
    "boot.js",
    "devices.js",
    "dom.js",
    "fleet.js",
    "format.js",
    "health.js",
    "icon.svg",
    "model.js",
    "objects.js",
    "parts.js",
    "shell.js",
    "stream.js",
    "style.css",
];

/// One file, ready to be sent.
#[derive(Debug, Clone)]
pub struct Asset {
    pub media_type: &'static str,
    /// With quotes, as in the header; of its content.
    pub etag: String,
    pub plain: Bytes,
    /// Packed with gzip; `None` where that does not help.
    pub gzip: Option<Bytes>,
}

/// All files.
#[derive(Debug, Clone)]
pub struct Pages(Vec<(&'static str, Asset)>);

impl Default for Pages {
    fn default() -> Self {
        Self::new()
    }
}

impl Pages {
    /// Packs all files: once, when the program starts.
    #[must_use]
    pub fn new() -> Self {
        Self(ASSETS.iter().map(|(name, content)| (*name, Asset::new(name, content))).collect())
    }

    /// The file with this name; the page itself for the empty one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Asset> {
        let name = if name.is_empty() { "index.html" } else { name };
        self.0.iter().find(|(own, _)| *own == name).map(|(_, asset)| asset)
    }
}

impl Asset {
    fn new(name: &str, content: &'static [u8]) -> Self {
        let sum = digest::digest(&digest::SHA256, content);
        let hex: String = sum.as_ref().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        let gzip = pack(content).filter(|packed| packed.len() < content.len());
        Self {
            media_type: media_type(name),
            etag: format!("\"{hex}\""),
            plain: Bytes::from_static(content),
            gzip: gzip.map(Bytes::from),
        }
    }

    /// Has the browser this very file already? `If-None-Match` lists what it has.
    #[must_use]
    pub fn is_held(&self, if_none_match: Option<&str>) -> bool {
        let own = |tag: &str| matches!(tag.trim(), "*") || tag.trim().trim_start_matches("W/") == self.etag;
        if_none_match.is_some_and(|tags| tags.split(',').any(own))
    }
}

/// Does the client take gzip?
#[must_use]
pub fn takes_gzip(accept_encoding: Option<&str>) -> bool {
    let gzip = |part: &str| {
        let mut words = part.split(';').map(str::trim);
        let named = matches!(words.next(), Some("gzip" | "*"));
        named && !words.any(|word| matches!(word, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    };
    accept_encoding.is_some_and(|accepted| accepted.split(',').any(gzip))
}

/// Writing to memory does not fail.
fn pack(content: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).ok()?;
    encoder.finish().ok()
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("webmanifest" | "json") => "application/json",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_is_served_and_nothing_else() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/console/assets");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let mut served: Vec<&str> = ASSETS.iter().map(|(name, _)| *name).collect();
        served.sort_unstable();
        assert_eq!(files, served, "the table in page.rs names every file of assets/");
        let pages = Pages::new();
        assert_eq!(pages.find("").unwrap().plain, pages.find("index.html").unwrap().plain);
        for name in ["../mod.rs", "%2e%2e/mod.rs", "/etc/passwd", "index.html/", "INDEX.HTML", "app.js\0"] {
            assert!(pages.find(name).is_none(), "{name}");
        }
    }

    #[test]
    fn files_are_packed_named_and_typed() {
        for (name, content) in ASSETS {
            let asset = Pages::new().find(name).unwrap().clone();
            assert_ne!(asset.media_type, "application/octet-stream", "{name}");
            let packed = asset.gzip.clone().unwrap_or_default();
            if !packed.is_empty() {
                let mut unpacked = Vec::new();
                flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
                assert_eq!(&unpacked, content, "{name}");
            }
            let etag = asset.etag.as_str();
            for (header, want) in [
                (Some(etag.to_owned()), true),
                (Some(format!("\"x\", W/{etag}")), true),
                (Some("*".to_owned()), true),
                (Some("\"x\"".to_owned()), false),
                (None, false),
            ] {
                assert_eq!(asset.is_held(header.as_deref()), want, "{header:?}");
            }
        }
        for (header, want) in [
            (None, false),
            (Some("gzip, deflate, br"), true),
            (Some("br"), false),
            (Some("br, *"), true),
            (Some("gzip;q=0"), false),
            (Some("gzip;q=0.5"), true),
        ] {
            assert_eq!(takes_gzip(header), want, "{header:?}");
        }
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        for (name, content) in ASSETS {
            let Ok(text) = std::str::from_utf8(content) else { continue };
            for word in ["https://", "http://", "//cdn", "@import", "eval("] {
                // The name of a vocabulary is no place to load from.
                let text = text.replace("http://www.w3.org/", "");
                assert!(!text.contains(word), "{name} contains {word}");
            }
            if name.ends_with(".html") {
                for word in ["<style", " style=", " onclick=", " onload=", "<script>"] {
                    assert!(!text.contains(word), "{name} contains {word}: the policy forbids it");
                }
            }
        }
        // The first load: page, script and style, packed.
        let packed = |asset: &Asset| asset.gzip.as_ref().map_or(asset.plain.len(), Bytes::len);
        let all: usize = Pages::new().0.iter().map(|(_, asset)| packed(asset)).sum();
        assert!(all < 200_000, "{all} bytes");
    }
}
