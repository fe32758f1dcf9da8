//! "Security in ten minutes" of the README, typed in as it stands there after `make demo`: only ports
//! and folders are this test's own.

use std::fs;
use std::path::Path;

use super::demo::Demo;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn section() -> String {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let from = readme.split_once("\n## Security in ten minutes\n").expect("the section").1;
    from.split_once("\n## ").expect("a section behind it").0.to_owned()
}

/// Its shell blocks.
fn blocks() -> Vec<String> {
    let text = section();
    let parts = text.split("```").collect::<Vec<_>>();
    let fenced = parts.chunks(2).filter_map(|pair| pair.get(1));
    fenced.map(|block| block.strip_prefix("sh\n").expect("shell").to_owned()).collect()
}

struct User {
    demo: Demo,
    first: String,
    here: Vec<(String, String)>,
}

impl User {
    fn new(first: &str) -> Self {
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
        let monitor = demo.ports.split(' ').nth(4).unwrap();
        let here = [
            ("/var/lib/kubeedge-demo", dir),
            ("$PWD/target/release", programs.clone()),
            ("target/release", programs),
            ("/usr/local/bin/", format!("{}/", tools.display())),
            ("config/examples/identity-pod.yaml", pod.display().to_string()),
            ("127.0.0.1:9092", format!("127.0.0.1:{monitor}")),
        ];
        let here = here.map(|(there, here)| (there.to_owned(), here)).to_vec();
        Self { demo, first: first.to_owned(), here }
    }

    /// Types a block into a terminal in which the first one was typed.
    fn types(&self, block: &str) -> String {
        let mut script = format!("{}{block}", self.first);
        for (there, here) in &self.here {
            script = script.replace(there, here);
        }
        let lines: Vec<String> = script.lines().map(str::to_owned).collect();
        // What fails on purpose says why on stderr.
        self.demo.type_in(&[vec!["exec 2>&1".to_owned()], lines].concat())
    }
}

fn has(seen: &str, words: &[&str]) {
    for word in words {
        assert!(seen.contains(word), "no {word:?} in\n{seen}");
    }
}

#[test]
fn every_command_of_the_security_chapter_works() {
    let commands = blocks();
    let [first, join, who, pod, policy, revoke, audit] = commands.as_slice() else {
        panic!("the README has other blocks now: {commands:#?}");
    };
    let user = User::new(first);

    let seen = user.types(join);
    has(&seen, &["node edge-2 has joined", "edge-1", "it is for edge-2", "edge-3 stays outside"]);

    let seen = user.types(who);
    has(&seen, &["trust domain  kubeedge.local", "edge-1", "edge-2", "spiffe://kubeedge.local/node/edge-2"]);
    has(&seen, &["kubeedge_identity_svid_expiry_seconds{kind=\"node\"}"]);

    let seen = user.types(pod);
    has(&seen, &["condition met", "spiffe://kubeedge.local/ns/default/sa/web", "this shell is no pod"]);

    let seen = user.types(policy);
    has(&seen, &["condition met", "only-ours", "registry.local/hello:1"]);

    let seen = user.types(revoke);
    has(&seen, &["node edge-2 is revoked", "revoked at", "left on a train"]);

    let seen = user.types(audit);
    has(&seen, &["OK", "\"action\":\"join\"", "\"action\":\"revoke\"", "edge-2"]);
    let shown = "var/lib/kubeedge/cloud/audit.log";
    let log = user.demo.dir.join(shown);
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.replacen("edge-2", "edge-9", 1)).unwrap();
    let verify = user.types("keadm audit verify --root $demo || echo \"it does not hold\"\n");
    has(&verify, &["it does not hold"]);
}
