//! The commands: read the files, let the pure parts decide, write what they decided, say what was found.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;

use crate::args::{CheckArgs, Command, Common, Emit, Format, PlanArgs, SyncArgs, SynthArgs};
use crate::check::check;
use crate::diff;
use crate::enrollment::{self, Images};
use crate::folder::{self, Access, Change, Folder, label};
use crate::plan::{self, Plan, subjects};
use crate::problem::{Problem, Severity};
use crate::state::{Files, Kind, Record, State};
use crate::sync::{self, Merged, Read, ReadError};
use crate::warehouse;
use crate::{dockerfile, yaml};

/// The file that `synth` writes.
const MANIFESTS: &str = "image-factory.k8s.yaml";

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
        Command::Sync(args) => sync(args, output),
        Command::Synth(args) => synth(args, output),
        Command::Plan(args) => plan(args, output),
        Command::Check(args) => check_all(args, output),
    }
}

fn sync(args: &SyncArgs, output: &mut Output) -> Result<Outcome> {
    let common = &args.common;
    let access = if common.dry_run {
        Access::Read
    } else {
        Access::Write
    };
    let folder = open(common, access)?;
    let Some(images) = images(&folder, output)? else {
        return Ok(Outcome::Fine);
    };
    if !common.dry_run {
        folder.clean()?;
    }
    let state = folder.state()?;
    let now = now(common);
    let dockerfiles = read_dockerfiles(&folder, &images);
    let mut merged = sync::merge(now, &images, &state, &dockerfiles);
    sync::settle(&mut merged, now, &images, &dockerfiles);
    let changes = changes(&folder, &merged, &state);
    let outcome = say(&merged.problems, output)?;
    carry_out(common, &changes, output)?;
    if !common.dry_run {
        let written = changes
            .iter()
            .filter(|c| matches!(c, Change::Write { .. }))
            .count();
        writeln!(
            output.out,
            "{} images, {} base images: {written} files written, {} archived",
            merged.images.len(),
            merged.bases.len(),
            changes
                .iter()
                .filter(|c| matches!(c, Change::Move { .. }))
                .count(),
        )?;
    }
    Ok(outcome)
}

fn synth(args: &SynthArgs, output: &mut Output) -> Result<Outcome> {
    let common = &args.common;
    let folder = open(common, Access::Read)?;
    let Some(images) = images(&folder, output)? else {
        return Ok(Outcome::Fine);
    };
    let state = folder.state()?;
    let mut problems = images.problems.clone();
    let mut text = String::new();
    let mut count = 0;
    for kind in &args.emit {
        match kind {
            Emit::Warehouse => {
                let (warehouses, more) = warehouse::warehouses(&images, &state);
                problems.extend(more);
                text.push_str(&warehouse::render(
                    &warehouses,
                    &args.namespace,
                    args.kargo.into(),
                ));
                count += warehouses.len();
            }
        }
    }
    let outcome = say(&problems, output)?;
    let path = args.out.join(MANIFESTS);
    let before = match std::fs::read_to_string(&path) {
        Ok(before) => Some(before),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let changes = if before.as_ref() == Some(&text) {
        Vec::new()
    } else {
        vec![Change::Write {
            path: path.clone(),
            before,
            after: text,
        }]
    };
    carry_out(common, &changes, output)?;
    if !common.dry_run {
        let word = if changes.is_empty() {
            "unchanged"
        } else {
            "written"
        };
        writeln!(output.out, "{count} warehouses: {} {word}", label(&path))?;
    }
    Ok(outcome)
}

fn plan(args: &PlanArgs, output: &mut Output) -> Result<Outcome> {
    let common = &args.common;
    let access = match args.bypass {
        Some(_) if !common.dry_run => Access::Write,
        _ => Access::Read,
    };
    let folder = open(common, access)?;
    let Some(images) = images(&folder, output)? else {
        return Ok(Outcome::Fine);
    };
    let mut state = folder.state()?;
    let mut problems = images.problems.clone();
    for kind in [Kind::Image, Kind::Base] {
        problems.extend(unreadable(state.live(kind)));
    }
    let now = now(common);
    if let (Some(name), Some(reason)) = (&args.bypass, &args.reason) {
        match bypass(&images, &mut state, &folder, name, reason, now) {
            Ok(change) => carry_out(common, &[change], output)?,
            Err(problem) => problems.push(problem),
        }
    }
    let plan = make_plan(now, &images, &state);
    problems.extend(cycles(&images, &plan));
    match args.output {
        Format::Text => write!(output.out, "{}", plan::render(&plan))?,
        Format::Json => json(
            output.out,
            &WithProblems {
                result: &plan,
                problems: &problems,
            },
        )?,
    }
    say(&problems, output)
}

fn check_all(args: &CheckArgs, output: &mut Output) -> Result<Outcome> {
    let folder = open(&args.common, Access::Read)?;
    let Some(images) = images(&folder, output)? else {
        return Ok(Outcome::Fine);
    };
    let state = folder.state()?;
    let now = now(&args.common);
    let dockerfiles = read_dockerfiles(&folder, &images);
    let mut merged = sync::merge(now, &images, &state, &dockerfiles);
    sync::settle(&mut merged, now, &images, &dockerfiles);
    let mut problems = std::mem::take(&mut merged.problems);
    problems.extend(check(&images, &state));
    problems.extend(warehouse::warehouses(&images, &state).1);
    problems.extend(cycles(&images, &make_plan(now, &images, &state)));
    for change in changes(&folder, &merged, &state) {
        let path = match &change {
            Change::Write { path, .. } | Change::Remove { path, .. } => path,
            Change::Move { from, .. } => from,
        };
        let message = "out of date: run image-factory sync";
        problems.push(Problem::file(&label(path), message).warning());
    }
    problems.sort();
    problems.dedup();
    match args.output {
        Format::Text => {
            let outcome = say(&problems, output)?;
            let word = if outcome == Outcome::Fine {
                "ok"
            } else {
                "not ok"
            };
            writeln!(
                output.out,
                "{word}: {} images, {} base images",
                images.entries.len(),
                state.bases.len()
            )?;
            Ok(outcome)
        }
        Format::Json => {
            json(
                output.out,
                &WithProblems {
                    result: &BTreeMap::<(), ()>::new(),
                    problems: &problems,
                },
            )?;
            Ok(outcome(&problems))
        }
    }
}

/// A result and what was found on the way, as one JSON object.
#[derive(Serialize)]
struct WithProblems<'a, T> {
    #[serde(flatten)]
    result: &'a T,
    problems: &'a [Problem],
}

