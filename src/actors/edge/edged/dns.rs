//! What resolver a pod gets: `dnsPolicy`, `dnsConfig`, cluster name servers, the host's. Pure.

use k8s_cri::v1;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::host::HostContext;

/// The resolver library reads no more.
const MAX_SERVERS: usize = 3;
/// Kubernetes' limit on search domains.
const MAX_SEARCHES: usize = 32;
/// Longest host name Linux takes, bytes.
const MAX_HOSTNAME: usize = 63;

/// Resolver configuration of a pod. `ClusterFirst` falls back to the host's resolver when the
/// node knows no cluster DNS, and on the host network, as the kubelet does.
#[must_use]
pub fn dns_config(pod: &Pod, host: &HostContext) -> v1::DnsConfig {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let cluster = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => spec.host_network != Some(true),
        _ => false,
    };
    let resolver = &host.resolver;
    let mut dns = if spec.dns_policy.as_deref() == Some("None") {
        v1::DnsConfig::default()
    } else if cluster && !host.cluster_dns.is_empty() {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let domain = host.cluster_domain.as_str();
        let mut searches = Vec::new();
        if !domain.is_empty() {
            searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
        }
        for search in &resolver.searches {
            push_new(&mut searches, search);
        }
        v1::DnsConfig { servers: host.cluster_dns.clone(), searches, options: vec!["ndots:5".to_owned()] }
    } else {
        v1::DnsConfig {
            servers: resolver.servers.clone(),
            searches: resolver.searches.clone(),
            options: resolver.options.clone(),
        }
    };
    if let Some(own) = &spec.dns_config {
        own.nameservers.iter().flatten().for_each(|server| push_new(&mut dns.servers, server));
        own.searches.iter().flatten().for_each(|search| push_new(&mut dns.searches, search));
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            dns.options.retain(|known| known.split(':').next() != Some(name));
            dns.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    dns.servers.truncate(MAX_SERVERS);
    dns.searches.truncate(MAX_SEARCHES);
    dns
}

fn push_new(list: &mut Vec<String>, item: &String) {
    if !list.contains(item) {
        list.push(item.clone());
    }
}

/// `spec.hostname`, else the pod's name, cut to what Linux takes. Empty on the host network: such
/// a pod has the host's.
#[must_use]
pub fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    if spec.and_then(|spec| spec.host_network) == Some(true) {
        return String::new();
    }
    let own = spec.and_then(|spec| spec.hostname.as_deref()).filter(|name| !name.is_empty());
    let name = own.or(pod.metadata.name.as_deref()).unwrap_or_default();
    let cut = name.char_indices().nth(MAX_HOSTNAME).map_or(name.len(), |(at, _)| at);
    name.get(..cut).unwrap_or_default().trim_end_matches(['-', '.']).to_owned()
}

/// `/etc/hosts` of a pod with its own network: itself by name, and `hostAliases`.
#[must_use]
pub fn hosts_file(pod: &Pod, host: &HostContext, pod_ip: &str) -> String {
    let name = hostname(pod);
    let subdomain = pod.spec.as_ref().and_then(|spec| spec.subdomain.as_deref()).filter(|s| !s.is_empty());
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    if !pod_ip.is_empty() {
        let own = match subdomain {
            Some(subdomain) => {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                let domain = &host.cluster_domain;
                format!("{pod_ip}\t{name}.{subdomain}.{namespace}.svc.{domain}\t{name}\n")
            }
            None => format!("{pod_ip}\t{name}\n"),
        };
        text.push_str(&own);
    }
    text.push_str(&host_aliases(pod));
    text
}

/// The lines of `hostAliases`, for pods on the host network after the host's own file.
#[must_use]
pub fn host_aliases(pod: &Pod) -> String {
    let aliases = pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten());
    let lines: Vec<String> = aliases
        .map(|alias| format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")))
        .collect();
    if lines.is_empty() {
        String::new()
    } else {
        format!("\n# Entries added by HostAliases.\n{}", lines.concat())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::{host, pod};
    use super::*;

    #[test]
    fn policies() {
        let mut cluster = host();
        cluster.cluster_dns = vec!["10.96.0.10".into()];
        let svc = vec!["default.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"];
        let plain = host();
        for (case, spec, host, servers, searches) in [
            ("no policy", json!({}), &cluster, vec!["10.96.0.10"], svc.clone()),
            ("no cluster DNS", json!({"dnsPolicy": "ClusterFirst"}), &plain, vec!["10.0.0.2"], vec!["lan"]),
            ("host network", json!({"hostNetwork": true}), &cluster, vec!["10.0.0.2"], vec!["lan"]),
            (
                "host network, asked",
                json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                &cluster,
                vec!["10.96.0.10"],
                svc,
            ),
            ("default", json!({"dnsPolicy": "Default"}), &cluster, vec!["10.0.0.2"], vec!["lan"]),
            (
                "none",
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"]}}),
                &cluster,
                vec!["1.1.1.1"],
                vec!["x"],
            ),
            (
                "added",
                json!({"dnsPolicy": "Default", "dnsConfig": {"nameservers": ["10.0.0.2", "1", "2", "3"]}}),
                &plain,
                vec!["10.0.0.2", "1", "2"],
                vec!["lan"],
            ),
        ] {
            let dns = dns_config(&pod(json!({"spec": spec})), host);
            assert_eq!(dns.servers, servers, "{case}");
            assert_eq!(dns.searches, searches, "{case}");
        }
        let own =
            json!({"spec": {"dnsConfig": {"options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}});
        assert_eq!(dns_config(&pod(own), &cluster).options, ["ndots:2", "edns0"]);
    }

    #[test]
    fn hostnames() {
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(10));
        for (spec, want) in [
            (json!({}), "web"),
            (json!({"hostname": "db-0"}), "db-0"),
            (json!({"hostname": long}), "a".repeat(62).as_str()),
            (json!({"hostNetwork": true}), ""),
        ] {
            assert_eq!(hostname(&pod(json!({"spec": spec}))), want);
        }
    }

    #[test]
    fn hosts_files() {
        let pod = pod(json!({"spec": {"hostname": "db-0", "subdomain": "db", "hostAliases": [
            {"ip": "192.0.2.1", "hostnames": ["plc", "plc.factory"]},
        ]}}));
        let text = hosts_file(&pod, &host(), "10.1.0.7");
        assert!(text.contains("\n10.1.0.7\tdb-0.db.default.svc.cluster.local\tdb-0\n"), "{text}");
        assert!(text.ends_with("\n192.0.2.1\tplc\tplc.factory\n"), "{text}");
    }
}
