//! The directory where names live: which it is, and whether it is ours alone.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `SHMRPC_RUNTIME_DIR`, else `XDG_RUNTIME_DIR/shmrpc`, else `/tmp/shmrpc-UID`.
pub(super) fn runtime_dir(variable: impl Fn(&str) -> Option<OsString>, own: u32) -> PathBuf {
    // By components: a slash at the end would make the system follow a symbolic link.
    let named = |name| {
        let value = variable(name).filter(|value| !value.is_empty())?;
        Some(Path::new(&value).components().collect::<PathBuf>())
    };
    named("SHMRPC_RUNTIME_DIR")
        .or_else(|| named("XDG_RUNTIME_DIR").map(|path| path.join("shmrpc")))
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/shmrpc-{own}")))
}

/// Makes the runtime directory, and says why it cannot be used: what is in it has to be ours, and stay ours.
pub(super) fn check(dir: &Path, own: u32, make: impl Fn(&Path) -> io::Result<()>) -> Result<(), String> {
    let (true, Some(parent)) = (dir.is_absolute(), dir.parent()) else {
        return Err("it is no absolute path below `/`".into());
    };
    check_way(parent, own)?;
    make(dir).map_err(|error| format!("it cannot be made: {error}"))?;
    match fs::symlink_metadata(dir) {
        // Nobody serves there. To connect says so in its own words.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(found) => check_dir(&found, own),
    }
}

/// Whether it is a directory that only we can use.
fn check_dir(found: &fs::Metadata, own: u32) -> Result<(), String> {
    let mode = found.mode() & 0o777;
    if found.is_symlink() {
        Err("it is a symbolic link".into())
    } else if !found.is_dir() {
        Err("it is no directory".into())
    } else if found.uid() != own {
        Err(format!("it belongs to user {}, and we are user {own}", found.uid()))
    } else if mode & 0o077 != 0 {
        Err(format!("others may enter it (its mode is {mode:04o}, and 0700 is needed)"))
    } else if mode != 0o700 {
        Err(format!("we may not use it (its mode is {mode:04o}, and 0700 is needed)"))
    } else {
        Ok(())
    }
}

/// Symbolic links on the way to the runtime directory, as many as Linux follows.
const LINKS_MAX: usize = 40;

/// Whether nobody but us and root can exchange anything on the way from `/` to what is in `dir`: each directory and each
/// link. Ends where something is not there.
fn check_way(dir: &Path, own: u32) -> Result<(), String> {
    let steps = |path: &Path| {
        let steps = path.components().rev().map(|step| step.as_os_str().to_owned());
        steps.collect::<Vec<_>>()
    };
    let strangers_are_known = all_users_have_numbers();
    // What is still to go, the next step last.
    let (mut rest, mut at, mut links) = (steps(dir), PathBuf::from("/"), 0);
    while let Some(step) = rest.pop() {
        // `/` leads to the root again, and `..` upwards: links may have both.
        if step == ".." {
            at.pop();
            continue;
        }
        let next = at.join(step);
        let found = match fs::symlink_metadata(&next) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.map_err(|error| format!("{}: {error}", next.display()))?,
        };
        check_step(&found, own, strangers_are_known)
            .map_err(|reason| format!("{} {reason}", next.display()))?;
        if found.is_symlink() {
            links += 1;
            if links > LINKS_MAX {
                return Err(format!("{} is behind more than {LINKS_MAX} symbolic links", next.display()));
            }
            let target = fs::read_link(&next).map_err(|error| format!("{}: {error}", next.display()))?;
            rest.extend(steps(&target));
        } else {
            at = next;
        }
    }
    Ok(())
}

/// Whether every user has a number in our user namespace. If not, those that have none share one.
fn all_users_have_numbers() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let lengths = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    // Without /proc, as if it were so: that refuses more.
    map.is_empty() || lengths.sum::<u64>() >= u32::MAX.into()
}

/// Whether nobody but us and root can exchange this directory's entries, or this link.
fn check_step(found: &fs::Metadata, own: u32, strangers_are_known: bool) -> Result<(), String> {
    /// Whoever has no number in our user namespace, as the owner of the system's directories in a container.
    const UNKNOWN: u32 = 65_534;
    let mode = found.mode() & 0o7777;
    let owner = found.uid();
    if ![own, 0].contains(&owner) && (owner != UNKNOWN || strangers_are_known) {
        return Err(format!("belongs to user {owner}, who could exchange it"));
    }
    // A link's mode means nothing. In a sticky directory everybody can exchange only what is his own.
    if found.is_symlink() || mode & 0o1000 != 0 || mode & 0o022 == 0 {
        return Ok(());
    }
    let who = if mode & 0o002 != 0 { "everybody" } else { "a group" };
    Err(format!("may be written by {who}, who could exchange it (its mode is {mode:04o}, not sticky)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_directory_is_the_first_that_is_set() {
        let with = |ours: &str, xdg: &str| {
            let (ours, xdg) = (OsString::from(ours), OsString::from(xdg));
            runtime_dir(
                |name| match name {
                    "SHMRPC_RUNTIME_DIR" => Some(ours.clone()),
                    "XDG_RUNTIME_DIR" => Some(xdg.clone()),
                    _ => None,
                },
                1000,
            )
        };
        assert_eq!(with("/a", "/b"), Path::new("/a"));
        assert_eq!(with("/a/link/", "").as_os_str(), "/a/link", "a slash at the end follows a link");
        assert_eq!(with("", "/b"), Path::new("/b/shmrpc"));
        assert_eq!(with("", ""), Path::new("/tmp/shmrpc-1000"));
        assert_eq!(runtime_dir(|_| None, 7), Path::new("/tmp/shmrpc-7"));
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let found = fs::metadata("/").unwrap();
        let (owner, other) = (found.uid(), found.uid() + 1);
        let error = check_dir(&found, other).unwrap_err();
        assert_eq!(error, format!("it belongs to user {owner}, and we are user {other}"));
        // Root may own a parent of anybody's; another user may not.
        let own = fs::metadata("/proc/self").unwrap();
        let (owner, other) = (own.uid(), own.uid() + 1);
        let refused = format!("belongs to user {owner}, who could exchange it");
        let expected = if owner == 0 { Ok(()) } else { Err(refused) };
        assert_eq!(check_step(&own, other, true), expected);
    }
}
