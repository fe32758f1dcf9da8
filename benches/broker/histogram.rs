//! Times in buckets of about 1.5 %.

const BITS: u32 = 6;
const STEP: usize = 1 << BITS;
const BUCKETS: usize = (64 - BITS as usize + 1) * STEP;

/// Counts of nanoseconds.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    pub fn add(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
    }

    pub fn count(&self) -> u64 {
        self.total
    }

    /// Milliseconds below which a share `q` lies; NaN without samples.
    pub fn quantile_ms(&self, q: f64) -> f64 {
        let rank = ((q * self.total as f64).ceil() as u64).clamp(1, self.total.max(1));
        let mut below = 0;
        for (at, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank {
                return middle(at) / 1e6;
            }
        }
        f64::NAN
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < STEP as u64 {
        return nanos as usize;
    }
    let shift = 63 - nanos.leading_zeros() - BITS;
    shift as usize * STEP + (nanos >> shift) as usize
}

fn middle(bucket: usize) -> f64 {
    if bucket < 2 * STEP {
        return bucket as f64;
    }
    let shift = bucket / STEP - 1;
    ((STEP + bucket % STEP) as f64 + 0.5) * (shift as f64).exp2()
}
