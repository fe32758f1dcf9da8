//! A private containerd: own folder, own network, own images, gone without a trace on drop.
//! Needs root, containerd, runc, the CNI plugins, busybox and gcc (`deploy/tools.sh test`).

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use k8s_cri::v1::{Container, PodSandbox};
use kubeedge::cri::client::CriClient;
use kubeedge::cri::runtime::{CriErrorKind, Runtime};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::process::{PATIENCE, eventually};

const HERE: &str = env!("CARGO_MANIFEST_DIR");
/// Subnets 10.89.{1..=250}.0/24 are for tests; a lock file says which are taken.
const SUBNETS: std::ops::RangeInclusive<u8> = 1..=250;

/// A running (or stopped) containerd with the images `registry.local/pause:3.9` and
/// `registry.local/hello:1`.
pub struct Containerd {
    daemon: Option<Child>,
    socket: PathBuf,
    bridge: String,
    dir: tempfile::TempDir,
    _subnet: File,
}

impl Containerd {
    /// Starts one and waits until it can run pods.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("ke-containerd-").tempdir().expect("temp dir");
        let (number, subnet) = take_subnet();
        let bridge = format!("ketest{number}");
        let config = fill("containerd.toml", dir.path(), &[]);
        fs::write(dir.path().join("config.toml"), config).expect("write config");
        let network = format!("10.89.{number}.0/24");
        let conflist =
            fill("cni.conflist", dir.path(), &[("kubeedge0", &bridge), ("10.88.64.0/24", &network)]);
        let conf_dir = dir.path().join("cni/net.d");
        fs::create_dir_all(&conf_dir).expect("cni folder");
        fs::write(conf_dir.join("10-test.conflist"), conflist).expect("write conflist");
        let socket = dir.path().join("containerd.sock");
        let mut this = Self { daemon: None, socket, bridge, dir, _subnet: subnet };
        this.start_again();
        this.import_images();
        this
    }

    fn import_images(&self) {
        let images = images();
        for tar in ["pause.tar", "hello.tar"] {
            self.ctr(&["images", "import", images.join(tar).to_str().expect("utf-8")]);
        }
    }

    /// As a machine whose disk for containers was made anew: nothing runs, no sandbox, container or
    /// snapshot is known, and the images were brought again.
    pub fn forget_everything(&mut self) {
        self.kill9();
        kill_shims(&self.socket);
        unmount_below(self.dir.path());
        for folder in ["root", "state", "runc", "cni/ipam"] {
            fs::remove_dir_all(self.dir.path().join(folder)).ok();
        }
        self.start_again();
        self.import_images();
    }

    /// Name and uid of the pods that have a sandbox, sorted.
    pub fn pods(&self) -> Vec<(String, String)> {
        let list = self.cri(|runtime| async move { runtime.list_sandboxes().await }).expect("list sandboxes");
        let label =
            |row: &k8s_cri::v1::PodSandbox, key: &str| row.labels.get(key).cloned().unwrap_or_default();
        let mut pods: Vec<_> = list
            .iter()
            .map(|row| (label(row, "io.kubernetes.pod.name"), label(row, "io.kubernetes.pod.uid")))
            .collect();
        pods.sort();
        pods
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// For `containerRuntimeEndpoint`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A folder of the instance, for logs and volumes of pods.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// SIGKILL to the daemon. Containers go on under their shims.
    pub fn kill9(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().expect("kill containerd");
            daemon.wait().expect("reap containerd");
        }
    }

    /// SIGTERM to the daemon. Containers go on under their shims.
    pub fn stop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM).expect("stop containerd");
            eventually("containerd ends", || daemon.try_wait().expect("wait").is_some());
        }
        self.daemon = None;
    }

    /// Starts the daemon on the same folder and waits until it can run pods.
    pub fn start_again(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    pub fn wait_ready(&mut self) {
        eventually("containerd is ready", || {
            let ended = self.daemon.as_mut().and_then(|daemon| daemon.try_wait().expect("wait"));
            assert!(
                ended.is_none(),
                "containerd ended: {}",
                fs::read_to_string(self.log()).unwrap_or_default()
            );
            let status = self.cri(|runtime| async move { runtime.status().await });
            status.is_ok_and(|status| status.conditions.iter().all(|condition| condition.status))
        });
    }

    /// Starts the daemon on the same folder and waits for nothing.
    pub fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.log()).expect("log");
        let child = Command::new("containerd")
            .arg("--config")
            .arg(self.dir.path().join("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .process_group(0)
            .spawn();
        self.daemon = Some(child.expect("containerd starts (deploy/tools.sh test installs it)"));
    }

    /// Takes its CNI configuration away and waits until it has noticed. Give what comes back to
    /// [`Self::show_cni`].
    pub fn hide_cni(&mut self) -> PathBuf {
        let (shown, hidden) = (self.dir.path().join("cni/net.d"), self.dir.path().join("cni/hidden"));
        fs::rename(&shown, &hidden).expect("hide the CNI configuration");
        fs::create_dir(&shown).expect("empty folder");
        // containerd watches the folder it opened at its start.
        self.stop();
        self.spawn();
        eventually("containerd answers", || {
            self.cri(|runtime| async move { runtime.status().await }).is_ok()
        });
        hidden
    }

    pub fn show_cni(&mut self, hidden: PathBuf) {
        let shown = self.dir.path().join("cni/net.d");
        fs::remove_dir(&shown).expect("empty folder");
        fs::rename(hidden, shown).expect("show the CNI configuration");
        self.stop();
        self.start_again();
    }

    /// Stops and removes every sandbox with its containers, over the CRI.
    pub fn remove_all_pods(&self) {
        self.remove_within(PATIENCE);
    }

    fn remove_within(&self, patience: Duration) {
        self.cri(move |runtime| async move {
            for sandbox in runtime.list_sandboxes().await.expect("list sandboxes") {
                // A container that is just being started makes the runtime refuse for a moment.
                let deadline = Instant::now() + patience;
                loop {
                    let stopped = runtime.stop_sandbox(sandbox.id.clone()).await;
                    let removed = stopped.and(runtime.remove_sandbox(sandbox.id.clone()).await);
                    // Not found: its own agent, which is being stopped, has just removed it.
                    let Some(why) = removed.err().filter(|why| why.kind != CriErrorKind::NotFound) else {
                        break;
                    };
                    assert!(Instant::now() < deadline, "remove sandbox {}: {why:?}", sandbox.id);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
    }

    /// How many containers of pods called `pod` run.
    pub fn running_containers(&self, pod: &str) -> usize {
        self.running(pod, None).len()
    }

    /// Runs a command in a running container of a pod and returns its standard output.
    pub fn exec(&self, pod: &str, container: &str, command: &[&str]) -> String {
        self.try_exec(pod, container, command).unwrap_or_else(|why| panic!("exec in {pod}: {why}"))
    }

    /// The same in a container that may end meanwhile.
    pub fn try_exec(&self, pod: &str, container: &str, command: &[&str]) -> Result<String, String> {
        let id = self.running(pod, Some(container)).pop().ok_or("no container runs")?;
        let command = command.iter().map(|&word| word.to_owned()).collect();
        let answer = self.cri(|runtime| async move { runtime.exec_sync(id, command, 60).await });
        let answer = answer.map_err(|err| format!("{err:?}"))?;
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    /// `ctr` in the namespace of pods; expects success.
    pub fn ctr(&self, args: &[&str]) -> Output {
        let out = Command::new("ctr").arg("-a").arg(&self.socket).args(["-n", "k8s.io"]).args(args).output();
        let out = out.expect("ctr runs");
        assert!(out.status.success(), "ctr {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        out
    }

    /// Ids of the running containers of pods called `pod`, of one container or of all.
    pub fn running(&self, pod: &str, container: Option<&str>) -> Vec<String> {
        let running = k8s_cri::v1::ContainerState::ContainerRunning as i32;
        let list = self.cri(|runtime| async move { runtime.list_containers().await }).unwrap_or_default();
        let label =
            |row: &k8s_cri::v1::Container, key: &str| row.labels.get(key).cloned().unwrap_or_default();
        list.into_iter()
            .filter(|row| row.state == running && label(row, "io.kubernetes.pod.name") == pod)
            .filter(|row| container.is_none_or(|name| label(row, "io.kubernetes.container.name") == name))
            .map(|row| row.id)
            .collect()
    }

    /// Every sandbox and every container, dead ones too; or why it does not say.
    pub fn everything(&self) -> Result<(Vec<PodSandbox>, Vec<Container>), String> {
        self.cri(|runtime| async move {
            let text = |err: kubeedge::cri::runtime::CriError| err.to_string();
            Ok((
                runtime.list_sandboxes().await.map_err(text)?,
                runtime.list_containers().await.map_err(text)?,
            ))
        })
    }

    /// One conversation with the runtime, on a thread of its own: callers may be async themselves.
    fn cri<T: Send + 'static, F: Future<Output = T>>(
        &self,
        talk: impl FnOnce(CriClient) -> F + Send + 'static,
    ) -> T {
        let endpoint = self.endpoint();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                talk(CriClient::new(&endpoint, Duration::from_secs(90)).expect("client")).await
            })
        });
        thread.join().expect("talk with the runtime")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("containerd.log")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- end of containerd's log ---\n{}",
                lines[lines.len().saturating_sub(20)..].join("\n")
            );
        }
        // What a runtime leaves behind whose client was killed in the middle of a removal is no failure of the test: its
        // processes and mounts go below. And a second panic while a test fails would end all tests.
        let emptied = catch_unwind(AssertUnwindSafe(|| {
            if self.daemon.is_none() {
                self.start_again();
            }
            let (sandboxes, _) = self.everything().unwrap_or_default();
            self.remove_within(Duration::from_secs(30));
            sandboxes
        }));
        let stopped = catch_unwind(AssertUnwindSafe(|| self.stop()));
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().ok();
            daemon.wait().ok();
        }
        kill_shims(&self.socket);
        unmount_below(self.dir.path());
        // Their agent was killed: nobody else takes the volumes of its pods away.
        for sandbox in emptied.iter().flatten() {
            let uid = sandbox.metadata.as_ref().map(|it| it.uid.as_str()).unwrap_or_default();
            let volumes = format!("/pods/{uid}/volumes/");
            unmount(|point| !uid.is_empty() && point.contains(&volumes));
        }
        Command::new("ip").args(["link", "delete", &self.bridge]).output().ok();
        if emptied.and(stopped).is_err() {
            eprintln!("containerd left something behind, see above");
        }
    }
}

