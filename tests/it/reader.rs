//! Somebody who reads a page of ours beside a terminal, and types what it says after `make demo`.

use std::fs;
use std::path::Path;

use super::demo::Demo;

/// The repository, which is where the pages are read.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A page, or its part below a heading.
pub fn page(name: &str, heading: Option<&str>) -> String {
    let text = fs::read_to_string(repository().join(name)).unwrap();
    let Some(heading) = heading else { return text };
    let from = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no {heading:?}")).1;
    from.split_once("\n## ").map_or(from, |(part, _)| part).to_owned()
}

/// The fenced blocks of a text: language and content.
pub fn fenced(text: &str) -> Vec<(String, String)> {
    let parts = text.split("```").collect::<Vec<_>>();
    let inside = parts.chunks(2).filter_map(|pair| pair.get(1));
    inside
        .map(|block| block.split_once('\n').expect("a language line"))
        .map(|(l, b)| (l.into(), b.into()))
        .collect()
}

/// A demo of one's own, and what is different there than on the page.
pub struct Reader {
    pub demo: Demo,
    first: String,
    here: Vec<(String, String)>,
}

impl Reader {
    /// `first` is the block typed into every terminal.
    pub fn new(first: &str) -> Self {
        let demo = Demo::new();
        let up = demo.bash(&["deploy/demo/up.sh"]);
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        let programs = Path::new(env!("CARGO_BIN_EXE_keadm")).parent().unwrap().display().to_string();
        let dir = demo.dir.display().to_string();
        let tools = demo.dir.join("tools");
        fs::create_dir_all(&tools).unwrap();
        let yaml = fs::read_to_string(repository().join("config/examples/identity-pod.yaml")).unwrap();
        let pod = demo.dir.join("identity-pod.yaml");
        fs::write(&pod, yaml.replace("/usr/local/bin", tools.to_str().unwrap())).unwrap();
        let ports: Vec<&str> = demo.ports.split(' ').collect();
        let here = [
            ("/var/lib/kubeedge-demo", dir),
            ("$PWD/target/release", programs.clone()),
            ("target/release", programs),
            ("/usr/local/bin/", format!("{}/", tools.display())),
            ("config/examples/identity-pod.yaml", pod.display().to_string()),
            ("127.0.0.1:9091", format!("127.0.0.1:{}", ports[3])),
            ("127.0.0.1:9092", format!("127.0.0.1:{}", ports[4])),
            // A busy machine is slower than a reader's.
            ("--timeout=30s", "--timeout=180s".to_owned()),
            ("--timeout=60s", "--timeout=180s".to_owned()),
        ];
        let here = here.map(|(there, here)| (there.to_owned(), here)).to_vec();
        Self { demo, first: first.to_owned(), here }
    }

    /// Replaces a text of the page by what it is here.
    pub fn reads(&mut self, there: &str, here: &str) {
        self.here.push((there.to_owned(), here.to_owned()));
    }

    /// Types a block into a terminal in which the first one was typed.
    pub fn types(&self, block: &str) -> String {
        let mut script = format!("{}{block}", self.first);
        for (there, here) in &self.here {
            script = script.replace(there, here);
        }
        let lines: Vec<String> = script.lines().map(str::to_owned).collect();
        // What fails on purpose says why on stderr.
        self.demo.type_in(&[vec!["exec 2>&1".to_owned()], lines].concat())
    }
}

/// Fails with the whole text unless each of the words is in it.
pub fn has(seen: &str, words: &[&str]) {
    for word in words {
        assert!(seen.contains(word), "no {word:?} in\n{seen}");
    }
}
