//! Two hosts: the process is one of them, and a thread of it is the other.

use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use nix::sched::{CloneFlags, unshare};

use crate::line::{Line, Tun};
use crate::support::process::{Process, say};
use crate::support::{Place, skipped};

/// The two hosts.
const NEAR: &str = "10.77.0.1";
pub(crate) const FAR: &str = "10.77.0.2";
/// Where a child is told that it has its namespace.
const INSIDE: &str = "SHMRPC_TEST_NETNS";

type Job = Box<dyn FnOnce() + Send>;

/// Two hosts, and the line between them.
pub(crate) struct World {
    pub(crate) line: Line,
    far: Sender<Job>,
}

impl World {
    /// This process has a network namespace of its own; the far host is made.
    fn new() -> Result<Self, String> {
        let near = host(NEAR, FAR)?;
        let (far, jobs) = channel::<Job>();
        thread::spawn(move || jobs.into_iter().for_each(|job| job()));
        let world = Self { line: Line::default(), far };
        let there = world.far(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("no second namespace: {error}"))?;
            host(FAR, NEAR)
        })?;
        world.line.connect(near, there).map_err(|error| format!("no line: {error}"))?;
        Ok(world)
    }

    /// From now on both hosts, and nobody else, know these names.
    pub(crate) fn name(&self, hosts: &str) -> Result<(), String> {
        let place = Place::new();
        let file = place.path().join("hosts");
        std::fs::write(&file, hosts).map_err(|error| error.to_string())?;
        tool("mount", "util-linux", &["--bind", &file.display().to_string(), "/etc/hosts"])
    }

    /// Does something on the far host.
    pub(crate) fn far<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        self.far.send(Box::new(move || drop(done.send(work())))).unwrap();
        result.recv().expect("the far host does no more")
    }
}

/// One end of the line, in the namespace of this thread.
fn host(own: &str, other: &str) -> Result<Tun, String> {
    let tun = Tun::new().map_err(|error| format!("/dev/net/tun: {error}"))?;
    ip(&["link", "set", "lo", "up"])?;
    ip(&["address", "add", own, "peer", other, "dev", Tun::NAME])?;
    ip(&["link", "set", Tun::NAME, "up"])?;
    Ok(tun)
}

pub(crate) fn ip(arguments: &[&str]) -> Result<(), String> {
    tool("ip", "iproute2", arguments)
}

/// Runs a program that belongs to a package.
fn tool(program: &str, package: &str, arguments: &[&str]) -> Result<(), String> {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Err(error) => Err(format!("{program} ({package}): {error}")),
    }
}

/// Runs a part of the test of this name between two hosts, in a child with a namespace of its own.
pub(crate) fn across(name: &str, part: fn(&World)) {
    if std::env::var_os(INSIDE).is_some() {
        match World::new() {
            Ok(world) => {
                part(&world);
                say("came to its end");
            }
            Err(why) => say(&format!("came to nothing: {why}")),
        }
        return;
    }
    if let Err(why) = run(name) {
        skipped(&why);
    }
}

fn run(name: &str) -> Result<(), String> {
    let unshared = |program: &std::path::Path| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "--mount"]).arg(program);
        command
    };
    match unshared("true".as_ref()).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => return Err(format!("unshare (util-linux): {error}")),
    }
    let mut command = unshared(&std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(INSIDE, "yes");
    let mut child = Process::spawn(command, "").unwrap();
    match child.tells("came to").strip_prefix("came to nothing: ") {
        Some(why) => Err(why.to_owned()),
        None => {
            assert!(child.ends().success());
            Ok(())
        }
    }
}
