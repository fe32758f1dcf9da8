//! What travels between cloud and edge, and on the sockets of an edge.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::text;
use crate::model::{Body, DeviceId, Moment, NodeName, NodeReport, Resource};
use crate::telemetry::federation::Federation;
use crate::wire::authority::AuthorityFilter;
use crate::wire::frame;
use crate::wire::node_report::{Encoder, MAX_TEXT_BYTES, lines, pack, report_of, unpack};

/// A message of the websocket, and again as we say it.
pub fn frame(bytes: &[u8]) {
    let Ok(envelope) = frame::decode(bytes, frame::MAX_FRAME_BYTES) else { return };
    let said = frame::encode(&envelope).expect("what was read can be said");
    let again = frame::decode(&said, frame::MAX_FRAME_BYTES).expect("what is said can be read");
    assert_eq!(again, envelope, "what is said is what was read");
    assert_eq!(frame::encode(&again).expect("again"), said);
}

/// What a message is about, and names in it.
pub fn resource(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let parsed = Resource::parse(text);
    assert_eq!(parsed.to_string(), text);
    if let Some(device) = parsed.cloud_updated() {
        assert!(text.contains(&device.to_string()));
    }
    if let Some(device) = DeviceId::parse(text) {
        assert_eq!(device.to_string(), text);
    }
    if let Ok(node) = NodeName::parse(text) {
        assert_eq!(node.as_str(), text);
    }
}

fn moment() -> Moment {
    Moment { at: Instant::now(), unix_ms: 1_800_000_000_000 }
}

/// A report as an edge packs it: the body of the message.
pub fn node_report(bytes: &[u8]) {
    let Ok(object) = serde_json::from_slice(bytes) else {
        // The text inside, without the packing that hides it from whoever searches.
        if let Some(inside) = text(bytes) {
            assert_eq!(unpack(&pack(inside), inside.len()).as_deref(), Ok(inside));
            take(&NodeReport { sequence: 0, interval_secs: 15, metrics: pack(inside), actors: None });
        }
        return;
    };
    if let Some(report) = report_of(&Body::Object(object)) {
        take(&report);
    }
}

fn take(report: &NodeReport) {
    if let Ok(inside) = unpack(&report.metrics, MAX_TEXT_BYTES) {
        assert!(inside.len() <= MAX_TEXT_BYTES);
        lines(&inside).take_while(Result::is_ok).for_each(drop);
    }
    let (federation, node) = (Federation::new(100), NodeName::parse("edge-1").expect("a name"));
    federation.session_opened(&node, 1, moment());
    drop(federation.report(&node, 1, report.clone(), moment()));
    let shown = federation.render(Instant::now());
    assert!(shown.len() < 4 * (MAX_TEXT_BYTES + 65_536));
    check_exposition(&shown);
}

/// What Prometheus will read: each line a comment, or a series with a value.
fn check_exposition(shown: &str) {
    for line in shown.lines() {
        assert!(
            line.starts_with("# ")
                || line
                    .rsplit_once(' ')
                    .is_some_and(|(series, value)| { !series.is_empty() && value.parse::<f64>().is_ok() }),
            "{line:?}"
        );
    }
}

