//! L1: what Kubernetes objects mean: selectors, patches, quantities, tables, validation. Pure.

pub mod crd;
pub mod defaults;
pub mod names;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod rbac;
pub mod references;
pub mod schema;
pub mod selector;
pub mod structural;
pub mod table;
pub mod time;
pub mod validate;
pub mod yaml;