fn json(out: &mut dyn Write, value: &impl Serialize) -> Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}

fn now(common: &Common) -> Timestamp {
    common.now.unwrap_or_else(Timestamp::now)
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

/// The enrollments; none, and a warning, if there are none.
fn images(folder: &Folder, output: &mut Output) -> Result<Option<Images>> {
    let (file, text) = folder.images()?;
    let (images, why) = match text {
        None => (None, "is not there"),
        Some(text) => (enrollment::parse(&file, &text), "enrolls no image"),
    };
    if images.is_none() {
        let message = format!("{why}: nothing is done");
        say(&[Problem::file(&file, message).warning()], output)?;
    }
    Ok(images)
}

fn read_dockerfiles(folder: &Folder, images: &Images) -> BTreeMap<String, Read> {
    let mut read = BTreeMap::new();
    for entry in &images.entries {
        let Some((relative, place)) = entry
            .source
            .as_ref()
            .and_then(|source| source.dockerfile.as_ref())
        else {
            continue;
        };
        let (file, text) = folder.dockerfile(relative);
        let found = match text {
            Err(reason) => Err(ReadError {
                problem: Problem::at(&images.file, *place, format!("{}: {reason}", entry.name)),
                reason,
            }),
            Ok(text) => dockerfile::discover(&text).map_err(|mistake| {
                let place = yaml::Place {
                    line: mistake.line,
                    column: 1,
                };
                ReadError {
                    reason: format!("{relative}:{}: {}", mistake.line, mistake.message),
                    problem: Problem::at(&file, place, mistake.message),
                }
            }),
        };
        read.insert(entry.name.clone(), found);
    }
    read
}

/// What has to happen to the files. New text comes first: what is moved away is nowhere needed then.
fn changes(folder: &Folder, merged: &Merged, state: &State) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut restored = Vec::new();
    for record in merged.bases.values().chain(merged.images.values()) {
        if !record.is_changed() {
            continue;
        }
        changes.push(write(folder, record, state.live(record.kind)));
        let archived = state.archived(record.kind).get(&record.name);
        if let Some(file) = archived.filter(|_| record.old.is_none()) {
            restored.push(Change::Remove {
                path: folder.archived(record.kind, &record.name),
                text: file.text.clone(),
            });
        }
    }
    for (kind, name) in &merged.unused {
        changes.push(Change::Move {
            from: folder.live(*kind, name),
            to: folder.archived(*kind, name),
            text: text(state.live(*kind), name).unwrap_or_default(),
        });
    }
    changes.extend(restored);
    changes
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

fn bypass(
    images: &Images,
    state: &mut State,
    folder: &Folder,
    name: &str,
    reason: &str,
    now: Timestamp,
) -> Result<Change, Problem> {
    let is_managed = images
        .entries
        .iter()
        .any(|entry| entry.name == name && entry.source.is_some());
    if !is_managed {
        let message = format!("{name} is no managed image: only those are rebuilt");
        return Err(Problem::file(&images.file, message));
    }
    let Some(file) = state.images.get_mut(name) else {
        let message = format!("{name} has no state yet: run image-factory sync first");
        return Err(Problem::file(&images.file, message));
    };
    let mut record = Record {
        kind: Kind::Image,
        name: name.to_owned(),
        old: None,
        new: file.map.clone()?,
    };
    sync::record_bypass(&mut record, now, reason);
    file.map = Ok(record.new.clone());
    let files = Files::from([(name.to_owned(), file.clone())]);
    Ok(write(folder, &record, &files))
}

fn make_plan(now: Timestamp, images: &Images, state: &State) -> Plan {
    fn maps(files: &Files) -> BTreeMap<&str, &yaml::Map> {
        files
            .iter()
            .filter_map(|(name, file)| Some((name.as_str(), file.map.as_ref().ok()?)))
            .collect()
    }
    let (subjects, bases) = subjects(images, &maps(&state.images), &maps(&state.bases));
    plan::plan(now, &subjects, &bases)
}

fn cycles(images: &Images, plan: &Plan) -> Vec<Problem> {
    let place = |name: &str| {
        let entry = images.entries.iter().find(|entry| entry.name == name);
        entry.map(|entry| entry.place).unwrap_or_default()
    };
    plan.cycles
        .iter()
        .map(|cycle| {
            let message = format!(
                "these images are built on each other, and none can be first: {}",
                cycle.join(" -> ")
            );
            Problem::at(&images.file, place(&cycle[0]), message)
        })
        .collect()
}

fn unreadable(files: &Files) -> Vec<Problem> {
    files
        .values()
        .filter_map(|file| file.map.as_ref().err().cloned())
        .collect()
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
