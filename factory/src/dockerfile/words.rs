//! Splits a line into words and replaces variables in a word, as `BuildKit` does.

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::Chars;

/// Build arguments. One that is declared without a value is there without one.
pub(super) type Variables = HashMap<String, Option<String>>;

/// Why a word has no value here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoValue {
    /// An `ARG` without default, or none at all.
    #[error("the build argument {0} has no default")]
    Unset(String),
    /// A form of `${...}` that is not known.
    #[error("${{{0}}} is not understood")]
    Form(String),
}

/// Words between blanks. Quotes and escapes hold a word together and stay in it.
pub(super) fn split(line: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == escape && quote != Some('\'') {
            word.push(c);
            word.extend(chars.next());
            continue;
        }
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// The leading `--name=value` words. The value is without its quotes.
pub(super) fn flags(line: &str, escape: char) -> Vec<(String, String)> {
    split(line, escape)
        .iter()
        .map_while(|word| word.strip_prefix("--"))
        .map(|flag| {
            let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
            (name.to_ascii_lowercase(), value.replace(['"', '\''], ""))
        })
        .collect()
}

/// A word with its quotes removed and its variables replaced.
pub(super) fn expand(word: &str, escape: char, variables: &Variables) -> Result<String, NoValue> {
    Expansion {
        chars: word.chars().peekable(),
        escape,
        variables,
    }
    .until(None)
}

struct Expansion<'a> {
    chars: Peekable<Chars<'a>>,
    escape: char,
    variables: &'a Variables,
}

impl Expansion<'_> {
    fn until(&mut self, end: Option<char>) -> Result<String, NoValue> {
        let mut out = String::new();
        let mut in_double = false;
        while let Some(c) = self.chars.next() {
            match c {
                c if Some(c) == end && !in_double => break,
                c if c == self.escape => out.extend(self.chars.next()),
                '"' => in_double = !in_double,
                '\'' if !in_double => out.extend(self.chars.by_ref().take_while(|c| *c != '\'')),
                '$' => out.push_str(&self.variable()?),
                c => out.push(c),
            }
        }
        Ok(out)
    }

    fn variable(&mut self) -> Result<String, NoValue> {
        if self.chars.next_if_eq(&'{').is_none() {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return self.value(&name).ok_or(NoValue::Unset(name));
        }
        let name = self.name();
        let value = self.value(&name);
        let counts_empty = self.chars.next_if_eq(&':').is_some();
        // With a colon an empty value counts as none.
        let present = value
            .clone()
            .filter(|value| !counts_empty || !value.is_empty());
        match self.chars.next() {
            Some('}') if !counts_empty => value.ok_or(NoValue::Unset(name)),
            Some('-') => {
                let default = self.until(Some('}'));
                present.map_or(default, Ok)
            }
            Some('+') => {
                let other = self.until(Some('}'));
                if present.is_some() {
                    other
                } else {
                    Ok(String::new())
                }
            }
            Some('?') => {
                let _message = self.until(Some('}'));
                present.ok_or(NoValue::Unset(name))
            }
            other => {
                let rest: String = self.chars.by_ref().take_while(|c| *c != '}').collect();
                let colon = if counts_empty { ":" } else { "" };
                let operator = other.map(String::from).unwrap_or_default();
                Err(NoValue::Form(format!("{name}{colon}{operator}{rest}")))
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self
            .chars
            .next_if(|c| c.is_ascii_alphanumeric() || *c == '_')
        {
            name.push(c);
        }
        name
    }

    fn value(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned().flatten()
    }
}
