//! Runs a program that hands out credentials: one request in, one answer out, within a time and a size.
//!
//! What the program writes is secret until proven otherwise, so no error quotes it, not even what it writes to stderr.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// What a program may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time from its start to its end.
    pub timeout: Duration,
    /// Longest answer.
    pub max_bytes: u64,
}

/// A minute, as the kubelet gives, and a megabyte.
impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            max_bytes: 1 << 20,
        }
    }
}

/// Why a program gave no credentials. Quotes nothing that it wrote.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It is not there, or not executable.
    #[error("cannot run {}: is it installed and executable?", program.display())]
    Start {
        /// As it was called.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Talking to it failed.
    #[error("lost {} while it ran", program.display())]
    Lost {
        /// As it was called.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It ran for too long and was killed.
    #[error("{} gave no answer within {timeout:?}", program.display())]
    Timeout {
        /// As it was called.
        program: PathBuf,
        /// The time that it had.
        timeout: Duration,
    },
    /// It wrote too much and was killed.
    #[error("{} answered with more than {max_bytes} bytes", program.display())]
    TooLong {
        /// As it was called.
        program: PathBuf,
        /// What it may write.
        max_bytes: u64,
    },
    /// It failed.
    #[error("{} failed with {status}: run it by hand to see why", program.display())]
    Failed {
        /// As it was called.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
    /// Its answer is not what the protocol asks for.
    #[error("{} gave an answer that cannot be used: {problem}", program.display())]
    Answer {
        /// As it was called.
        program: PathBuf,
        /// What is wrong, without the answer.
        problem: &'static str,
    },
}

impl ProgramError {
    /// One stable word for metrics and conditions.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Start { .. } => "not_started",
            Self::Timeout { .. } => "timeout",
            Self::Lost { .. } | Self::Failed { .. } => "failed",
            Self::TooLong { .. } | Self::Answer { .. } => "bad_answer",
        }
    }
}

/// What to run. No `Debug`: the environment may hold secrets.
pub(super) struct Call<'a> {
    pub(super) program: &'a Path,
    pub(super) args: &'a [String],
    /// Added to this process's own environment.
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) input: &'a [u8],
}

/// What it answered. No `Debug`: it holds secrets.
pub(super) struct Answer {
    pub(super) stdout: Vec<u8>,
    pub(super) status: ExitStatus,
}

/// Runs it to its end.
pub(super) async fn run(call: Call<'_>, limits: Limits) -> Result<Answer, ProgramError> {
    let program = || call.program.to_owned();
    let mut child = Command::new(call.program)
        .args(call.args)
        .envs(call.env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| ProgramError::Start {
            program: program(),
            source,
        })?;
    let group = child.id();
    let talk = talk(&mut child, call.input, limits.max_bytes);
    let result = match tokio::time::timeout(limits.timeout, talk).await {
        Err(_) => Err(ProgramError::Timeout {
            program: program(),
            timeout: limits.timeout,
        }),
        Ok(Err(source)) => Err(ProgramError::Lost {
            program: program(),
            source,
        }),
        Ok(Ok(None)) => Err(ProgramError::TooLong {
            program: program(),
            max_bytes: limits.max_bytes,
        }),
        Ok(Ok(Some(answer))) => Ok(answer),
    };
    if result.is_err() {
        end_group(group);
    }
    result
}

/// `None` if it writes more than it may.
async fn talk(child: &mut Child, input: &[u8], max_bytes: u64) -> io::Result<Option<Answer>> {
    let stdin = child.stdin.take();
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program may answer without having read the request.
            let _ = stdin.write_all(input).await;
        }
    };
    let stdout = child.stdout.take();
    let read = async {
        let mut bytes = Vec::new();
        if let Some(stdout) = stdout {
            stdout
                .take(max_bytes.saturating_add(1))
                .read_to_end(&mut bytes)
                .await?;
        }
        io::Result::Ok(bytes)
    };
    let ((), stdout) = tokio::join!(write, read);
    let stdout = stdout?;
    if stdout.len() as u64 > max_bytes {
        return Ok(None);
    }
    let status = child.wait().await?;
    Ok(Some(Answer { stdout, status }))
}

/// Kills what it may have started as well.
fn end_group(leader: Option<u32>) {
    let pid = leader.and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        // Fails only if it is gone already.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}
