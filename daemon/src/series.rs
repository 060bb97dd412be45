//! Metrics by object: written anew for each scrape from what the caller holds, so that the series of an object that is gone
//! are gone too. The `metrics` facade cannot forget a series, which would make them grow without bound.

use metrics::{Key, Label};
use metrics_exporter_prometheus::LabelSet;
use metrics_exporter_prometheus::formatting::{
    write_help_line, write_metric_line, write_type_line,
};

/// A page in the Prometheus text format.
#[derive(Debug, Default)]
pub struct Page(String);

/// Label names and values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    /// Begins a gauge.
    pub fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "gauge")
    }

    /// Begins a counter; its name ends in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "counter")
    }

    /// Begins a histogram.
    pub fn histogram(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "histogram")
    }

    fn family(&mut self, name: &'static str, help: &str, kind: &str) -> Family<'_> {
        write_help_line(&mut self.0, name, None, None, help);
        write_type_line(&mut self.0, name, None, None, kind);
        Family {
            page: &mut self.0,
            name,
        }
    }

    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.0
    }
}

/// One metric of a [`Page`]. Its samples follow its head at once, as the format demands.
#[derive(Debug)]
pub struct Family<'a> {
    page: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    /// Writes one sample.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl std::fmt::Display) -> &mut Self {
        write_metric_line::<&str, _>(
            self.page,
            self.name,
            None,
            &label_set(self.name, labels),
            None,
            value,
            None,
        );
        self
    }

    /// Writes the samples of one histogram.
    pub fn buckets(&mut self, labels: Labels<'_>, histogram: &Histogram) -> &mut Self {
        let labels = label_set(self.name, labels);
        let mut below = 0;
        for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
            below += count;
            write_metric_line(
                self.page,
                self.name,
                Some("bucket"),
                &labels,
                Some(("le", bound)),
                below,
                None,
            );
        }
        let all = histogram.count;
        write_metric_line(
            self.page,
            self.name,
            Some("bucket"),
            &labels,
            Some(("le", "+Inf")),
            all,
            None,
        );
        write_metric_line::<&str, _>(
            self.page,
            self.name,
            Some("sum"),
            &labels,
            None,
            histogram.sum,
            None,
        );
        write_metric_line::<&str, _>(
            self.page,
            self.name,
            Some("count"),
            &labels,
            None,
            all,
            None,
        );
        self
    }
}

fn label_set(name: &'static str, labels: Labels<'_>) -> LabelSet {
    let labels: Vec<Label> = labels
        .iter()
        .map(|(k, v)| Label::new((*k).to_owned(), (*v).to_owned()))
        .collect();
    // The map type belongs to a crate that we do not otherwise need.
    #[allow(clippy::default_trait_access)]
    let no_globals = Default::default();
    LabelSet::from_key_and_global(&Key::from_parts(name, labels), &no_globals)
}

/// Counts of values by size.
#[derive(Clone, Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    /// An empty one with these upper bounds, in ascending order.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len()],
            count: 0,
            sum: 0.0,
        }
    }

    /// Counts one value.
    pub fn record(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.count += 1;
        self.sum += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_prometheus_reads_it() {
        let mut histogram = Histogram::new(&[1.0, 2.0, 4.0]);
        for value in [0.5, 2.0, 3.0, 9.0] {
            histogram.record(value);
        }
        let mut page = Page::default();
        page.gauge("drop_nodes", "Nodes.")
            .sample(&[("image", "a\"b\\c")], 3)
            .sample(&[], 1.5);
        page.histogram("drop_pull_seconds", "Time.")
            .buckets(&[("image", "a")], &histogram);
        let expected = "# HELP drop_nodes Nodes.\n# TYPE drop_nodes gauge\n\
            drop_nodes{image=\"a\\\"b\\\\c\"} 3\ndrop_nodes 1.5\n\
            # HELP drop_pull_seconds Time.\n# TYPE drop_pull_seconds histogram\n\
            drop_pull_seconds_bucket{image=\"a\",le=\"1\"} 1\n\
            drop_pull_seconds_bucket{image=\"a\",le=\"2\"} 2\n\
            drop_pull_seconds_bucket{image=\"a\",le=\"4\"} 3\n\
            drop_pull_seconds_bucket{image=\"a\",le=\"+Inf\"} 4\n\
            drop_pull_seconds_sum{image=\"a\"} 14.5\n\
            drop_pull_seconds_count{image=\"a\"} 4\n";
        assert_eq!(page.into_text(), expected);
    }
}
