//! What is wrong, where, and what to do: one line each.

use std::fmt;

use serde::Serialize;

use crate::yaml::{Mistake, Place};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something was not done; the exit code is 1.
    Problem,
    /// All was done, but look at it.
    Warning,
}

/// A finding. Prints as `file:line:column: message`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file, as the user can open it.
    pub file: String,
    /// The line, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The column, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    /// A problem with a whole file.
    #[must_use]
    pub fn file(file: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            column: None,
            severity: Severity::Problem,
            message: message.into(),
        }
    }

    /// A problem at a place. Values that the factory made have no place.
    #[must_use]
    pub fn at(file: &str, place: Place, message: impl Into<String>) -> Self {
        let known = place.line > 0;
        Self {
            line: known.then_some(place.line),
            column: known.then_some(place.column),
            ..Self::file(file, message)
        }
    }

    /// A text that is no YAML.
    #[must_use]
    pub fn mistake(file: &str, mistake: &Mistake) -> Self {
        Self::at(file, mistake.place, mistake.message.clone())
    }

    /// The same as a warning.
    #[must_use]
    pub fn warning(self) -> Self {
        Self {
            severity: Severity::Warning,
            ..self
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if let Some(column) = self.column {
            write!(f, "{column}:")?;
        }
        if self.severity == Severity::Warning {
            write!(f, " warning:")?;
        }
        write!(f, " {}", self.message)
    }
}