/// A template of `deploy/demo` with its folder and other words replaced.
fn fill(name: &str, dir: &Path, words: &[(&str, &str)]) -> String {
    let path = Path::new(HERE).join("deploy/demo").join(name);
    let mut text = fs::read_to_string(&path).expect("template");
    for (from, to) in words.iter().copied().chain([("@D@", dir.to_str().expect("utf-8"))]) {
        assert!(text.contains(from), "{} has no {from}", path.display());
        text = text.replace(from, to);
    }
    text
}

/// A subnet nobody else uses, for as long as the file is open.
pub fn take_subnet() -> (u8, File) {
    let first = u8::try_from(std::process::id() % 250).unwrap_or(0);
    for step in SUBNETS {
        let number = (u16::from(first) + u16::from(step)) % 250 + 1;
        let number = u8::try_from(number).expect("below 251");
        let lock = std::env::temp_dir().join(format!("kubeedge-test-subnet-{number}.lock"));
        let Ok(file) = File::options().create(true).truncate(false).write(true).open(lock) else { continue };
        let bridge = Path::new("/sys/class/net").join(format!("ketest{number}"));
        if file.try_lock().is_ok() && !bridge.exists() {
            return (number, file);
        }
    }
    panic!("no free test subnet");
}

/// The folder with `pause.tar` and `hello.tar`, made once for each version of their recipe.
fn images() -> PathBuf {
    static MAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = MAKING.lock();
    let demo = Path::new(HERE).join("deploy/demo");
    let recipe = ["mkimage.sh", "pause.c"].map(|name| fs::read(demo.join(name)).expect("recipe")).concat();
    let key = recipe.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let done = cache.join(format!("images-{key:016x}"));
    if !done.exists() {
        let work = tempfile::tempdir_in(cache).expect("temp dir");
        let out = Command::new("bash").arg(demo.join("mkimage.sh")).arg(work.path()).output().expect("bash");
        assert!(out.status.success(), "mkimage.sh: {}", String::from_utf8_lossy(&out.stderr));
        // Fails when another process was faster, which is as good.
        fs::rename(work.path(), &done).ok();
    }
    assert!(done.join("hello.tar").exists(), "images were not made");
    done
}

/// Ends shims that serve `socket`, and what they run.
fn kill_shims(socket: &Path) {
    let Ok(processes) = fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let cmdline = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let mut words = cmdline.split(|byte| *byte == 0);
        let is_shim = words.next().is_some_and(|word| word.ends_with(b"containerd-shim-runc-v2"));
        if !is_shim || !words.any(|word| word == socket.as_os_str().as_encoded_bytes()) {
            continue;
        }
        let children = fs::read_to_string(process.path().join(format!("task/{pid}/children")));
        let children = children.unwrap_or_default();
        let children = children.split_whitespace().filter_map(|child| child.parse().ok());
        for target in children.chain([pid]) {
            kill(Pid::from_raw(target), Signal::SIGKILL).ok();
        }
    }
}

/// Takes away every mount below a folder.
pub fn unmount_below(dir: &Path) {
    unmount(|point| Path::new(point).starts_with(dir));
}

fn unmount(is_ours: impl Fn(&str) -> bool) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let ours: Vec<&str> = points.filter(|point| is_ours(point)).collect();
    for point in ours.into_iter().rev() {
        umount2(point, MntFlags::MNT_DETACH).ok();
    }
}
