//! Keeps the layers of ARCHITECTURE.md: who may import whom, how long a file may be, which names
//! are banned, where actix and tokio may be used.

// What surrounds a test may fail it like the test itself.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms from the foundation up. A room imports only rooms before it in this list.
const ROOMS: &[&str] = &[
    "model",
    "wire",
    "config",
    "telemetry",
    "kube",
    "store",
    "identity",
    "cri",
    "mqtt",
    "web",
    "bus",
    "supervise",
    "mapper",
    "console",
    "apiserver",
    "actors",
    "app",
    "fuzz",
];
const MAX_LINES: usize = 500;
/// Tests stand in tables; a little more is fine.
const MAX_TEST_LINES: usize = 600;
const BANNED_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "manager"];

#[derive(Clone)]
struct Source {
    path: PathBuf,
    /// Path below `src/`, e.g. `actors/cloud/cloud_hub/mod.rs`.
    parts: Vec<String>,
    text: String,
}

fn root() -> PathBuf {
    top().join("src")
}

fn sources() -> Vec<Source> {
    let found = below(&root());
    assert!(found.len() > 30, "the source tree was not found");
    found
}

fn below(root: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let inside = path.strip_prefix(root).unwrap();
                let parts = inside.iter().map(|p| p.to_str().unwrap().to_owned()).collect();
                found.push(Source { text: fs::read_to_string(&path).unwrap(), path, parts });
            }
        }
    }
    found
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(top().join(name)).unwrap_or_else(|err| panic!("{name}: {err}"))
}

fn is_test(source: &Source) -> bool {
    source.parts.iter().any(|p| p == "tests" || p == "tests.rs" || p.ends_with("_tests.rs"))
}

/// The code without comments and without what follows `#[cfg(test)]` (test modules stand last).
fn code(source: &Source) -> String {
    if is_test(source) {
        return String::new();
    }
    let mut production = source.text.as_str();
    for (at, _) in source.text.match_indices("#[cfg(test)]\nmod ") {
        let opens =
            source.text[at..].find(['{', ';']).is_some_and(|end| source.text[at + end..].starts_with('{'));
        if opens {
            production = &source.text[..at];
            break;
        }
    }
    production.lines().filter(|l| !l.trim_start().starts_with("//")).map(|l| format!("{l}\n")).collect()
}

fn rank(room: &str) -> Option<usize> {
    ROOMS.iter().position(|r| *r == room)
}

/// Words that follow `needle` in `text`.
fn words_after<'t>(text: &'t str, needle: &'t str) -> impl Iterator<Item = &'t str> {
    text.match_indices(needle).filter_map(move |(at, _)| {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
            return None;
        }
        let rest = &text[at + needle.len()..];
        Some(rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default())
    })
}

