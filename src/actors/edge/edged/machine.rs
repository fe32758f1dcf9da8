//! Facts about this machine, read from the kernel and a few files. Quick, but file I/O: called off
//! the arbiter.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;

/// What does not change while the machine runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel_version: String,
    pub os_image: String,
    pub cpus: u64,
    pub memory_bytes: u64,
}

/// What changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub memory_available_bytes: u64,
    pub disk_bytes: u64,
    pub disk_free_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
    pub pids: u64,
    pub pids_max: u64,
}

/// Longest file read here, bytes.
const MAX_FILE_BYTES: u64 = 256 * 1024;

impl Machine {
    /// Reads everything; what cannot be read stays empty.
    #[must_use]
    pub fn read() -> Self {
        let line = |path: &str| read(path).lines().next().unwrap_or_default().trim().to_owned();
        let first =
            |paths: [&str; 2]| paths.iter().map(|p| line(p)).find(|l| !l.is_empty()).unwrap_or_default();
        let machine_id = first(["/etc/machine-id", "/var/lib/dbus/machine-id"]);
        let uuid = first(["/sys/class/dmi/id/product_uuid", "/etc/machine-id"]);
        Self {
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            kernel_version: line("/proc/sys/kernel/osrelease"),
            os_image: os_image(&read("/etc/os-release")),
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory_bytes: meminfo(&read("/proc/meminfo"), "MemTotal").unwrap_or_default(),
        }
    }
}

impl Usage {
    /// Reads memory, the disk under `root` and the process table.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let mut usage = Self {
            memory_available_bytes: meminfo(&read("/proc/meminfo"), "MemAvailable").unwrap_or_default(),
            pids_max: read("/proc/sys/kernel/pid_max").trim().parse().unwrap_or_default(),
            pids: running_tasks(&read("/proc/loadavg")).unwrap_or_default(),
            ..Self::default()
        };
        // The folder may not be there yet: the disk is that of the nearest one that is.
        let stat = root.ancestors().find_map(|dir| nix::sys::statvfs::statvfs(dir).ok());
        if let Some(stat) = stat {
            let unit = stat.fragment_size();
            usage.disk_bytes = stat.blocks().saturating_mul(unit);
            usage.disk_free_bytes = stat.blocks_available().saturating_mul(unit);
            usage.inodes = stat.files();
            usage.inodes_free = stat.files_available();
        }
        usage
    }
}

/// The address this machine would use towards the default route: no packet is sent.
#[must_use]
pub fn default_route_address() -> Option<IpAddr> {
    let ask = |bind: &str, to: &str| {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
    };
    // Addresses of the documentation blocks: routed like any other, answered by nobody.
    ask("0.0.0.0:0", "192.0.2.1:9").or_else(|| ask("[::]:0", "[2001:db8::1]:9"))
}

/// Go's names of processor architectures, which Kubernetes uses.
#[must_use]
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn read(path: &str) -> String {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path);
    match file.map(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text)) {
        Ok(Ok(_)) => text,
        Ok(Err(_)) | Err(_) => String::new(),
    }
}

/// A row of `/proc/meminfo`, in bytes.
fn meminfo(text: &str, row: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// `PRETTY_NAME` of `os-release`.
fn os_image(text: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.unwrap_or("Linux").trim().trim_matches('"').to_owned()
}

/// The total of `running/total` in `/proc/loadavg`.
fn running_tasks(text: &str) -> Option<u64> {
    text.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_files() {
        let text = "MemTotal:       24684092 kB\nMemFree: 1 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(24_684_092 * 1024));
        assert_eq!(meminfo(text, "MemAvailable"), Some(20_000_000 * 1024));
        assert_eq!(meminfo("MemTotal: many", "MemTotal"), None);
        assert_eq!(
            os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
        assert_eq!(os_image(""), "Linux");
        assert_eq!(running_tasks("0.5 0.4 0.3 2/345 6789"), Some(345));
        assert_eq!(running_tasks("nonsense"), None);
    }

    #[test]
    fn this_machine() {
        let machine = Machine::read();
        assert!(machine.memory_bytes > 0 && machine.cpus > 0 && !machine.kernel_version.is_empty());
        let usage = Usage::read(Path::new("/var/lib/kubelet/not/there/yet"));
        assert!(usage.disk_bytes >= usage.disk_free_bytes && usage.disk_bytes > 0 && usage.pids_max > 0);
    }
}
