//! What a process costs, and middles of samples.

use std::fs;
use std::time::{Duration, Instant};

const KIB_PER_MIB: f64 = 1024.0;

/// Memory and CPU of a process over a window.
pub struct Cost {
    pub rss: f64,
    pub pss: f64,
    /// Pages nobody shares, file-backed ones included.
    pub private: f64,
    pub anonymous: f64,
    pub threads: usize,
    /// Percent of one core.
    pub cpu: f64,
}

/// Samples processes once a second for `window`; medians of memory, CPU over the whole window.
pub fn costs(pids: &[u32], window: Duration) -> Vec<Cost> {
    let begun = Instant::now();
    let ticks: Vec<f64> = pids.iter().map(|pid| cpu_seconds(*pid)).collect();
    let mut rows: Vec<Vec<[f64; 4]>> = pids.iter().map(|_| Vec::new()).collect();
    while begun.elapsed() < window {
        std::thread::sleep(Duration::from_secs(1));
        for (pid, rows) in pids.iter().zip(&mut rows) {
            rows.push(memory(*pid));
        }
    }
    let took = begun.elapsed().as_secs_f64();
    let one = |((pid, rows), before): ((&u32, &Vec<[f64; 4]>), &f64)| {
        let column = |at: usize| quantile(&rows.iter().map(|row| row[at]).collect::<Vec<_>>(), 0.5);
        Cost {
            rss: column(0),
            pss: column(1),
            private: column(2),
            anonymous: column(3),
            threads: fs::read_dir(format!("/proc/{pid}/task")).unwrap().count(),
            cpu: (cpu_seconds(*pid) - before) / took * 100.0,
        }
    };
    pids.iter().zip(&rows).zip(&ticks).map(one).collect()
}

/// RSS, PSS, private, anonymous in MiB.
fn memory(pid: u32) -> [f64; 4] {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.split(':').next() == Some(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / KIB_PER_MIB
    };
    [field("Rss"), field("Pss"), field("Private_Clean") + field("Private_Dirty"), field("Anonymous")]
}

/// utime + stime.
fn cpu_seconds(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name may hold blanks; it ends with the last parenthesis.
    let rest = text.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap();
    let ticks: i64 = fields[11..13].iter().map(|field| field.parse::<i64>().unwrap()).sum();
    ticks as f64 / hertz as f64
}

/// Value below which a share `q` of the samples lies (nearest rank).
pub fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// Size of a file in MB.
pub fn megabytes(path: &str) -> f64 {
    fs::metadata(path).unwrap().len() as f64 / 1e6
}
