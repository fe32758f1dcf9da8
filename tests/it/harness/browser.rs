//! A real browser: Chromium without a window, driven through ChromeDriver
//! (both from `deploy/tools.sh test`).

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use fantoccini::key::Key;
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use super::peer;
use super::process::{PATIENCE, Process, free_port, until};

/// One browser with a new profile and one page; gone when the test lets go of it.
pub struct Browser {
    client: Option<Client>,
    runtime: tokio::runtime::Runtime,
    _driver: Process,
    _dir: tempfile::TempDir,
}

impl Browser {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("ke-browser-").tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).env("HOME", dir.path());
        let driver = Process::start("chromedriver", dir.path(), &mut command);
        let address = format!("127.0.0.1:{port}");
        until("chromedriver listens", PATIENCE, || {
            TcpStream::connect(&address).map_err(|err| err.to_string())
        });
        let profile = format!("--user-data-dir={}", dir.path().join("profile").display());
        // Nothing may go out but to the page under test; as root Chromium has no sandbox of its own.
        let mut arguments = vec![
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--ignore-certificate-errors",
            "--window-size=1280,860",
        ];
        arguments.push(&profile);
        let wanted = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let wanted: Capabilities = serde_json::from_value(wanted).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            builder.capabilities(wanted);
            builder.connect(&format!("http://{address}")).await
        });
        Self { client: Some(client.unwrap()), runtime, _driver: driver, _dir: dir }
    }

    fn client(&self) -> &Client {
        self.client.as_ref().unwrap()
    }

    pub fn go(&self, url: &str) {
        self.runtime.block_on(self.client().goto(url)).unwrap();
    }

    /// Runs the body of a function in the page.
    pub fn js(&self, script: &str) -> Value {
        self.try_js(script).unwrap_or_else(|err| panic!("{script}: {err}"))
    }

    fn try_js(&self, script: &str) -> Result<Value, String> {
        self.runtime.block_on(self.client().execute(script, Vec::new())).map_err(|err| err.to_string())
    }

    /// Waits until this expression is true in the page.
    pub fn until(&self, what: &str, expression: &str) {
        let script = format!("return [!!({expression}), document.body.innerText.slice(0, 3000)]");
        until(what, PATIENCE, || {
            let value = self.try_js(&script)?;
            if value[0] == true {
                Ok(())
            } else {
                Err(format!("{expression}\n{}", value[1].as_str().unwrap_or("")))
            }
        });
    }

    /// Waits until this text can be read inside an element.
    pub fn reads(&self, selector: &str, text: &str) {
        let inside = format!("document.querySelector({})?.innerText", json!(selector));
        self.until(
            &format!("{selector} reads {text:?}"),
            &format!("({inside} ?? '').includes({})", json!(text)),
        );
    }

    /// Types into whatever has the focus, as somebody at a keyboard does.
    pub fn type_text(&self, text: &str) {
        let typed = async {
            let focused = self.client().active_element().await?;
            focused.send_keys(text).await
        };
        self.runtime.block_on(typed).unwrap();
    }

    pub fn press(&self, key: Key) {
        self.type_text(&char::from(key).to_string());
    }

    /// A command of Chromium's own protocol.
    pub fn chrome(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.runtime.block_on(self.client().issue_cmd(Own { path: "goog/cdp/execute", body })).unwrap()
    }

    pub fn size(&self, width: u32, height: u32) {
        let mobile = width < 500;
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile});
        self.chrome("Emulation.setDeviceMetricsOverride", size);
    }

    /// What the visitor's system prefers: `light` or `dark`.
    pub fn prefers(&self, theme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": theme}, {"name": "prefers-reduced-motion", "value": "reduce"}]);
        self.chrome("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Lines of the console since the last call: errors, exceptions, violations of the content security policy.
    pub fn complaints(&self) -> Vec<String> {
        let body = json!({"type": "browser"});
        let lines = self.runtime.block_on(self.client().issue_cmd(Own { path: "se/log", body })).unwrap();
        let lines = lines.as_array().unwrap().iter();
        let serious = lines.filter(|line| line["level"] == "SEVERE" || line["level"] == "WARNING");
        serious.map(|line| line["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// What axe-core finds in the page as it stands that is serious or worse.
    pub fn accessibility(&self) -> Vec<String> {
        let axe = fs::read_to_string(peer::node_modules().join("axe-core/axe.min.js")).unwrap();
        self.chrome("Runtime.evaluate", json!({"expression": axe}));
        let script = "window.found = null; axe.run().then((r) => { window.found = { passes: r.passes.length,
            bad: r.violations.filter((v) => v.impact === 'serious' || v.impact === 'critical').map((v) =>
            `${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map((n) => n.html.slice(0, 200)).join(' | ')}`) }; })
            .catch((e) => { window.found = { passes: 0, bad: [String(e)] }; });";
        self.js(script);
        self.until("axe is done", "window.found");
        let found = self.js("return window.found");
        assert!(found["passes"].as_u64().unwrap() > 5, "axe judged nothing: {found}");
        let bad = found["bad"].as_array().unwrap().iter();
        bad.map(|text| text.as_str().unwrap().to_owned()).collect()
    }

    /// The window as a PNG file.
    pub fn screenshot(&self, file: &Path) {
        let png = self.runtime.block_on(self.client().screenshot()).unwrap();
        fs::write(file, png).unwrap();
    }

    /// When a test failed, what there was to see.
    fn leave_picture(&self) {
        let file = std::env::temp_dir().join("ke-console-failed.png");
        if let Ok(png) = self.runtime.block_on(self.client().screenshot()) {
            fs::write(&file, png).ok();
            eprintln!("the page when the test failed: {}", file.display());
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if std::thread::panicking() && self.client.is_some() {
            self.leave_picture();
            eprintln!("its console says: {:#?}", self.complaints());
        }
        if let Some(client) = self.client.take() {
            // The driver ends its browser with the session.
            self.runtime.block_on(client.close()).ok();
        }
    }
}

/// A command that only ChromeDriver has.
#[derive(Debug)]
struct Own {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Own {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}
