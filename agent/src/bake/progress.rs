//! Shows how far the images are: a redrawn line for each on a terminal, a line for each change elsewhere.

use std::io::{self, Write};
use std::time::Duration;

use super::grantor::State;

/// Lines that stay free below the images, for the summary and the prompt.
const SPARE_LINES: usize = 3;

/// One image as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) reference: String,
    pub(super) state: State,
    /// Time spent pulling it, in all tries.
    pub(super) elapsed: Duration,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Redrawn in place.
    Terminal {
        columns: usize,
        lines: usize,
        colour: bool,
    },
    /// One line per change.
    Plain,
}

/// Where progress goes.
pub(super) struct Progress<W> {
    out: W,
    style: Style,
    drawn: usize,
    last: Vec<State>,
    last_problem: Option<String>,
}

impl<W: Write> Progress<W> {
    pub(super) fn new(out: W, style: Style) -> Self {
        Self {
            out,
            style,
            drawn: 0,
            last: Vec::new(),
            last_problem: None,
        }
    }

    /// Shows `rows` (always the same images in the same order). `problem` is why nothing happens, if that is so.
    pub(super) fn show(
        &mut self,
        now: Duration,
        rows: &[Row],
        problem: Option<&str>,
    ) -> io::Result<()> {
        match self.style {
            Style::Terminal {
                columns,
                lines,
                colour,
            } => {
                let frame = frame(now, rows, problem, (columns, lines), colour);
                let mut text = String::new();
                if self.drawn > 0 {
                    text = format!("\x1b[{}A", self.drawn);
                }
                for line in &frame {
                    text.push_str("\r\x1b[2K");
                    text.push_str(line);
                    text.push('\n');
                }
                text.push_str("\x1b[J");
                self.drawn = frame.len();
                self.out.write_all(text.as_bytes())?;
            }
            Style::Plain => self.say_changes(now, rows, problem)?,
        }
        self.out.flush()
    }

    fn say_changes(
        &mut self,
        now: Duration,
        rows: &[Row],
        problem: Option<&str>,
    ) -> io::Result<()> {
        if self.last_problem.as_deref() != problem {
            self.last_problem = problem.map(str::to_owned);
            if let Some(problem) = problem {
                writeln!(
                    self.out,
                    "{:>8}  waiting for the runtime: {problem}",
                    seconds(now)
                )?;
            }
        }
        for (index, row) in rows.iter().enumerate() {
            let is_new = self
                .last
                .get(index)
                .is_none_or(|last| !same(last, &row.state));
            if is_new && row.state != State::Waiting {
                let (word, _) = word(&row.state);
                let detail = detail(now, row);
                writeln!(
                    self.out,
                    "{:>8}  {word}  {}  {detail}",
                    seconds(now),
                    row.name
                )?;
            }
        }
        self.last = rows.iter().map(|row| row.state.clone()).collect();
        Ok(())
    }
}

/// The next try of the same failure is no change worth a line.
fn same(a: &State, b: &State) -> bool {
    match (a, b) {
        (State::Retrying { failure: a, .. }, State::Retrying { failure: b, .. }) => a == b,
        (a, b) => a == b,
    }
}

fn frame(
    now: Duration,
    rows: &[Row],
    problem: Option<&str>,
    (columns, lines): (usize, usize),
    colour: bool,
) -> Vec<String> {
    let room = lines.saturating_sub(SPARE_LINES).max(1);
    let mut shown: Vec<usize> = (0..rows.len()).collect();
    if shown.len() > room {
        // What moves or fails is worth seeing; what is done or has not begun is counted below.
        shown.sort_by_key(|&index| word(&rows[index].state).1);
        shown.truncate(room);
        shown.sort_unstable();
    }
    let name_width = shown
        .iter()
        .map(|&i| rows[i].name.chars().count())
        .max()
        .unwrap_or(0)
        .min(40);
    let mut frame: Vec<String> = shown
        .iter()
        .map(|&index| {
            let row = &rows[index];
            let (word, _) = word(&row.state);
            let name = cut(&row.name, name_width);
            let start = format!("{name:<name_width$}  ");
            let rest = format!("  {:>7}  {}", seconds(elapsed(now, row)), detail(now, row));
            let used = start.chars().count() + 8;
            let rest = cut(&rest, columns.saturating_sub(used + 1));
            format!(
                "{start}{}{rest}",
                paint(&format!("{word:<8}"), &row.state, colour)
            )
        })
        .collect();
    let present = rows
        .iter()
        .filter(|r| matches!(r.state, State::Present { .. }))
        .count();
    let hidden = rows.len() - shown.len();
    let mut summary = format!("{present}/{} present", rows.len());
    if hidden > 0 {
        summary = format!("{summary}, {hidden} not shown");
    }
    if let Some(problem) = problem {
        summary = format!("{summary}, waiting for the runtime: {problem}");
    }
    frame.push(cut(&summary, columns.saturating_sub(1)));
    frame
}

/// A word for the state, and how much it is worth being shown (lower is more).
fn word(state: &State) -> (&'static str, u8) {
    match state {
        State::Pulling { .. } => ("pulling", 0),
        State::Retrying { .. } => ("retrying", 1),
        State::Failed(_) => ("failed", 2),
        State::Absent => ("absent", 2),
        State::Waiting => ("waiting", 3),
        State::Present { .. } => ("present", 4),
    }
}

fn detail(now: Duration, row: &Row) -> String {
    match &row.state {
        State::Waiting | State::Pulling { .. } => row.reference.clone(),
        State::Retrying { at, failure } => {
            let wait = at.saturating_sub(now).as_secs_f64().ceil();
            format!("{}, next try in {wait} s", failure.message)
        }
        State::Present { digest, size_bytes } => {
            let size = match size_bytes {
                0 => String::new(),
                bytes => format!("  {}", size(*bytes)),
            };
            let digest = digest
                .as_deref()
                .map_or(String::new(), |d| format!("  {d}"));
            format!("{}{size}{digest}", row.reference)
        }
        State::Failed(failure) => failure.message.clone(),
        State::Absent => "not on this machine, and imagePullPolicy is Never".to_owned(),
    }
}

fn elapsed(now: Duration, row: &Row) -> Duration {
    match row.state {
        State::Pulling { since } => row.elapsed + now.saturating_sub(since),
        _ => row.elapsed,
    }
}

fn paint(text: &str, state: &State, colour: bool) -> String {
    let code = match state {
        _ if !colour => return text.to_owned(),
        State::Waiting => return text.to_owned(),
        State::Pulling { .. } => 36,
        State::Retrying { .. } => 33,
        State::Present { .. } => 32,
        State::Failed(_) | State::Absent => 31,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// At most `width` characters.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars()
        .take(width.saturating_sub(1))
        .chain(['…'])
        .take(width)
        .collect()
}

pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests;
