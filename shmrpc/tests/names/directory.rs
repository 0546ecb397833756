//! The runtime directory: who makes it, and which ones are refused.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;

use super::{NamedClient, mode, start};
use crate::support::process::{ENDPOINT, Process, say, until_orphaned};
use crate::support::{Place, skipped};

/// Says what becomes of a client, of a server, and of a client again.
#[test]
fn child_in_a_directory() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    // The mode of what is made does not depend on this.
    umask(Mode::empty());
    let connect = || match NamedClient::connect(&endpoint) {
        Ok(client) => client.number().unwrap().to_string(),
        Err(error) => error.to_string(),
    };
    say(&format!("before: {}", connect()));
    let server = start(&endpoint, 7);
    say(&format!("server: {}", server.as_ref().map_or_else(ToString::to_string, |_| "listens".into())));
    say(&format!("after: {}", connect()));
    until_orphaned();
}

/// What a child says that has this runtime directory, or this one of XDG's: client, server, client.
fn in_directory(variable: &str, value: impl AsRef<OsStr>) -> ([String; 3], Process) {
    let mut process = Process::start_with("directory::child_in_a_directory", "shm:kv", |command| {
        command.env_remove("SHMRPC_RUNTIME_DIR").env_remove("XDG_RUNTIME_DIR").env(variable, value)
    });
    let said = ["before: ", "server: ", "after: "].map(|word| process.tells(word));
    (said, process)
}

