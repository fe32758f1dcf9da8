//! Where files go: everything below `/`, or below `--root`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Refusal;
use crate::config::{CloudCoreConfig, EdgeCoreConfig, Loaded, load};

#[derive(Debug, Args)]
pub(super) struct Places {
    /// Config file [default: /etc/kubeedge/config/<program>.yaml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Put and look for every file below this folder
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

impl Places {
    /// The config file of `cloudcore` or `edgecore`.
    pub fn config(&self, program: &str) -> PathBuf {
        let default =
            || self.below(Path::new("/etc/kubeedge/config").join(format!("{program}.yaml")).as_path());
        self.config.clone().unwrap_or_else(default)
    }

    /// The cloud's configuration; it must be there.
    pub fn load_cloud(&self) -> Result<Loaded<CloudCoreConfig>, Refusal> {
        let path = self.config("cloudcore");
        if !path.exists() {
            let path = path.display();
            return Err(Refusal::new(format!(
                "{path} does not exist: run keadm init, or name the file with --config"
            )));
        }
        Ok(load(&path)?)
    }

    pub fn cloud_defaults(&self) -> CloudCoreConfig {
        let mut config = CloudCoreConfig::default();
        let hub = &mut config.modules.cloud_hub;
        self.move_below([
            &mut config.data_dir,
            &mut config.modules.api_server.kubeconfig,
            &mut hub.tls_ca_file,
            &mut hub.tls_ca_key_file,
            &mut hub.tls_cert_file,
            &mut hub.tls_private_key_file,
        ]);
        config
    }

    pub fn edge_defaults(&self) -> EdgeCoreConfig {
        let mut config = EdgeCoreConfig::default();
        let hub = &mut config.modules.edge_hub;
        let edged = &mut config.modules.edged;
        self.move_below([
            &mut config.data_dir,
            &mut config.identity.workload_api_socket,
            &mut hub.tls_ca_file,
            &mut hub.tls_cert_file,
            &mut hub.tls_private_key_file,
            &mut hub.bootstrap_file,
            &mut config.modules.device_twin.dmi_sock_path,
            &mut edged.root_directory,
            &mut edged.tailored_kubelet_config.pod_logs_dir,
        ]);
        config
    }

    fn move_below<'a>(&self, paths: impl IntoIterator<Item = &'a mut PathBuf>) {
        for path in paths {
            *path = self.below(path);
        }
    }

    /// An absolute path, below the root.
    pub fn below(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// For commands printed to the user: the `--config` a program needs.
    pub fn config_shown(&self, program: &str) -> String {
        self.config(program).display().to_string()
    }
}