/// Pages of metrics, one after another (a line `===` between two): what the cloud has after deltas is what it has after one
/// whole report. As an exporter does it, each page begins with all types, and its values are numbers: of a sample that was
/// refused once, no delta says more.
pub fn scrapes(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let node = NodeName::parse("edge-1").expect("a name");
    let now = moment();
    let (by_steps, at_once) = (Federation::new(1000), Federation::new(1000));
    by_steps.session_opened(&node, 1, now);
    at_once.session_opened(&node, 1, now);
    let families: String =
        text.lines().filter(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let is_number = |value: &str| value == "NaN" || value.bytes().all(|byte| byte.is_ascii_digit());
    let is_sample = |line: &&str| line.rsplit_once(' ').is_some_and(|(_, value)| is_number(value));
    let mut encoder = Encoder::default();
    let mut last = String::new();
    for page in text.split("\n===\n").take(6) {
        let samples = page.lines().filter(|line| !line.starts_with('#')).filter(is_sample);
        let samples: String = samples.map(|line| format!("{line}\n")).collect();
        last = format!("{families}{samples}");
        if by_steps.report(&node, 1, encoder.report(&last, 15), now).is_err() {
            return;
        }
    }
    if at_once.report(&node, 1, Encoder::default().report(&last, 15), now).is_err() {
        return;
    }
    let later = now.at + Duration::from_secs(1);
    let (stepped, whole) = (by_steps.render(later), at_once.render(later));
    check_exposition(&stepped);
    assert_eq!(values(&stepped), values(&whole));
}

/// The series, sorted: types and helps of families that are gone may stay.
fn values(shown: &str) -> Vec<&str> {
    let is_own = |line: &&str| !line.starts_with('#') && !line.starts_with("kubeedge_federate_");
    let mut all: Vec<&str> = shown.lines().filter(is_own).collect();
    all.sort_unstable();
    all
}

/// HTTP/2 of gRPC clients on our sockets: however it is cut, the same comes out, and as long as it was.
pub fn http2_authority(bytes: &[u8]) {
    let run = |at_once: usize| {
        let (mut filter, mut out) = (AuthorityFilter::default(), BytesMut::new());
        let failed = bytes.chunks(at_once).any(|piece| filter.feed(piece, &mut out).is_err());
        (out, failed)
    };
    let (whole, small) = (run(usize::MAX), run(5));
    assert_eq!(whole.1, small.1);
    assert!(whole.1 || whole.0 == small.0);
    // A text in Huffman code is said in plain.
    assert!(whole.0.len() <= 2 * bytes.len() + 64);
    // With the preface before it, as a connection begins.
    let (mut filter, mut out) = (AuthorityFilter::default(), BytesMut::new());
    if filter.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &mut out).is_ok() {
        drop(filter.feed(bytes, &mut out));
    }
}

/// The headers of a node that opens a session, a line each: common name, organization, SPIFFE ID, then what it asks for.
pub fn handshake(bytes: &[u8]) {
    use crate::actors::cloud::cloud_hub::handshake::{Asked, admit, extensions_header};
    use crate::identity::PeerIdentity;
    let Some(text) = text(bytes) else { return };
    let mut lines = text.split('\n').map(Some);
    let mut next = || lines.next().flatten().filter(|line| !line.is_empty());
    let (common_name, organization) = (next().unwrap_or_default().to_owned(), next().map(str::to_owned));
    let spiffe_id = next().map(str::to_owned);
    let peer = PeerIdentity { common_name, organizations: organization.into_iter().collect(), spiffe_id };
    let asked = Asked {
        connection_use: next(),
        node_id: next(),
        extensions: next(),
        instance: next(),
        silence: next(),
    };
    let Ok(accepted) = admit(Some(&peer), &asked) else { return };
    assert_eq!(peer.node().as_ref(), Some(&accepted.node), "the certificate says who it is");
    drop(extensions_header(accepted.extensions));
}

/// A websocket's frames: however the stream is cut, the same ones are found.
pub fn websocket(bytes: &[u8]) {
    use crate::actors::cloud::cloud_hub::frames::{Frames, TooLong};
    let run = |at_once: usize| -> (Vec<usize>, Option<TooLong>) {
        let (mut frames, mut found, mut length) = (Frames::new(1 << 20), Vec::new(), 0);
        for mut piece in bytes.chunks(at_once) {
            while !piece.is_empty() {
                let (size, is_end) = match frames.split(piece) {
                    Ok(split) => split,
                    Err(long) => return (found, Some(long)),
                };
                assert!(size > 0, "it goes on");
                length += size;
                if is_end {
                    found.push(std::mem::take(&mut length));
                }
                piece = piece.get(size..).unwrap_or_default();
            }
        }
        (found, None)
    };
    assert_eq!(run(usize::MAX), run(3));
}
