//! The console as a visitor meets it: real programs, real kubectl, a real browser.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fantoccini::key::Key;
use kubeedge::identity::{ServiceAccountClaims, ServiceAccountKeys};
use serde_json::json;

use super::devices::start_mapper;
use super::harness::browser::Browser;
use super::harness::cluster::{Cloud, Edge, Kubectl};
use super::harness::console::{self, EVERYTHING, allow};
use super::harness::containerd::Containerd;
use super::harness::process::{PATIENCE, http, until};
use super::main_job::{World, sleeper};

const LIVE: &str = "document.querySelector('#connection[data-state=live]')";
/// All files of the page, unpacked.
const MOST_BYTES: u64 = 200_000;

/// Where a console's page is.
fn page_at(console: &str) -> String {
    format!("http://{console}/console/")
}

/// A token of somebody who may see everything.
fn token(kubectl: &Kubectl) -> String {
    allow(kubectl, "visitor", &EVERYTHING);
    console::token(kubectl, "visitor")
}

/// A token the API gave to the same account, whose time is over.
fn expired(cloud: &Cloud) -> String {
    let account = cloud.kubectl().json(&["get", "serviceaccount", "visitor"]);
    let keys = ServiceAccountKeys::load_or_create(&cloud.dir.join("ca/service-account.key")).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let claims = ServiceAccountClaims {
        namespace: "default".into(),
        service_account: "visitor".into(),
        service_account_uid: account["metadata"]["uid"].as_str().unwrap().into(),
        pod: None,
        audiences: vec![ServiceAccountKeys::issuer().into()],
        issued_at: now - 7200,
        expires_at: now - 3600,
    };
    keys.sign(&claims).unwrap()
}

fn offer(browser: &Browser, token: &str) {
    browser.until("there is a form", "document.querySelector('#token')");
    browser.js("const field = document.querySelector('#token'); field.value = ''; field.focus()");
    browser.type_text(token);
    browser.press(Key::Enter);
}

fn sign_in(browser: &Browser, url: &str, token: &str) {
    browser.go(url);
    offer(browser, token);
    browser.until("the page is live", LIVE);
    // Gone with the next load of the page.
    browser.js("window.sameLoad = true");
}

fn show(browser: &Browser, hash: &str) {
    browser.js(&format!("location.hash = {}", json!(hash)));
}

/// What the console said besides that the machine's network changed (pods come and go; the page opens its
/// stream again then).
fn said(browser: &Browser) -> Vec<String> {
    let mut lines = browser.complaints();
    lines.retain(|line| !line.contains("net::ERR_NETWORK_CHANGED"));
    lines
}

fn nothing_is_wrong(browser: &Browser, what: &str) {
    let complaints = said(browser);
    assert!(complaints.is_empty(), "{what}: {complaints:#?}");
}

fn fits(browser: &Browser, what: &str) {
    let over =
        browser.js("return document.documentElement.scrollWidth - document.documentElement.clientWidth");
    assert!(over.as_i64().unwrap() <= 0, "{what}: the page is {over} px wider than its window");
}

fn inject_panic(monitor: &str, actor: &str) {
    let (status, body) = http("POST", monitor, &format!("/actors/{actor}/panic"), &[]).unwrap();
    assert_eq!(status, 202, "{body}");
}

/// Restarts that the page shows of an actor.
fn restarts_shown(actor: &str) -> String {
    format!(
        "[...document.querySelectorAll('tr.top')].some((row) => row.querySelector('td.name').textContent.startsWith('{actor}') \
         && Number(row.querySelector('[data-label=Restarts]').textContent) > 0 \
         && row.querySelector('[data-label=\"Last failure\"]').textContent.includes('panicked'))"
    )
}

