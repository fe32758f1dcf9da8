//! The runtime trait over the fake's world.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use k8s_cri::v1;

use super::FakeRuntime;
use super::world::error;
use crate::cri::runtime::{CriError, CriErrorKind, ImageEvidence, Runtime, RuntimeEvent, RuntimeEventKind};

impl FakeRuntime {
    async fn start_now(&self, id: &str) -> Result<(), CriError> {
        let behaviour = self.call("StartContainer", id, |world| world.start(id)).await;
        let behaviour = match behaviour {
            Ok(behaviour) => behaviour,
            Err(error) => {
                self.emit(id, RuntimeEventKind::Exited);
                return Err(error);
            }
        };
        self.emit(id, RuntimeEventKind::Started);
        if let Some((after, code)) = behaviour.exits {
            let (runtime, id) = (self.clone(), id.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                runtime.end_container(&id, code, false);
            });
        }
        Ok(())
    }

    async fn stop_now(&self, id: &str, grace_secs: i64) -> Result<(), CriError> {
        let on_term = self
            .call("StopContainer", id, |world| match world.containers.get(id) {
                Some(container) => Ok((container.behaviour.on_term, container.status.state)),
                None => Err(error(
                    "StopContainer",
                    CriErrorKind::NotFound,
                    format!("container {id:?}: not found"),
                )),
            })
            .await?;
        let (on_term, state) = on_term;
        if state != v1::ContainerState::ContainerRunning as i32 {
            return Ok(());
        }
        let code = match on_term {
            Some(code) if grace_secs > 0 => code,
            _ => {
                tokio::time::sleep(Duration::from_secs(u64::try_from(grace_secs).unwrap_or(0))).await;
                137
            }
        };
        self.end_container(id, code, false);
        Ok(())
    }

    fn kill_sandbox(&self, id: &str) {
        let of: Vec<String> =
            self.running().into_iter().filter(|c| c.sandbox_id == id).map(|c| c.status.id).collect();
        for container in of {
            self.end_container(&container, 137, false);
        }
        let not_ready = v1::PodSandboxState::SandboxNotready as i32;
        let was_ready = match self.world.lock().sandboxes.get_mut(id) {
            Some(sandbox) => std::mem::replace(&mut sandbox.status.state, not_ready) != not_ready,
            None => false,
        };
        if was_ready {
            self.emit(id, RuntimeEventKind::Exited);
        }
    }

    fn drop_container(&self, id: &str) {
        self.end_container(id, 137, false);
        if self.world.lock().containers.remove(id).is_some() {
            self.emit(id, RuntimeEventKind::Deleted);
        }
    }
}

