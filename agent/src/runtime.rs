//! The node's container runtime, through CRI v1 on its unix socket: which version it is, which images it lists, how full their
//! disk is, and pulls.
//!
//! It calls and translates; it decides nothing. It uses `Version`, `ListImages`, `ImageFsInfo` and `PullImage` only: it never
//! removes an image and never touches a container.

mod disk;
mod listing;
mod platform;
mod socket;
mod watch;
mod work;

use std::path::PathBuf;
use std::time::Duration;

use drop_oci::Credential;
use drop_proto::FailureClass;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{AuthConfig, ImageSpec, ListImagesRequest, PullImageRequest, VersionRequest};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::classify::classify;
use crate::logins::{Attempts, Next, auth_config};
use crate::node::{Failure, Listing};
use drop_oci::redact::{redact, shorten};

pub use platform::platform;
pub use socket::{BadSocket, Socket};
pub use work::{Died, Work};

/// What the runtime's own clients (the kubelet) allow for a list. About 80,000 images.
const MAX_LIST_BYTES: usize = 16 * 1024 * 1024;
/// A list of a busy node takes well below a second.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
/// `Version` reads no disk.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to the runtime that is made when it is needed, and made again when it broke. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    socket: Socket,
    images: ImageServiceClient<Channel>,
    service: RuntimeServiceClient<Channel>,
    /// `None`: where the runtime says that it is.
    image_filesystem: Option<PathBuf>,
}

/// Why the runtime did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way through the socket.
    #[error("{0}")]
    Unreachable(String),
    /// It listens, but does not answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// It answers, but not as a CRI v1 runtime.
    #[error(
        "the runtime does not serve CRI v1 (if this is containerd: is its cri plugin disabled?)"
    )]
    NotCri,
    /// It answered with an error.
    #[error("{0}")]
    Refused(String),
}

impl Runtime {
    /// Does not connect yet, so a socket that is not there yet is no error. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(socket: Socket) -> Self {
        let channel = Endpoint::from(&socket).connect_lazy();
        Self {
            socket,
            images: ImageServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_LIST_BYTES),
            service: RuntimeServiceClient::new(channel),
            image_filesystem: None,
        }
    }

    /// Looks at this directory to learn how full the disk is, not at the one that the runtime names: that one may not be seen
    /// from inside a container.
    #[must_use]
    pub fn with_image_filesystem(mut self, path: PathBuf) -> Self {
        self.image_filesystem = Some(path);
        self
    }

    /// Name and version ("containerd 1.7.27").
    pub async fn version(&self) -> Result<String, Error> {
        let request = VersionRequest::default();
        let mut client = self.service.clone();
        let answer = within(VERSION_TIMEOUT, client.version(request))
            .await
            .map_err(|error| self.explain(error))?;
        Ok(shorten(
            &format!("{} {}", answer.runtime_name, answer.runtime_version),
            100,
        ))
    }

    /// What the runtime holds, by canonical reference.
    pub async fn list(&self) -> Result<Listing, Error> {
        let request = ListImagesRequest::default();
        let mut client = self.images.clone();
        let answer = within(LIST_TIMEOUT, client.list_images(request))
            .await
            .map_err(|error| self.explain(error))?;
        Ok(listing::listing(&answer.images))
    }

    /// Pulls an image with these logins in turn, as [`Attempts`] decides. No time limit here: a
    /// pull takes as long as it takes, and whoever wants it to end drops the future (which throws away what was downloaded).
    pub async fn pull(&self, reference: &str, logins: Vec<Credential>) -> Result<(), Failure> {
        let (mut attempts, mut login) = Attempts::begin(logins);
        loop {
            let result = self.pull_as(reference, auth_config(login)).await;
            match attempts.ended(result) {
                Next::Try(next) => login = next,
                Next::Over(result) => return result,
            }
        }
    }

    async fn pull_as(&self, reference: &str, auth: Option<AuthConfig>) -> Result<(), Failure> {
        // No sandbox_config: containerd needs none, and on CRI-O a namespace would use up the pod's own credentials.
        let request = PullImageRequest {
            image: Some(ImageSpec {
                image: reference.to_owned(),
                ..ImageSpec::default()
            }),
            auth,
            sandbox_config: None,
        };
        match self.images.clone().pull_image(request).await {
            Ok(_) => Ok(()),
            Err(status) if socket::is_broken(&status) => Err(Failure {
                class: FailureClass::Runtime,
                message: self.socket.explain(&status),
            }),
            Err(status) => Err(classify(status.code(), status.message(), reference)),
        }
    }

    fn explain(&self, error: CallError) -> Error {
        match error {
            CallError::Timeout(limit) => Error::Timeout(limit),
            CallError::Status(status) if status.code() == Code::Unimplemented => Error::NotCri,
            CallError::Status(status) if socket::is_broken(&status) => {
                Error::Unreachable(self.socket.explain(&status))
            }
            CallError::Status(status) => Error::Refused(shorten(&redact(status.message()), 200)),
        }
    }
}

enum CallError {
    Timeout(Duration),
    Status(Status),
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(CallError::Status(status)),
        Err(_) => Err(CallError::Timeout(limit)),
    }
}
