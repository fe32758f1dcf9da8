//! `keadm support-bundle`: one file for whoever helps, without secrets.

mod archive;
pub(crate) mod redact;
mod sources;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use serde_json::{Value, json};

use self::archive::Archive;
use self::redact::Redactor;
use self::sources::{MAX_BYTES, Part};
use super::places::Places;
use super::side::Side;
use super::{Refusal, doctor};
use crate::config::{CloudCoreConfig, EdgeCoreConfig, load};
use crate::identity::KEY_MODE;
use crate::model::unix_secs;

/// All texts of a bundle together, bytes before they are packed.
const MAX_TOTAL: usize = 48 << 20;
/// Logs that may be named.
const MAX_LOGS: usize = 16;

#[derive(Debug, Args)]
pub(super) struct BundleArgs {
    /// Whose [default: the cloud's where both are on this machine]
    side: Option<Side>,
    /// Where to write it [default: kubeedge-support-<program>-<time>.tar.gz here]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A log that is not in the journal; may be repeated
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,
    #[command(flatten)]
    places: Places,
}

/// What is known of a program from its config file.
struct Program {
    side: Side,
    config: PathBuf,
    data_dir: PathBuf,
    monitor: String,
    /// Of the edge.
    runtime: Option<String>,
    /// Files whose content must be in no bundle.
    secrets: Vec<PathBuf>,
}

pub(super) async fn bundle(args: &BundleArgs, now: SystemTime, out: &mut dyn Write) -> Result<(), Refusal> {
    if args.log.len() > MAX_LOGS {
        return Err(Refusal::new(format!("--log: at most {MAX_LOGS} files")));
    }
    let side = Side::one(args.side, &args.places)?;
    let program = Program::read(side, &args.places);
    let at = unix_secs(now);
    let file = args
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("kubeedge-support-{}-{at}.tar.gz", side.program())));
    let parts = collect(&program, args, now).await;
    let redactor = program.redactor();
    let made = create(&file)?;
    let written = write(made, &parts, &redactor, side, at);
    let manifest = written.map_err(|err| Refusal::new(format!("cannot write {}: {err}", file.display())))?;
    writeln!(out, "{} (0600)", file.display())?;
    for entry in &manifest {
        let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        match entry.get("bytes").and_then(Value::as_u64) {
            Some(bytes) => writeln!(out, "  {bytes:>9} {}", text("file"))?,
            None => writeln!(out, "          - {}: {}", text("file"), text("missing"))?,
        }
    }
    writeln!(
        out,
        "Keys, tokens and passwords were removed; look through it before you send it all the same."
    )?;
    Ok(())
}

fn create(path: &Path) -> Result<File, Refusal> {
    let made = OpenOptions::new().write(true).create_new(true).mode(KEY_MODE).open(path);
    made.map_err(|err| {
        Refusal::new(format!("cannot make {}: {err}; name another file with -o", path.display()))
    })
}

async fn collect(program: &Program, args: &BundleArgs, now: SystemTime) -> Vec<Part> {
    let config = std::fs::read_to_string(&program.config).map_err(|err| err.to_string());
    let findings = doctor::findings(Some(program.side), &args.places, now).await;
    let mut parts = vec![
        Part::new(format!("config/{}.yaml", program.side.program()), config),
        sources::doctor(&findings),
        sources::machine(),
    ];
    parts.extend(sources::monitor(&program.monitor).await);
    if let Some(endpoint) = &program.runtime {
        parts.push(sources::runtime(endpoint).await);
    }
    parts.push(sources::store(&program.data_dir));
    parts.push(sources::audit(&program.data_dir));
    parts.extend(args.log.iter().enumerate().map(|(number, file)| sources::log(file, number + 1)));
    parts.push(sources::journal(program.side.program()).await);
    parts
}

/// Packs the parts, cleaned, and a manifest of them. What does not fit any more is named there.
fn write(
    file: File,
    parts: &[Part],
    redactor: &Redactor,
    side: Side,
    at_secs: u64,
) -> std::io::Result<Vec<Value>> {
    let mut archive = Archive::new(file, at_secs);
    let mut manifest = Vec::new();
    let mut total = 0;
    for part in parts {
        let clean = match &part.content {
            Err(why) => {
                manifest.push(json!({"file": part.name, "missing": redactor.text(why)}));
                continue;
            }
            Ok(text) if part.name.starts_with("config/") => redactor.yaml(text),
            Ok(text) => redactor.text(text),
        };
        let (text, cut) = bounded(&clean, MAX_BYTES);
        if total + text.len() > MAX_TOTAL {
            manifest.push(json!({"file": part.name, "missing": "the bundle is full"}));
            continue;
        }
        total += text.len();
        archive.add(&part.name, text.as_bytes())?;
        manifest.push(json!({"file": part.name, "bytes": text.len(), "cut": cut || part.cut}));
    }
    let document = json!({
        "program": side.program(), "keadm": env!("CARGO_PKG_VERSION"), "madeAtUnixSecs": at_secs,
        "removed": "private keys, tokens, passwords and contents of Secrets", "files": manifest,
    });
    archive.add("manifest.json", serde_json::to_string_pretty(&document)?.as_bytes())?;
    archive.finish()?.sync_all()?;
    Ok(manifest)
}

