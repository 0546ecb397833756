//! The figures of a run, as a table for people and as JSON for programs.

use std::fmt::Write;

use crate::samples::Summary;

/// Below this a subject is faster than its limit by more than noise, so the limit is wrong.
const WRONG_LIMIT: f64 = 0.97;

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// None is set.
    None,
    /// The median is at most this.
    AtMost(f64),
    /// The median is at least this.
    AtLeast(f64),
    /// The worst round is at least this.
    EachAtLeast(f64),
}

/// The figures of a run, in the order they were measured.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    key: String,
    unit: &'static str,
    goal: Goal,
    /// None: could not be measured.
    summary: Option<Summary>,
}

impl Figures {
    /// Adds what was measured under `key`; no values mean that it could not be measured.
    pub(crate) fn add(&mut self, key: impl Into<String>, unit: &'static str, values: &[f64], goal: Goal) {
        self.rows.push(Row { key: key.into(), unit, goal, summary: Summary::of(values) });
    }

    /// The figures as a table.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{:<36} {:>13}   {:^25} {:<8} {:<12} \n",
            "figure", "median", "quartiles", "unit", "goal"
        );
        for row in &self.rows {
            let (median, quartiles) = match row.summary {
                Some(s) => (number(s.median), format!("{} .. {}", number(s.low), number(s.high))),
                None => ("not measured".to_owned(), String::new()),
            };
            let (goal, met) = (row.goal.text(), row.verdict());
            let _ = writeln!(
                text,
                "{:<36} {median:>13}   {quartiles:^25} {:<8} {goal:<12} {met}",
                row.key, row.unit
            );
        }
        text
    }

    /// The medians as one flat JSON object, and as `KEY.worst` the worst round where the goal is one of each. What was not measured is
    /// left out.
    pub(crate) fn json(&self) -> String {
        let measured = self.rows.iter().filter_map(|row| {
            let Summary { median, min, .. } = row.summary?;
            let worst = matches!(row.goal, Goal::EachAtLeast(_)).then(|| (format!("{}.worst", row.key), min));
            Some([Some((row.key.clone(), median)), worst])
        });
        let lines: Vec<String> = measured
            .flatten()
            .flatten()
            .filter(|(_, value)| value.is_finite())
            .map(|(key, value)| format!("  \"{key}\": {value:.4}"))
            .collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }

    /// Whether `key` was measured.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.rows
            .iter()
            .any(|row| row.key == key && row.summary.is_some_and(|summary| summary.median.is_finite()))
    }

    /// The ratios that say that their limit is wrong.
    pub(crate) fn wrong_limits(&self) -> Vec<String> {
        let wrong = self.rows.iter().filter_map(|row| Some((&row.key, row.wrong()?)));
        wrong
            .map(|(key, median)| format!("{key} is {median:.3}: below {WRONG_LIMIT}, so its limit is wrong"))
            .collect()
    }
}

impl Row {
    /// The ratio, if its limit cannot be one.
    fn wrong(&self) -> Option<f64> {
        let is_to_a_limit = ["ratio.call.", "ratio.payload."].iter().any(|start| self.key.starts_with(start));
        Some(self.summary?.median).filter(|median| is_to_a_limit && *median < WRONG_LIMIT)
    }

    fn verdict(&self) -> String {
        let Some(summary) = self.summary else { return String::new() };
        let met = match self.goal {
            Goal::None => return String::new(),
            Goal::AtMost(bound) => summary.median <= bound,
            Goal::AtLeast(bound) => summary.median >= bound,
            Goal::EachAtLeast(bound) => summary.min >= bound,
        };
        let worst = match self.goal {
            Goal::EachAtLeast(_) => format!(" (worst {})", number(summary.min)),
            _ => String::new(),
        };
        let verdict = match met {
            _ if self.wrong().is_some() => "WRONG LIMIT",
            true => "met",
            false => "MISSED",
        };
        format!("{verdict}{worst}")
    }
}

impl Goal {
    fn text(self) -> String {
        match self {
            Goal::None => String::new(),
            Goal::AtMost(bound) => format!("<= {}", number(bound)),
            Goal::AtLeast(bound) => format!(">= {}", number(bound)),
            Goal::EachAtLeast(bound) => format!("each >= {}", number(bound)),
        }
    }
}

/// A number with as many digits as one reads.
fn number(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1000.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_leaves_out_what_was_not_measured() {
        let mut figures = Figures::default();
        figures.add("a", "ns", &[2.0, 1.0, 3.0], Goal::None);
        figures.add("b", "ns", &[], Goal::AtMost(1.0));
        figures.add("c", "ns", &[0.5], Goal::None);
        assert_eq!(figures.json(), "{\n  \"a\": 2.0000,\n  \"c\": 0.5000\n}\n");
        figures.add("d", "x", &[3.0, 1.0, 4.0], Goal::EachAtLeast(1.0));
        assert!(figures.json().contains("\"d\": 3.0000,\n  \"d.worst\": 1.0000\n"), "{}", figures.json());
        assert!(figures.table().contains("not measured"));
    }

    #[test]
    fn a_subject_below_its_limit_is_told() {
        let mut figures = Figures::default();
        figures.add("ratio.call.shm.awake", "x", &[0.96], Goal::AtMost(1.25));
        figures.add("ratio.call.shm.asleep", "x", &[0.98], Goal::AtMost(1.2));
        figures.add("ratio.contended.total", "x", &[0.5], Goal::EachAtLeast(3.0));
        assert_eq!(figures.wrong_limits().len(), 1);
        assert!(figures.table().contains("<= 1.250     WRONG LIMIT"), "{}", figures.table());
        assert!(figures.table().contains("MISSED (worst 0.500)"));
    }
}
