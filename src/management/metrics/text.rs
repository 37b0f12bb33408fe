//! Prometheus's text format.

use std::fmt::{Display, Write as _};

use crate::broker::stats::Histogram;

/// What kind of number a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One that only grows, until the broker starts again.
    Counter,
    /// One that goes up and down.
    Gauge,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// A text in the making.
#[derive(Debug)]
pub(super) struct Exposition {
    prefix: &'static str,
    text: String,
}

impl Exposition {
    /// An empty one, of families whose names begin with `prefix`.
    pub(super) fn new(prefix: &'static str) -> Self {
        Self { prefix, text: String::new() }
    }

    /// The same text; what comes now has another prefix.
    pub(super) fn with_prefix(self, prefix: &'static str) -> Self {
        Self { prefix, ..self }
    }

    /// Begins a family. Its samples follow.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let (prefix, kind) = (self.prefix, kind.name());
        _ = writeln!(self.text, "# TYPE {prefix}{name} {kind}\n# HELP {prefix}{name} {help}");
    }

    /// A sample. The labels are what [`labels`] makes, or nothing.
    pub(super) fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let prefix = self.prefix;
        if labels.is_empty() {
            _ = writeln!(self.text, "{prefix}{name} {value}");
        } else {
            _ = writeln!(self.text, "{prefix}{name}{{{labels}}} {value}");
        }
    }

    /// A family of one sample without labels.
    pub(super) fn single(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }

    /// A histogram. Its values are divided by `unit`.
    pub(super) fn histogram<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: &str,
        histogram: &Histogram<N>,
        unit: f64,
    ) {
        let prefix = self.prefix;
        _ = writeln!(self.text, "# TYPE {prefix}{name} histogram\n# HELP {prefix}{name} {help}");
        let comma = if labels.is_empty() { "" } else { "," };
        let (mut count, sum) = (0, histogram.sum() as f64 / unit);
        for (bound, up_to) in histogram.cumulative() {
            count = up_to;
            let bound = bound as f64 / unit;
            self.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{bound}\""), up_to);
        }
        // Counted while others go on counting: no bucket may have more than the whole.
        let count = histogram.count().max(count);
        self.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"+Inf\""), count);
        self.sample(&format!("{name}_count"), labels, count);
        self.sample(&format!("{name}_sum"), labels, sum);
    }

    /// How long it is, in octets.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// Takes what there is so far.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    /// The whole text.
    pub(super) fn into_string(self) -> String {
        self.text
    }
}

/// Labels as they stand between the braces. Values may be anything.
pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        let comma = if text.is_empty() { "" } else { "," };
        _ = write!(text, "{comma}{name}=\"");
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_can_have_any_value() {
        assert_eq!(labels(&[("queue", "a\"b\\c\nd{}"), ("vhost", "/")]), r#"queue="a\"b\\c\nd{}",vhost="/""#);
    }

    #[test]
    fn a_histogram_ends_with_all_of_them() {
        let histogram = Histogram::new([100, 1000]);
        histogram.record(500, 2);
        histogram.record(5000, 1);
        let mut text = Exposition::new("x_");
        text.histogram("age_seconds", "Age", "a=\"b\"", &histogram, 1000.0);
        let expected = "# TYPE x_age_seconds histogram\n# HELP x_age_seconds Age\n\
            x_age_seconds_bucket{a=\"b\",le=\"0.1\"} 0\nx_age_seconds_bucket{a=\"b\",le=\"1\"} 2\n\
            x_age_seconds_bucket{a=\"b\",le=\"+Inf\"} 3\nx_age_seconds_count{a=\"b\"} 3\nx_age_seconds_sum{a=\"b\"} 6\n";
        assert_eq!(text.into_string(), expected);
    }
}
