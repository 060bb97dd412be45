//! A measured figure and its target. Pure.

use serde::Serialize;

/// What a figure is counted in.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub(crate) enum Unit {
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "s")]
    Seconds,
    #[serde(rename = "MiB")]
    Mebibytes,
    #[serde(rename = "bytes")]
    Bytes,
    #[serde(rename = "%")]
    Percent,
    #[serde(rename = "")]
    Count,
}

/// One result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    /// Where it was taken: "1000 agents x 20 images".
    pub(crate) scene: String,
    /// What it is.
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: Unit,
    /// It must not be more than this.
    pub(crate) target: Option<f64>,
    /// What explains it, such as the figure that it is compared with.
    pub(crate) note: String,
}

/// Whether a target is met.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Met,
    Over,
}

impl Figure {
    /// A figure without a target.
    pub(crate) fn new(scene: &str, name: &str, value: f64, unit: Unit) -> Self {
        Self {
            scene: scene.to_owned(),
            name: name.to_owned(),
            value,
            unit,
            target: None,
            note: String::new(),
        }
    }

    /// Sets the target.
    pub(crate) fn at_most(mut self, target: f64) -> Self {
        self.target = Some(target);
        self
    }

    /// Sets a target that is meant for fleets of up to so many agents.
    pub(crate) fn at_most_up_to(self, most_agents: usize, agents: usize, target: f64) -> Self {
        if agents <= most_agents {
            self.at_most(target)
        } else {
            self
        }
    }

    /// Adds an explanation.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// `None`: it has no target.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        self.target.map(|target| {
            if self.value <= target {
                Verdict::Met
            } else {
                Verdict::Over
            }
        })
    }

    /// What it is and where.
    pub(crate) fn title(&self) -> String {
        format!("{} ({})", self.name, self.scene)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_is_just_reached_is_met() {
        let figure = Figure::new("here", "writes", 50.0, Unit::Count);
        assert_eq!(figure.verdict(), None);
        assert_eq!(figure.clone().at_most(50.0).verdict(), Some(Verdict::Met));
        assert_eq!(figure.at_most(49.9).verdict(), Some(Verdict::Over));
    }
}
