//! docs/IDENTITY.md, typed in as it stands there after `make demo`: only ports and folders are this
//! test's own.

use std::fs;

use super::reader::{Reader, fenced, has, page};

#[test]
fn every_command_of_the_page_works() {
    let blocks = fenced(&page("docs/IDENTITY.md", None));
    assert!(blocks.iter().all(|(language, _)| language == "sh"));
    let commands: Vec<String> = blocks.into_iter().map(|(_, block)| block).collect();
    let [first, join, who, pod, policy, revoke, audit] = commands.as_slice() else {
        panic!("the page has other blocks now: {commands:#?}");
    };
    let user = Reader::new(first);

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
