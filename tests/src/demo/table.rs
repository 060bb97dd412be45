//! CachedImages as rows: one cell a node, as `status` says it. Pure.

use drop_api::conditions::READY;
use drop_api::{CachedImage, NodeState};
use kube::ResourceExt;

use super::screen::{Line, Paint, Span, span};
use crate::cached_image::{condition, status};

/// A row: a CachedImage now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Row {
    /// Its name.
    pub(super) name: String,
    tag: String,
    cells: Vec<Cell>,
    ready: String,
    reason: String,
    message: String,
    megabytes: String,
}

/// An image on a node.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Cell {
    /// Nothing is known for the spec as it is now.
    Unknown,
    /// The runtime lists it.
    Cached,
    /// Not there, and why.
    Missing(NodeState),
}

impl Row {
    /// What `status` says about `image` on these nodes; nothing where it is of an older spec.
    pub(super) fn new(image: &CachedImage, nodes: &[String]) -> Self {
        let status = status(image);
        let current = Some(status.observed_generation) == image.metadata.generation;
        let cell = |node: &String| {
            if !current {
                return Cell::Unknown;
            }
            if status.cached_nodes.contains(node) {
                return Cell::Cached;
            }
            let exception = status.nodes.iter().find(|one| one.node == *node);
            exception.map_or(Cell::Unknown, |one| Cell::Missing(one.state))
        };
        let (_, reason, message) = if current {
            condition(image, READY)
        } else {
            Default::default()
        };
        Self {
            name: image.name_any(),
            tag: image.spec.tag.clone().unwrap_or_default(),
            cells: nodes.iter().map(cell).collect(),
            ready: if current {
                status.ready.clone().unwrap_or_default()
            } else {
                String::new()
            },
            reason,
            message,
            megabytes: status
                .size_bytes
                .map(|bytes| format!("{:.0} MB", bytes as f64 / 1e6))
                .unwrap_or_default(),
        }
    }

    /// Whether one of the two differs in what a reader of plain lines wants to hear about.
    pub(super) fn differs(&self, other: &Row) -> bool {
        (&self.tag, &self.ready, &self.reason) != (&other.tag, &other.ready, &other.reason)
    }

    /// Whether it is on all its nodes.
    pub(super) fn is_ready(&self) -> bool {
        self.paint() == Paint::Green
    }

    /// Whether `status` says anything about the spec as it is.
    pub(super) fn is_known(&self) -> bool {
        !self.reason.is_empty()
    }

    /// `web:v1  2/3  InProgress  ...`, for plain lines.
    pub(super) fn sentence(&self) -> Line {
        let image = format!("{}:{}", self.name, self.tag);
        let message = if self.paint() == Paint::Red {
            format!("  {}", self.message)
        } else {
            String::new()
        };
        vec![span(
            Paint::Plain,
            format!("{image:<12} {:<5} {}{message}", self.ready, self.reason),
        )]
    }

    fn line(&self) -> Line {
        let head = format!(
            "{:<12} {:>6}  ",
            format!("{}:{}", self.name, self.tag),
            self.megabytes
        );
        let mut line = vec![span(Paint::Plain, head)];
        line.extend(self.cells.iter().map(cell_span));
        line.push(span(
            self.paint(),
            format!("{:<6} {}", self.ready, self.reason),
        ));
        if self.paint() == Paint::Red {
            // The rest of the message is the count that stands beside it.
            let cause = self.message.split("; ").next().unwrap_or_default();
            line.push(span(Paint::Dim, format!("  {cause}")));
        }
        line
    }

    fn paint(&self) -> Paint {
        match self.reason.as_str() {
            "" | "InProgress" => Paint::Yellow,
            "Cached" => Paint::Green,
            _ => Paint::Red,
        }
    }
}

/// The table with its head.
pub(super) fn lines(rows: &[Row], nodes: &[String]) -> Vec<Line> {
    let mut head = format!("{:<12} {:>6}  ", "IMAGE", "SIZE");
    head.extend(nodes.iter().map(|node| format!("{node:<12}")));
    head.push_str("READY  STATUS");
    let mut lines = vec![vec![span(Paint::Dim, head)]];
    lines.extend(rows.iter().map(Row::line));
    lines
}

fn cell_span(cell: &Cell) -> Span {
    let (paint, word) = match cell {
        Cell::Unknown => (Paint::Dim, "-"),
        Cell::Cached => (Paint::Green, "cached"),
        Cell::Missing(NodeState::Waiting) => (Paint::Dim, "waits"),
        Cell::Missing(NodeState::Pulling) => (Paint::Yellow, "pulls"),
        Cell::Missing(NodeState::BackingOff) => (Paint::Red, "backs off"),
        Cell::Missing(NodeState::Failed) => (Paint::Red, "failed"),
        Cell::Missing(NodeState::NotConnected) => (Paint::Red, "no agent"),
        Cell::Missing(NodeState::Unknown) => (Paint::Dim, "?"),
    };
    span(paint, format!("{word:<12}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use drop_api::{CachedImageSpec, CachedImageStatus};

    fn image(observed: i64) -> CachedImage {
        let spec = CachedImageSpec {
            tag: Some("v1".into()),
            ..CachedImageSpec::default()
        };
        let mut image = CachedImage::new("web", spec);
        image.metadata.generation = Some(2);
        image.status = Some(CachedImageStatus {
            observed_generation: observed,
            ready: Some("1/2".into()),
            cached_nodes: vec!["node-1".into()],
            ..CachedImageStatus::default()
        });
        image
    }

    #[test]
    fn a_status_of_an_older_spec_says_nothing_about_the_nodes() {
        let nodes = ["node-1".to_owned()];
        assert_eq!(Row::new(&image(2), &nodes).cells, [Cell::Cached]);
        assert_eq!(Row::new(&image(1), &nodes).cells, [Cell::Unknown]);
    }
}
