//! What comes from outside, given to the code that reads it: one function for each kind of input, for libFuzzer (`fuzz/`) and for
//! the tests that replay seeds and old findings. Present in tests and under `--cfg fuzzing` only.
//!
//! A target takes any bytes. It may refuse them; it may not panic, hang, or take memory without bound. What it takes it must be
//! able to say again, and what a check lets through the code behind it must take.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a target fails by panicking"
)]
#![allow(
    unused_must_use,
    dropping_copy_types,
    clippy::drop_non_drop,
    reason = "often only that an answer comes is looked at, not which"
)]

mod api;
mod cloud;
mod device;
mod edge;
mod identity;
mod kube;
mod local;
mod mqtt;
#[cfg(test)]
mod tests;
mod wire;

use serde_json::Value;

/// One thing to fuzz.
#[derive(Debug)]
pub struct Target {
    /// Also the folder below `fuzz/seeds/` and `fuzz/regressions/`.
    pub name: &'static str,
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("api", api::request),
    target("api_store", api::store),
    target("attest", identity::attest),
    target("audit", identity::audit),
    target("certificates", identity::certificates),
    target("cgroups", edge::processes),
    target("cloud_message", cloud::message),
    target("config", local::config),
    target("cosign", identity::cosign),
    target("crd", kube::crd),
    target("credentials", identity::credentials),
    target("cri", edge::runtime),
    target("csr", identity::csr),
    target("device", device::story),
    target("device_rows", device::rows),
    target("device_status", cloud::device_status),
    target("dmi", device::mapper),
    target("dmi_convert", device::convert),
    target("edge_identity", identity::edge_identity),
    target("edge_message", edge::messages),
    target("frame", wire::frame),
    target("handshake", wire::handshake),
    target("http2_authority", wire::http2_authority),
    target("image", edge::image),
    target("keadm", local::keadm),
    target("keys", identity::keys),
    target("manifests", cloud::manifests),
    target("meta_rows", edge::rows),
    target("modbus", device::modbus),
    target("mqtt_broker", mqtt::mqtt_broker),
    target("mqtt_client", mqtt::mqtt_client),
    target("mqtt_rows", mqtt::mqtt_rows),
    target("mqtt_server", mqtt::mqtt_server),
    target("mqtt_topic", mqtt::mqtt_topic),
    target("node_report", wire::node_report),
    target("object", kube::object),
    target("passwords", edge::passwords),
    target("patch", kube::patch),
    target("placement", cloud::placement),
    target("pod", edge::pod),
    target("protobuf", kube::protobuf),
    target("rbac", kube::rbac),
    target("resource", wire::resource),
    target("scrapes", wire::scrapes),
    target("static_pod", edge::static_pod),
    target("text", kube::text),
    target("tokens", identity::tokens),
    target("url", api::url),
    target("websocket", wire::websocket),
];

/// The bytes before and after the first `mark`.
fn cut<'a>(bytes: &'a [u8], mark: &[u8]) -> (&'a [u8], &'a [u8]) {
    match bytes.windows(mark.len()).position(|part| part == mark) {
        Some(at) => (&bytes[..at], &bytes[at + mark.len()..]),
        None => (bytes, &[]),
    }
}

/// The parts between zero bytes, at most `most`: no JSON and no text of ours holds one.
fn parts(bytes: &[u8], most: usize) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == 0).take(most)
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn json(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok()
}
