//! What the kernel's files say about a process: when it began, whose it is, in which container it
//! runs. Pure and total: text in, facts out. The files are `proc(5)`'s `stat`, `status`, `cgroup`.

/// From `/proc/{pid}/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Gone, only not yet reaped by its parent.
    pub is_dead: bool,
    /// Clock ticks after boot. With the pid it names a process for as long as the machine is up.
    pub started: u64,
}

/// `None` for text that is no `stat`. A program may call itself what it likes, `) R 1` included:
/// the fields begin after the last parenthesis.
#[must_use]
pub fn stat(text: &str) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    // State is field 3, the start field 22.
    let started = fields.nth(18)?.parse().ok()?;
    Some(Stat { is_dead: matches!(state, "Z" | "X" | "x"), started })
}

/// The effective user of `/proc/{pid}/status`.
#[must_use]
pub fn effective_uid(text: &str) -> Option<u32> {
    let ids = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The container a process belongs to, as its cgroup says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRef {
    /// With dashes, as Kubernetes writes it.
    pub pod_uid: String,
    /// 64 lower-case hex digits.
    pub container_id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoContainer {
    #[error("the process is in no pod's cgroup")]
    NoPod,
    /// Only somebody who may move processes between cgroups can do that.
    #[error("the process is in the cgroups of two containers")]
    TwoContainers,
}

/// Reads `/proc/{pid}/cgroup`, of version 1 (a hierarchy a line), 2 or both.
///
/// Pods' cgroups stand at the top, or below where `init_text`, the file of process 1, says this
/// system itself begins (a node inside a container). Anywhere else a folder may be called like a
/// pod's by whoever owns the place. What lies below the container's own cgroup does not matter: it
/// is the container's to name.
///
/// # Errors
/// [`NoContainer`].
pub fn container(text: &str, init_text: &str) -> Result<ContainerRef, NoContainer> {
    let mut found: Option<ContainerRef> = None;
    for (controllers, path) in lines(text) {
        let own = lines(init_text).find(|(of, _)| *of == controllers).map_or("/", |(_, path)| path);
        let Some(here) = container_below(path, own) else { continue };
        if found.as_ref().is_some_and(|before| *before != here) {
            return Err(NoContainer::TwoContainers);
        }
        found = Some(here);
    }
    found.ok_or(NoContainer::NoPod)
}

/// Controllers and path of each line `{number}:{controllers}:{path}`.
fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'))
}

/// `own` is where process 1 is: the top, or a part of it (`/init.scope`), or a folder of a container
/// this whole system lives in.
fn container_below(path: &str, own: &str) -> Option<ContainerRef> {
    let own = own.trim_end_matches('/').trim_end_matches("/init.scope");
    let below_own = path.strip_prefix(own).filter(|rest| rest.starts_with('/'));
    container_at(path).or_else(|| container_at(below_own?))
}

/// The container of a path that begins with the cgroup of all pods.
fn container_at(path: &str) -> Option<ContainerRef> {
    let mut parts = path.strip_prefix('/')?.split('/');
    match parts.next()? {
        // Driver cgroupfs: kubepods[/burstable|/besteffort]/pod{uid}/{container}
        "kubepods" => {
            let mut part = parts.next()?;
            if matches!(part, "burstable" | "besteffort") {
                part = parts.next()?;
            }
            let pod_uid = pod_uid(part.strip_prefix("pod")?)?;
            let container = parts.next()?;
            let id = container.strip_prefix("crio-").unwrap_or(container);
            Some(ContainerRef { pod_uid, container_id: container_id(id)? })
        }
        // Driver systemd: kubepods.slice[/kubepods-burstable.slice]/kubepods-burstable-pod{uid}.slice/
        // {runtime}-{container}.scope, the dashes of the uid written as underscores.
        "kubepods.slice" => {
            let mut part = parts.next()?;
            let mut class = "kubepods-";
            for (folder, name) in [
                ("kubepods-burstable.slice", "kubepods-burstable-"),
                ("kubepods-besteffort.slice", "kubepods-besteffort-"),
            ] {
                if part == folder {
                    (part, class) = (parts.next()?, name);
                    break;
                }
            }
            let pod = part.strip_suffix(".slice")?.strip_prefix(class)?.strip_prefix("pod")?;
            let pod_uid = pod_uid(&pod.replace('_', "-"))?;
            let scope = parts.next()?.strip_suffix(".scope")?;
            let id = scope.strip_prefix("cri-containerd-").or_else(|| scope.strip_prefix("crio-"))?;
            Some(ContainerRef { pod_uid, container_id: container_id(id)? })
        }
        _ => None,
    }
}

fn pod_uid(text: &str) -> Option<String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    ((1..=64).contains(&text.len()) && text.bytes().all(legal)).then(|| text.to_owned())
}

fn container_id(text: &str) -> Option<String> {
    let legal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == 64 && text.bytes().all(legal)).then(|| text.to_owned())
}

/// The path of `/proc/{pid}/exe` as registrations name it; `None` for a file that was removed or
/// replaced since it was started.
#[must_use]
pub fn binary_path(link: &str) -> Option<String> {
    (link.starts_with('/') && !link.ends_with(" (deleted)")).then(|| link.to_owned())
}

#[cfg(test)]
#[path = "attest_tests.rs"]
mod tests;
