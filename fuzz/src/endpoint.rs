//! Endpoint strings: what is read is written as it was meant, and what is refused says why.

use shmrpc::Endpoint;

/// One endpoint, and a list of them.
pub fn endpoint(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Endpoint>() {
        Ok(endpoint) => {
            assert_well_formed(&endpoint);
            let written = endpoint.to_string();
            assert_eq!(written.parse::<Endpoint>().unwrap(), endpoint, "{text:?} was written as {written:?}");
            assert_eq!(written, text.trim(), "what is no blank was lost");
        }
        Err(error) => assert_names(&error.to_string(), text),
    }
    match Endpoint::parse_list(text) {
        Ok(list) => {
            let parts: Vec<&str> = text.split(',').collect();
            assert_eq!(list.len(), parts.len());
            for (endpoint, part) in list.iter().zip(parts) {
                assert_eq!(part.parse::<Endpoint>().unwrap(), *endpoint);
            }
            let written: Vec<String> = list.iter().map(Endpoint::to_string).collect();
            assert_eq!(Endpoint::parse_list(&written.join(",")).unwrap(), list);
        }
        Err(error) => {
            let culprit = text.split(',').find(|part| part.parse::<Endpoint>().is_err()).unwrap();
            assert_names(&error.to_string(), culprit);
        }
    }
    crate::memory::assert_bounded();
}

/// An error repeats the endpoint, with what cannot be printed escaped; of a path with a NUL, what comes before.
fn assert_names(error: &str, endpoint: &str) {
    let endpoint = endpoint.trim().split('\0').next().unwrap_or_default();
    let path = endpoint.strip_prefix("shm:").or_else(|| endpoint.strip_prefix("uds:"));
    let endpoint = path.unwrap_or(endpoint);
    let quoted = format!("{endpoint:?}");
    let named = error.contains(endpoint) || error.contains(quoted.trim_matches('"'));
    assert!(named, "{error} does not name {endpoint:?}");
}

/// A name is one file's, in the runtime directory and nowhere else; a path is absolute.
fn assert_well_formed(endpoint: &Endpoint) {
    match endpoint {
        Endpoint::ShmName(name) => {
            assert!((1..=64).contains(&name.len()) && !name.starts_with('.'), "{name:?}");
            let legal = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
            assert!(name.chars().all(legal), "{name:?}");
        }
        Endpoint::ShmPath(path) => assert!(path.is_absolute(), "{path:?}"),
        _ => {}
    }
}