fn folder(place: &Place, name: &str, mode: u32) -> PathBuf {
    let path = place.path().join(name);
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn a_server_makes_the_runtime_directory_and_a_client_does_not() {
    let place = Place::new();
    for (variable, value, dir) in [
        ("SHMRPC_RUNTIME_DIR", place.path().join("own"), place.path().join("own")),
        ("XDG_RUNTIME_DIR", place.path().to_owned(), place.path().join("shmrpc")),
    ] {
        let ([before, server, after], mut process) = in_directory(variable, value);
        let socket = dir.join("kv");
        assert!(before.contains(&format!("nobody listens at {}", socket.display())), "{before}");
        assert_eq!((server.as_str(), after.as_str()), ("server: listens", "after: 7"));
        assert_eq!(mode(&dir), 0o700, "{}", dir.display());
        assert_eq!(mode(&socket), 0o600);
        assert_eq!(mode(&dir.join("kv.lock")), 0o600);
        drop(process.child.stdin.take());
        assert!(process.ends().success());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        assert!(NamedClient::connect(format!("shm:{}", place.path().join("none/kv").display())).is_err());
        assert!(!place.path().join("none").exists());
    }
}

/// Both sides refuse it, with the reason, and say what to do.
fn refused(value: impl AsRef<OsStr>, reason: &str) {
    let ([before, server, after], _process) = in_directory("SHMRPC_RUNTIME_DIR", value);
    for said in [before, server, after] {
        assert!(said.contains(reason), "{reason}: {said}");
        println!("refused: {said}");
        let what_to_do = "set SHMRPC_RUNTIME_DIR to a directory that only you can enter";
        assert!(said.contains(what_to_do), "{said}");
    }
}

#[test]
fn a_runtime_directory_that_is_none_is_refused() {
    let place = Place::new();
    let good = folder(&place, "good", 0o700);
    let link = place.path().join("link");
    symlink(&good, &link).unwrap();
    refused(&link, "it is a symbolic link");
    refused(format!("{}/", link.display()), "it is a symbolic link");
    let file = place.path().join("file");
    File::create(&file).unwrap();
    refused(&file, "it is no directory");
    refused("relative/path", "it is no absolute path below `/`");
    refused("/", "it is no absolute path below `/`");
    assert_eq!(fs::read_dir(&good).unwrap().count(), 0, "something was made behind the link");
    // A server cannot make it; a client finds nobody.
    let deep = place.path().join("not/there");
    let ([before, server, _], _process) = in_directory("SHMRPC_RUNTIME_DIR", &deep);
    assert!(before.contains("nobody listens at"), "{before}");
    assert!(server.contains("it cannot be made: No such file or directory"), "{server}");
}

#[test]
fn a_runtime_directory_that_others_can_enter_or_exchange_is_refused() {
    let place = Place::new();
    for (bad, reason) in [
        (0o755, "others may enter it (its mode is 0755, and 0700 is needed)"),
        (0o710, "others may enter it (its mode is 0710, and 0700 is needed)"),
        (0o701, "others may enter it (its mode is 0701, and 0700 is needed)"),
        (0o600, "we may not use it (its mode is 0600, and 0700 is needed)"),
    ] {
        refused(folder(&place, &format!("{bad:o}"), bad), reason);
    }
    let open = folder(&place, "open", 0o777);
    let inside = open.join("mine");
    fs::DirBuilder::new().mode(0o700).create(&inside).unwrap();
    refused(&inside, "may be written by everybody, who could exchange it (its mode is 0777, not sticky)");
    fs::set_permissions(&open, Permissions::from_mode(0o1777)).unwrap();
    accepted(&inside);
    // A group may have others in it than us.
    fs::set_permissions(&open, Permissions::from_mode(0o775)).unwrap();
    refused(&inside, "may be written by a group, who could exchange it (its mode is 0775, not sticky)");
    fs::set_permissions(&open, Permissions::from_mode(0o1775)).unwrap();
    accepted(&inside);
}

fn accepted(value: impl AsRef<OsStr>) {
    let ([_, server, after], _process) = in_directory("SHMRPC_RUNTIME_DIR", value);
    assert_eq!((server.as_str(), after.as_str()), ("server: listens", "after: 7"));
}

/// Not only where it lies: whoever can exchange anything on the way there can exchange it.
#[test]
fn a_runtime_directory_on_a_way_that_others_can_change_is_refused() {
    let place = Place::new();
    let open = folder(&place, "open", 0o777);
    let deep = open.join("one/two/mine");
    fs::DirBuilder::new().mode(0o700).recursive(true).create(&deep).unwrap();
    let why = |path: &Path| {
        format!(
            "{} may be written by everybody, who could exchange it (its mode is 0777, not sticky)",
            path.display()
        )
    };
    refused(&deep, &why(&open));
    // A way that leads there through links, and one that leads through there to a safe place.
    let good = folder(&place, "good", 0o700);
    let inside = good.join("mine");
    fs::DirBuilder::new().mode(0o700).create(&inside).unwrap();
    symlink("../open/one", good.join("link")).unwrap();
    refused(good.join("link/two/mine"), &why(&open));
    symlink(&good, open.join("back")).unwrap();
    refused(open.join("back/mine"), &why(&open));
    symlink(open.join("back"), good.join("chain")).unwrap();
    refused(good.join("chain/mine"), &why(&open));
    symlink("circle", good.join("circle")).unwrap();
    refused(good.join("circle/mine"), "is behind more than 40 symbolic links");
    // Links that nobody else can change are well.
    symlink("../good/./", good.join("self")).unwrap();
    accepted(good.join("self/mine"));
}

#[test]
fn a_runtime_directory_of_another_user_is_refused() {
    if !geteuid().is_root() {
        return skipped("only root can give a directory away");
    }
    let place = Place::new();
    let theirs = folder(&place, "theirs", 0o700);
    chown(&theirs, Some(12_345), None).unwrap();
    refused(&theirs, "it belongs to user 12345, and we are user 0");
    // As with `sudo` that keeps XDG_RUNTIME_DIR: what we make there is theirs to exchange.
    refused(theirs.join("ours"), "belongs to user 12345, who could exchange it");
    assert!(!theirs.join("ours").exists());
    // A link of theirs, in a directory where everybody may make one.
    let sticky = folder(&place, "sticky", 0o1777);
    let ours = folder(&place, "ours", 0o700);
    let link = sticky.join("link");
    symlink(&ours, &link).unwrap();
    accepted(link.join("mine"));
    std::os::unix::fs::lchown(&link, Some(12_345), None).unwrap();
    refused(link.join("mine"), "link belongs to user 12345, who could exchange it");
    // Outside of user namespaces this is a user like any other.
    if fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.contains("4294967295")) {
        let nobodys = folder(&place, "nobodys", 0o755);
        chown(&nobodys, Some(65_534), None).unwrap();
        refused(nobodys.join("mine"), "belongs to user 65534, who could exchange it");
    }
}
