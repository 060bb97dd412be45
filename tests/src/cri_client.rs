//! Calls a runtime's CRI socket as a bystander would: a kubelet that pulls for a pod, an administrator who removes an image.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::{
    Image, ImageSpec, ImageStatusRequest, ListImagesRequest, PullImageRequest, RemoveImageRequest,
};
use tonic::transport::{Channel, Endpoint};

/// The kubelet's limit for lists.
const MESSAGE_LIMIT: usize = 16 * 1_024 * 1_024;

/// A client of one socket. It connects anew for each call, so a restarted runtime needs no care.
#[derive(Clone, Debug)]
pub struct CriClient {
    socket: PathBuf,
}

impl CriClient {
    /// A client of the runtime that listens on `socket`.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// All images.
    pub async fn images(&self) -> Result<Vec<Image>> {
        let answer = self
            .connect()
            .await?
            .list_images(ListImagesRequest { filter: None })
            .await?;
        Ok(answer.into_inner().images)
    }

    /// One image by tag, digest reference or id.
    pub async fn image(&self, reference: &str) -> Result<Option<Image>> {
        let request = ImageStatusRequest {
            image: Some(spec(reference)),
            verbose: false,
        };
        Ok(self
            .connect()
            .await?
            .image_status(request)
            .await?
            .into_inner()
            .image)
    }

    /// The digests under which the runtime holds `reference`: what is after the `@` in its `repo_digests`.
    pub async fn digests(&self, reference: &str) -> Result<Vec<String>> {
        let image = self.image(reference).await?.unwrap_or_default();
        let digests = image
            .repo_digests
            .iter()
            .filter_map(|digest| digest.rsplit_once('@'));
        Ok(digests.map(|(_, digest)| digest.to_owned()).collect())
    }

    /// Pulls as a kubelet would.
    pub async fn pull(&self, reference: &str) -> Result<String, tonic::Status> {
        let request = PullImageRequest {
            image: Some(spec(reference)),
            auth: None,
            sandbox_config: None,
        };
        let mut client = self
            .connect()
            .await
            .map_err(|cause| tonic::Status::unavailable(format!("{cause:#}")))?;
        Ok(client.pull_image(request).await?.into_inner().image_ref)
    }

    /// Removes the whole image that `reference` names, with all its tags (containerd's way).
    pub async fn remove(&self, reference: &str) -> Result<()> {
        self.connect()
            .await?
            .remove_image(RemoveImageRequest {
                image: Some(spec(reference)),
            })
            .await?;
        Ok(())
    }

    async fn connect(&self) -> Result<ImageServiceClient<Channel>> {
        let endpoint = Endpoint::try_from(format!("unix://{}", self.socket.display()))?
            .connect_timeout(Duration::from_secs(5));
        let channel = endpoint
            .connect()
            .await
            .with_context(|| format!("connect to {}", self.socket.display()))?;
        Ok(ImageServiceClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT))
    }
}

fn spec(reference: &str) -> ImageSpec {
    ImageSpec {
        image: reference.to_owned(),
        ..ImageSpec::default()
    }
}