#[test]
fn rooms_import_only_what_stands_below_them() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(own) = source.parts.first().and_then(|room| rank(room)) else { continue };
        let text = code(&source);
        for imported in words_after(&text, "crate::") {
            if let Some(other) = rank(imported)
                && other > own
            {
                wrong.push(format!("{} imports {imported}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_folder_is_a_known_room() {
    for source in sources() {
        if source.parts.len() > 1 && source.parts[0] != "bin" {
            assert!(rank(&source.parts[0]).is_some(), "{} is in no known room", source.path.display());
        }
    }
}

#[test]
fn actors_meet_only_in_the_bus() {
    let mut wrong = Vec::new();
    for source in sources() {
        if source.parts.first().is_none_or(|p| p != "actors") || source.parts.len() < 4 {
            continue;
        }
        let side = format!("actors::{}::", source.parts[1]);
        let own = format!("{side}{}", source.parts[2]);
        let text = code(&source);
        for (at, _) in text.match_indices("actors::") {
            if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue; // actix_web_actors
            }
            let path: String =
                text[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
            // A file beside the actors' folders belongs to all actors of its side.
            let shared = path
                .strip_prefix(&side)
                .and_then(|rest| rest.split("::").next())
                .is_some_and(|name| root().join(format!("actors/{}/{name}.rs", source.parts[1])).is_file());
            if !path.starts_with(&own) && !shared {
                wrong.push(format!("{} uses {path}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn deciding_code_uses_no_runtime() {
    let mut wrong = Vec::new();
    for source in sources() {
        if source.parts.first().is_none_or(|p| p != "actors") || source.parts.len() < 4 {
            continue;
        }
        let file = source.parts.last().unwrap();
        if file == "mod.rs" || file.ends_with("_actor.rs") || file.ends_with("_worker.rs") {
            continue;
        }
        let text = code(&source);
        for runtime in ["use actix", "use tokio", "actix::", "tokio::"] {
            if text.contains(runtime) {
                wrong.push(format!("{} contains {runtime:?}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short() {
    let tests = [below(&top().join("tests")), below(&top().join("benches"))].concat();
    let too_long: Vec<String> = sources()
        .iter()
        .map(|source| (source, if is_test(source) { MAX_TEST_LINES } else { MAX_LINES }))
        .chain(tests.iter().map(|test| (test, MAX_TEST_LINES)))
        .map(|(source, most)| (source, source.text.lines().count(), most))
        .filter(|(_, lines, most)| lines > most)
        .map(|(source, lines, _)| format!("{}: {lines} lines", source.path.display()))
        .collect();
    assert!(too_long.is_empty(), "{}", too_long.join("\n"));
}

#[test]
fn names_say_what_a_thing_is() {
    for source in sources() {
        for part in &source.parts {
            let stem = part.trim_end_matches(".rs");
            assert!(!BANNED_NAMES.contains(&stem), "{} has a name that says nothing", source.path.display());
        }
    }
}

#[test]
fn no_shell_no_silent_send_no_unbounded_queue() {
    let mut wrong = Vec::new();
    for source in sources() {
        let text = code(&source);
        for banned in [".do_send(", "unbounded_channel", "\"-c\"", "process::exit", "unsafe "] {
            let in_bin = source.parts.first().is_some_and(|p| p == "bin");
            if text.contains(banned) && !(in_bin && banned == "process::exit") {
                wrong.push(format!("{} contains {banned:?}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn resource_paths_are_parsed_in_one_place() {
    let mut wrong = Vec::new();
    for source in sources() {
        if source.parts == ["model", "resource.rs"] {
            continue;
        }
        for line in code(&source).lines().filter(|line| line.contains("resource")) {
            if [".split(", ".splitn(", "split_once(", ".rsplit("].iter().any(|cut| line.contains(cut)) {
                wrong.push(format!("{}: {}", source.path.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// ARCHITECTURE.md is read first: what it names must be there, and every room must stand in it.
#[test]
fn the_architecture_page_is_true() {
    let page = read("ARCHITECTURE.md");
    for room in ROOMS {
        assert!(root().join(room).is_dir(), "src/{room} is no folder");
        let named = [format!("`{room}/`"), format!("`{room}/cloud/*`")];
        assert!(named.iter().any(|name| page.contains(name)), "ARCHITECTURE.md does not name {room}/");
    }
    for quoted in
        page.split('`').skip(1).step_by(2).filter(|text| text.ends_with(".rs") && text.contains('/'))
    {
        assert!(top().join(quoted).is_file(), "ARCHITECTURE.md names {quoted}, which is not there");
    }
    let actors: String = sources().iter().map(code).collect();
    for actor in ["SessionWorker", "PodWorker", "MetaManager", "EdgeHub", "Edged", "CloudHub", "Monitor"] {
        assert!(actors.contains(&format!("impl Actor for {actor} ")), "there is no actor {actor}");
        assert!(page.contains(actor), "ARCHITECTURE.md does not name {actor}");
    }
}

/// `cargo deny` reads deny.toml where it is installed; what it bans is looked for here in any case.
#[test]
fn nothing_banned_is_linked() {
    let (deny, lock) = (read("deny.toml"), read("Cargo.lock"));
    let banned: Vec<&str> =
        deny.split("{ crate = \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(banned.len() > 3, "deny.toml bans nothing: {banned:?}");
    for name in banned {
        assert!(!lock.contains(&format!("\nname = \"{name}\"\n")), "{name} is in Cargo.lock");
    }
    let foreign: Vec<&str> = lock
        .lines()
        .filter(|line| line.starts_with("source = "))
        .filter(|line| *line != "source = \"registry+https://github.com/rust-lang/crates.io-index\"")
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

/// What people and CI rely on: the lints, the bans with their reasons, the targets, the licence.
#[test]
fn the_house_rules_stand() {
    let cargo = read("Cargo.toml");
    for lint in ["unwrap_used", "expect_used", "indexing_slicing", "panic", "unreachable", "todo"] {
        assert!(cargo.contains(&format!("\n{lint} = \"deny\"\n")), "{lint} is not denied");
    }
    assert!(cargo.contains("\nunsafe_code = \"forbid\"\n") && cargo.contains("\nlicense = \"Apache-2.0\"\n"));
    assert!(cargo.contains("[profile.release]") && cargo.contains("\npanic = \"unwind\"\n"));
    let clippy = read("clippy.toml");
    for banned in ["actix::Addr::do_send", "tokio::sync::mpsc::unbounded_channel", "std::process::exit"] {
        let line = clippy.lines().find(|line| line.contains(&format!("\"{banned}\"")));
        assert!(line.is_some_and(|line| line.contains("reason = ")), "{banned} is not banned with a reason");
    }
    assert!(read("LICENSE").contains("Apache License") && read("deny.toml").contains("[licenses]"));
    let (make, ci) = (read("Makefile"), read(".ci/run"));
    for target in ["demo", "test", "lint", "bench", "help"] {
        assert!(make.contains(&format!("\n{target}:")), "the Makefile has no {target}");
    }
    assert!(ci.contains("make test") && ci.contains("make lint"));
}

/// README.md is copied and pasted from: what it names must be there.
#[test]
fn the_readme_names_what_is_there() {
    let page = read("README.md");
    let (make, keadm) = (read("Makefile"), read("src/app/keadm/mod.rs").to_lowercase());
    let words: Vec<&str> = page.split(|c: char| c.is_whitespace() || c == '`' || c == '(').collect();
    for pair in words.windows(2) {
        let word = pair[1].trim_end_matches(['.', ',', ')', ':', ';']);
        match pair[0] {
            "make" => assert!(make.contains(&format!("\n{word}:")), "make {word} is no target"),
            "keadm" => {
                let variant = word.replace('-', "");
                let is_it =
                    |line: &str| line.strip_prefix(&variant).is_some_and(|rest| rest.starts_with(['(', ',']));
                assert!(keadm.lines().any(|line| is_it(line.trim())), "keadm has no command {word}");
            }
            _ => {}
        }
    }
    let paths = page.split('`').skip(1).step_by(2).chain(words.iter().copied());
    for path in paths.filter(|text| {
        ["config/", "deploy/", "src/"].iter().any(|folder| text.starts_with(folder)) || text.ends_with(".md")
    }) {
        assert!(
            top().join(path.trim_end_matches(['/', ')', '.', ','])).exists(),
            "README.md names {path}, which is not there"
        );
    }
}

/// docs/SECURITY.md maps every promise to its tests: each test it names must be there.
#[test]
fn every_promise_of_the_security_page_names_tests_that_are_there() {
    let page = read("docs/SECURITY.md");
    let promises = page.split_once("\n## Promises and their tests\n").expect("the chapter").1;
    for part in (1..=8).map(|n| format!("\n### {n}. ")).chain(["\n### Bad input and faults\n".to_owned()]) {
        assert!(promises.contains(&part), "no part {part:?}");
    }
    let rows: Vec<&str> =
        promises.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise |")).collect();
    assert!(rows.len() > 60, "{} promises", rows.len());
    for row in rows {
        let (_, tests) = row.trim_end_matches(" |").rsplit_once(" | ").expect("two columns");
        if tests == "not yet" {
            continue;
        }
        for test in tests.split("<br>") {
            let (file, name) = test.trim_matches('`').split_once("::").expect("file::test");
            let text = read(file);
            let at = text.find(&format!("fn {name}(")).unwrap_or_else(|| panic!("{file} has no {name}"));
            // Its attribute, or the macro of property tests around it.
            let is_test = text[..at].trim_end().trim_end_matches("async").trim_end().ends_with(']')
                || text[..at].contains("proptest! {");
            assert!(is_test, "{file}: {name} is no test");
        }
    }
}

/// docs/ACCEPTANCE.md names tests in code spans: `file::name` below tests/it, or `path/file.rs::name`.
#[test]
fn every_test_that_the_acceptance_page_names_exists() {
    let page = read("docs/ACCEPTANCE.md");
    let spans = page.split('`').skip(1).step_by(2);
    let named: Vec<(&str, &str)> = spans.filter_map(|span| span.rsplit_once("::")).collect();
    assert!(named.len() > 50, "{} tests are named", named.len());
    let mut missing = Vec::new();
    for (place, name) in named {
        let path = if place.contains('/') { place.to_owned() } else { format!("tests/it/{place}.rs") };
        let text = fs::read_to_string(top().join(&path)).unwrap_or_default();
        let begins = text.find(&format!("fn {name}("));
        // What stands right before it makes it a test.
        let is_test = begins.is_some_and(|at| {
            let before: Vec<&str> = text[..at].lines().rev().take(5).collect();
            before.iter().any(|line| line.contains("test]"))
        });
        if !is_test {
            missing.push(format!("{path}: {name}"));
        }
    }
    assert!(missing.is_empty(), "docs/ACCEPTANCE.md names what is no test:\n{}", missing.join("\n"));
}
