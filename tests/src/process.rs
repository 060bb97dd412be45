//! One child process with its log file: started, made ready, stopped in each way there is, started again.
//!
//! Children die with their owner: `Drop` kills, and where the test program itself is killed the kernel does it
//! (`setpriv --pdeathsig`).

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{parts, wait};

/// Lines of the log that a failure shows.
const TAIL: usize = 15;

/// What to run, and where its output goes.
#[derive(Clone, Debug)]
pub struct Program {
    name: String,
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    log: PathBuf,
}

impl Program {
    /// `log_folder` gets `<name>.log`, appended to by each start.
    #[must_use]
    pub fn new(name: &str, path: PathBuf, log_folder: &Path) -> Self {
        let log = log_folder.join(format!("{name}.log"));
        Self {
            name: name.to_owned(),
            path,
            args: Vec::new(),
            env: Vec::new(),
            log,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }
}

/// A program that runs, ran, or will run again.
#[derive(Debug)]
pub struct Process {
    program: Program,
    child: Option<Child>,
}

impl Process {
    /// Starts it and does not wait for anything.
    pub fn start(program: Program) -> Result<Self> {
        let mut process = Self {
            program,
            child: None,
        };
        process.restart()?;
        Ok(process)
    }

    /// Starts it once more with the same arguments. It must not run.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(!self.running(), "{} still runs", self.program.name);
        let program = &self.program;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&program.log)
            .with_context(|| format!("open {}", program.log.display()))?;
        let mut command = Command::new(parts::installed("setpriv")?);
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&program.path)
            .args(&program.args)
            .envs(program.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("clone the log's handle")?)
            .stderr(log);
        let child = spawn_from_lasting_thread(command)
            .with_context(|| format!("start {}", program.path.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Sets a variable for the next start.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.program.env.push((name.into(), value.into()));
    }

    /// Waits until `probe` answers `Ok`; fails at once when the process ends before.
    pub async fn wait_ready(
        &mut self,
        within: Duration,
        mut probe: impl AsyncFnMut() -> Result<()>,
    ) -> Result<()> {
        let what = format!("{} to be ready", self.program.name);
        let outcome = wait::until(what, within, async || {
            if let Some(status) = self.exited()? {
                return Ok(Err(anyhow!("{} ended: {status}", self.program.name)));
            }
            probe().await.map(Ok)
        });
        outcome
            .await
            .flatten()
            .map_err(|cause| self.with_log(&cause))
    }

    /// Its number while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it runs (a stopped one does).
    pub fn running(&mut self) -> bool {
        matches!(self.exited(), Ok(None)) && self.child.is_some()
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = self.child.as_mut() else {
            return Ok(None);
        };
        let status = child
            .try_wait()
            .with_context(|| format!("look at {}", self.program.name))?;
        Ok(status)
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, then waits for its own end. An error when it takes longer than `within`; it is killed then.
    pub async fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let status = self.wait_exit(within).await;
        self.kill();
        status
    }

    /// Waits until it ends by itself.
    pub async fn wait_exit(&mut self, within: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.program.name);
        let ended = wait::until(what, within, async || {
            let status = self.exited()?;
            status.context("still runs")
        });
        ended.await.map_err(|cause| self.with_log(&cause))
    }

    /// SIGSTOP: it hangs and its sockets stay open. Returns once every thread has stopped: one of them takes the signal, and on
    /// a busy machine the others go on for a moment.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let pid = self.pid().context("it does not run")?;
        let begin = Instant::now();
        while !has_stopped(pid)? {
            ensure!(
                begin.elapsed() < Duration::from_secs(10),
                "{} does not stop",
                self.program.name
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends any signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())) else {
            bail!("{} does not run", self.program.name);
        };
        kill_process(pid, signal)
            .with_context(|| format!("send {signal:?} to {}", self.program.name))
    }

    /// All it wrote, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.program.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Where its log is.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.program.log
    }

    fn with_log(&self, cause: &anyhow::Error) -> anyhow::Error {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n  ");
        anyhow!(
            "{cause:#}\nend of {}:\n  {tail}",
            self.program.log.display()
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `--pdeathsig` fires when the *thread* that started the child ends, and a runtime's threads come and go. So one thread,
/// which lasts as long as this program, starts them all.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static STARTER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, child) = mpsc::channel();
    STARTER.send((command, reply)).map_err(io::Error::other)?;
    child.recv().map_err(io::Error::other)?
}
/// Whether all threads are in state T (`proc_pid_stat(5)`); the name before it stands in parentheses.
fn has_stopped(pid: u32) -> Result<bool> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).context("list the threads")?;
    for thread in threads {
        let stat = std::fs::read_to_string(thread?.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
        if state.is_some_and(|rest| !rest.starts_with('T')) {
            return Ok(false);
        }
    }
    Ok(true)
}
