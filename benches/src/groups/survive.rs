//! What the last long runs of the crash, fuzz and evil-peer tests came to. Not measured here: they take hours. The record
//! says on which commits they were made.

use crate::{
    error::{Error, Result},
    figures::{Figures, Goal},
    setup::Setup,
};

/// One `KEY VALUE` a line. CONTRIBUTING.md says how it is made.
const RECORD: &str = include_str!("../../survive.txt");

/// What it has to have: on which commits it was made, and figures.
const COMMITS: [&str; 3] = ["crash_commit", "evil_commit", "fuzz_commits"];
const FIGURES: [&str; 8] = [
    "crash_points",
    "kills",
    "evil_seconds",
    "attacks",
    "cores",
    "worst_p99_ratio",
    "fuzz_execs",
    "fuzz_seconds",
];

pub(crate) fn measure(_setup: &Setup, figures: &mut Figures) -> Result<()> {
    let commits = COMMITS.into_iter().map(|key| Ok(format!("{key} {}", text(RECORD, key)?)));
    let commits: Result<Vec<_>> = commits.collect();
    eprintln!("report: survive.* is the record of {}", commits?.join(", "));
    for (key, value) in numbers(RECORD)? {
        figures.add(format!("survive.{key}"), "", &[value], Goal::None);
    }
    Ok(())
}

/// What the record says of `key`.
fn text<'a>(record: &'a str, key: &str) -> Result<&'a str> {
    let mut values = record.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    match values.next() {
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(Error::Usage(format!("survive.txt says nothing of {key}"))),
    }
}

/// All figures. None of them may be missing or nothing: then a run was not complete.
fn numbers(record: &str) -> Result<Vec<(&'static str, f64)>> {
    let number = |key| {
        let value = text(record, key)?;
        let number = value.parse().ok().filter(|number| *number > 0.0);
        number
            .map(|number| (key, number))
            .ok_or_else(|| Error::Usage(format!("survive.txt: {key} is {value:?}")))
    };
    FIGURES.into_iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_complete() -> Result<()> {
        for key in COMMITS {
            text(RECORD, key)?;
        }
        assert_eq!(
            numbers(RECORD)?.len(),
            RECORD.lines().count() - COMMITS.len(),
            "some line is read by nobody"
        );
        Ok(())
    }

    #[test]
    fn what_is_missing_is_named() {
        for key in FIGURES {
            let without: String =
                RECORD.lines().filter(|line| !line.starts_with(key)).collect::<Vec<_>>().join("\n");
            let error = numbers(&without).unwrap_err().to_string();
            assert!(error.contains(&format!("says nothing of {key}")), "{error}");
            let nothing = without + &format!("\n{key} 0");
            let error = numbers(&nothing).unwrap_err().to_string();
            assert!(error.contains(&format!("{key} is \"0\"")), "{error}");
        }
    }
}
