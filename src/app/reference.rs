//! Pages that are made from the code: tests that fail when a page is not what the code says, and
//! write it anew when they are asked to.

mod configuration;
mod metrics;

use std::collections::HashSet;
use std::path::Path;

/// Set this to have the pages written instead of compared.
const REGENERATE: &str = "KUBEEDGE_REGENERATE";

/// Compares the page at `path`, below the root of the sources, with what it should be.
///
/// # Panics
/// When they differ: with the lines that do, and how to write the page anew.
fn check(path: &str, wanted: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os(REGENERATE).is_some() {
        return std::fs::write(&file, wanted).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    if found != wanted {
        let difference = difference(&found, wanted);
        panic!(
            "{path} is not what the code says ('-' is in the file, '+' should be):\n{difference}\n\
             Write it anew with: {REGENERATE}=1 cargo test --lib app::reference"
        );
    }
}

/// Lines that only one of the two has; the whole when only their order differs.
fn difference(found: &str, wanted: &str) -> String {
    let (have, want): (HashSet<&str>, HashSet<&str>) = (found.lines().collect(), wanted.lines().collect());
    let gone = found.lines().filter(|line| !want.contains(line)).map(|line| format!("- {line}\n"));
    let new = wanted.lines().filter(|line| !have.contains(line)).map(|line| format!("+ {line}\n"));
    let lines: String = gone.chain(new).collect();
    if lines.is_empty() { "the order of the lines".to_owned() } else { lines }
}

/// A text as the cell of a Markdown table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[test]
fn what_differs_is_shown() {
    assert_eq!(difference("a\nb\n", "a\nc\n"), "- b\n+ c\n");
    assert_eq!(difference("a\nb\n", "b\na\n"), "the order of the lines");
    assert_eq!(cell("a | b\n  c"), "a \\| b c");
}
