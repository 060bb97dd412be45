//! The gRPC side of the scripted CRI server: all of `ImageService`, and `Version` of `RuntimeService`.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use k8s_cri::v1::image_service_server::{ImageService, ImageServiceServer};
use k8s_cri::v1::{
    FilesystemIdentifier, FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec,
    ImageStatusRequest, ImageStatusResponse, ListImagesRequest, ListImagesResponse,
    PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse, UInt64Value,
    VersionRequest, VersionResponse,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::held::{image, names};
use super::{Call, ImageRef, Outcome, State};

/// Above every client's limit, so that it is the client that decides.
const MESSAGE_LIMIT: usize = 64 * 1_024 * 1_024;

pub(super) async fn serve(listener: UnixListener, state: Arc<State>) {
    let images = ImageServiceServer::new(Images(Arc::clone(&state)))
        .max_encoding_message_size(MESSAGE_LIMIT);
    let server = Server::builder()
        .add_service(images)
        .add_service(Runtime(state));
    // Ends with its runtime; there is nobody to tell.
    let _ = server
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await;
}

struct Images(Arc<State>);

#[tonic::async_trait]
impl ImageService for Images {
    async fn list_images(
        &self,
        _: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let call = self.0.open("ListImages", "");
        let (images, failure) = {
            let held = self.0.held();
            (held.images.clone(), held.list_failure.clone())
        };
        self.0.close(call);
        match failure {
            Some((code, message)) => Err(Status::new(code, message)),
            None => Ok(Response::new(ListImagesResponse { images })),
        }
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let reference = reference(request.into_inner().image);
        let call = self.0.open("ImageStatus", &reference);
        let image = self
            .0
            .held()
            .images
            .iter()
            .find(|image| names(image, &reference))
            .cloned();
        self.0.close(call);
        Ok(Response::new(ImageStatusResponse {
            image,
            ..ImageStatusResponse::default()
        }))
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        let reference = reference(request.into_inner().image);
        let call = self.0.open("PullImage", &reference);
        let reply = self.0.held().next_reply(&reference);
        let mut released = self.0.released.subscribe();
        tokio::time::sleep(reply.after).await;
        if matches!(reply.outcome, Outcome::Never) {
            let _ = released.changed().await;
        }
        self.0.close(call);
        let image = match reply.outcome {
            Outcome::Failed(code, message) => return Err(Status::new(code, message)),
            Outcome::Unlisted => image(&reference, &"0".repeat(64)),
            Outcome::Pulled | Outcome::Never => self.0.held().list(&reference),
        };
        let image_ref = match self.0.held().image_ref {
            ImageRef::ConfigDigest => image.id,
            ImageRef::RepoDigest => image.repo_digests.first().cloned().unwrap_or_default(),
            ImageRef::BareId => image.id.trim_start_matches("sha256:").to_owned(),
        };
        Ok(Response::new(PullImageResponse { image_ref }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let reference = reference(request.into_inner().image);
        let call = self.0.open("RemoveImage", &reference);
        self.0.held().unlist(&reference);
        self.0.close(call);
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        let call = self.0.open("ImageFsInfo", "");
        let count = self.0.held().images.len() as u64;
        self.0.close(call);
        let usage = FilesystemUsage {
            fs_id: Some(FilesystemIdentifier {
                mountpoint: "/".to_owned(),
            }),
            used_bytes: Some(UInt64Value {
                value: count * 1_000_000,
            }),
            ..FilesystemUsage::default()
        };
        Ok(Response::new(ImageFsInfoResponse {
            image_filesystems: vec![usage],
            ..ImageFsInfoResponse::default()
        }))
    }
}

impl State {
    fn open(&self, method: &'static str, reference: &str) -> usize {
        let call = Call {
            at: self.began.elapsed(),
            method,
            reference: reference.to_owned(),
            answered: None,
        };
        let mut held = self.held();
        held.calls.push(call);
        held.calls.len() - 1
    }

    fn close(&self, call: usize) {
        let now = self.began.elapsed();
        if let Some(call) = self.held().calls.get_mut(call) {
            call.answered = Some(now);
        }
    }
}

/// `RuntimeService` with `Version` alone: the generated trait would want thirty more methods that no agent calls.
#[derive(Clone)]
struct Runtime(Arc<State>);

impl NamedService for Runtime {
    const NAME: &'static str = "runtime.v1.RuntimeService";
}

impl Service<http::Request<Body>> for Runtime {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let version = Version(Arc::clone(&self.0));
        Box::pin(async move {
            if request.uri().path() != "/runtime.v1.RuntimeService/Version" {
                return Ok(
                    Status::unimplemented("the scripted CRI server has no such method").into_http(),
                );
            }
            Ok(Grpc::new(ProstCodec::default())
                .unary(version, request)
                .await)
        })
    }
}

struct Version(Arc<State>);

impl UnaryService<VersionRequest> for Version {
    type Response = VersionResponse;
    type Future = BoxFuture<'static, Result<Response<VersionResponse>, Status>>;

    fn call(&mut self, _: Request<VersionRequest>) -> Self::Future {
        let call = self.0.open("Version", "");
        let (runtime_name, runtime_version) = self.0.held().name.clone();
        self.0.close(call);
        let api = "v1".to_owned();
        let version = VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name,
            runtime_version,
            runtime_api_version: api,
        };
        Box::pin(async { Ok(Response::new(version)) })
    }
}

fn reference(image: Option<ImageSpec>) -> String {
    image.map(|image| image.image).unwrap_or_default()
}
