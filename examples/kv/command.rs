//! The client's side: commands in words, each one call.

use std::error::Error;

use kv_service::{Entry, KvClient};

/// What can be said.
const USAGE: &str = "\
commands:
  get KEY                        the value and its version
  put KEY VALUE                  sets the value
  put-entry KEY VALUE VERSION    sets value and version, unless a newer version is there
  cas KEY VALUE EXPECTED         sets the value if its version is EXPECTED (0: if there is none)
  touch KEY                      gives the value the next version, and looks at it";

/// One call.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Get(String),
    Put(String, String),
    PutEntry(Entry),
    CompareAndPut(Entry, u64),
    Touch(String),
}

impl Command {
    /// Reads the words of a command line.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        Self::read(words).map_err(|reason| format!("{reason}\n\n{USAGE}"))
    }

    fn read(words: &[&str]) -> Result<Self, String> {
        let entry = |key: &str, value: &str, version| Entry { key: key.into(), value: value.into(), version };
        match *words {
            ["get", key] => Ok(Self::Get(key.into())),
            ["put", key, value] => Ok(Self::Put(key.into(), value.into())),
            ["put-entry", key, value, version] => Ok(Self::PutEntry(entry(key, value, number(version)?))),
            ["cas", key, value, expected] => Ok(Self::CompareAndPut(entry(key, value, 0), number(expected)?)),
            ["touch", key] => Ok(Self::Touch(key.into())),
            [name @ ("get" | "put" | "put-entry" | "cas" | "touch"), ..] => {
                Err(format!("`{name}` takes other arguments"))
            }
            [name, ..] => Err(format!("there is no command `{name}`")),
            [] => Err("a command is missing".into()),
        }
    }

    /// Makes the call; returns what there is to say about it.
    pub(crate) fn run(&self, kv: &KvClient) -> Result<String, Box<dyn Error>> {
        Ok(match self {
            Self::Get(key) => {
                let entry = kv.get(key)?;
                format!("{} (version {})", String::from_utf8_lossy(&entry.value), entry.version)
            }
            Self::Put(key, value) => format!("version {}", kv.put(key, value.as_bytes())?),
            Self::PutEntry(entry) => format!("version {}", kv.put_entry(entry)?),
            Self::CompareAndPut(entry, expected) => {
                format!("version {}", kv.compare_and_put(entry.clone(), *expected)?)
            }
            Self::Touch(key) => {
                kv.touch(key)?;
                // Nobody waits for it, and calls of one thread run in order: when this one is answered, that one has run.
                Self::Get(key.clone()).run(kv)?
            }
        })
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("`{word}` is no version: write a number from 0 on"))
}
