//! Takes secrets out of texts: by the name of their key, by their shape, and by what they are where
//! this machine's own secrets are known. What is in doubt goes.

use std::sync::LazyLock;

use regex_lite::{Captures, Regex};
use yaml_serde::Value;

pub(super) const REMOVED: &str = "<removed>";
/// Shorter secrets would take ordinary words out of every text.
const SHORTEST: usize = 6;
/// Names of keys whose values are secrets, in small letters and without `-` and `_`.
const NAMES: [&str; 10] = [
    "password",
    "passwd",
    "passphrase",
    "token",
    "secret",
    "credential",
    "privatekey",
    "apikey",
    "keydata",
    "pin",
];

/// What is replaced, and by what.
static SHAPES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let rules = [
        // Private keys, on lines of their own or with `\n` in one line; to the end if that is cut off.
        (
            r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----|$)",
            "<private key removed>",
        ),
        // The rest of a key whose beginning is cut off.
        (r"(?s)^[A-Za-z0-9+/=\s]*-----END [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----", "<private key removed>"),
        // JSON web tokens; join tokens have the hash of a CA before them.
        (r"([0-9a-f]{64}\.)?eyJ[A-Za-z0-9_-]{4,}(\.[A-Za-z0-9_-]*){1,4}", "<token removed>"),
        (r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", "$1 <removed>"),
        // scheme://name:password@host, scheme://token@host; the password may have an @ itself.
        (r#"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s"'?#]+@"#, "$1<removed>@"),
        // Headers, to the end of the line.
        (
            r#"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie)(\\?["']?\s*[:=]\s*\\?["']?)[^\r\n"'\\]+"#,
            "$1$2<removed>",
        ),
        // An environment variable of a container in JSON.
        (
            r#"(?i)(\\?"name\\?"\s*:\s*\\?"[^"]*(?:passw|passphrase|token|secret|credential|key)[^"]*"\s*,\s*\\?"value\\?"\s*:\s*\\?")[^"]*"#,
            "$1<removed>",
        ),
        // pass=value, MYSQL_PWD: value.
        (r#"(?i)((?:\b|_)(?:pass|pwd)\\?["']?\s*[:=]\s*)(\\?"[^"]*"|'[^']*'|[^\s,;}&]+)"#, "$1<removed>"),
        // key=value, key: value, "key": "value"; --password value.
        (
            r#"(?i)([\w.-]*(?:passw|passphrase|token|secret|credential|api[_-]?key|private[_-]?key|access[_-]?key|key-data)[\w.-]*\\?["']?\s*[:=]\s*|--(?:password|token|secret)(?:\s+|\\?["'],\s*))(\\?"[^"]*"|'[^']*'|[^\s,;}&]+)"#,
            "$1<removed>",
        ),
    ];
    rules.into_iter().filter_map(|(rule, by)| Some((Regex::new(rule).ok()?, by))).collect()
});

/// Keys and the like in base64: long, and no hex digest; or a line of its own.
static BASE64: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let rules = [r"[A-Za-z0-9+/_-]*[g-zG-Z+/][A-Za-z0-9+/_-]{79,}={0,2}", r"(?m)^[A-Za-z0-9+/]{44,}={0,2}$"];
    rules.into_iter().filter_map(|rule| Regex::new(rule).ok()).collect()
});

