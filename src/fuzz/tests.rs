//! Seeds and old findings, without libFuzzer.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::TARGETS;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// Runs what is in `fuzz/{name}/{target}/`; how many files that were.
fn replay(name: &str) -> usize {
    let mut count = 0;
    for target in TARGETS {
        let Ok(files) = fs::read_dir(folder(name).join(target.name)) else { continue };
        for file in files {
            let path = file.expect("an entry").path();
            // Shown when it fails.
            println!("{}", path.display());
            (target.run)(&fs::read(&path).expect("a file"));
            count += 1;
        }
    }
    count
}

#[test]
fn seeds_are_taken() {
    assert!(replay("seeds") > 100, "the seeds were not found");
}

#[test]
fn what_was_found_stays_mended() {
    assert!(replay("regressions") > 0, "the old findings were not found");
}

#[test]
fn every_target_takes_nothing_and_rubbish() {
    for target in TARGETS {
        println!("{}", target.name);
        for bytes in
            [b"".as_slice(), b"\0", b"{}", b"\xff\xff\xff\xff", b"a\n\nb\0c\0d", &[0; 100], &[b'['; 2000]]
        {
            (target.run)(bytes);
        }
    }
}

/// A folder that no target reads would never be run.
#[test]
fn every_folder_is_a_targets_and_every_target_has_seeds() {
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len(), "two targets have one name");
    let folders = |of: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(folder(of)).expect("a folder");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(folders("seeds"), names);
    assert!(folders("regressions").is_subset(&names));
}
