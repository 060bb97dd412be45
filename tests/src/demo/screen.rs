//! What the demo prints: numbered steps with the elapsed time, commands, proofs, and lines that are redrawn in place.
//!
//! On a terminal with colours (unless `NO_COLOR` is set or it is a dumb one). Anywhere else plain text, and only what changed.
//! It decides how things look and never what is true.

use std::io::{self, IsTerminal, Write};
use std::slice;
use std::time::{Duration, Instant};

use terminal_size::{Width, terminal_size};

use crate::parts;

/// Where there is no terminal to ask.
const WIDTH: usize = 120;

/// As wide as the clock.
const MARGIN: &str = "         ";

/// How a piece of text looks where there are colours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Paint {
    /// As everything else.
    Plain,
    /// Stands back.
    Dim,
    /// Stands out.
    Bold,
    /// Good.
    Green,
    /// In motion.
    Yellow,
    /// Bad.
    Red,
}

/// Text with one look.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Span(pub Paint, pub String);

/// Spans from left to right.
pub type Line = Vec<Span>;

/// Standard output, for people.
pub struct Screen {
    began: Instant,
    steps: u32,
    /// Lines at the end that the next ones replace.
    live: usize,
    terminal: bool,
    colours: bool,
}

impl Screen {
    /// Looks at what standard output is. The clock starts.
    #[must_use]
    pub fn new() -> Self {
        let dumb = parts::environment("TERM").is_some_and(|kind| kind == "dumb");
        let terminal = io::stdout().is_terminal() && !dumb;
        Self {
            began: Instant::now(),
            steps: 0,
            live: 0,
            terminal,
            colours: terminal && parts::environment("NO_COLOR").is_none(),
        }
    }

    /// Whether lines can be redrawn in place.
    #[must_use]
    pub fn redraws(&self) -> bool {
        self.terminal
    }

    /// Since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The next thing that is done or proved.
    pub fn step(&mut self, text: &str) {
        self.steps += 1;
        let number = format!("{}. ", self.steps);
        self.print(&[]);
        let clock = self.clock();
        self.print(&[clock, span(Paint::Bold, format!("{number}{text}"))]);
    }

    /// A remark below a step.
    pub fn note(&mut self, text: &str) {
        self.indented(Paint::Plain, text);
    }

    /// A change, with the time when it was seen.
    pub fn change(&mut self, line: &[Span]) {
        let mut timed = vec![self.clock()];
        timed.extend_from_slice(line);
        self.print(&timed);
    }

    /// Something that was checked and holds.
    pub fn proved(&mut self, text: &str) {
        let clock = self.clock();
        let text = span(Paint::Plain, text.to_owned());
        self.print(&[clock, span(Paint::Green, "proved: ".to_owned()), text]);
    }

    /// A command line that is about to run.
    pub fn command(&mut self, text: &str) {
        self.indented(Paint::Bold, &format!("$ {text}"));
    }

    /// What a command or a file says.
    pub fn quote(&mut self, text: &str) {
        for line in text.lines() {
            self.indented(Paint::Dim, line);
        }
    }

    /// A line of its own at the left edge.
    pub fn say(&mut self, paint: Paint, text: &str) {
        self.print(&[span(paint, text.to_owned())]);
    }

    /// A line of its own at the left edge, in several colours.
    pub fn line(&mut self, line: &[Span]) {
        self.print(line);
    }

    /// Draws lines over those that were drawn so last, the first one with the time. On a terminal only.
    pub fn redraw(&mut self, lines: &[Line]) {
        if !self.terminal {
            return;
        }
        let width = terminal_size().map_or(WIDTH, |(Width(width), _)| usize::from(width));
        let mut drawn = String::new();
        if self.live > 0 {
            drawn = format!("\x1b[{}A", self.live);
        }
        let mut margin = self.clock();
        for line in lines {
            let line = [slice::from_ref(&margin), line].concat();
            // Each line is cleared first: what stood there may have been longer.
            drawn.extend(["\x1b[2K", &self.paint(&cut(&line, width)), "\n"]);
            margin = span(Paint::Plain, MARGIN.to_owned());
        }
        write(&drawn);
        self.live = lines.len();
    }

    /// What was redrawn so far stays.
    pub fn settle(&mut self) {
        self.live = 0;
    }

    fn indented(&mut self, paint: Paint, text: &str) {
        self.print(&[span(paint, format!("{MARGIN}{text}"))]);
    }

    fn clock(&self) -> Span {
        span(
            Paint::Dim,
            format!("{:6.1}s  ", self.elapsed().as_secs_f64()),
        )
    }

    fn print(&mut self, line: &[Span]) {
        self.settle();
        let painted = self.paint(line);
        write(&format!("{}\n", painted.trim_end()));
    }

    fn paint(&self, line: &[Span]) -> String {
        let piece = |Span(paint, text): &Span| match code(*paint) {
            Some(code) if self.colours => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.clone(),
        };
        line.iter().map(piece).collect()
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// A piece of a line.
#[must_use]
pub fn span(paint: Paint, text: String) -> Span {
    Span(paint, text)
}

/// A line that wraps could not be redrawn in place.
fn cut(line: &[Span], width: usize) -> Line {
    let mut room = width;
    let mut kept = Line::new();
    for Span(paint, text) in line {
        let text: String = text.chars().take(room).collect();
        room -= text.chars().count();
        kept.push(span(*paint, text));
    }
    kept
}

fn code(paint: Paint) -> Option<&'static str> {
    match paint {
        Paint::Plain => None,
        Paint::Dim => Some("2"),
        Paint::Bold => Some("1"),
        Paint::Green => Some("32"),
        Paint::Yellow => Some("33"),
        Paint::Red => Some("31"),
    }
}

/// A reader that went away (`| head`) is no reason to stop checking; the exit code still tells.
fn write(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_to_the_terminal_whatever_its_colours() {
        let line = [
            span(Paint::Green, "node-1".into()),
            span(Paint::Red, " ✗ failed".into()),
        ];
        let kept = cut(&line, 8);
        assert_eq!(
            kept,
            [
                span(Paint::Green, "node-1".into()),
                span(Paint::Red, " ✗".into())
            ]
        );
    }
}
