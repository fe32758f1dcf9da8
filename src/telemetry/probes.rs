//! Figures that somebody must go and look for: files, disks. Looked for every few seconds on a
//! thread that may block, never when somebody scrapes.

use std::sync::Arc;

use parking_lot::Mutex;

type Probe = Arc<dyn Fn() + Send + Sync>;

/// What to look for. Cheap to clone; all clones are one list.
#[derive(Clone, Default)]
pub struct Probes {
    all: Arc<Mutex<Vec<Probe>>>,
}

impl Probes {
    /// Adds a look; it sets its own gauges.
    pub fn add(&self, probe: impl Fn() + Send + Sync + 'static) {
        self.all.lock().push(Arc::new(probe));
    }

    /// Looks for everything. Blocks.
    pub fn look(&self) {
        let all = self.all.lock().clone();
        all.iter().for_each(|probe| probe());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn every_look_runs_every_probe_of_every_clone() {
        let (probes, runs) = (Probes::default(), Arc::new(AtomicU32::new(0)));
        for by in [1, 10] {
            let runs = Arc::clone(&runs);
            probes.clone().add(move || {
                runs.fetch_add(by, Ordering::Relaxed);
            });
        }
        probes.look();
        probes.look();
        assert_eq!(runs.load(Ordering::Relaxed), 22);
    }
}
