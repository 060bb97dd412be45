//! `drop-agent bake`: puts the images of CachedImage documents on this machine, without a cluster.
//!
//! The machine that decides is the daemon's own; [`grantor`] takes the coordinator's place. This module reads the input, turns
//! the crank until nothing is left to do or the time is over, and says what came of it.

mod document;
mod grantor;
mod input;
mod problem;
mod progress;
mod report;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use crate::logins::Providers;
use crate::node::{Config, DiskLimits, Input, Node, Output};
use crate::runtime::{Died, Runtime, Work};
use grantor::{Grantor, Wanted, exchange};
use progress::{Progress, Row, Style};
use report::Unfinished;

/// How long the runtime may be silent before that is worth a line.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the lines on a terminal are redrawn.
const FRAME: Duration = Duration::from_millis(100);
/// The list that follows each pull is what counts; this one is for images that others remove meanwhile.
const LIST_INTERVAL: Duration = Duration::from_secs(30);

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Files, directories, "-".
    pub paths: Vec<PathBuf>,
    /// Of this machine.
    pub runtime: Runtime,
    /// Programs on this machine that hand out logins.
    pub providers: Providers,
    /// Pulls at the same time.
    pub max_parallel_pulls: u32,
    /// How full pulls may make the disk.
    pub disk: DiskLimits,
    /// What is not done by then has failed.
    pub wait_timeout: Duration,
    /// How the result is written.
    pub format: Format,
    /// Whether a terminal may be given colours and moving lines.
    pub terminal: Terminal,
}

/// How the result is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One document at the end, on standard output.
    Json,
}

/// What a terminal can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// Colours and moving lines.
    Colour,
    /// Moving lines.
    Monochrome,
    /// Neither (TERM=dumb).
    Dumb,
}

/// How it ended; the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every image is present: 0.
    Complete,
    /// Some are not: 1.
    Incomplete,
    /// The input is wrong, and nothing was pulled: 2.
    BadInput,
}

/// Why it could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody reads what is said.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
    /// A defect.
    #[error(transparent)]
    Died(#[from] Died),
}

/// Reads the documents, pulls what is missing, and reports.
pub async fn bake(options: &Options) -> Result<Outcome, Error> {
    let mut problems = Vec::new();
    let sources = input::read(&options.paths, &mut problems);
    let input = document::parse(&sources);
    problems.extend(input.problems);
    let mut stderr = io::stderr();
    if problems.is_empty() && input.wanted.is_empty() {
        writeln!(stderr, "error: there is no CachedImage in the input")?;
        return Ok(Outcome::BadInput);
    }
    if !problems.is_empty() {
        for problem in &problems {
            writeln!(stderr, "{problem}")?;
        }
        return Ok(Outcome::BadInput);
    }
    for note in &input.notes {
        writeln!(stderr, "note: {note}")?;
    }
    match options.format {
        Format::Text => {
            let style = style(options.terminal, io::stdout().is_terminal());
            warm(options, &input.wanted, Progress::new(io::stdout(), style)).await
        }
        // Standard output belongs to the document.
        Format::Json => {
            let style = style(options.terminal, stderr.is_terminal());
            warm(options, &input.wanted, Progress::new(stderr, style)).await
        }
    }
}

async fn warm<W: Write>(
    options: &Options,
    wanted: &[Wanted],
    mut progress: Progress<W>,
) -> Result<Outcome, Error> {
    let begin = Instant::now();
    let limit = options.wait_timeout;
    let mut node = Node::new(config(options));
    let mut grantor = Grantor::new(wanted, options.max_parallel_pulls);
    let mut work = Work::new(options.runtime.clone(), options.providers.clone());

    let desired = grantor.desired();
    for input in [Input::Connected, Input::Message(desired)] {
        let outputs = exchange(&mut node, &mut grantor, begin.elapsed(), input);
        carry_out(&mut work, outputs);
    }
    loop {
        let now = begin.elapsed();
        // Most runtimes answer before anybody could read that they have not.
        let problem = grantor.runtime_problem().filter(|_| now >= PATIENCE);
        progress.show(now, &rows(wanted, &grantor, now), problem)?;
        if now >= limit || grantor.is_finished(now) {
            break;
        }
        let times = [
            node.wake_at(),
            grantor.wake_at(now),
            Some(limit),
            Some(now + FRAME),
        ];
        let wake = begin + times.into_iter().flatten().min().unwrap_or(limit);
        // Both may be dropped unfinished.
        let input = tokio::select! {
            input = work.next() => input?,
            () = tokio::time::sleep_until(wake) => Input::Tick,
        };
        let outputs = exchange(&mut node, &mut grantor, begin.elapsed(), input);
        carry_out(&mut work, outputs);
    }

    let now = begin.elapsed();
    let rows = rows(wanted, &grantor, now);
    let why = Unfinished {
        limit,
        runtime_problem: grantor.runtime_problem(),
    };
    let mut stdout = io::stdout();
    match options.format {
        Format::Text => report::table(&mut stdout, now, &rows, &why)?,
        Format::Json => report::json(&mut stdout, &rows, &why)?,
    }
    stdout.flush()?;
    let is_complete = rows
        .iter()
        .all(|row| matches!(row.state, grantor::State::Present { .. }));
    Ok(if is_complete {
        Outcome::Complete
    } else {
        Outcome::Incomplete
    })
}

fn carry_out(work: &mut Work, outputs: Vec<Output>) {
    for output in outputs {
        work.carry_out(output);
    }
}

fn rows(wanted: &[Wanted], grantor: &Grantor, now: Duration) -> Vec<Row> {
    let row = |wanted: &Wanted| Row {
        name: wanted.name.clone(),
        reference: wanted.reference.clone(),
        state: grantor.state(&wanted.reference, now),
        elapsed: grantor.pulled_for(&wanted.reference),
    };
    wanted.iter().map(row).collect()
}

fn config(options: &Options) -> Config {
    Config {
        node: "local".to_owned(),
        instance: "bake".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        max_parallel_pulls: options.max_parallel_pulls,
        list_interval: LIST_INTERVAL,
        pull_deadline: options.wait_timeout,
        shutdown_grace: Duration::ZERO,
        disk: options.disk,
        allowed: Vec::new(),
    }
}

fn style(terminal: Terminal, is_terminal: bool) -> Style {
    let size = terminal_size::terminal_size();
    match (terminal, is_terminal) {
        (Terminal::Dumb, _) | (_, false) => Style::Plain,
        (terminal, true) => Style::Terminal {
            columns: size.map_or(80, |(width, _)| usize::from(width.0)),
            lines: size.map_or(24, |(_, height)| usize::from(height.0)),
            colour: terminal == Terminal::Colour,
        },
    }
}
