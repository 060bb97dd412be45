//! `plan`: state in, a table of rebuilds out; and the record of an order to bypass.

use std::collections::BTreeMap;

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use crate::args::{Format, PlanArgs};
use crate::enrollment::Images;
use crate::folder::{Access, Change, Folder};
use crate::plan::{self, Plan, subjects};
use crate::problem::Problem;
use crate::state::{Files, Kind, Record, State};
use crate::sync;
use crate::yaml;

use super::{Outcome, Output, carry_out, images, json, now, open, say, write};

pub(super) fn run(args: &PlanArgs, output: &mut Output) -> Result<Outcome> {
    let common = &args.common;
    let access = match args.bypass {
        Some(_) if !common.dry_run => Access::Write,
        _ => Access::Read,
    };
    let folder = open(common, access)?;
    let images = match images(&folder, output)? {
        Ok(images) => images,
        Err(outcome) => return Ok(outcome),
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
            &PlanAndProblems {
                plan: &plan,
                problems: &problems,
            },
        )?,
    }
    say(&problems, output)
}

#[derive(Serialize)]
struct PlanAndProblems<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    problems: &'a [Problem],
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

pub(super) fn make_plan(now: Timestamp, images: &Images, state: &State) -> Plan {
    fn maps(files: &Files) -> BTreeMap<&str, &yaml::Map> {
        files
            .iter()
            .filter_map(|(name, file)| Some((name.as_str(), file.map.as_ref().ok()?)))
            .collect()
    }
    let (subjects, bases) = subjects(images, &maps(&state.images), &maps(&state.bases));
    plan::plan(now, &subjects, &bases)
}

pub(super) fn cycles(images: &Images, plan: &Plan) -> Vec<Problem> {
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
