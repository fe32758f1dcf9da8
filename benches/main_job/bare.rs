//! The floor: a pod by the CRI calls alone, with the configuration that Edged would give them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kubeedge::actors::edge::edged::host::{HostContext, Resolver};
use kubeedge::actors::edge::edged::spec;
use kubeedge::cri::client::CriClient;
use kubeedge::cri::runtime::Runtime;

use super::harness::containerd::Containerd;

/// Makes pods without anybody's help.
pub struct Bare {
    runtime: CriClient,
    host: HostContext,
    image: String,
    files: PathBuf,
}

impl Bare {
    pub async fn new(containerd: &Containerd) -> Self {
        let runtime = CriClient::new(&containerd.endpoint(), Duration::from_secs(60)).unwrap();
        let image = runtime.image_status(super::pods::IMAGE.to_owned()).await.unwrap().unwrap().id;
        let files = containerd.dir().join("bare");
        std::fs::create_dir_all(&files).unwrap();
        let host = HostContext {
            // Not the name of the edge under test, or it would clear our pods away.
            node_name: "nobody".into(),
            host_ips: vec!["127.0.0.1".into()],
            root_dir: files.clone(),
            pod_logs_dir: files.join("logs"),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolver: Resolver::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
            systemd_cgroups: false,
            cpu_milli: 2000,
            memory_bytes: 8 << 30,
            kubernetes_service: None,
            workload_api: None,
        };
        Self { runtime, host, image, files }
    }

    /// Seconds of RunPodSandbox + CreateContainer + StartContainer, then of StopContainer +
    /// StopPodSandbox + RemovePodSandbox.
    pub async fn pod(&self, name: &str) -> (f64, f64) {
        let mut pod: Pod = super::pods::sleeper(name);
        pod.metadata.namespace = Some("bare".into());
        pod.metadata.uid = Some(uuid::Uuid::new_v4().to_string());
        let sandbox = spec::sandbox_config(&pod, &self.host, 0).unwrap();
        let container = pod.spec.as_ref().unwrap().containers.first().unwrap();
        std::fs::create_dir_all(PathBuf::from(&sandbox.log_directory).join(&container.name)).unwrap();
        let mounts = ["/etc/hosts", "/dev/termination-log"].map(|target| self.mount(target)).into();
        let config = spec::container_config(&pod, container, 0, &self.image, Vec::new(), mounts, &self.host);
        let config = config.unwrap();

        let begun = Instant::now();
        let sandbox_id = self.runtime.run_sandbox(sandbox.clone()).await.unwrap();
        let id = self.runtime.create_container(sandbox_id.clone(), config, sandbox).await.unwrap();
        self.runtime.start_container(id.clone()).await.unwrap();
        let start = begun.elapsed().as_secs_f64();

        let begun = Instant::now();
        self.runtime.stop_container(id, 5).await.unwrap();
        self.runtime.stop_sandbox(sandbox_id.clone()).await.unwrap();
        self.runtime.remove_sandbox(sandbox_id).await.unwrap();
        (start, begun.elapsed().as_secs_f64())
    }

    fn mount(&self, target: &str) -> k8s_cri::v1::Mount {
        let file = self.files.join(target.replace('/', "_"));
        std::fs::write(&file, "").unwrap();
        k8s_cri::v1::Mount {
            container_path: target.into(),
            host_path: file.to_str().unwrap().into(),
            ..Default::default()
        }
    }
}
