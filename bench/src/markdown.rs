//! Figures as a page of Markdown, to be kept as it is: docs/benchmark-results.md.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::args::Effort;
use crate::figure::{Figure, Verdict};
use crate::machine::Machine;
use crate::table::amount;

/// The whole page.
pub(crate) fn page(machine: &Machine, effort: Effort, at: Timestamp, figures: &[Figure]) -> String {
    let command = match effort {
        Effort::Quick => "hack/bench --quick",
        Effort::Full => "hack/bench",
    };
    let day = at.strftime("%Y-%m-%d");
    let mut page = format!(
        "# Results of the benchmarks\n\n\
         Written by `{command} --markdown docs/benchmark-results.md` on {day}; [benchmarks.md](benchmarks.md) says what each figure is.\n\n\
         {machine}. What else runs on the machine is part of each figure.\n"
    );
    let mut scene = "";
    for figure in figures {
        if figure.scene != scene {
            scene = &figure.scene;
            // Writing to a String cannot fail.
            let _ = write!(
                page,
                "\n## {scene}\n\n| figure | measured | target | |\n|---|---|---|---|\n"
            );
        }
        page.push_str(&row(figure));
    }
    page
}

fn row(figure: &Figure) -> String {
    let target = figure.target.map(|target| amount(target, figure.unit));
    let verdict = match figure.verdict() {
        Some(Verdict::Met) => "ok",
        Some(Verdict::Over) => "**over**",
        None => "",
    };
    let remarks: Vec<&str> = [verdict, &figure.note]
        .into_iter()
        .filter(|remark| !remark.is_empty())
        .collect();
    format!(
        "| {} | {} | {} | {} |\n",
        figure.name,
        amount(figure.value, figure.unit),
        target.unwrap_or_default(),
        remarks.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Unit;
    use crate::machine;

    #[test]
    fn each_scene_is_a_table_and_a_missed_target_stands_out() {
        let figures = [
            Figure::new("a", "writes", 3.0, Unit::Count).at_most(2.0),
            Figure::new("a", "size", 1.0, Unit::Bytes).note("small"),
            Figure::new("b", "time", 1.0, Unit::Seconds).at_most(1.0),
        ];
        let page = page(
            &machine::describe(),
            Effort::Full,
            Timestamp::UNIX_EPOCH,
            &figures,
        );
        assert!(page.contains("`hack/bench --markdown docs/benchmark-results.md` on 1970-01-01"));
        let (_, tables) = page.split_once("## a\n").unwrap();
        let head = "| figure | measured | target | |\n|---|---|---|---|\n";
        let expected = format!(
            "\n{head}| writes | 3 | 2 | **over** |\n| size | 1 B |  | small |\n\n## b\n\n{head}| time | 1 s | 1 s | ok |\n"
        );
        assert_eq!(tables, expected);
    }
}
