//! What came of it: a table of what is missing for people, one JSON document for programs.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::grantor::State;
use super::progress::{Row, seconds};

/// The end of one image.
#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Image<'a> {
    name: &'a str,
    reference: &'a str,
    /// "present" or "failed".
    state: &'static str,
    digest: Option<&'a str>,
    /// Only known of images that were pulled.
    size_bytes: Option<u64>,
    elapsed_seconds: f64,
    /// Why it failed, in one word.
    class: Option<&'static str>,
    message: Option<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    images: Vec<Image<'a>>,
}

/// What stopped the images that are neither present nor given up.
#[derive(Debug)]
pub(super) struct Unfinished<'a> {
    /// How long all of it was allowed to take.
    pub(super) limit: Duration,
    /// If the runtime is to blame.
    pub(super) runtime_problem: Option<&'a str>,
}

/// Writes one JSON document.
pub(super) fn json(out: &mut impl Write, rows: &[Row], why: &Unfinished) -> io::Result<()> {
    let images = rows.iter().map(|row| image(row, why)).collect();
    serde_json::to_writer_pretty(&mut *out, &Document { images })?;
    writeln!(out)
}

/// Writes a line that sums up, and a table of what is missing.
pub(super) fn table(
    out: &mut impl Write,
    now: Duration,
    rows: &[Row],
    why: &Unfinished,
) -> io::Result<()> {
    let images: Vec<Image> = rows.iter().map(|row| image(row, why)).collect();
    let present = images
        .iter()
        .filter(|image| image.state == "present")
        .count();
    writeln!(
        out,
        "{present} of {} images present after {}",
        rows.len(),
        seconds(now)
    )?;
    let failed: Vec<[&str; 4]> = images
        .iter()
        .filter(|image| image.state != "present")
        .map(|image| {
            let message = image.message.as_deref().unwrap_or_default();
            [
                image.name,
                image.reference,
                image.class.unwrap_or_default(),
                message,
            ]
        })
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    let head = ["NAME", "REFERENCE", "CLASS", "CAUSE"];
    let width = |column: usize| {
        let cells = failed.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let (name, reference, class) = (width(0), width(1), width(2));
    writeln!(out)?;
    for row in [head].iter().chain(&failed) {
        let [n, r, c, cause] = row;
        writeln!(out, "{n:<name$}  {r:<reference$}  {c:<class$}  {cause}")?;
    }
    Ok(())
}

fn image<'a>(row: &'a Row, why: &Unfinished) -> Image<'a> {
    let (state, digest, size_bytes, class, message) = match &row.state {
        State::Present { digest, size_bytes } => {
            let size = (*size_bytes > 0).then_some(*size_bytes);
            ("present", digest.as_deref(), size, None, None)
        }
        State::Failed(failure) => {
            let message = failure.message.clone();
            (
                "failed",
                None,
                None,
                Some(failure.class.class()),
                Some(message),
            )
        }
        State::Absent => {
            let message = "not on this machine, and imagePullPolicy is Never".to_owned();
            ("failed", None, None, Some("never"), Some(message))
        }
        State::Retrying { failure, .. } => {
            let message = format!(
                "{} (gave up after {})",
                failure.message,
                whole_seconds(why.limit)
            );
            (
                "failed",
                None,
                None,
                Some(failure.class.class()),
                Some(message),
            )
        }
        State::Pulling { .. } => {
            let message = format!("still being pulled after {}", whole_seconds(why.limit));
            ("failed", None, None, Some("unfinished"), Some(message))
        }
        State::Waiting => {
            let (class, message) = waited(why);
            ("failed", None, None, Some(class), Some(message))
        }
    };
    Image {
        name: &row.name,
        reference: &row.reference,
        state,
        digest,
        size_bytes,
        elapsed_seconds: (row.elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
        class,
        message,
    }
}

fn waited(why: &Unfinished) -> (&'static str, String) {
    if let Some(problem) = why.runtime_problem {
        let message = format!("the container runtime does not answer: {problem}");
        return ("runtime", message);
    }
    let message = format!("its turn did not come within {}", whole_seconds(why.limit));
    ("unfinished", message)
}

fn whole_seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}

#[cfg(test)]
mod tests {
    use drop_proto::FailureClass;

    use super::*;
    use crate::node::Failure;

    fn rows() -> Vec<Row> {
        let row = |name: &str, state| Row {
            name: name.to_owned(),
            reference: format!("r.example/{name}:1"),
            state,
            elapsed: Duration::from_millis(1234),
        };
        let failure = Failure {
            class: FailureClass::NotFound,
            message: "image not found".to_owned(),
        };
        let present = State::Present {
            digest: Some("sha256:12".to_owned()),
            size_bytes: 2_000_000,
        };
        let retrying = State::Retrying {
            at: Duration::ZERO,
            failure: Failure {
                class: FailureClass::Throttled,
                message: "throttled by r.example".to_owned(),
            },
        };
        vec![
            row("a", present),
            row("bb", State::Failed(failure)),
            row("c", retrying),
            row("d", State::Waiting),
            row("e", State::Absent),
        ]
    }

    const WHY: Unfinished = Unfinished {
        limit: Duration::from_secs(60),
        runtime_problem: Some("no socket at /x"),
    };

    #[test]
    fn the_table_names_what_is_missing_and_why() {
        let mut out = Vec::new();
        table(&mut out, Duration::from_secs(60), &rows(), &WHY).expect("memory");
        assert_eq!(
            String::from_utf8(out).expect("text"),
            "1 of 5 images present after 60.0s\n\n\
             NAME  REFERENCE       CLASS      CAUSE\n\
             bb    r.example/bb:1  not_found  image not found\n\
             c     r.example/c:1   throttled  throttled by r.example (gave up after 60 s)\n\
             d     r.example/d:1   runtime    the container runtime does not answer: no socket at /x\n\
             e     r.example/e:1   never      not on this machine, and imagePullPolicy is Never\n"
        );
    }

    #[test]
    fn the_json_document_has_every_image() {
        let mut out = Vec::new();
        json(&mut out, &rows()[..2], &WHY).expect("memory");
        let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(
            value,
            serde_json::json!({"images": [
                {"name": "a", "reference": "r.example/a:1", "state": "present", "digest": "sha256:12",
                 "sizeBytes": 2_000_000, "elapsedSeconds": 1.234, "class": null, "message": null},
                {"name": "bb", "reference": "r.example/bb:1", "state": "failed", "digest": null,
                 "sizeBytes": null, "elapsedSeconds": 1.234, "class": "not_found", "message": "image not found"},
            ]})
        );
    }
}
