//! "A tour in ten minutes" of the README: every command typed in as it stands there, and what the page
//! shows as its output compared with what really came.

use super::reader::{Reader, fenced, has, page};

/// Words of a line that are the same at each reading: no ages (`2m19s`, `(3s`) and no readings of a
/// sensor (`17.69`).
fn lasting(line: &str) -> Vec<&str> {
    let lasts = |word: &&str| {
        let word = word.trim_start_matches('(');
        let age = word.starts_with(|c: char| c.is_ascii_digit()) && word.ends_with(['s', 'm']);
        !(age || word.contains('.') && word.parse::<f64>().is_ok())
    };
    line.split_whitespace().filter(lasts).collect()
}

/// Each line that the page shows must have come, word by word.
fn shows(came: &str, page: &str) {
    for line in page.lines().filter(|line| !line.trim().is_empty()) {
        let words = lasting(line);
        let found =
            came.lines().any(|have| words.iter().all(|word| have.split_whitespace().any(|it| it == *word)));
        assert!(found, "the page shows {line:?}; here came\n{came}");
    }
}

#[test]
fn every_command_of_the_tour_works_and_shows_what_the_page_shows() {
    let blocks = fenced(&page("README.md", Some("A tour in ten minutes")));
    let (first, rest) = blocks.split_first().expect("blocks");
    let mut reader = Reader::new(&first.1);
    // By name it would end the pods of other tests, too.
    reader.reads(
        "pkill -9 -f '[h]ttpd -p 8080'",
        "for pid in $(ctr -a $demo/containerd.sock -n k8s.io tasks ls | awk 'NR > 1 {print $2}'); do \
         if grep -qa httpd /proc/$pid/cmdline; then kill -9 $pid; fi; done",
    );
    let mut came = String::new();
    let mut shown = 0;
    for (language, block) in rest {
        match language.as_str() {
            "sh" => came = reader.types(block),
            "" => {
                shows(&came, block);
                shown += 1;
            }
            other => panic!("a block of {other:?}"),
        }
    }
    assert_eq!(shown, 7, "as many outputs as the page has");
    // The last one has nothing to complain of.
    has(&came, &["ok"]);
    assert!(!came.contains("something is wrong"), "{came}");
}
