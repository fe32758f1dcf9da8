//! What pods must be told about the machine they run on. Plain data, filled once by the actor.

use std::path::PathBuf;

/// The host as pods see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostContext {
    pub node_name: String,
    /// The node's addresses, the primary one first.
    pub host_ips: Vec<String>,
    /// Pod folders live in `{root_dir}/pods`.
    pub root_dir: PathBuf,
    /// Container logs live in `{pod_logs_dir}/{namespace}_{pod}_{uid}`.
    pub pod_logs_dir: PathBuf,
    /// Name servers of `dnsPolicy: ClusterFirst`; empty falls back to the host's.
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    /// The host's resolver configuration.
    pub resolver: Resolver,
    /// Cgroup parents are slices (`systemd` driver) instead of folders (`cgroupfs`).
    pub systemd_cgroups: bool,
    /// Allocatable CPU in thousandths: what `limits.cpu` means to a container without a limit.
    pub cpu_milli: i64,
    /// Allocatable memory in bytes, likewise; also scales `oom_score_adj` of Burstable pods.
    pub memory_bytes: i64,
    /// `KUBERNETES_SERVICE_HOST` and `_PORT`, when there is a Kubernetes API for pods to talk to.
    pub kubernetes_service: Option<(String, u16)>,
    /// Socket of the SPIFFE Workload API, where it is served.
    pub workload_api: Option<PathBuf>,
}

impl HostContext {
    /// The primary address, if any is known.
    #[must_use]
    pub fn host_ip(&self) -> Option<&str> {
        self.host_ips.first().map(String::as_str)
    }
}

/// `resolv.conf`, the lines that matter to pods.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolver {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads `resolv.conf` text. The last `search` line wins, `options` add up, what is not
    /// understood is skipped, as the resolver library does.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let keyword = words.next();
            let rest = words.take_while(|word| !word.starts_with(['#', ';'])).map(str::to_owned);
            match keyword {
                Some("nameserver") => resolver.servers.extend(rest.take(1)),
                Some("search") => resolver.searches = rest.filter(|domain| domain != ".").collect(),
                Some("options") => resolver.options.extend(rest),
                _ => {}
            }
        }
        resolver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf() {
        let text = "# by hand\nnameserver 10.0.0.2 # first\nnameserver 10.0.0.3\nsearch a.example\n\
                    search b.example . c.example\noptions ndots:2\noptions edns0 ; end\nsortlist x\nnameserver\n";
        let resolver = Resolver::parse(text);
        assert_eq!(resolver.servers, ["10.0.0.2", "10.0.0.3"]);
        assert_eq!(resolver.searches, ["b.example", "c.example"]);
        assert_eq!(resolver.options, ["ndots:2", "edns0"]);
        assert_eq!(Resolver::parse(""), Resolver::default());
    }
}
