//! What a process costs, and middles of samples.

use std::fs;
use std::path::Path;
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

/// Is there such a process?
pub fn is_alive(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}/stat")).unwrap_or(false)
}

/// RSS, PSS, private, anonymous in MiB.
pub fn memory(pid: u32) -> [f64; 4] {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.split(':').next() == Some(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / KIB_PER_MIB
    };
    [field("Rss"), field("Pss"), field("Private_Clean") + field("Private_Dirty"), field("Anonymous")]
}

/// utime + stime.
pub fn cpu_seconds(pid: u32) -> f64 {
    stat_seconds(&fs::read_to_string(format!("/proc/{pid}/stat")).unwrap())
}

/// The same of the threads of this process that have a name.
pub fn thread_seconds(name: &str) -> f64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path());
    let named = tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|is| is.trim() == name));
    named.filter_map(|task| fs::read_to_string(task.join("stat")).ok()).map(|text| stat_seconds(&text)).sum()
}

/// What all processes and the kernel have used since the machine started.
pub fn machine_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap();
    let fields: Vec<f64> =
        text.lines().next().unwrap().split_whitespace().skip(1).map(|field| field.parse().unwrap()).collect();
    // user nice system idle iowait irq softirq steal
    let busy: f64 = [0, 1, 2, 5, 6, 7].iter().map(|at| fields[*at]).sum();
    busy / hertz()
}

fn stat_seconds(text: &str) -> f64 {
    // The name may hold blanks; it ends with the last parenthesis.
    let rest = text.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: i64 = fields[11..13].iter().map(|field| field.parse::<i64>().unwrap()).sum();
    ticks as f64 / hertz()
}

fn hertz() -> f64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap() as f64
}

/// Value below which a share `q` of the samples lies (nearest rank).
pub fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// Size of a file in MB.
pub fn megabytes(path: &Path) -> f64 {
    fs::metadata(path).unwrap().len() as f64 / 1e6
}
