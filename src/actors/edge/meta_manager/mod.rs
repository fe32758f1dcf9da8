//! MetaManager
mod objects;
mod outbox;
mod reports;