#[test]
fn a_visitor_sees_what_happens_as_it_happens() {
    let world = World::start();
    let url = page_at(&world.cloud.console);
    let kubectl = world.kubectl();
    let token = token(&kubectl);
    let browser = Browser::start();
    sign_in(&browser, &url, &token);
    first_load_is_small(&browser, &url);
    browser.reads("main", "edge-1");

    show(&browser, "#/pods");
    kubectl.apply(&sleeper("lively", ""));
    browser.reads("main", "lively");
    kubectl.wait_running("lively");
    browser.until("it is shown running", &row_reads("lively", "Running"));
    show(&browser, "#/pods/default/lively");
    browser.reads("main", "registry.local/hello:1");
    browser.reads("main", "Started");
    kubectl.run(&["delete", "pod", "lively"]);
    browser.reads("main", "no pod of this name");

    show(&browser, "#/actors/cloudcore");
    browser.until("the tree is there", "document.querySelectorAll('tr.top').length > 5");
    inject_panic(&world.cloud.monitor, "EdgeController");
    browser.until("the restart is shown", &restarts_shown("EdgeController"));
    show(&browser, "#/fleet");
    browser.reads(".attention", "Actor EdgeController of cloudcore was restarted");
    assert_eq!(browser.js("return window.sameLoad"), true, "the page was loaded again");
    nothing_is_wrong(&browser, "a visit");

    hostile_text_stays_text(&browser, &kubectl);
    keys_lead_everywhere(&browser, &kubectl);
    every_page_is_accessible(&browser);
    assert_eq!(browser.js("return window.sameLoad"), true, "the page was loaded again");
    nothing_is_wrong(&browser, "all of it");
}

fn row_reads(name: &str, text: &str) -> String {
    format!(
        "[...document.querySelectorAll('main tr')].some((row) => row.innerText.includes('{name}') && row.innerText.includes('{text}'))"
    )
}

/// Size and number of the files of the first load; printed for the record.
fn first_load_is_small(browser: &Browser, url: &str) {
    let loaded = browser.js(
        "const all = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
           .filter((e) => !/\\/(stream|session)$/.test(e.name));
         const sum = (what) => all.reduce((n, e) => n + e[what], 0);
         return { files: all.length, plain: sum('decodedBodySize'), sent: sum('transferSize'),
           foreign: all.filter((e) => !e.name.startsWith(location.origin)).map((e) => e.name) }",
    );
    println!("first load: {loaded}");
    let (plain, sent) = (loaded["plain"].as_u64().unwrap(), loaded["sent"].as_u64().unwrap());
    assert!(plain > 10_000 && plain <= MOST_BYTES, "{loaded}");
    assert!(sent < plain, "the server packs its files: {loaded}");
    assert_eq!(loaded["foreign"], json!([]), "everything is the server's own");
    // Who comes again is still signed in.
    browser.go(url);
    browser.until("the page is live again", LIVE);
    browser.js("window.sameLoad = true");
    let marks = "return Math.round(performance.getEntriesByName('kubeedge-first-data')[0].startTime)";
    println!("first data after {} ms", browser.js(marks));
}

const SCRIPT: &str = "<img src=x onerror=\"window.hurt=1\"></script><script>window.hurt=2</script>";
/// Turns the direction of writing around: `gnp.exe` would read `exe.png`.
const TURN: &str = "\u{202e}gnp.exe\u{202c}\u{200f}";

