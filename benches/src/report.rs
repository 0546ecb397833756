//! The report's command line, and which groups of figures a run measures.

use std::{env, fs, path::PathBuf, process::ExitCode, time::Instant};

use crate::{
    error::{Error, Result},
    figures::Figures,
    groups::{asleep, blob, call, connect, contended, idle, lane, memfd, payload, survive},
    keys, obey,
    peer::CHILD,
    process::raise_descriptor_limit,
    setup::Setup,
};

const USAGE: &str = "usage: report [--json FILE] [--quick] [--only GROUP[,GROUP...]]
groups: call, asleep, payload, blob, memfd, lane, contended, connect, idle, survive; a part of a name is enough";

/// The groups of figures, by the name that `--only` finds them by.
const GROUPS: [(&str, Measure); 10] = [
    ("call", call::measure),
    ("asleep", asleep::measure),
    ("payload", payload::measure),
    ("blob", blob::measure),
    ("memfd", memfd::measure),
    ("lane", lane::measure),
    ("contended", contended::measure),
    ("connect", connect::measure),
    ("idle", idle::measure),
    ("survive", survive::measure),
];

type Measure = fn(&Setup, &mut Figures) -> Result<()>;

/// The main function of the program `report`.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = raise_descriptor_limit().and_then(|()| match arguments.split_first() {
        Some((first, rest)) if first == CHILD => obey::main(rest).map(|()| true),
        _ => Options::parse(&arguments).and_then(|options| run(&options)),
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("report: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, prints, writes. False if a limit turned out to be wrong, or a figure is missing.
fn run(options: &Options) -> Result<bool> {
    let start = Instant::now();
    let setup = Setup::create(options.quick)?;
    let mut figures = Figures::default();
    for (name, measure) in GROUPS {
        if options.only.is_empty() || options.only.iter().any(|part| name.contains(part.as_str())) {
            eprintln!("report: measuring {name} ...");
            measure(&setup, &mut figures)?;
        }
    }
    print!("{}", figures.table());
    println!("measured in {:.1} s", start.elapsed().as_secs_f64());
    if let Some(path) = &options.json {
        fs::write(path, figures.json())?;
    }
    let wrong = figures.wrong_limits();
    wrong.iter().for_each(|line| println!("WRONG LIMIT: {line}"));
    let missing = if options.only.is_empty() { keys::missing(&figures) } else { Vec::new() };
    missing.iter().for_each(|key| println!("MISSING: {key} was not measured"));
    Ok(wrong.is_empty() && missing.is_empty())
}

struct Options {
    json: Option<PathBuf>,
    quick: bool,
    only: Vec<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options> {
        let mut options = Options { json: None, quick: false, only: Vec::new() };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().ok_or_else(|| Error::Usage(format!("{argument} needs a value\n{USAGE}")));
            match argument.as_str() {
                "--json" => options.json = Some(value()?.into()),
                "--quick" => options.quick = true,
                "--only" => options.only.extend(value()?.split(',').map(str::to_owned)),
                _ => return Err(Error::Usage(USAGE.to_owned())),
            }
        }
        let is_none = |part: &&String| !GROUPS.iter().any(|(name, _)| name.contains(part.as_str()));
        match options.only.iter().find(is_none) {
            None => Ok(options),
            Some(part) => {
                let names: Vec<_> = GROUPS.iter().map(|(name, _)| *name).collect();
                Err(Error::Usage(format!("no group is called {part}; there are {}", names.join(", "))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_known_by_a_part_of_their_names() {
        let only = |names: &str| Options::parse(&["--only".to_owned(), names.to_owned()]);
        assert_eq!(only("call,pay").unwrap().only, ["call", "pay"]);
        let error = only("call,typo").map(drop).unwrap_err().to_string();
        assert!(error.contains("typo; there are") && error.contains("contended"), "{error}");
    }
}
