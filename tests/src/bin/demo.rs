//! What `hack/demo` runs once everything is built. The story is in `drop_tests::demo`; here are its start and its end.

use std::process::ExitCode;

use anyhow::{Result, bail};
use drop_tests::demo::screen::{Paint, Screen};
use drop_tests::demo::{Stage, play, set_up};
use drop_tests::parts;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What happens when all is proved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum AtEnd {
    Stop,
    Keep,
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut screen = Screen::new();
    let outcome = match arguments() {
        Ok(at_end) => run(&mut screen, at_end).await,
        Err(refusal) => Err(refusal),
    };
    if let Err(cause) = outcome {
        screen.say(Paint::Red, &format!("demo: failed: {cause:#}"));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn arguments() -> Result<AtEnd> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    match given.as_slice() {
        [] => Ok(AtEnd::Stop),
        ["--keep"] => Ok(AtEnd::Keep),
        _ => bail!("run it by hack/demo [--keep]"),
    }
}

async fn run(screen: &mut Screen, at_end: AtEnd) -> Result<()> {
    parts::require_root()?;
    let mut stop = Stop::new()?;
    // What a signal interrupts is dropped, and with it each process and mount that it had started.
    let mut stage = tokio::select! {
        stage = set_up(screen) => stage?,
        () = stop.asked() => bail!("interrupted"),
    };
    let outcome = tokio::select! {
        outcome = Box::pin(play(&mut stage, screen)) => outcome,
        () = stop.asked() => bail!("interrupted"),
    };
    match outcome {
        Ok(summary) => end(&stage, screen, &mut stop, at_end, &summary).await,
        Err(cause) => {
            stage.show_logs(screen);
            return Err(cause);
        }
    }
    Ok(())
}

async fn end(stage: &Stage, screen: &mut Screen, stop: &mut Stop, at_end: AtEnd, summary: &str) {
    if at_end == AtEnd::Stop {
        screen.say(Paint::Green, summary);
        return;
    }
    stage.show_doors(screen);
    screen.say(Paint::Green, summary);
    stop.asked().await;
}

/// Ctrl-C, SIGTERM, a closed terminal.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stop {
    fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
