//! Figures as a table for people, and as JSON for programs.

use drop_tests::demo::screen::{Line, Paint, Screen, span};
use jiff::Timestamp;
use serde_json::json;

use crate::args::Effort;
use crate::figure::{Figure, Unit, Verdict};
use crate::machine::Machine;

/// Width of the name column.
const NAME: usize = 50;

/// Prints all figures, with a headline for each scene.
pub(crate) fn print(screen: &mut Screen, figures: &[Figure]) {
    for line in lines(figures) {
        screen.line(&line);
    }
}

fn lines(figures: &[Figure]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut scene = "";
    for figure in figures {
        if figure.scene != scene {
            scene = &figure.scene;
            lines.push(Vec::new());
            let head = format!("{scene:<NAME$} {:>12}  {:>12}", "MEASURED", "TARGET");
            lines.push(vec![span(Paint::Bold, head)]);
        }
        lines.push(row(figure));
    }
    lines
}

fn row(figure: &Figure) -> Line {
    let Figure {
        name, value, unit, ..
    } = figure;
    let target = figure
        .target
        .map_or_else(String::new, |target| amount(target, *unit));
    let (paint, word) = match figure.verdict() {
        None => (Paint::Plain, ""),
        Some(Verdict::Met) => (Paint::Green, "ok"),
        Some(Verdict::Over) => (Paint::Red, "over"),
    };
    vec![
        span(Paint::Plain, format!("{name:<NAME$} ")),
        span(paint, format!("{:>12}", amount(*value, *unit))),
        span(Paint::Dim, format!("  {target:>12}  ")),
        span(paint, format!("{word:<5}")),
        span(Paint::Dim, figure.note.clone()),
    ]
}

/// A number with its unit, with as many digits as matter.
pub(crate) fn amount(value: f64, unit: Unit) -> String {
    let digits = match value.abs() {
        v if v.fract().abs() < 1e-9 || v >= 1_000.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 0.1 => 2,
        _ => 3,
    };
    let unit = match unit {
        Unit::Milliseconds => " ms",
        Unit::Seconds => " s",
        Unit::Mebibytes => " MiB",
        Unit::Bytes => " B",
        Unit::Percent => " %",
        Unit::Count => "",
    };
    format!("{value:.digits$}{unit}")
}

/// The whole report.
pub(crate) fn json(machine: &Machine, effort: Effort, figures: &[Figure]) -> String {
    let figures: Vec<_> = figures
        .iter()
        .map(|figure| {
            json!({
                "scene": figure.scene, "name": figure.name, "value": figure.value, "unit": figure.unit,
                "target": figure.target, "ok": figure.verdict().map(|verdict| verdict == Verdict::Met),
                "note": figure.note,
            })
        })
        .collect();
    let report = json!({
        "at": Timestamp::now(), "version": env!("CARGO_PKG_VERSION"), "quick": effort == Effort::Quick,
        "machine": machine, "figures": figures,
    });
    format!("{report:#}\n")
}

#[cfg(test)]
mod tests {
    use drop_tests::demo::screen::Span;

    use super::*;

    fn text(line: &Line) -> String {
        line.iter().map(|Span(_, text)| text.as_str()).collect()
    }

    #[test]
    fn amounts_have_the_digits_that_matter() {
        let shown = [
            (0.0, Unit::Count, "0"),
            (0.0241, Unit::Percent, "0.024 %"),
            (1.5, Unit::Seconds, "1.50 s"),
            (12.34, Unit::Mebibytes, "12.3 MiB"),
            (48_211.7, Unit::Bytes, "48212 B"),
            (300.0, Unit::Milliseconds, "300 ms"),
        ];
        for (value, unit, expected) in shown {
            assert_eq!(amount(value, unit), expected);
        }
    }

    #[test]
    fn each_scene_has_a_headline_and_each_target_a_word() {
        let figures = [
            Figure::new("a", "writes", 3.0, Unit::Count).at_most(2.0),
            Figure::new("a", "size", 1.0, Unit::Bytes),
            Figure::new("b", "time", 1.0, Unit::Seconds).at_most(1.0),
        ];
        let lines: Vec<String> = lines(&figures).iter().map(text).collect();
        assert_eq!(lines.len(), 7);
        assert!(lines[1].starts_with("a ") && lines[5].starts_with("b "));
        assert!(lines[2].contains("over") && lines[6].contains("ok"));
        assert!(!lines[3].contains("ok") && !lines[3].contains("over"));
    }
}
