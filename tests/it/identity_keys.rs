//! Keys of authorities in a PKCS#11 token: SoftHSM plays the hardware, OpenSSL judges what it signs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::harness::process::{PATIENCE, Process, free_port, http, until};

const LABEL: &str = "kubeedge";
const PIN: &str = "246813";

/// A cloud whose keys are in a token of its own.
struct Machine {
    dir: tempfile::TempDir,
    module: PathBuf,
    join_port: u16,
    monitor: u16,
}

impl Machine {
    fn new() -> Self {
        let module = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so"];
        let module = module.into_iter().map(PathBuf::from).find(|path| path.exists());
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tokens")).unwrap();
        let settings = format!("directories.tokendir = {}/tokens\nlog.level = ERROR\n", dir.path().display());
        fs::write(dir.path().join("softhsm2.conf"), settings).unwrap();
        let module = module.expect("SoftHSM is installed: deploy/tools.sh test");
        let machine = Self { dir, module, join_port: free_port(), monitor: free_port() };
        machine.write_pin(PIN);
        let token = ["--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", "975312"];
        let out = machine.command("softhsm2-util").args(token).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ca(&self, name: &str) -> PathBuf {
        self.path("etc/kubeedge/ca").join(name)
    }

    fn write_pin(&self, pin: &str) {
        fs::write(self.path("pin"), format!("{pin}\n")).unwrap();
        fs::set_permissions(self.path("pin"), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf"));
        command
    }

    fn keadm(&self, args: &[&str]) -> Result<String, String> {
        let mut command = self.command(env!("CARGO_BIN_EXE_keadm"));
        let out = command.args(args).arg("--root").arg(self.dir.path()).output().unwrap();
        let text = String::from_utf8([out.stdout, out.stderr].concat()).unwrap();
        assert!(!text.contains(PIN), "the PIN is nobody's business: {text}");
        if out.status.success() { Ok(text) } else { Err(text) }
    }

    fn init(&self) -> Result<String, String> {
        let settings = [
            format!("identity.keys.pkcs11Module={}", self.module.display()),
            format!("identity.keys.pkcs11Token={LABEL}"),
            format!("identity.keys.pkcs11PinFile={}", self.path("pin").display()),
            format!("modules.apiServer.port={}", free_port()),
            "modules.apiServer.address=127.0.0.1".to_owned(),
            format!("modules.cloudHub.websocket.port={}", free_port()),
            "modules.cloudHub.websocket.address=127.0.0.1".to_owned(),
            format!("modules.cloudHub.https.port={}", self.join_port),
            "modules.cloudHub.https.address=127.0.0.1".to_owned(),
            format!("commonConfig.monitorServer.bindAddress=127.0.0.1:{}", self.monitor),
            "modules.console.bindAddress=127.0.0.1:0".to_owned(),
        ];
        let mut args = vec!["init", "--advertise-address", "127.0.0.1"];
        args.extend(settings.iter().flat_map(|setting| ["--set", setting.as_str()]));
        self.keadm(&args)
    }

    fn cloudcore(&self) -> Process {
        let mut command = self.command(env!("CARGO_BIN_EXE_cloudcore"));
        command.arg("--config").arg(self.path("etc/kubeedge/config/cloudcore.yaml"));
        let mut process = Process::start("cloudcore", self.dir.path(), &mut command);
        let monitor = format!("127.0.0.1:{}", self.monitor);
        until("cloudcore is ready", PATIENCE, || {
            assert!(process.is_running(), "{}", process.tail());
            match http("GET", &monitor, "/readyz", &[])? {
                (200, _) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        process
    }

    fn verify(&self, root: &Path, file: &Path) {
        let mut command = Command::new("openssl");
        command.args(["verify", "-x509_strict", "-CAfile"]).arg(root).arg(file);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}: {out:?}", file.display());
    }

    /// A TLS client that trusts only `root`, as OpenSSL sees it.
    fn greet(&self, root: &Path) {
        let to = format!("127.0.0.1:{}", self.join_port);
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &to, "-verify_return_error", "-verify_ip", "127.0.0.1"]);
        let out = command.arg("-CAfile").arg(root).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(text.contains("Verify return code: 0 (ok)"), "{}: {text}", root.display());
    }

    /// Objects in the token: a public and a private one for each key.
    fn objects(&self) -> usize {
        let tokens = fs::read_dir(self.path("tokens")).unwrap();
        let files = tokens.flat_map(|token| fs::read_dir(token.unwrap().path()).unwrap());
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".object") && name != "token.object").count()
    }
}

#[test]
fn a_cloud_signs_with_keys_that_never_leave_their_token() {
    let machine = Machine::new();
    machine.write_pin("000000");
    let err = machine.init().expect_err("a wrong PIN");
    assert!(err.contains("token \"kubeedge\"") && err.contains("libsofthsm2.so"), "{err}");
    machine.write_pin(PIN);
    machine.init().expect("init");
    for name in ["rootCA.key", "issuing.key"] {
        let text = fs::read_to_string(machine.ca(name)).unwrap();
        assert!(text.starts_with("pkcs11:token=kubeedge;id=%"), "{name}: {text}");
        assert_eq!(fs::metadata(machine.ca(name)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(machine.objects(), 4, "two keys");
    machine.verify(&machine.ca("rootCA.crt"), &machine.ca("rootCA.crt"));
    machine.verify(&machine.ca("rootCA.crt"), &machine.ca("issuing.crt"));
    fs::copy(machine.ca("rootCA.crt"), machine.path("first.crt")).unwrap();

    let mut cloud = machine.cloudcore();
    machine.greet(&machine.path("first.crt"));
    cloud.terminate(PATIENCE);

    machine.keadm(&["ca", "prepare"]).expect("prepared");
    assert_eq!(machine.objects(), 6, "the next root's key");
    machine.keadm(&["ca", "activate"]).expect("activated");
    assert_eq!(machine.objects(), 4, "the old root's key is destroyed");
    let mut cloud = machine.cloudcore();
    machine.greet(&machine.ca("rootCA.crt"));
    machine.greet(&machine.path("first.crt"));
    assert_eq!(machine.objects(), 4, "the issuing CA was renewed, its old key is destroyed");
    cloud.terminate(PATIENCE);

    let missing = machine.path("gone");
    fs::rename(machine.path("tokens"), &missing).unwrap();
    fs::create_dir(machine.path("tokens")).unwrap();
    let err = machine.keadm(&["ca", "status"]).expect_err("no token");
    assert!(err.contains("it has no token \"kubeedge\""), "{err}");
}