/// Names cannot be hostile, but messages, values, annotations and images can.
fn hostile_text_stays_text(browser: &Browser, kubectl: &Kubectl) {
    let long = "W".repeat(10_000);
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "hostile", "annotations": {"note": format!("{SCRIPT}{TURN}")}},
        "spec": {"nodeName": "nowhere", "containers": [{"name": "main", "image": format!("x/{SCRIPT}")}]}});
    let status = json!({"status": {"phase": "Pending", "reason": format!("No{SCRIPT}"), "message": format!("{SCRIPT}{TURN}{long}"),
        "containerStatuses": [{"name": "main", "ready": false, "restartCount": 1, "image": SCRIPT, "imageID": "", "state":
            {"waiting": {"reason": format!("CreateContainerError{SCRIPT}"), "message": format!("{TURN}{SCRIPT}{long}")}}}]}});
    kubectl.apply(&pod.to_string());
    let patch = status.to_string();
    kubectl.run(&["patch", "pod", "hostile", "--subresource=status", "--type=merge", "-p", &patch]);
    for (number, message) in [format!("{SCRIPT}{TURN}"), long.clone()].iter().enumerate() {
        let event = json!({"apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("hostile.{number}"), "namespace": "default"},
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "hostile"},
            "type": "Warning", "reason": format!("Bad{TURN}"), "message": message, "count": 1,
            "source": {"component": SCRIPT}, "lastTimestamp": "2026-11-27T23:00:00Z"});
        kubectl.apply(&event.to_string());
    }
    lamp(kubectl);
    // A local application may not report such a value; who writes to the API may.
    let desired = json!([{"op": "replace", "path": "/spec/properties/0/desired/value",
        "value": format!("{SCRIPT}{TURN}{long}")}]);
    kubectl.run(&["patch", "device", "lamp-1", "--type=json", "-p", &desired.to_string()]);
    let reported = json!({"status": {"twins": [{"propertyName": "power",
        "reported": {"value": format!("{TURN}{SCRIPT}{long}")}, "observedDesired": {"value": SCRIPT}}]}});
    until("the status is there", PATIENCE, || {
        kubectl.try_run(&["patch", "devicestatus", "lamp-1", "--type=merge", "-p", &reported.to_string()])
    });
    for width in [1280, 360] {
        browser.size(width, 800);
        for (hash, text) in [
            ("#/fleet", "hostile"),
            ("#/pods", "onerror"),
            ("#/pods/default/hostile", "onerror"),
            ("#/events", "onerror"),
            ("#/devices", "onerror"),
            ("#/devices/default/lamp-1", "onerror"),
            ("#/nodes/edge-1", "edge-1"),
            ("#/actors/%3Cimg%20src%3Dx%20onerror%3D'window.hurt%3D3'%3E", "Actors"),
        ] {
            show(browser, hash);
            browser.reads("main", text);
            fits(browser, &format!("{hash} at {width} px"));
            let found = browser.js("return [document.querySelectorAll('#app img, #app script, #app iframe').length, window.hurt ?? null,
                /[\\u202a-\\u202e\\u2066-\\u2069\\u200e\\u200f]/.test(document.getElementById('app').innerText)]");
            assert_eq!(found, json!([0, null, false]), "{hash}: elements, scripts that ran, turned text");
        }
    }
    browser.size(1280, 860);
    kubectl.run(&["delete", "pod", "hostile", "--force", "--grace-period=0"]);
}

fn lamp(kubectl: &Kubectl) {
    kubectl.run(&["apply", "-f", example("lamp.yaml").to_str().unwrap()]);
}

/// Without a mouse: pages by letters, the filter, a row by Tab and Enter, back by Esc.
fn keys_lead_everywhere(browser: &Browser, kubectl: &Kubectl) {
    kubectl.apply(&sleeper("by-keys", ""));
    for (key, page) in [
        ("n", "nodes"),
        ("p", "pods"),
        ("d", "devices"),
        ("a", "actors"),
        ("e", "events"),
        ("f", "fleet"),
        ("p", "pods"),
    ] {
        browser.type_text(&format!("g{key}"));
        browser.until(
            &format!("g {key} leads to {page}"),
            &format!("location.hash.startsWith('#/{page}') && document.querySelector('[data-page={page}]')"),
        );
    }
    browser.until("the heading has the focus", "document.activeElement.id === 'top'");
    browser.type_text("/");
    browser.until("the filter has the focus", "document.activeElement.id === 'filter'");
    browser.type_text("by-keys");
    browser.until("one row is left", "document.querySelectorAll('main tbody tr').length === 1");
    let wanted = "document.activeElement.getAttribute('href') === '#/pods/default/by-keys'";
    for _ in 0..20 {
        browser.press(Key::Tab);
        if browser.js(&format!("return {wanted}")) == true {
            break;
        }
    }
    browser.until("Tab leads to the row", wanted);
    let ring = browser.js("return getComputedStyle(document.activeElement).outlineStyle");
    assert_ne!(ring, "none", "the focus can be seen");
    browser.press(Key::Enter);
    browser.until("Enter opens it", "location.hash === '#/pods/default/by-keys'");
    browser.press(Key::Escape);
    browser.until("Esc closes it", "location.hash === '#/pods'");
    browser.type_text("?");
    browser.until(
        "help is open",
        "document.querySelector('[role=dialog]') && document.activeElement.id === 'help-close'",
    );
    browser.press(Key::Escape);
    browser.until("help is closed", "!document.querySelector('[role=dialog]')");
    kubectl.run(&["delete", "pod", "by-keys"]);
}