/// A long path in small letters (`/srv/kubeedge/site-7/..`) is made of base64's characters, too; base64
/// of that length has capital letters.
fn is_path(text: &str) -> bool {
    text.starts_with('/') && !text.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Removes secrets. `known` are this machine's own.
pub(crate) struct Redactor {
    known: Vec<String>,
}

impl Redactor {
    /// Every line of these texts, and what follows a colon in it, is a secret.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut known: Vec<String> = Vec::new();
        for line in secrets.into_iter().flat_map(str::lines).map(str::trim) {
            let after = line.split_once(':').map(|(_, after)| after.trim());
            known.extend([Some(line), after].into_iter().flatten().map(str::to_owned));
        }
        known.retain(|text| text.len() >= SHORTEST && !text.starts_with("-----"));
        // The longest first: one may be a part of another.
        known.sort_by_key(|text| std::cmp::Reverse(text.len()));
        known.dedup();
        Self { known }
    }

    pub fn text(&self, text: &str) -> String {
        let mut text = self.own(text.to_owned());
        for (shape, by) in SHAPES.iter() {
            text = shape.replace_all(&text, *by).into_owned();
        }
        for shape in BASE64.iter() {
            let by = |found: &Captures<'_>| {
                let found = found.get(0).map_or("", |all| all.as_str());
                if is_path(found) { found.to_owned() } else { "<base64 removed>".to_owned() }
            };
            text = shape.replace_all(&text, by).into_owned();
        }
        text
    }

    /// A configuration file without comments and secrets. What is no YAML is taken as a text.
    pub fn yaml(&self, text: &str) -> String {
        let Ok(mut tree) = yaml_serde::from_str::<Value>(text) else { return self.text(text) };
        self.walk(&mut tree, None);
        // Tags and numbers.
        self.own(yaml_serde::to_string(&tree).unwrap_or_default())
    }

    /// Without this machine's own secrets.
    fn own(&self, mut text: String) -> String {
        for secret in &self.known {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), REMOVED);
            }
        }
        text
    }

    fn walk(&self, value: &mut Value, secret: Option<&str>) {
        match value {
            Value::Mapping(members) => {
                let all = std::mem::take(members);
                *members = all
                    .into_iter()
                    .map(|(mut name, mut member)| {
                        let own = name.as_str().filter(|name| is_secret(name));
                        self.walk(&mut member, own.or(secret));
                        self.walk(&mut name, None);
                        (name, member)
                    })
                    .collect();
            }
            Value::Sequence(items) => items.iter_mut().for_each(|item| self.walk(item, secret)),
            Value::Tagged(tagged) => self.walk(&mut tagged.value, secret),
            // A path says where a secret is, and an empty text that there is none.
            Value::String(text) if secret.is_some() && !text.is_empty() && !text.starts_with('/') => {
                *text = REMOVED.to_owned();
            }
            Value::String(text) => *text = self.text(text),
            // `pin: 1234`, but not `joinTokenTtlSecs: 600`.
            Value::Number(_) if secret.is_some_and(ends_as_secret) => {
                *value = Value::String(REMOVED.to_owned());
            }
            _ => {}
        }
    }
}

/// Is the value of such a key a secret?
pub(super) fn is_secret(key: &str) -> bool {
    let key = bare(key);
    NAMES.iter().any(|name| if *name == "pin" { key.ends_with(name) } else { key.contains(name) })
}

fn ends_as_secret(key: &str) -> bool {
    let key = bare(key);
    NAMES.iter().any(|name| key.ends_with(name))
}

