//! What is known about an image beyond its name, read from containerd's image and content stores
//! without any network: manifest digests and attached signatures.

use std::collections::BTreeSet;
use std::future::Future;

use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::{GetImageRequest, InfoRequest, ReadContentRequest};
use k8s_cri::v1;
use tonic::Code;
use tonic::transport::Channel;

use super::client::error;
use super::containerd::in_namespace;
use super::oci::{Document, Manifest, digest_hex, is_digest};
use super::runtime::{CriError, CriErrorKind, ImageEvidence, ImageSignature};
use crate::identity::sha256_hex;

/// Largest manifest or index, bytes (registries allow 4 MiB, real ones are some KiB).
const MAX_DOCUMENT: u64 = 4 << 20;
/// Largest signed payload, bytes; cosign's are some hundred.
const MAX_PAYLOAD: u64 = 64 << 10;
/// Names of one image that are followed, and signatures that are read for it.
const MAX_NAMES: usize = 32;
const MAX_SIGNATURES: usize = 32;

/// Layers of this type are cosign's signed payloads, and this annotation is the signature over one
/// (sigstore/cosign, specs/SIGNATURE_SPEC.md).
const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// Looks at an image that the CRI has found.
///
/// # Errors
/// [`CriError`] when the runtime does not answer. Content that is missing or malformed is no error:
/// it proves nothing.
pub(super) async fn look(
    channel: Channel,
    found: v1::Image,
    signed_as: Option<String>,
) -> Result<ImageEvidence, CriError> {
    let mut stores = Stores::new(channel);
    let id = found.id;
    let names: Vec<String> = found.repo_tags.into_iter().chain(found.repo_digests).collect();
    let Some(digests) = stores.digests(&id, &names).await? else {
        // Not containerd: what the CRI itself says, and no signatures.
        let named = names.iter().filter_map(|name| Some(name.split_once('@')?.1.to_owned()));
        let digests = named.filter(|digest| is_digest(digest)).collect();
        return Ok(ImageEvidence { id, names, digests, signatures: Vec::new() });
    };
    let signatures = match &signed_as {
        Some(repository) => stores.signatures(repository, &digests).await?,
        None => Vec::new(),
    };
    Ok(ImageEvidence { id, names, digests, signatures })
}

/// Reads one runtime's stores.
struct Stores {
    images: ImagesClient<Channel>,
    content: ContentClient<Channel>,
}

impl Stores {
    fn new(channel: Channel) -> Self {
        Self { images: ImagesClient::new(channel.clone()), content: ContentClient::new(channel) }
    }

    /// The digests of the manifests, and of the indexes over them, by which any of `names` means
    /// the image `id`. A name that means something else by now says nothing.
    ///
    /// `None`: this runtime has no such stores.
    async fn digests(&mut self, id: &str, names: &[String]) -> Result<Option<Vec<String>>, CriError> {
        let mut targets = BTreeSet::new();
        for name in std::iter::once(id).chain(names.iter().map(String::as_str)).take(MAX_NAMES) {
            match self.target(name).await? {
                Target::Is(digest) => drop(targets.insert(digest)),
                Target::Absent => {}
                Target::NoStore => return Ok(None),
            }
        }
        let mut found = BTreeSet::new();
        for target in targets {
            match self.document(&target).await? {
                Some(Document::Manifest(manifest)) if manifest.config == id => {
                    found.insert(target);
                }
                Some(Document::Index(entries)) => {
                    for entry in entries {
                        if self.manifest(&entry).await?.is_some_and(|manifest| manifest.config == id) {
                            found.insert(target.clone());
                            found.insert(entry);
                        }
                    }
                }
                Some(Document::Manifest(_)) | None => {}
            }
        }
        Ok(Some(found.into_iter().collect()))
    }

