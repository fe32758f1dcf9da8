//! Rows of the tables.

use super::machine::{Cost, quantile};

pub fn row(what: &str, ours: &str, peer: &str) {
    println!("| {what} | {ours} | {peer} |");
}

pub fn seconds(samples: &[f64]) -> String {
    let at = |q| quantile(samples, q);
    format!("{:.3} s, p90 {:.3}, p99 {:.3}, n {}", at(0.5), at(0.9), at(0.99), samples.len())
}

pub fn memory(cost: &Cost) -> String {
    let Cost { rss, pss, private, anonymous, threads, .. } = cost;
    format!("{rss:.1} / {pss:.1} / {private:.1} / {anonymous:.1} MiB, {threads} threads")
}

/// Samples in seconds, shown in milliseconds.
pub fn milliseconds(samples: &[f64]) -> String {
    let at = |q| quantile(samples, q) * 1e3;
    format!("{:.2} ms, p90 {:.2}, p99 {:.2}, n {}", at(0.5), at(0.9), at(0.99), samples.len())
}