fn bounded(text: &str, most: usize) -> (&str, bool) {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (text.get(..end).unwrap_or_default(), end < text.len())
}

impl Program {
    /// With a config file that is not valid, from the defaults: that is when a bundle is needed.
    fn read(side: Side, places: &Places) -> Self {
        let path = places.config(side.program());
        match side {
            Side::Cloud => {
                let config = load::<CloudCoreConfig>(&path)
                    .map_or_else(|_| places.cloud_defaults(), |loaded| loaded.config);
                Self {
                    side,
                    config: path,
                    monitor: config.monitor_address().to_owned(),
                    runtime: None,
                    secrets: vec![config.identity.keys.pkcs11_pin_file.clone()],
                    data_dir: config.data_dir,
                }
            }
            Side::Edge => {
                let config = load::<EdgeCoreConfig>(&path)
                    .map_or_else(|_| places.edge_defaults(), |loaded| loaded.config);
                let kubelet = &config.modules.edged.tailored_kubelet_config;
                Self {
                    side,
                    config: path,
                    monitor: config.monitor_address().to_owned(),
                    runtime: Some(kubelet.container_runtime_endpoint.clone()),
                    secrets: vec![
                        config.modules.edge_hub.bootstrap_file.clone(),
                        config.data_dir.join("console.token"),
                        config.modules.event_bus.internal.password_file.clone(),
                    ],
                    data_dir: config.data_dir,
                }
            }
        }
    }

    fn redactor(&self) -> Redactor {
        let texts: Vec<String> = self
            .secrets
            .iter()
            .filter(|file| !file.as_os_str().is_empty())
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .collect();
        Redactor::new(texts.iter().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::super::tests::keadm;

    #[tokio::test]
    async fn planted_secrets_are_in_no_file_of_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().display().to_string();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(&path, text).expect("write");
            path.display().to_string()
        };
        put("data/console.token", "PLANTED-console\n");
        put("data/store/000001.sst", "PLANTED-store");
        let token = put("token", "PLANTED-bootstrap");
        put(
            "etc/kubeedge/config/edgecore.yaml",
            &format!(
                "# PLANTED\ndataDir: {root}/data\ncommonConfig: {{ monitorServer: {{ bindAddress: '127.0.0.1:1' }} }}\nmodules:\n  edgeHub:\n    token: PLANTED-token\n    bootstrapFile: {token}\n    httpServer: https://127.0.0.1:1\n"
            ),
        );
        let log = put(
            "edge.log",
            "fine line\ntoken=PLANTED\n-----BEGIN PRIVATE KEY-----\nPLANTED\n-----END PRIVATE KEY-----\nPLANTED-console and PLANTED-bootstrap\n",
        );
        let file = dir.path().join("b.tar.gz");
        let name = file.display().to_string();
        let args = ["support-bundle", "--root", &root, "-o", &name, "--log", &log, "--log", "/none.log"];
        let said = keadm(&args).await.expect("made");
        for want in [
            "config/edgecore.yaml",
            "logs/1-edge.log",
            "logs/2-none.log: ",
            "doctor.txt",
            "monitor/metrics.txt: ",
        ] {
            assert!(said.contains(want), "{want} in {said}");
        }
        assert_eq!(fs::metadata(&file).expect("file").permissions().mode() & 0o777, 0o600);
        let open = dir.path().join("open");
        fs::create_dir(&open).expect("folder");
        let done = Command::new("tar").arg("xzf").arg(&file).arg("-C").arg(&open).status().expect("tar");
        assert!(done.success());
        let grep = Command::new("grep").args(["-rl", "PLANTED"]).arg(&open).output().expect("grep");
        assert_eq!(String::from_utf8_lossy(&grep.stdout), "", "a secret is in these files");
        let text = |name: &str| fs::read_to_string(open.join(name)).expect(name);
        assert!(text("logs/1-edge.log").starts_with("fine line\n"));
        assert!(text("store.txt").contains("000001.sst"));
        let manifest: serde_json::Value = serde_json::from_str(&text("manifest.json")).expect("json");
        let files = manifest["files"].as_array().expect("files");
        for entry in files.iter().filter(|entry| entry["bytes"].is_u64()) {
            let name = entry["file"].as_str().expect("name");
            assert_eq!(text(name).len() as u64, entry["bytes"].as_u64().expect("size"), "{name}");
        }
        let err = keadm(&args).await.expect_err("there already");
        assert!(err.contains("name another file with -o"), "{err}");
    }
}
