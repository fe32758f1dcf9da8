//! A sample of both programs every few seconds, as lines of CSV too.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::harness::process::http;
use super::machine;

pub const EVERY: Duration = Duration::from_secs(5);

/// A program under watch.
pub struct Subject {
    pub name: &'static str,
    pub pid: u32,
    pub monitor: String,
    pub store: PathBuf,
}

/// One look at one program. Memory in MB (10^6 bytes).
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub secs: f64,
    pub rss: f64,
    pub pss: f64,
    pub private: f64,
    pub anonymous: f64,
    pub threads: f64,
    pub descriptors: f64,
    /// Bytes of its store on disk, in MB.
    pub store: f64,
    /// Series of its `/metrics`; NaN when it did not answer.
    pub series: f64,
    /// CPU seconds since it started.
    pub cpu: f64,
}

pub const COLUMNS: &str =
    "seconds,program,rss_mb,pss_mb,private_mb,anonymous_mb,threads,descriptors,store_mb,series,cpu_seconds";

const MB_PER_MIB: f64 = 1.048_576;

impl Subject {
    fn look(&self, secs: f64) -> Sample {
        let [rss, pss, private, anonymous] = machine::memory(self.pid).map(|mib| mib * MB_PER_MIB);
        let count = |what: &str| fs::read_dir(format!("/proc/{}/{what}", self.pid)).unwrap().count() as f64;
        let series = match http("GET", &self.monitor, "/metrics", &[]) {
            Ok((200, text)) => text.lines().filter(|line| !line.starts_with('#')).count() as f64,
            _ => f64::NAN,
        };
        Sample {
            secs,
            rss,
            pss,
            private,
            anonymous,
            threads: count("task"),
            descriptors: count("fd"),
            store: bytes(&self.store) as f64 / 1e6,
            series,
            cpu: machine::cpu_seconds(self.pid),
        }
    }
}

impl Sample {
    fn csv(&self, name: &str) -> String {
        let Self { secs, rss, pss, private, anonymous, threads, descriptors, store, series, cpu } = self;
        format!(
            "{secs:.0},{name},{rss:.3},{pss:.3},{private:.3},{anonymous:.3},{threads},{descriptors},{store:.3},{series},{cpu:.2}\n"
        )
    }
}

/// Looks at all for as long as it is told; a row of samples for each subject. What there is so far goes to `so_far` every
/// five minutes.
pub fn watch(
    subjects: &[Subject],
    length: Duration,
    file: &Path,
    so_far: impl Fn(&[Vec<Sample>]),
) -> Vec<Vec<Sample>> {
    let mut out = fs::File::create(file).unwrap_or_else(|err| panic!("{}: {err}", file.display()));
    out.write_all(format!("{COLUMNS}\n").as_bytes()).unwrap();
    let begun = Instant::now();
    let mut all: Vec<Vec<Sample>> = subjects.iter().map(|_| Vec::new()).collect();
    for turn in 1.. {
        let due = EVERY * turn;
        if due > length {
            break;
        }
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        for (subject, samples) in subjects.iter().zip(&mut all) {
            assert!(machine::is_alive(subject.pid), "{} has ended", subject.name);
            let sample = subject.look(begun.elapsed().as_secs_f64());
            out.write_all(sample.csv(subject.name).as_bytes()).unwrap();
            samples.push(sample);
        }
        if turn % 60 == 0 {
            so_far(&all);
        }
    }
    all
}

/// The samples of a run that is over; a row for each name.
pub fn read(file: &Path, names: &[&str]) -> Vec<Vec<Sample>> {
    let text = fs::read_to_string(file).unwrap_or_else(|err| panic!("{}: {err}", file.display()));
    let mut all: Vec<Vec<Sample>> = names.iter().map(|_| Vec::new()).collect();
    for line in text.lines().skip(1) {
        let words: Vec<&str> = line.split(',').collect();
        let at = |column: usize| words[column].parse().unwrap_or(f64::NAN);
        let Some(program) = names.iter().position(|name| *name == words[1]) else { continue };
        all[program].push(Sample {
            secs: at(0),
            rss: at(2),
            pss: at(3),
            private: at(4),
            anonymous: at(5),
            threads: at(6),
            descriptors: at(7),
            store: at(8),
            series: at(9),
            cpu: at(10),
        });
    }
    all
}

/// What is in a folder and below. Files come and go meanwhile.
fn bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
