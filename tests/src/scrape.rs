//! Metrics of one process: the text of a scrape and its samples.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::http;

/// One scrape.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// As it was answered.
    pub text: String,
    samples: Vec<Sample>,
}

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric, such as `drop_pull_duration_seconds_count`.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// Reads `http://<address>/metrics`.
pub async fn scrape(address: &str) -> Result<Scrape> {
    let text = http::get(&format!("http://{address}/metrics"))
        .await?
        .success()?
        .text();
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let samples: Result<Vec<Sample>> = lines
        .map(|line| sample(line).with_context(|| format!("parse sample: {line}")))
        .collect();
    Ok(Scrape {
        samples: samples?,
        text,
    })
}

impl Scrape {
    /// All samples of a metric.
    #[must_use]
    pub fn of(&self, name: &str) -> Vec<&Sample> {
        self.samples
            .iter()
            .filter(|sample| sample.name == name)
            .collect()
    }

    /// The value of the first sample of `name` that has all these labels.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |sample: &&Sample| {
            labels
                .iter()
                .all(|(key, value)| sample.labels.get(*key).is_some_and(|has| has == value))
        };
        self.samples
            .iter()
            .filter(|sample| sample.name == name)
            .find(fits)
            .map(|sample| sample.value)
    }
}

/// `name{a="b",c="d"} 1`.
fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while let Some((key, after)) = rest.split_once("=\"") {
            let (value, length) = quoted(after)?;
            labels.insert(key.trim_start_matches([',', ' ']).to_owned(), value);
            rest = &after[length..];
            if rest.starts_with('}') {
                break;
            }
        }
        rest = rest.trim_start_matches(',').strip_prefix('}')?;
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// The text up to the closing quote, unescaped, and its length with that quote.
fn quoted(text: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, at + 1)),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_may_hold_commas_braces_and_escaped_quotes() {
        let parsed = sample(r#"drop_x_total{a="b,c}",d="say \"hi\""} 3 1700000000"#).unwrap();
        assert_eq!(parsed.labels["a"], "b,c}");
        assert_eq!(parsed.labels["d"], "say \"hi\"");
        assert_eq!((parsed.name.as_str(), parsed.value), ("drop_x_total", 3.0));
    }

    #[test]
    fn a_sample_without_labels_has_none() {
        assert_eq!(sample("up 1").unwrap().labels.len(), 0);
        assert_eq!(sample("no value"), None);
    }
}