fn every_page_is_accessible(browser: &Browser) {
    let pages = ["#/fleet", "#/nodes/edge-1", "#/pods", "#/devices", "#/actors/cloudcore", "#/events"];
    for theme in ["light", "dark"] {
        browser.prefers(theme);
        for hash in pages {
            show(browser, hash);
            let page = hash.split('/').nth(1).unwrap();
            browser.until(hash, &format!("document.querySelector('[data-page={page}]')"));
            let bad = browser.accessibility();
            assert!(bad.is_empty(), "{hash} in the {theme} theme: {bad:#?}");
        }
    }
    browser.size(360, 740);
    for hash in pages {
        show(browser, hash);
        fits(browser, hash);
    }
    let bad = browser.accessibility();
    assert!(bad.is_empty(), "on a phone: {bad:#?}");
    browser.size(1280, 860);
}

#[test]
fn a_wrong_token_an_old_one_and_a_cloud_that_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut cloud = Cloud::start(dir.path(), &[]);
    let url = page_at(&cloud.console);
    let kubectl = cloud.kubectl();
    let token = token(&kubectl);
    let browser = Browser::start();

    browser.go(&url);
    browser.reads("main", "keadm console");
    let bad = browser.accessibility();
    assert!(bad.is_empty(), "the form: {bad:#?}");
    nothing_is_wrong(&browser, "nobody has signed in yet");
    for wrong in ["guess".to_owned(), expired(&cloud)] {
        offer(&browser, &wrong);
        browser.until("it says what is wrong", "document.querySelector('#wrong').innerText.length > 10");
        assert_eq!(browser.js("return document.cookie + Object.values(localStorage).join()"), "");
        browser.js("document.querySelector('#wrong').textContent = ''");
    }
    let complaints = said(&browser);
    assert!(complaints.iter().all(|line| line.contains("401")), "{complaints:#?}");
    sign_in(&browser, &url, &token);
    let kept = browser.js("return document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage) + document.documentElement.outerHTML");
    assert!(!kept.as_str().unwrap().contains(&token[token.len() - 20..]), "no script can read the token");

    kubectl.apply(&sleeper("before", ""));
    show(&browser, "#/pods");
    browser.reads("main", "before");
    cloud.process.kill9();
    browser.until(
        "it says so",
        "document.querySelector('#connection[data-state=lost]') && document.querySelector('#banner')",
    );
    browser.reads("#connection", "showing what was known then");
    browser.reads("main", "before");
    browser.until(
        "it looks so",
        "document.querySelector('main.old') && document.title.includes('not connected')",
    );
    let bad = browser.accessibility();
    assert!(bad.is_empty(), "not connected: {bad:#?}");
    cloud.restart(&[]);
    browser.until("it is back by itself", LIVE);
    kubectl.apply(&sleeper("after", ""));
    browser.reads("main", "after");
    assert_eq!(browser.js("return window.sameLoad"), true, "the page was loaded again");
    let complaints = said(&browser);
    let network = |line: &String| {
        line.contains("net::ERR_") || line.contains("the server responded with a status of 5")
    };
    assert!(complaints.iter().all(network), "{complaints:#?}");

    browser.js("document.querySelector('#sign-out').click()");
    browser.until("the form is back", "document.querySelector('#token')");
    browser.go("about:blank");
    browser.go(&url);
    browser.until("a new load asks again", "document.querySelector('#token')");
}

#[test]
fn an_edge_shows_itself_without_its_cloud() {
    let mut world = World::start();
    let url = page_at(&world.edge.console);
    let kubectl = world.kubectl();
    kubectl.apply(&sleeper("steady", ""));
    kubectl.wait_running("steady");
    let token = std::fs::read_to_string(world.edge.dir.join("edge/console.token")).unwrap();
    let browser = Browser::start();
    sign_in(&browser, &url, token.trim());
    browser.reads("main", "edge-1");
    browser.reads("#link", "cloud reachable");
    show(&browser, "#/pods");
    browser.until("its pod is shown", &row_reads("steady", "Running"));

    world.cloud.process.kill9();
    browser.reads("#link", "cloud not reachable");
    browser.until("the edge itself is there", LIVE);
    browser.until("its pod is still shown", &row_reads("steady", "Running"));
    show(&browser, "#/actors");
    browser.until("the tree is there", "document.querySelectorAll('tr.top').length > 4");
    inject_panic(&world.edge.monitor, "DeviceTwin");
    browser.until("the restart is shown", &restarts_shown("DeviceTwin"));
    assert_eq!(browser.js("return window.sameLoad"), true, "the page was loaded again");
    nothing_is_wrong(&browser, "an edge alone");
}

