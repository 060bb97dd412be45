//! `synth`: state in, manifests out.

use std::io;

use anyhow::{Context, Result};

use crate::args::{Emit, SynthArgs};
use crate::folder::{Access, Change, label};
use crate::warehouse;

use super::{Outcome, Output, carry_out, counted, images, open, say};

/// The file that it writes.
const MANIFESTS: &str = "image-factory.k8s.yaml";

pub(super) fn run(args: &SynthArgs, output: &mut Output) -> Result<Outcome> {
    let common = &args.common;
    let folder = open(common, Access::Read)?;
    let images = match images(&folder, output)? {
        Ok(images) => images,
        Err(outcome) => return Ok(outcome),
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
        writeln!(
            output.out,
            "{}: {} {word}",
            counted(count, "warehouse"),
            label(&path)
        )?;
    }
    Ok(outcome)
}
