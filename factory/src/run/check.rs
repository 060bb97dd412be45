//! `check`: all that is wrong, and nothing written.

use anyhow::Result;
use serde::Serialize;

use crate::args::{CheckArgs, Format};
use crate::check::check;
use crate::folder::{Access, Change, label};
use crate::problem::Problem;
use crate::sync::{merge, settle};
use crate::warehouse;

use super::plan::{cycles, make_plan};
use super::sync::{changes, read_dockerfiles};
use super::{Outcome, Output, counted, images, json, now, open, outcome, say};

pub(super) fn run(args: &CheckArgs, output: &mut Output) -> Result<Outcome> {
    let folder = open(&args.common, Access::Read)?;
    let images = match images(&folder, output)? {
        Ok(images) => images,
        Err(outcome) => return Ok(outcome),
    };
    let state = folder.state()?;
    let now = now(&args.common);
    let dockerfiles = read_dockerfiles(&folder, &images);
    let mut merged = merge(now, &images, &state, &dockerfiles);
    settle(&mut merged, now, &images, &dockerfiles);
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
                "{word}: {}, {}",
                counted(images.entries.len(), "image"),
                counted(state.bases.len(), "base image")
            )?;
            Ok(outcome)
        }
        Format::Json => {
            json(
                output.out,
                &Findings {
                    problems: &problems,
                },
            )?;
            Ok(outcome(&problems))
        }
    }
}

#[derive(Serialize)]
struct Findings<'a> {
    problems: &'a [Problem],
}