    /// What is attached to these digests in the way of cosign: an image
    /// `{repository}:sha256-{hex}.sig`, each of whose layers is a payload with its signature. Nothing
    /// is verified here.
    async fn signatures(
        &mut self,
        repository: &str,
        digests: &[String],
    ) -> Result<Vec<ImageSignature>, CriError> {
        let mut found = Vec::new();
        for hex in digests.iter().filter_map(|digest| digest_hex(digest)) {
            let Target::Is(target) = self.target(&format!("{repository}:sha256-{hex}.sig")).await? else {
                continue;
            };
            let mut manifests = Vec::new();
            match self.document(&target).await? {
                Some(Document::Manifest(manifest)) => manifests.push(manifest),
                Some(Document::Index(entries)) => {
                    for entry in entries {
                        manifests.extend(self.manifest(&entry).await?);
                    }
                }
                None => {}
            }
            for layer in manifests.into_iter().flat_map(|manifest| manifest.layers) {
                let signature = layer.annotations.get(SIGNATURE_ANNOTATION);
                let Some(signature) = signature.filter(|_| layer.media_type == PAYLOAD_TYPE) else {
                    continue;
                };
                if let Some(payload) = self.blob(&layer.digest, MAX_PAYLOAD).await? {
                    found.push(ImageSignature { payload, signature: signature.clone() });
                }
                if found.len() >= MAX_SIGNATURES {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    /// What an image's name points to.
    async fn target(&mut self, name: &str) -> Result<Target, CriError> {
        let request = in_namespace(GetImageRequest { name: name.to_owned() });
        match self.images.get(request).await {
            Ok(answer) => {
                let target = answer.into_inner().image.and_then(|image| image.target);
                Ok(target.map_or(Target::Absent, |target| Target::Is(target.digest)))
            }
            Err(status) if status.code() == Code::NotFound => Ok(Target::Absent),
            Err(status) if status.code() == Code::Unimplemented => Ok(Target::NoStore),
            Err(status) => Err(error("GetImage", &status)),
        }
    }

    async fn manifest(&mut self, digest: &str) -> Result<Option<Manifest>, CriError> {
        Ok(match self.document(digest).await? {
            Some(Document::Manifest(manifest)) => Some(manifest),
            Some(Document::Index(_)) | None => None,
        })
    }

    /// A manifest or index; `None` when it is not here or is something else.
    async fn document(&mut self, digest: &str) -> Result<Option<Document>, CriError> {
        let Some(bytes) = self.blob(digest, MAX_DOCUMENT).await? else { return Ok(None) };
        match Document::parse(&bytes) {
            Ok(document) => Ok(Some(document)),
            Err(why) => {
                tracing::debug!(digest, why, "content is no manifest");
                Ok(None)
            }
        }
    }

    /// Content by its digest, at most `most` bytes and checked against the digest; `None` when it is
    /// not here, larger, or not what its digest says.
    async fn blob(&mut self, digest: &str, most: u64) -> Result<Option<Vec<u8>>, CriError> {
        let Some(hex) = digest_hex(digest) else { return Ok(None) };
        let request = in_namespace(InfoRequest { digest: digest.to_owned() });
        let Some(info) = present("ContentInfo", self.content.info(request)).await? else { return Ok(None) };
        let size = info.info.and_then(|info| u64::try_from(info.size).ok()).unwrap_or(u64::MAX);
        if size > most {
            tracing::warn!(digest, size, most, "content is too large to be looked at");
            return Ok(None);
        }
        let request = in_namespace(ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 });
        let Some(mut parts) = present("ContentRead", self.content.read(request)).await? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        while let Some(part) = parts.message().await.map_err(|status| error("ContentRead", &status))? {
            bytes.extend_from_slice(&part.data);
            if bytes.len() as u64 > most {
                return Ok(None);
            }
        }
        if sha256_hex(&bytes) != hex {
            tracing::warn!(digest, "content is not what its digest says");
            return Ok(None);
        }
        Ok(Some(bytes))
    }
}

enum Target {
    Is(String),
    Absent,
    NoStore,
}

/// An answer, or `None` when the thing is not there.
async fn present<T>(
    call: &'static str,
    work: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<Option<T>, CriError> {
    match work.await.map_err(|status| error(call, &status)) {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(err) if err.kind == CriErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}
