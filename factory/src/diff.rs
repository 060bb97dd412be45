//! Shows changes of files as a diff that `patch` and people read.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use similar::{ChangeTag, TextDiff};

use crate::folder::{Change, label};

/// The changes as one text, with colours; a terminal that wants none has them taken out.
#[must_use]
pub fn render(changes: &[Change]) -> String {
    let mut out = String::new();
    for change in changes {
        match change {
            Change::Write {
                path,
                before,
                after,
            } => {
                let name = label(path);
                let old = if before.is_some() {
                    name.as_str()
                } else {
                    "/dev/null"
                };
                unified(&mut out, old, &name, before.as_deref().unwrap_or(""), after);
            }
            Change::Move { from, to, .. } => {
                let _ = writeln!(out, "{BOLD}rename {} to {}{BOLD:#}", label(from), label(to));
            }
            Change::Remove { path, text } => {
                unified(&mut out, &label(path), "/dev/null", text, "");
            }
        }
    }
    out
}

const BOLD: Style = Style::new().bold();
const OLD: Style = AnsiColor::Red.on_default();
const NEW: Style = AnsiColor::Green.on_default();

fn unified(out: &mut String, old_name: &str, new_name: &str, old: &str, new: &str) {
    let diff = TextDiff::from_lines(old, new);
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "{BOLD}--- {old_name}{BOLD:#}\n{BOLD}+++ {new_name}{BOLD:#}"
    );
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        let _ = writeln!(out, "{}", hunk.header());
        for line in hunk.iter_changes() {
            let (sign, style) = match line.tag() {
                ChangeTag::Equal => (' ', Style::new()),
                ChangeTag::Delete => ('-', OLD),
                ChangeTag::Insert => ('+', NEW),
            };
            let text = line.value().trim_end_matches('\n');
            let _ = writeln!(out, "{style}{sign}{text}{style:#}");
        }
    }
}
