//! `sync`: images.yaml and Dockerfiles in, state files out.

use std::collections::BTreeMap;

use anyhow::Result;
use jiff::Timestamp;

use crate::args::{RegistryArgs, SyncArgs};
use crate::dockerfile;
use crate::enrollment::Images;
use crate::folder::{Access, Change, Folder, label};
use crate::problem::Problem;
use crate::resolve;
use crate::state::State;
use crate::sync::{Merged, Read, ReadError, asked, merge, record, settle};
use crate::yaml;

use super::{Outcome, Output, carry_out, counted, images, now, open, say, text, write};

pub(super) fn run(args: &SyncArgs, output: &mut Output) -> Result<Outcome> {
    let common = &args.common;
    let access = if common.dry_run {
        Access::Read
    } else {
        Access::Write
    };
    let folder = open(common, access)?;
    let images = match images(&folder, output)? {
        Ok(images) => images,
        Err(outcome) => return Ok(outcome),
    };
    if !common.dry_run {
        folder.clean()?;
    }
    let state = folder.state()?;
    let now = now(common);
    let dockerfiles = read_dockerfiles(&folder, &images);
    let mut merged = merge(now, &images, &state, &dockerfiles);
    if args.resolve {
        resolve(&args.registries, &folder, &images, &mut merged, now)?;
    }
    settle(&mut merged, now, &images, &dockerfiles);
    let changes = changes(&folder, &merged, &state);
    let outcome = say(&merged.problems, output)?;
    carry_out(common, &changes, output)?;
    if !common.dry_run {
        let count = |is_one: fn(&Change) -> bool| changes.iter().filter(|c| is_one(c)).count();
        writeln!(
            output.out,
            "{}, {}: {} written, {} archived",
            counted(merged.images.len(), "image"),
            counted(merged.bases.len(), "base image"),
            counted(count(|c| matches!(c, Change::Write { .. })), "file"),
            count(|c| matches!(c, Change::Move { .. })),
        )?;
    }
    Ok(outcome)
}

fn resolve(
    args: &RegistryArgs,
    folder: &Folder,
    images: &Images,
    merged: &mut Merged,
    now: Timestamp,
) -> Result<()> {
    let docker = args
        .docker_config
        .clone()
        .or_else(|| Some(std::env::home_dir()?.join(".docker")));
    let access = resolve::Access {
        docker_config: docker.map(|folder| folder.join("config.json")),
        plain_http: args.plain_http.iter().cloned().collect(),
        ca_file: args.ca_file.clone(),
    };
    let asked = asked(merged, images);
    let references = asked.iter().map(|asked| asked.image.clone()).collect();
    let answers = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(resolve::ask(references, &access))?;
    record(merged, now, &asked, &answers.images, |kind, name| {
        label(&folder.live(kind, name))
    });
    let problems = answers.problems.iter();
    merged
        .problems
        .extend(problems.map(|problem| Problem::file("registry", problem)));
    Ok(())
}

pub(super) fn read_dockerfiles(folder: &Folder, images: &Images) -> BTreeMap<String, Read> {
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
pub(super) fn changes(folder: &Folder, merged: &Merged, state: &State) -> Vec<Change> {
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
