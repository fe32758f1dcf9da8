//! Objects and messages that many tests use.
#![allow(dead_code, reason = "benchmarks share this harness")]

use serde_json::json;

/// A ConfigMap and a Secret, for volumes.
pub const WORDS_AND_KEY: &str = "
apiVersion: v1
kind: ConfigMap
metadata: { name: words }
data: { word: hello }
---
apiVersion: v1
kind: Secret
metadata: { name: key }
stringData: { key: secret }
---
";

/// What a device's client publishes to `twin/update` (protocol section 7.3).
pub fn power(value: impl ToString) -> String {
    let power = json!({"actual": {"value": value.to_string()}, "metadata": {"type": "string"}});
    json!({"event_id": "e", "timestamp": 0, "twin": {"power": power}}).to_string()
}

/// The model of the example and so many devices of it, whose values move each second.
pub fn thermometers(count: usize) -> String {
    let example = include_str!("../../../config/examples/thermometer.yaml");
    let (model, device) = example.split_once("\n---\n").expect("a model and a device");
    let devices = (1..=count).map(|n| device.replace("thermometer-1", &format!("thermometer-{n}")));
    std::iter::once(model.to_owned()).chain(devices).collect::<Vec<_>>().join("\n---\n")
}
