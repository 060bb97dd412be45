//! A CRI server that does as it is told, for what a real runtime cannot be made to do: the error texts of other versions,
//! replies that never come, lists of 16 MiB, a pull that says OK and lists nothing, a socket that vanishes.
//!
//! What is not scripted succeeds at once, as a small pull by containerd would.

mod held;
mod serve;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use prost::Message;
use tokio::net::UnixListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tonic::Code;

use self::held::{Held, image};

/// What becomes of one `PullImage`.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Time before the answer.
    pub after: Duration,
    /// The answer.
    pub outcome: Outcome,
}

/// The answer to a `PullImage`.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// OK, and the image is listed.
    Pulled,
    /// OK, and the image is not listed.
    Unlisted,
    /// A gRPC error.
    Failed(Code, String),
    /// None, until `release`; then `Pulled`.
    Never,
}

impl Reply {
    /// Succeeds after `delay`.
    #[must_use]
    pub fn slow(delay: Duration) -> Self {
        Self {
            after: delay,
            outcome: Outcome::Pulled,
        }
    }

    /// Fails at once.
    #[must_use]
    pub fn failed(code: Code, message: &str) -> Self {
        Self {
            after: Duration::ZERO,
            outcome: Outcome::Failed(code, message.to_owned()),
        }
    }

    /// Does not answer.
    #[must_use]
    pub fn never() -> Self {
        Self {
            after: Duration::ZERO,
            outcome: Outcome::Never,
        }
    }

    /// Says OK and lists nothing.
    #[must_use]
    pub fn unlisted() -> Self {
        Self {
            after: Duration::ZERO,
            outcome: Outcome::Unlisted,
        }
    }
}

impl Default for Reply {
    fn default() -> Self {
        Self::slow(Duration::ZERO)
    }
}

/// What `PullImageResponse.image_ref` looks like.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ImageRef {
    /// containerd: the configuration's digest, `sha256:...`.
    #[default]
    ConfigDigest,
    /// CRI-O up to 1.34: `repository@sha256:...`.
    RepoDigest,
    /// CRI-O from 1.35: 64 hex digits.
    BareId,
}

/// One call that came in.
#[derive(Clone, Debug)]
pub struct Call {
    /// Since the server's first start.
    pub at: Duration,
    /// Such as `PullImage`.
    pub method: &'static str,
    /// The image it was about, empty where it was about none.
    pub reference: String,
    /// When it was answered; none while it runs or when the caller went away.
    pub answered: Option<Duration>,
}

/// The server. Dropped: its socket is dead.
pub struct ScriptedCri {
    socket: PathBuf,
    state: Arc<State>,
    server: Option<Runtime>,
}

/// What the calls share.
struct State {
    began: Instant,
    held: Mutex<Held>,
    released: watch::Sender<u64>,
}

impl ScriptedCri {
    /// Listens on `socket`, and calls itself containerd 2.1.9.
    pub fn start(socket: &Path) -> Result<Self> {
        let held = Held {
            name: ("containerd".to_owned(), "v2.1.9".to_owned()),
            ..Held::default()
        };
        let state = State {
            began: Instant::now(),
            held: Mutex::new(held),
            released: watch::Sender::new(0),
        };
        let mut cri = Self {
            socket: socket.to_owned(),
            state: Arc::new(state),
            server: None,
        };
        cri.come_back()?;
        Ok(cri)
    }

    /// `unix:///...`, as `--runtime-endpoint` wants it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The runtime's name and version, such as `cri-o` and `1.34.2`.
    pub fn call_it(&self, name: &str, version: &str) {
        self.held().name = (name.to_owned(), version.to_owned());
    }

    /// The form of `image_ref` from now on.
    pub fn image_ref(&self, form: ImageRef) {
        self.held().image_ref = form;
    }

    /// The replies to pulls of `reference`, one each; the last one stays.
    pub fn script(&self, reference: &str, replies: impl IntoIterator<Item = Reply>) {
        self.held()
            .scripts
            .insert(reference.to_owned(), replies.into_iter().collect());
    }

    /// The manifest digest that a pull of `reference` yields from now on: a moved tag.
    pub fn digest(&self, reference: &str, digest: &str) {
        self.held()
            .digests
            .insert(reference.to_owned(), digest.to_owned());
    }

    /// `ListImages` fails until it is given None.
    pub fn fail_lists(&self, failure: Option<(Code, String)>) {
        self.held().list_failure = failure;
    }

    /// Lets all pulls that never answer succeed.
    pub fn release(&self) {
        self.state.released.send_modify(|count| *count += 1);
    }

    /// Lists an image that nobody pulled, under a tag or digest reference.
    pub fn add(&self, reference: &str) {
        self.held().list(reference);
    }

    /// Removes an image behind everybody's back, as the kubelet's garbage collection does.
    pub fn remove(&self, reference: &str) {
        self.held().unlist(reference);
    }

    /// Lists images of no interest until `ListImages` answers about `bytes`.
    pub fn pad_list(&self, bytes: usize) {
        let mut held = self.held();
        let mut size = 0;
        for number in 0.. {
            let image = image(
                &format!("padding.example/of/a/long/list/{number:08}:v1"),
                &format!("{number:064x}"),
            );
            size += image.encoded_len();
            if size > bytes {
                break;
            }
            held.images.push(image);
        }
    }

    /// The calls so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.held().calls.clone()
    }

    /// The pulls of `reference` so far.
    #[must_use]
    pub fn pulls(&self, reference: &str) -> usize {
        self.calls()
            .iter()
            .filter(|call| call.method == "PullImage" && call.reference == reference)
            .count()
    }

    /// The socket dies with all its calls, as a runtime does under `kill -9`. The file stays, as it does then.
    pub fn vanish(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }

    /// Listens again, with the images it had.
    pub fn come_back(&mut self) -> Result<()> {
        ensure!(self.server.is_none(), "the scripted CRI server runs");
        if self.socket.exists() {
            std::fs::remove_file(&self.socket).context("remove the dead socket")?;
        }
        // Its own runtime is the only way to end a tonic server with the connections that it has spawned.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("build a runtime")?;
        let listener = {
            let _entered = runtime.enter();
            UnixListener::bind(&self.socket)
                .with_context(|| format!("listen on {}", self.socket.display()))?
        };
        runtime.spawn(serve::serve(listener, Arc::clone(&self.state)));
        self.server = Some(runtime);
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.state.held()
    }
}

impl Drop for ScriptedCri {
    fn drop(&mut self) {
        self.vanish();
    }
}

impl State {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
