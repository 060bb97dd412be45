//! Cuts a Dockerfile into instructions: continuations joined, comments and heredoc bodies left out.

use super::words::split;
use super::{Mistake, mistake};

/// All that a Dockerfile may begin a line with.
const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// One instruction.
pub(super) struct Instruction {
    /// The line it begins on, counted from 1.
    pub(super) line: usize,
    /// The keyword in upper case.
    pub(super) keyword: String,
    /// All behind the keyword.
    pub(super) rest: String,
}

/// The instructions, and the escape character that holds for the file.
pub(super) fn instructions(text: &str) -> Result<(Vec<Instruction>, char), Mistake> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = escape_directive(text)?;
    let mut lines = text.lines().enumerate();
    let mut found = Vec::new();
    while let Some((index, first)) = lines.next() {
        if is_blank_or_comment(first) {
            continue;
        }
        let (mut joined, mut goes_on) = continuation(first.trim_start(), escape);
        let mut whole = joined.to_owned();
        while goes_on {
            let Some((_, next)) = lines.next() else { break };
            // Comments and blank lines within an instruction are no part of it, and do not end it.
            if is_blank_or_comment(next) {
                continue;
            }
            (joined, goes_on) = continuation(next, escape);
            whole.push_str(joined);
        }
        let whole = whole.trim();
        if whole.is_empty() {
            continue;
        }
        let instruction = instruction(index + 1, whole)?;
        for heredoc in heredocs(&instruction, escape) {
            let is_end = |line: &str| {
                let line = if heredoc.strips_tabs {
                    line.trim_start_matches('\t')
                } else {
                    line
                };
                line == heredoc.end
            };
            if !lines.any(|(_, line)| is_end(line)) {
                return Err(mistake(
                    instruction.line,
                    &format!("the heredoc does not end: no line is {}", heredoc.end),
                ));
            }
        }
        found.push(instruction);
    }
    Ok((found, escape))
}

/// `# escape=` counts only at the top, among directives.
fn escape_directive(text: &str) -> Result<char, Mistake> {
    for (index, line) in text.lines().enumerate() {
        let directive = line
            .trim_start()
            .strip_prefix('#')
            .and_then(|comment| comment.split_once('='))
            .map(|(key, value)| (key.trim().to_ascii_lowercase(), value.trim()));
        match directive {
            Some((key, "\\" | "`")) if key == "escape" => {
                return Ok(if line.trim_end().ends_with('`') {
                    '`'
                } else {
                    '\\'
                });
            }
            Some((key, _)) if key == "escape" => {
                return Err(mistake(index + 1, "escape takes \\ or `"));
            }
            Some((key, _)) if key == "syntax" || key == "check" => {}
            _ => break,
        }
    }
    Ok('\\')
}

fn is_blank_or_comment(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

/// The line without its continuation, and whether there was one. A doubled escape at the end is none.
fn continuation(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(before) if !before.ends_with(escape) => (before, true),
        _ => (line, false),
    }
}

fn instruction(line: usize, whole: &str) -> Result<Instruction, Mistake> {
    let (keyword, rest) = whole.split_once(char::is_whitespace).unwrap_or((whole, ""));
    let upper = keyword.to_ascii_uppercase();
    if !KEYWORDS.contains(&upper.as_str()) {
        let shown: String = keyword.chars().take(40).collect();
        return Err(mistake(
            line,
            &format!("{shown} is no instruction of a Dockerfile"),
        ));
    }
    Ok(Instruction {
        line,
        keyword: upper,
        rest: rest.trim().to_owned(),
    })
}

struct Heredoc {
    end: String,
    strips_tabs: bool,
}

/// The heredocs that an instruction opens, in order.
fn heredocs(instruction: &Instruction, escape: char) -> Vec<Heredoc> {
    let (keyword, rest) = match instruction.keyword.as_str() {
        "ONBUILD" => instruction
            .rest
            .split_once(char::is_whitespace)
            .unwrap_or_default(),
        keyword => (keyword, instruction.rest.as_str()),
    };
    let may_open = ["ADD", "COPY", "RUN"]
        .iter()
        .any(|candidate| keyword.eq_ignore_ascii_case(candidate));
    if !may_open || !rest.contains("<<") || serde_json::from_str::<Vec<String>>(rest).is_ok() {
        return Vec::new();
    }
    split(rest, escape)
        .iter()
        .filter_map(|word| {
            let rest = word
                .trim_start_matches(|c: char| c.is_ascii_digit())
                .strip_prefix("<<")?;
            let (rest, strips_tabs) = match rest.strip_prefix('-') {
                Some(rest) => (rest, true),
                None => (rest, false),
            };
            let end: String = rest
                .chars()
                .filter(|c| !matches!(c, '"' | '\'' | '\\'))
                .collect();
            (!end.is_empty() && !end.contains('<')).then_some(Heredoc { end, strips_tabs })
        })
        .collect()
}
