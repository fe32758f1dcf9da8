//! Files of whoever runs the programs: configuration, what `keadm` reads.

use super::text;
use crate::app::keadm::bundle::redact::Redactor;
use crate::config::{CloudCoreConfig, ConfigFile, EdgeCoreConfig, Loaded, parse};

/// `cloudcore.yaml` and `edgecore.yaml`. What is taken is taken again as it is written.
pub fn config(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(loaded) = parse::<CloudCoreConfig>(text, "cloudcore.yaml", &[]) {
        again(&loaded);
    }
    if let Ok(loaded) = parse::<EdgeCoreConfig>(text, "edgecore.yaml", &[]) {
        again(&loaded);
    }
}

fn again<T: ConfigFile + serde::Serialize + PartialEq + std::fmt::Debug>(loaded: &Loaded<T>) {
    let written = yaml_serde::to_string(&loaded.config).expect("a configuration");
    let read = parse::<T>(&written, "again.yaml", &[]).expect("what is written is read");
    assert_eq!(read.config, loaded.config);
}

/// What a support bundle shows of a file: nothing of a secret it knows.
pub fn keadm(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let secret = "hunter2-hunter2";
    let redactor = Redactor::new([secret]);
    let with = format!("{text}\n{secret}\n{text}");
    assert!(!redactor.text(&with).contains(secret));
    let shown = redactor.yaml(text);
    assert!(!shown.contains(secret), "{shown}");
}
