//! Where server and client meet.

/// Unless told otherwise.
const DEFAULT: &str = "shm:kv";

/// Takes `--endpoint ENDPOINT` off the front of a command line.
pub(crate) fn take<'a>(arguments: &'a [&'a str]) -> (&'a str, &'a [&'a str]) {
    match arguments {
        ["--endpoint", endpoint, rest @ ..] => (endpoint, rest),
        rest => (DEFAULT, rest),
    }
}