/// The pictures of the docs are there; `make console-pictures` takes them anew.
#[test]
fn pictures_for_the_docs() {
    let folder = std::env::var_os("KUBEEDGE_SCREENSHOTS").map(PathBuf::from);
    let Some(folder) = folder else {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/console");
        for name in ["fleet.png", "devices.png", "node.png", "actors.png"] {
            let size = std::fs::metadata(docs.join(name)).unwrap_or_else(|err| panic!("{name}: {err}")).len();
            assert!((5_000..250_000).contains(&size), "docs/console/{name} has {size} bytes");
        }
        return;
    };
    take_pictures(&folder);
}

/// Two nodes, their pods (one of them crashing), devices with moving values.
fn take_pictures(folder: &Path) {
    let world = World::start();
    let url = page_at(&world.cloud.console);
    let kubectl = world.kubectl();
    let second = Containerd::start();
    let edge_2 = Edge::join(&world.cloud, &world.dir.path().join("e2"), "edge-2", second.socket(), &[]);
    let token = token(&kubectl);
    for (name, node) in [
        ("web", "edge-1"),
        ("gateway", "edge-1"),
        ("reader", "edge-2"),
        ("cache", "edge-2"),
        ("uploader", "edge-2"),
    ] {
        kubectl.apply(&sleeper(name, &format!("  nodeName: {node}")));
    }
    let crash = sleeper("vision", "  nodeName: edge-1")
        .replace("echo started; while true; do sleep 1 & wait $!; done", "echo no camera; exit 7");
    kubectl.apply(&crash);
    let thermometer = std::fs::read_to_string(example("thermometer.yaml")).unwrap();
    for (name, node) in [("hall", "edge-1"), ("cellar", "edge-1"), ("oven", "edge-2")] {
        kubectl.apply(
            &thermometer
                .replace("thermometer-1", name)
                .replace("nodeName: edge-1", &format!("nodeName: {node}")),
        );
    }
    lamp(&kubectl);
    let topic = "$hw/events/device/default/lamp-1/";
    let _mappers =
        [&world.edge, &edge_2].map(|edge| start_mapper(edge, "mapper-sim", env!("CARGO_BIN_EXE_mapper-sim")));
    for pod in ["web", "gateway", "reader", "cache", "uploader"] {
        kubectl.wait_running(pod);
    }
    let report = json!({"event_id": "h", "timestamp": 0, "twin": {"power": {"actual": {"value": "off"}, "metadata": {"type": "string"}}}});
    world.edge.broker.publish(&format!("{topic}twin/update"), &report.to_string());
    world.edge.broker.publish(&format!("{topic}state/update"), "{\"state\":\"online\"}");
    kubectl.wait_for(
        "pod/vision",
        "{.status.containerStatuses[0].state.waiting.reason}",
        "CrashLoopBackOff",
        PATIENCE,
    );

    let browser = Browser::start();
    browser.prefers("light");
    browser.size(1280, 860);
    sign_in(&browser, &url, &token);
    browser.reads("main", "CrashLoopBackOff");
    let points = "document.querySelectorAll('.spark').length > 4 && \
        [...document.querySelectorAll('.spark polyline')].some((line) => line.getAttribute('points').split(' ').length > 25)";
    show(&browser, "#/devices");
    browser.until("lines have grown", points);
    let take = |hash: &str, name: &str, ready: &str| {
        show(&browser, hash);
        browser.until(name, ready);
        browser.screenshot(&folder.join(name));
    };
    take("#/fleet", "fleet.png", "document.querySelector('.attention')");
    browser.prefers("dark");
    take("#/devices", "devices.png", points);
    browser.prefers("light");
    inject_panic(&world.cloud.monitor, "DeviceController");
    take("#/actors/cloudcore", "actors.png", "document.querySelector('tr.flash')");
    browser.size(360, 740);
    take("#/nodes/edge-1", "node.png", "document.querySelector('main .facts')");
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples").join(name)
}
