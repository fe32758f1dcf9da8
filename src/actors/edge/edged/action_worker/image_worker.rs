//! Gets the images of a pod's containers.

use std::time::{Duration, Instant};

use k8s_cri::v1;
use k8s_openapi::api::core::v1::Container as ContainerSpec;

use super::super::action::Outcome;
use super::super::pull_auth::credentials;
use super::super::spec;
use super::Job;
use crate::kube::defaults;

impl Job {
    pub(super) async fn ensure_image(&self, container: &str) -> Outcome {
        let image = self.spec(container).and_then(|spec| spec.image.clone()).unwrap_or_default();
        let policy = self.spec(container).map(|spec| pull_policy(spec, &image)).unwrap_or_default();
        let failed = |reason: &str, message: String| Outcome::ImageFailed {
            container: container.to_owned(),
            image: image.clone(),
            reason: reason.to_owned(),
            message,
        };
        let ready = |image_ref: String| Outcome::ImageReady {
            container: container.to_owned(),
            image: image.clone(),
            image_ref,
        };
        if image.is_empty() {
            return failed("InvalidImageName", format!("container {container} names no image"));
        }
        if policy != "Always" {
            match self.site.runtime.image_status(image.clone()).await {
                Ok(Some(found)) => {
                    let text = format!("Container image \"{image}\" already present on machine");
                    self.note(false, "Pulled", text, container);
                    return ready(reference(found, &image));
                }
                Ok(None) if policy == "Never" => {
                    let text =
                        format!("Container image \"{image}\" is not present with pull policy of Never");
                    self.note(true, "ErrImageNeverPull", text.clone(), container);
                    return failed("ErrImageNeverPull", text);
                }
                Ok(None) => {}
                Err(err) => return failed("ImageInspectError", err.message),
            }
        }
        match self.pull(container, &image, policy).await {
            Ok(image_ref) => ready(image_ref),
            Err(message) => {
                let text = format!("Failed to pull image \"{image}\": {message}");
                self.note(true, "Failed", text.clone(), container);
                failed("ErrImagePull", message)
            }
        }
    }

    async fn pull(&self, container: &str, image: &str, policy: &str) -> Result<String, String> {
        let asked = Instant::now();
        let runtime = &self.site.runtime;
        self.note(false, "Pulling", format!("Pulling image \"{image}\""), container);
        let has_secrets = self.pod.spec.as_ref().is_some_and(|spec| spec.image_pull_secrets.is_some());
        let auths = match has_secrets {
            true => credentials(&self.pod, &self.fetched().await.sources, image),
            false => Vec::new(),
        };
        let config = spec::sandbox_config(&self.pod, &self.site.host, 0).map_err(|err| err.to_string())?;
        let turn = self.site.pulls.acquire().await.map_err(|err| err.to_string())?;
        let begun = Instant::now();
        if policy != "Always" {
            // Another pod may have brought it while this one waited.
            let there = runtime.image_status(image.to_owned()).await.ok().flatten();
            if let Some(found) = there {
                let text = format!("Container image \"{image}\" already present on machine");
                self.note(false, "Pulled", text, container);
                return Ok(reference(found, image));
            }
        }
        let mut last = String::new();
        let anonymous = auths.is_empty().then_some(None);
        for auth in auths.into_iter().map(Some).chain(anonymous) {
            match runtime.pull_image(image.to_owned(), auth, config.clone()).await {
                Ok(image_ref) => {
                    drop(turn);
                    let text = format!(
                        "Successfully pulled image \"{image}\" in {} ({} including waiting)",
                        go_millis(begun.elapsed()),
                        go_millis(asked.elapsed())
                    );
                    self.note(false, "Pulled", text, container);
                    return Ok(if image_ref.is_empty() { image.to_owned() } else { image_ref });
                }
                Err(err) => last = err.message,
            }
        }
        Err(last)
    }
}

fn pull_policy<'a>(container: &'a ContainerSpec, image: &str) -> &'a str {
    let policy = container.image_pull_policy.as_deref().filter(|policy| !policy.is_empty());
    policy.unwrap_or_else(|| defaults::pull_policy(image))
}

fn reference(image: v1::Image, name: &str) -> String {
    if image.id.is_empty() { name.to_owned() } else { image.id }
}

/// Go's duration text, to the millisecond: `850ms`, `1.25s`.
fn go_millis(took: Duration) -> String {
    match took.as_millis() {
        ms if ms < 1000 => format!("{ms}ms"),
        _ => format!("{:.3}s", took.as_secs_f64()),
    }
}
