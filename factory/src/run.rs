//! The commands: read the files, let the pure parts decide, write what they decided, say what was found.

mod check;
mod plan;
mod sync;
mod synth;

use std::io::{self, Write};

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use crate::args::{Command, Common};
use crate::diff;
use crate::enrollment::{self, Images};
use crate::folder::{self, Access, Change, Folder};
use crate::problem::{Problem, Severity};
use crate::state::{Files, Record};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Fine,
    /// At least one problem was said.
    Problem,
}

/// Where a command says what it has to say. Results go to one, all else to the other.
pub struct Output<'a> {
    /// Results.
    pub out: &'a mut dyn Write,
    /// Problems and what is done.
    pub err: &'a mut dyn Write,
}

/// Runs a command.
pub fn run(command: &Command, output: &mut Output) -> Result<Outcome> {
    match command {
        Command::Sync(args) => sync::run(args, output),
        Command::Synth(args) => synth::run(args, output),
        Command::Plan(args) => plan::run(args, output),
        Command::Check(args) => check::run(args, output),
    }
}

fn open(common: &Common, access: Access) -> Result<Folder, folder::Error> {
    let above = common.dir.join("..");
    let root = common.root.as_deref().unwrap_or(&above);
    Folder::open(&common.dir, root, access, || {
        // If even this cannot be said, the wait is as long.
        let _ = writeln!(
            io::stderr(),
            "waiting for another image-factory in {}",
            common.dir.display()
        );
    })
}

fn now(common: &Common) -> Timestamp {
    common.now.unwrap_or_else(Timestamp::now)
}

/// The enrollments. Without any that can be read nothing is done, and why is said.
fn images(folder: &Folder, output: &mut Output) -> Result<Result<Images, Outcome>> {
    let (file, text) = folder.images()?;
    let warning = match text.map(|text| enrollment::parse(&file, &text)) {
        None => "is not there: nothing is done",
        Some(None) => "enrolls no image: nothing is done",
        Some(Some(images)) if images.is_unreadable => {
            return Ok(Err(say(&images.problems, output)?));
        }
        Some(Some(images)) => return Ok(Ok(images)),
    };
    Ok(Err(say(
        &[Problem::file(&file, warning).warning()],
        output,
    )?))
}

fn write(folder: &Folder, record: &Record, files: &Files) -> Change {
    Change::Write {
        path: folder.live(record.kind, &record.name),
        before: text(files, &record.name),
        after: record.render(),
    }
}

fn text(files: &Files, name: &str) -> Option<String> {
    files.get(name).map(|file| file.text.clone())
}

/// Writes the changes, or shows them.
fn carry_out(common: &Common, changes: &[Change], output: &mut Output) -> Result<()> {
    if common.dry_run {
        write!(output.out, "{}", diff::render(changes))?;
        return Ok(());
    }
    folder::apply(changes)?;
    Ok(())
}

fn json(out: &mut dyn Write, value: &impl Serialize) -> Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}

/// `1 image`, `2 images`.
fn counted(count: usize, word: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {word}{plural}")
}

fn outcome(problems: &[Problem]) -> Outcome {
    let is_problem = |problem: &Problem| problem.severity == Severity::Problem;
    if problems.iter().any(is_problem) {
        Outcome::Problem
    } else {
        Outcome::Fine
    }
}

fn say(problems: &[Problem], output: &mut Output) -> Result<Outcome> {
    for problem in problems {
        writeln!(output.err, "{problem}")?;
    }
    Ok(outcome(problems))
}