impl Runtime for FakeRuntime {
    fn version(&self) -> BoxFuture<'_, Result<v1::VersionResponse, CriError>> {
        Box::pin(self.call("Version", "", |_| {
            Ok(v1::VersionResponse {
                version: "0.1.0".to_owned(),
                runtime_name: "containerd".to_owned(),
                runtime_version: "1.6.20".to_owned(),
                runtime_api_version: "v1".to_owned(),
            })
        }))
    }

    fn status(&self) -> BoxFuture<'_, Result<v1::RuntimeStatus, CriError>> {
        Box::pin(
            self.call("Status", "", |world| Ok(v1::RuntimeStatus { conditions: world.conditions.clone() })),
        )
    }

    fn list_sandboxes(&self) -> BoxFuture<'_, Result<Vec<v1::PodSandbox>, CriError>> {
        let row = |status: v1::PodSandboxStatus| v1::PodSandbox {
            id: status.id,
            metadata: status.metadata,
            state: status.state,
            created_at: status.created_at,
            labels: status.labels,
            annotations: status.annotations,
            runtime_handler: String::new(),
        };
        Box::pin(self.call("ListPodSandbox", "", move |world| {
            Ok(world.sandboxes.values().map(|sandbox| row(sandbox.status.clone())).collect())
        }))
    }

    fn sandbox_status(&self, id: String) -> BoxFuture<'_, Result<v1::PodSandboxStatus, CriError>> {
        Box::pin(async move {
            self.call("PodSandboxStatus", &id, |world| match world.sandboxes.get(&id) {
                Some(sandbox) => Ok(sandbox.status.clone()),
                None => Err(error("PodSandboxStatus", CriErrorKind::NotFound, "sandbox: not found")),
            })
            .await
        })
    }

    fn run_sandbox(&self, config: v1::PodSandboxConfig) -> BoxFuture<'_, Result<String, CriError>> {
        const CALL: &str = "RunPodSandbox";
        Box::pin(async move {
            let about = config.metadata.clone().unwrap_or_default().name;
            if let Err((fault, leaves_sandbox)) = self.enter(CALL, &about).await {
                if leaves_sandbox {
                    self.world.lock().add_sandbox(CALL, config, v1::PodSandboxState::SandboxNotready)?;
                }
                return Err(fault);
            }
            let id = self.world.lock().add_sandbox(CALL, config, v1::PodSandboxState::SandboxReady)?;
            self.emit(&id, RuntimeEventKind::Started);
            Ok(id)
        })
    }

    fn stop_sandbox(&self, id: String) -> BoxFuture<'_, Result<(), CriError>> {
        Box::pin(async move {
            self.call("StopPodSandbox", &id, |_| Ok(())).await?;
            self.kill_sandbox(&id);
            Ok(())
        })
    }

    fn remove_sandbox(&self, id: String) -> BoxFuture<'_, Result<(), CriError>> {
        Box::pin(async move {
            self.call("RemovePodSandbox", &id, |_| Ok(())).await?;
            self.kill_sandbox(&id);
            for container in self.containers() {
                if container.sandbox_id == id {
                    self.drop_container(&container.status.id);
                }
            }
            if self.world.lock().sandboxes.remove(&id).is_some() {
                self.emit(&id, RuntimeEventKind::Deleted);
            }
            Ok(())
        })
    }

    fn list_containers(&self) -> BoxFuture<'_, Result<Vec<v1::Container>, CriError>> {
        Box::pin(self.call("ListContainers", "", |world| {
            Ok(world.containers.values().map(|container| world.container_row(container)).collect())
        }))
    }

    fn container_status(&self, id: String) -> BoxFuture<'_, Result<v1::ContainerStatus, CriError>> {
        Box::pin(async move {
            self.call("ContainerStatus", &id, |world| match world.containers.get(&id) {
                Some(container) => Ok(container.status.clone()),
                None => Err(error("ContainerStatus", CriErrorKind::NotFound, "container: not found")),
            })
            .await
        })
    }

    fn create_container(
        &self,
        sandbox_id: String,
        config: v1::ContainerConfig,
        _sandbox: v1::PodSandboxConfig,
    ) -> BoxFuture<'_, Result<String, CriError>> {
        Box::pin(async move {
            let about = config.metadata.clone().unwrap_or_default().name;
            self.call("CreateContainer", &about, |world| world.add_container(sandbox_id, config)).await
        })
    }

    fn start_container(&self, id: String) -> BoxFuture<'_, Result<(), CriError>> {
        Box::pin(async move { self.start_now(&id).await })
    }

    fn stop_container(&self, id: String, grace_secs: i64) -> BoxFuture<'_, Result<(), CriError>> {
        Box::pin(async move { self.stop_now(&id, grace_secs).await })
    }

    fn remove_container(&self, id: String) -> BoxFuture<'_, Result<(), CriError>> {
        Box::pin(async move {
            self.call("RemoveContainer", &id, |_| Ok(())).await?;
            self.drop_container(&id);
            Ok(())
        })
    }

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<v1::Image>, CriError>> {
        Box::pin(self.call("ListImages", "", |world| Ok(world.images.values().cloned().collect())))
    }

    fn image_status(&self, image: String) -> BoxFuture<'_, Result<Option<v1::Image>, CriError>> {
        Box::pin(async move {
            self.call("ImageStatus", &image, |world| Ok(world.find_image(&image).cloned())).await
        })
    }

    fn pull_image(
        &self,
        image: String,
        _auth: Option<v1::AuthConfig>,
        _sandbox: v1::PodSandboxConfig,
    ) -> BoxFuture<'_, Result<String, CriError>> {
        Box::pin(async move { self.call("PullImage", &image, |world| world.pull(&image)).await })
    }

    fn image_evidence(
        &self,
        image: String,
        signed_as: Option<String>,
    ) -> BoxFuture<'_, Result<Option<ImageEvidence>, CriError>> {
        Box::pin(async move {
            let call = "ImageEvidence";
            self.call(call, &image, |world| Ok(world.evidence(&image, signed_as.as_deref()))).await
        })
    }

    fn remove_image(&self, image: String) -> BoxFuture<'_, Result<(), CriError>> {
        Box::pin(async move {
            self.call("RemoveImage", &image, |world| {
                world.images.retain(|name, present| *name != image && present.id != image);
                Ok(())
            })
            .await
        })
    }

    fn image_fs_info(&self) -> BoxFuture<'_, Result<Vec<v1::FilesystemUsage>, CriError>> {
        Box::pin(self.call("ImageFsInfo", "", |_| Ok(Vec::new())))
    }

    fn exec_sync(
        &self,
        id: String,
        command: Vec<String>,
        _timeout_secs: i64,
    ) -> BoxFuture<'_, Result<v1::ExecSyncResponse, CriError>> {
        Box::pin(async move {
            self.call("ExecSync", &id, |world| match world.containers.get(&id) {
                Some(container) if container.status.state == v1::ContainerState::ContainerRunning as i32 => {
                    Ok(v1::ExecSyncResponse { stdout: command.join(" ").into_bytes(), ..Default::default() })
                }
                Some(_) => Err(error("ExecSync", CriErrorKind::Other, "container is not running")),
                None => Err(error("ExecSync", CriErrorKind::NotFound, "container: not found")),
            })
            .await
        })
    }

    fn container_stats(&self, id: String) -> BoxFuture<'_, Result<v1::ContainerStats, CriError>> {
        Box::pin(async move {
            self.call("ContainerStats", &id, |world| match world.containers.contains_key(&id) {
                true => Ok(v1::ContainerStats::default()),
                false => Err(error("ContainerStats", CriErrorKind::NotFound, "container: not found")),
            })
            .await
        })
    }

    fn list_container_stats(&self) -> BoxFuture<'_, Result<Vec<v1::ContainerStats>, CriError>> {
        Box::pin(self.call("ListContainerStats", "", |_| Ok(Vec::new())))
    }

    fn reopen_log(&self, id: String) -> BoxFuture<'_, Result<(), CriError>> {
        Box::pin(async move { self.call("ReopenContainerLog", &id, |_| Ok(())).await })
    }

    fn update_resources(
        &self,
        id: String,
        _resources: v1::LinuxContainerResources,
    ) -> BoxFuture<'_, Result<(), CriError>> {
        Box::pin(async move { self.call("UpdateContainerResources", &id, |_| Ok(())).await })
    }

    fn cgroup_driver(&self) -> BoxFuture<'_, Result<Option<v1::CgroupDriver>, CriError>> {
        Box::pin(self.call("RuntimeConfig", "", |_| Ok(Some(v1::CgroupDriver::Cgroupfs))))
    }

    fn events(&self) -> BoxFuture<'_, Result<BoxStream<'static, RuntimeEvent>, CriError>> {
        Box::pin(async move {
            let reader = self.events.subscribe();
            self.call("Events", "", |_| Ok(())).await?;
            let stream = stream::unfold(reader, |mut reader| async move {
                match reader.recv().await {
                    Ok(Some(event)) => Some((event, reader)),
                    Ok(None) | Err(_) => None,
                }
            });
            Ok(stream.boxed())
        })
    }
}