fn bare(key: &str) -> String {
    key.to_lowercase().chars().filter(|c| !matches!(c, '-' | '_')).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEM: &str = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIPLANTEDqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq\n-----END EC PRIVATE KEY-----";
    const JWT: &str = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJQTEFOVEVEIn0.PLANTEDsignature_-";

    #[test]
    fn planted_secrets_go() {
        let redactor = Redactor::new(["PLANTED-own-secret\n", "alice:$argon2id$PLANTEDhash"]);
        let escaped = PEM.replace('\n', "\\n");
        let cut = format!("{}\nmore", PEM.rsplit_once('\n').expect("lines").0);
        let tail = PEM.split_once('\n').expect("lines").1;
        let join = format!("{}.{JWT}", "0a".repeat(32));
        let blob = format!("data {}", "PLANTED+".repeat(12));
        let slashed = format!("/{}", "PLANTED/".repeat(6));
        for text in [
            PEM,
            &escaped,
            &cut,
            tail,
            JWT,
            &join,
            &blob,
            &slashed,
            &format!("Authorization: Bearer {JWT}"),
            "authorization: bearer PLANTEDopaque",
            "connect to mqtt://alice:PLANTED@broker:1883 failed",
            "connect to mqtt://alice:P@PLANTED@broker:1883 failed",
            "clone of https://PLANTED@git.example/a failed",
            "Authorization: Token PLANTED",
            "Cookie: kubeedge-console=PLANTED; a=PLANTED",
            "{\"env\":[{\"name\":\"MQTT_PASSWORD\",\"value\":\"PLANTED\"}]}",
            "{\\\"name\\\":\\\"API_KEY\\\",\\\"value\\\":\\\"PLANTED\\\"}",
            "args [\"--password\", \"PLANTED\"]",
            "MYSQL_PWD=PLANTED pass: PLANTED",
            "password=PLANTED next=word",
            "{\"token\": \"PLANTED\", \"a\": 1}",
            "{\\\"clientSecret\\\": \\\"PLANTED\\\"}",
            "MQTT_PASSWORD: 'PLANTED two words'",
            "keadm join --token PLANTED",
            "client-key-data: PLANTED",
            "seen PLANTED-own-secret in the log",
            "hash $argon2id$PLANTEDhash of alice",
        ] {
            let clean = redactor.text(text);
            assert!(!clean.contains("PLANTED"), "{text}\nbecame\n{clean}");
            assert!(clean.contains("removed>"), "{clean}");
        }
    }

    #[test]
    fn what_helps_stays() {
        let redactor = Redactor::new([]);
        for text in [
            "2026-11-27T23:00:00Z INFO edgehub: cloud link is up node=edge-1",
            "kubeedge_metamanager_objects{kind=\"secret\"} 5",
            "image docker.io/library/busybox@sha256:9ae97d36d26566ff84e8893c64a6dc4fe8ca6d1144bf5b87b2b85a32def253c7",
            "{\"name\":\"EdgeHub\",\"state\":\"running\",\"restarts\":0}",
            "dataDir: /var/lib/kubeedge/edge",
            "/srv/factory/hall/seven/var/lib/kubeedge/edge",
            "cgroup /kubepods/besteffort/pod71311ecf-541f-4c6d-8064-0a71fe3697c3/9ae97d36d26566ff84e8893c64a6dc4fe8ca6d11",
            "https://127.0.0.1:6443/api/v1?fieldSelector=a@b tests passed: 5, bypass: on",
            "GET https://cloud.example:10002/node?mail=a@b.example",
        ] {
            assert_eq!(redactor.text(text), text);
        }
    }

    /// A line without its blank becomes a key.
    #[test]
    fn keys_tags_and_numbers_are_no_hiding_place() {
        let redactor = Redactor::new(["PLANTED-own-secret", "40414243"]);
        let text = format!(
            "xPLANTED-own-secret:\n  a: !PLANTED-own-secret b\n  n: 40414243\n{JWT}: c\n? [PLANTED-own-secret]\n: [d]\n"
        );
        let shown = redactor.yaml(&text);
        assert!(!shown.contains("PLANTED") && !shown.contains("40414243"), "{shown}");
        assert!(shown.contains("a:") && shown.contains("c") && shown.contains("- d"), "{shown}");
    }

    #[test]
    fn configurations_keep_their_shape() {
        let redactor = Redactor::new([]);
        let config = format!(
            "# a comment with PLANTED\nmodules:\n  edgeHub:\n    token: PLANTED\n    bootstrapFile: /etc/kubeedge/token\n  eventBus:\n    server: tcp://u:PLANTED@h:1\n    mqttPassword: PLANTED\n    passwordFile: /etc/pw\n    list: [{{apiKey: PLANTED}}, \"{}\"]\n    pin: PLANTED\n    tokens: [PLANTED, {{x: PLANTED}}]\n    odd: !t {{token: PLANTED}}\n    mqttPin: 31337\n    joinTokenTtlSecs: 600\n    pingSecs: 3\n",
            PEM.replace('\n', "\\n")
        );
        let clean = redactor.yaml(&config);
        assert!(!clean.contains("PLANTED") && !clean.contains("31337"), "{clean}");
        for kept in [
            "bootstrapFile: /etc/kubeedge/token",
            "passwordFile: /etc/pw",
            "pingSecs: 3",
            "@h:1",
            "joinTokenTtlSecs: 600",
        ] {
            assert!(clean.contains(kept), "{kept} in {clean}");
        }
        assert!(!redactor.yaml("a: [\ntoken: PLANTED").contains("PLANTED"), "no YAML is a text");
        for (key, want) in [
            ("token", true),
            ("client-key-data", true),
            ("mqttPassword", true),
            ("spin", true),
            ("pinging", false),
            ("name", false),
        ] {
            assert_eq!(is_secret(key), want, "{key}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_no_token_survives(before in "\\PC{0,40}", after in "\\PC{0,40}") {
            let redactor = Redactor::new([]);
            let clean = redactor.text(&format!("{before} {JWT} {after}"));
            prop_assert!(!clean.contains("PLANTED"), "{clean}");
        }
    }
}
