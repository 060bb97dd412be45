//! The plan as a table for people.

use std::fmt::Write as _;

use super::{Hold, Plan, Rebuild, Status};

const HEADINGS: [&str; 5] = ["IMAGE", "REBUILD", "FROM", "BECAUSE", "HELD BY"];

/// The table and a line that counts. Cycles are problems, and said as such.
#[must_use]
pub fn render(plan: &Plan) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(plan.rebuilds.iter().map(row));
    let mut out = String::new();
    if !plan.rebuilds.is_empty() {
        out.push_str(&columns(&rows));
        out.push('\n');
    }
    let count = |status| plan.rebuilds.iter().filter(|r| r.status == status).count();
    let (due, waiting, held) = (
        count(Status::Due),
        count(Status::Waiting),
        count(Status::Held),
    );
    let up_to_date = plan.up_to_date.len();
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "{due} due, {waiting} waiting, {held} held, {up_to_date} up to date"
    );
    out
}

fn row(rebuild: &Rebuild) -> [String; 5] {
    let when = match (rebuild.status, &rebuild.left) {
        (Status::Due, _) => "now".to_owned(),
        (Status::Waiting, Some(left)) => format!("in {left}"),
        _ => "held".to_owned(),
    };
    let mut because: Vec<String> = rebuild
        .changed
        .iter()
        .map(|change| format!("{} moved at {}", change.base, change.since))
        .collect();
    if let Some(bypass) = &rebuild.bypass {
        because.push(format!("bypass: {}", bypass.reason));
    }
    let held_by = rebuild.held_by.iter().map(|hold| match hold {
        Hold::AutoRebuildOff => "autoRebuild: false".to_owned(),
        Hold::Image(image) => format!("{image}, its base, is rebuilt first"),
    });
    [
        rebuild.image.clone(),
        when,
        rebuild
            .eligible_at
            .map_or_else(|| "-".to_owned(), |at| at.to_string()),
        because.join(", "),
        held_by.collect::<Vec<_>>().join(", "),
    ]
}

fn columns(rows: &[[String; 5]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..HEADINGS.len()).filter_map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}
