//! `modules.console` of both programs: the web page that shows what they know.

use serde::{Deserialize, Serialize};

use super::invalid::{Check, host_port};

/// The console. Reading only; whoever comes in shows a credential.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct ConsoleConfig {
    /// Serves the page.
    pub enable: bool,
    /// `host:port`; the program's default when empty (9443 cloud, 9444 edge, both on 127.0.0.1).
    pub bind_address: String,
    /// Whether the page is served over TLS.
    pub tls: ConsoleTls,
}

/// Who protects what travels between page and browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ConsoleTls {
    /// TLS unless it listens on loopback only.
    Auto,
    /// TLS always.
    On,
    /// Somebody else does: a proxy in front, or a network nobody else is on.
    Off,
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        Self { enable: true, bind_address: String::new(), tls: ConsoleTls::Auto }
    }
}

impl ConsoleConfig {
    /// `host:port` it listens on; `usual` unless configured.
    #[must_use]
    pub fn address<'a>(&'a self, usual: &'a str) -> &'a str {
        if self.bind_address.is_empty() { usual } else { &self.bind_address }
    }

    pub(super) fn validate(&self) -> Check {
        if self.bind_address.is_empty() {
            Ok(())
        } else {
            host_port("modules.console.bindAddress", &self.bind_address)
        }
    }
}
