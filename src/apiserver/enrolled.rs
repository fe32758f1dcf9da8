//! What a store holds before anybody serves it.

use crate::store::{Store, StoreError, Table, scan_all};

/// Nodes that the API in `store` has. cloudcore asks before it opens its CA: a new CA where nodes
/// are enrolled would lock all of them out. Blocks.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub fn enrolled_nodes(store: &dyn Store) -> Result<usize, StoreError> {
    let prefix = format!("{}nodes/", super::core::OBJECT_PREFIX);
    let mut nodes = 0;
    scan_all(store, Table::Objects, &prefix, |rows| nodes += rows.len())?;
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Batch, MemoryStore};

    #[test]
    fn nodes_are_counted_and_nothing_else() {
        let store = MemoryStore::new();
        assert_eq!(enrolled_nodes(&store).unwrap(), 0);
        let batch = ["api/o/nodes//edge-1", "api/o/nodes//edge-2", "api/o/pods/default/nodes", "nodes/x"]
            .into_iter()
            .fold(Batch::new(), |batch, key| batch.put(Table::Objects, key, b"{}".to_vec()));
        store.write(&[batch]).unwrap();
        assert_eq!(enrolled_nodes(&store).unwrap(), 2);
    }
}
