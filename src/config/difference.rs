//! A configuration as the shortest file that gives it: only the keys that differ from the defaults.

use yaml_serde::{Mapping, Value};

use super::loader::ConfigFile;

/// YAML with `apiVersion`, `kind` and what differs from the defaults. Loading it gives `config`.
///
/// # Errors
/// The text of the YAML writer, never in practice.
pub fn differing_keys<T: ConfigFile>(config: &T) -> Result<String, String> {
    let tree = |config: &T| yaml_serde::to_value(config).map_err(|err| err.to_string());
    let (tree, defaults) = (tree(config)?, tree(&T::default())?);
    let mut file = Mapping::new();
    file.insert("apiVersion".into(), T::API_VERSION.into());
    file.insert("kind".into(), T::KIND.into());
    if let (Value::Mapping(tree), Value::Mapping(defaults)) = (&tree, &defaults) {
        file.extend(difference(tree, defaults));
    }
    yaml_serde::to_string(&file).map_err(|err| err.to_string())
}

fn difference(tree: &Mapping, defaults: &Mapping) -> Mapping {
    let mut out = Mapping::new();
    for (key, value) in tree {
        match (value, defaults.get(key)) {
            (value, Some(default)) if value == default => {}
            (Value::Mapping(below), Some(Value::Mapping(defaults))) => {
                out.insert(key.clone(), Value::Mapping(difference(below, defaults)));
            }
            _ => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CloudCoreConfig, EdgeCoreConfig, parse};

    #[test]
    fn the_short_file_gives_the_same_configuration() {
        let mut edge = EdgeCoreConfig::default();
        edge.modules.edge_hub.heartbeat = 3;
        edge.modules.edged.node_labels.insert("zone".into(), "a".into());
        let text = differing_keys(&edge).expect("text");
        assert_eq!(parse::<EdgeCoreConfig>(&text, "short", &[]).expect("loads").config, edge);
        assert_eq!(text.lines().count(), 8, "{text}");
        let text = differing_keys(&CloudCoreConfig::default()).expect("text");
        assert_eq!(text, "apiVersion: cloudcore.config.kubeedge.io/v1alpha1\nkind: CloudCore\n");
    }
}
