//! What the last long runs of the crash, fuzz and evil-peer tests came to. Not measured here: they take hours. The record
//! says on which commit they were made.

use crate::{
    error::{Error, Result},
    figures::{Figures, Goal},
    setup::Setup,
};

/// One `KEY VALUE` a line; `commit` is no number. CONTRIBUTING.md says how it is made.
const RECORD: &str = include_str!("../../survive.txt");

pub(crate) fn measure(_setup: &Setup, figures: &mut Figures) -> Result<()> {
    for line in RECORD.lines() {
        match line.split_once(' ') {
            Some(("commit", commit)) => eprintln!("report: survive.* is the record of commit {commit}"),
            Some((key, value)) => {
                let value = value.parse().map_err(|_| Error::Usage(format!("survive.txt: {line:?}")))?;
                figures.add(format!("survive.{key}"), "", &[value], Goal::None);
            }
            None => return Err(Error::Usage(format!("survive.txt: {line:?} is no `KEY VALUE`"))),
        }
    }
    Ok(())
}
