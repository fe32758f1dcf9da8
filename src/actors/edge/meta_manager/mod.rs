//! MetaManager
