//! Is the program ready to work? Modules set named checks, `/readyz` shows them.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::{describe_gauge, gauge};
use parking_lot::Mutex;
use serde::Serialize;

/// The check that writes to the program's store succeed.
pub const STORE: &str = "store";
/// The check that this cloudcore may tell nodes whom to believe.
pub const TRUST_BUNDLE: &str = "trust_bundle";

const READY: &str = "kubeedge_ready";

/// Describes the gauges of the checks.
pub(super) fn describe() {
    describe_gauge!(READY, "1 while a check of /readyz holds, else 0");
}

/// The named checks of one program. Cheap to clone; all clones are one registry.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    checks: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

/// All checks at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Every check holds.
    pub ready: bool,
    /// In alphabetical order.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
}

impl Readiness {
    /// Announces a check that does not hold yet. One that was set before keeps its value.
    pub fn expect(&self, name: &'static str) {
        self.checks.lock().entry(name).or_insert(false);
    }

    /// Says how a check stands.
    pub fn set(&self, name: &'static str, ok: bool) {
        let before = self.checks.lock().insert(name, ok);
        if before != Some(ok) {
            tracing::info!(check = name, ok, "readiness changed");
        }
    }

    /// Shows every check as a gauge. The names are in the source code: a bounded set.
    pub fn publish(&self) {
        describe();
        for (name, ok) in self.checks.lock().iter() {
            gauge!(READY, "check" => *name).set(if *ok { 1.0 } else { 0.0 });
        }
    }

    /// The checks as they stand. Without any, the program is ready.
    #[must_use]
    pub fn report(&self) -> Report {
        let checks: Vec<_> = self.checks.lock().iter().map(|(name, ok)| Check { name, ok: *ok }).collect();
        Report { ready: checks.iter().all(|check| check.ok), checks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_check_holds() {
        let readiness = Readiness::default();
        assert!(readiness.report().ready);
        let module = readiness.clone();
        module.expect("cloud link");
        module.set("store", true);
        let store = Check { name: "store", ok: true };
        let link = |ok| Check { name: "cloud link", ok };
        assert_eq!(readiness.report(), Report { ready: false, checks: vec![link(false), store.clone()] });
        module.set("cloud link", true);
        module.expect("cloud link");
        assert_eq!(readiness.report(), Report { ready: true, checks: vec![link(true), store] });
        module.set("cloud link", false);
        assert!(!readiness.report().ready);
    }
}
