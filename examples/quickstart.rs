//! The first thing to run: a server process, a client process, and calls between them.
//!
//! ```text
//! cargo run --release --example quickstart
//! ```
//!
//! Read it from the top: a trait says what can be called, an `impl` answers, `connect` gives a client.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{self, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use parking_lot::Mutex;
use shmrpc::prelude::*;

mod private_dir;
#[path = "quickstart/round_trips.rs"]
mod round_trips;

// ---- What both processes know -------------------------------------------------------------------------------------

/// A walk on a map.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
struct Track {
    name: String,
    tags: Vec<String>,
    points: Vec<Point>,
}

/// A place on a map, in metres.
#[derive(Debug, Clone, Copy, PartialEq)]
#[shmrpc::message]
struct Point {
    x: f64,
    y: f64,
}

/// What can be wrong with a question about tracks.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[shmrpc::message]
enum TrackError {
    #[error("there is no track `{0}`")]
    NotFound(String),
}

/// The service. The macro makes `TracksClient` and `TracksServer` from it.
#[shmrpc::service]
trait Tracks {
    /// The smallest call there is.
    fn add(&self, a: u32, b: u32) -> u32;
    /// Keeps a track; returns how many there are. The handler owns what it gets.
    fn keep(&self, track: Track) -> u64;
    /// The length of a track in metres. The handler reads the track where it arrived; the caller passes a `&Track`.
    fn length(&self, track: &Archived<Track>) -> f64;
    /// Finds a track, or says why not.
    fn find(&self, name: &str) -> Result<Track, TrackError>;
    /// Looks at every cache line of `bytes`.
    fn checksum(&self, bytes: &[u8]) -> u64;
    /// Notes something. The caller does not wait.
    #[oneway]
    fn note(&self, text: &str);
    /// What was noted so far.
    fn notes(&self) -> Vec<String>;
}

// ---- The server process -------------------------------------------------------------------------------------------

#[derive(Default)]
struct Atlas {
    tracks: Mutex<HashMap<String, Track>>,
    notes: Mutex<Vec<String>>,
}

impl Tracks for Atlas {
    fn add(&self, a: u32, b: u32) -> u32 {
        a.wrapping_add(b)
    }

    fn keep(&self, track: Track) -> u64 {
        let mut tracks = self.tracks.lock();
        tracks.insert(track.name.clone(), track);
        tracks.len() as u64
    }

    fn length(&self, track: &Archived<Track>) -> f64 {
        let points = track.points.iter().map(|point| (point.x.to_native(), point.y.to_native()));
        points.clone().zip(points.skip(1)).map(|(from, to)| (to.0 - from.0).hypot(to.1 - from.1)).sum()
    }

    fn find(&self, name: &str) -> Result<Track, TrackError> {
        self.tracks.lock().get(name).cloned().ok_or_else(|| TrackError::NotFound(name.to_owned()))
    }

    fn checksum(&self, bytes: &[u8]) -> u64 {
        round_trips::checksum(bytes)
    }

    fn note(&self, text: &str) {
        self.notes.lock().push(text.to_owned());
    }

    fn notes(&self) -> Vec<String> {
        self.notes.lock().clone()
    }
}

/// Serves until the client process, which holds the other end of our standard input, is gone.
fn server() -> Result<(), Box<dyn Error>> {
    let dir = private_dir::PrivateDir::new("quickstart")?;
    let server =
        Server::builder().service(TracksServer::new(Atlas::default())).listen(dir.endpoint()).start()?;
    println!("{}", dir.endpoint()); // for the client process

    let client = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    round_trips::answer_over_uds(&client)?; // the rival; ends with the client process
    Ok(server.shutdown(Duration::from_secs(5))?)
}

// ---- The client process -------------------------------------------------------------------------------------------

fn main() -> Result<(), Box<dyn Error>> {
    const SERVER: &str = "--as-server";
    if env::args().nth(1).as_deref() == Some(SERVER) {
        return server();
    }
    let (uds, theirs) = UnixStream::pair()?;
    let mut server = Command::new(env::current_exe()?)
        .arg(SERVER)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .process_group(0) // Ctrl-C ends us; the server then tidies up and ends by itself
        .spawn()?;
    let mut endpoint = String::new();
    BufReader::new(server.stdout.take().ok_or("no stdout")?).read_line(&mut endpoint)?;

    let done = client(endpoint.trim(), &uds);
    drop(uds);
    let ended = server.wait()?;
    done?;
    if ended.success() { Ok(()) } else { Err(format!("the server process failed: {ended}").into()) }
}

fn client(endpoint: &str, uds: &UnixStream) -> Result<(), Box<dyn Error>> {
    let tracks = TracksClient::connect(endpoint)?;
    println!("server: {}; client: process {}", tracks.transport().peer(), process::id());
    println!("transport: {}\n", tracks.transport());

    println!("add(2, 3)                  {}", tracks.add(2, 3)?);

    let walk = walk("along the river", 4);
    println!("length(a track)            {:.1} m, read where it arrived", tracks.length(&walk)?);
    println!("keep(a track)              {} kept", tracks.keep(walk.clone())?);
    let found = tracks.find("along the river")?;
    assert_eq!(found, walk);
    println!("find({:?})    {} points, tags {:?}", found.name, found.points.len(), found.tags);

    match tracks.find("nowhere") {
        Err(CallError::Service(TrackError::NotFound(name))) => {
            println!(
                "find({name:?})            the service's own error: {}",
                TrackError::NotFound(name.clone())
            );
        }
        other => return Err(format!("find(\"nowhere\") gave {other:?}").into()),
    }

    let bytes = vec![7; 1 << 20];
    println!("checksum(1 MiB)            {}", tracks.checksum(&bytes)?);

    tracks.keep(self::walk("coast", 50_000))?;
    let coast = tracks.view().find("coast")?; // no copy: it derefs to what lies in the server's memory
    let last = coast.points.last().ok_or("no points")?;
    println!(
        "view().find({:?})       {} points, the last at x = {}; in the server's memory: {}",
        coast.name,
        coast.points.len(),
        last.x,
        coast.is_in_place()
    );

    for text in ["one", "two", "three"] {
        tracks.note(text)?;
    }
    println!("note(..), one way, 3 times {:?}", tracks.notes()?);

    println!("four threads at once       {}", four_threads(&tracks)?);

    println!();
    round_trips::compare(&tracks, uds)
}

fn walk(name: &str, points: u32) -> Track {
    let points = (0..points).map(|n| Point { x: f64::from(n) * 3.0, y: f64::from(n) * 4.0 }).collect();
    Track { name: name.into(), tags: vec!["easy".into(), "flat".into()], points }
}

/// One client serves any number of threads.
fn four_threads(tracks: &TracksClient) -> Result<String, CallError> {
    const CALLS: u32 = 25_000;
    let begin = Instant::now();
    thread::scope(|scope| {
        let threads = [1, 2, 3, 4].map(|thread| {
            scope.spawn(move || -> Result<(), CallError> {
                for n in 0..CALLS {
                    assert_eq!(tracks.add(n, thread)?, n + thread);
                }
                Ok(())
            })
        });
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;
    Ok(format!("{} calls in {:.0?}, each answer right", 4 * CALLS, begin.elapsed()))
}
