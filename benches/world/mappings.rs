//! What the resident memory of a process is made of.

use std::collections::BTreeMap;
use std::fs;

/// Resident memory by kind of mapping, in MiB.
pub fn resident(pid: u32) -> BTreeMap<&'static str, f64> {
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let program = program.to_string_lossy();
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut kinds, mut kind) = (BTreeMap::new(), "");
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            // A range, rights, offset, device, inode, and a name where there is one.
            [range, rights, _, _, _, name @ ..] if range.contains('-') => {
                kind = kind_of(rights, &name.join(" "), &program);
            }
            ["Rss:", kib, _] => *kinds.entry(kind).or_default() += kib.parse::<f64>().unwrap() / 1024.0,
            _ => {}
        }
    }
    kinds
}

fn kind_of(rights: &str, name: &str, program: &str) -> &'static str {
    match name {
        "" | "[heap]" => "allocated, and stacks of threads",
        "[stack]" => "main stack",
        _ if name == program && rights.contains('x') => "code",
        _ if name == program && rights.contains('w') => "data",
        // RELRO is written once by the loader and then closed.
        _ if name == program => "constants, tables for unwinding, relocations",
        _ if name.contains(".so") => "shared libraries (most of it shared with others)",
        _ => "other",
    }
}
