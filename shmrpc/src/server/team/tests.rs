use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, ThreadId};

use parking_lot::Condvar;

use super::*;

const BOUND: Duration = Duration::from_secs(30);

type Call = Box<dyn FnOnce() + Send>;

/// A lane that always finds its core crowded.
struct Fake(Arc<Calls>);

#[derive(Default)]
struct Calls {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    calls: VecDeque<Call>,
    ended: bool,
    /// How often it was to forget the crowd.
    forgot: u32,
}

impl Calls {
    fn call(&self, call: impl FnOnce() + Send + 'static) {
        self.waiting.lock().calls.push_back(Box::new(call));
        self.changed.notify_all();
    }

    fn end(&self) {
        self.waiting.lock().ended = true;
        self.changed.notify_all();
    }

    /// The next call, or what there is instead of one.
    fn next(&self, waits: bool) -> Result<Call, After> {
        let mut waiting = self.waiting.lock();
        loop {
            match waiting.calls.pop_front() {
                Some(call) => return Ok(call),
                None if waiting.ended => return Err(After::Ended),
                None if waits => self.changed.wait(&mut waiting),
                None => return Err(After::Nothing),
            }
        }
    }
}

impl Lane for Fake {
    fn serve(&mut self, patience: Patience) -> After {
        if patience == Patience::UntilCrowded && !self.0.waiting.lock().ended {
            return After::Nothing;
        }
        match self.0.next(true) {
            Ok(call) => call(),
            Err(after) => return after,
        }
        After::Nothing
    }

    fn take_turn(&mut self) -> After {
        match self.0.next(false) {
            Ok(call) => call(),
            Err(after) => return after,
        }
        After::Nothing
    }

    fn is_due(&self) -> bool {
        let waiting = self.0.waiting.lock();
        !waiting.calls.is_empty() || waiting.ended
    }

    fn forget_crowd(&mut self) {
        self.0.waiting.lock().forgot += 1;
    }
}

type Fakes = Arc<Team<Fake>>;

/// A team that the first who joins leads.
fn team(stuck: Duration, new_term: fn() -> Term) -> Fakes {
    let team = Team::with(stuck, new_term);
    team.state.lock().last = Some(0);
    Arc::new(team)
}

fn patient() -> Fakes {
    team(BOUND, Term::endless)
}

/// A lane that a thread serves.
struct Served {
    calls: Arc<Calls>,
    /// Told when the thread has ended.
    ended: Receiver<()>,
}

fn serve(team: &Fakes, first: impl FnOnce() + Send + 'static) -> Served {
    let calls = Arc::new(Calls::default());
    calls.call(first);
    let (team, lane) = (Arc::clone(team), Box::new(Fake(Arc::clone(&calls))));
    let (tell, ended) = channel();
    thread::spawn(move || {
        team.serve(lane);
        tell.send(()).unwrap();
    });
    Served { calls, ended }
}

/// Ends all lanes of a team, and with them as many threads.
fn end(lanes: &[Served]) {
    lanes.iter().for_each(|lane| lane.calls.end());
    lanes.iter().for_each(|lane| lane.ended.recv_timeout(BOUND).unwrap());
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + BOUND;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::yield_now();
    }
}

fn follow(team: &Fakes, count: usize) {
    until("they do not follow", || team.state.lock().followers.len() == count);
}

/// A call that says who serves it.
fn whose(tell: &Sender<ThreadId>) -> impl FnOnce() + Send + use<> {
    let tell = tell.clone();
    move || tell.send(thread::current().id()).unwrap()
}

/// A lane whose thread leads, and serves a call until what is returned is dropped.
fn busy_leader(team: &Fakes) -> (Served, Sender<()>) {
    let (release, held) = channel::<()>();
    let (begun, begins) = channel();
    let lane = serve(team, move || {
        begun.send(()).unwrap();
        assert!(held.recv().is_err());
    });
    begins.recv_timeout(BOUND).unwrap();
    (lane, release)
}

#[test]
fn who_is_alone_in_its_crowd_leads_nobody() {
    let team = Team::with(BOUND, Term::endless);
    let lane = || Box::new(Fake(Arc::default()));
    let mut one = lane();
    for _ in 0..3 {
        let (same, patience) = team.join(one).unwrap();
        assert_eq!(patience, Patience::InTurns);
        one = same;
    }
    // Nobody follows and nothing comes, so it soon sleeps.
    let (_other, patience) = team.join(lane()).unwrap();
    assert_eq!((patience, team.state.lock().leaders), (Patience::Asleep, 1));
    assert_eq!(team.join(one).unwrap().1, Patience::Asleep);
}

#[test]
fn the_leader_serves_the_lanes_of_its_followers() {
    let team = patient();
    let (first, release) = busy_leader(&team);
    let (tell, told) = channel();
    let lanes = [first, serve(&team, whose(&tell)), serve(&team, whose(&tell))];
    follow(&team, 2);
    for lane in &lanes {
        lane.calls.call(whose(&tell));
        lane.calls.call(whose(&tell));
    }
    drop(release);
    let by: Vec<_> = (0..8).map(|_| told.recv_timeout(BOUND).unwrap()).collect();
    assert!(by.iter().all(|thread| *thread == by[0]), "{by:?}");
    end(&lanes);
    assert!(team.state.lock().lanes.is_empty(), "a lane that nobody serves");
}

#[test]
fn lanes_have_their_turns_one_after_another() {
    let team = patient();
    let (first, release) = busy_leader(&team);
    let (tell, told) = channel();
    let says = |name: u32| {
        let tell = tell.clone();
        move || tell.send(name).unwrap()
    };
    let lanes = [first, serve(&team, says(1)), serve(&team, says(1))];
    follow(&team, 2);
    for (name, lane) in lanes.iter().enumerate() {
        let calls = if name == 0 { 2 } else { 1 };
        (0..calls).for_each(|_| lane.calls.call(says(1 - u32::from(name == 0))));
    }
    drop(release);
    let order: Vec<_> = (0..6).map(|_| told.recv_timeout(BOUND).unwrap()).collect();
    // Two others before each turn of the first, which had one just now.
    assert_eq!(order, [1, 1, 0, 1, 1, 0]);
    end(&lanes);
}

#[test]
fn nobody_waits_for_the_call_of_another_lane() {
    let team = team(Duration::from_nanos(1), Term::endless);
    let (first, release) = busy_leader(&team);
    let (tell, told) = channel();
    let lanes = [first, serve(&team, whose(&tell)), serve(&team, whose(&tell))];
    let by = [(); 2].map(|()| told.recv_timeout(BOUND).expect("both wait for a call of the first"));
    // No team for a moment.
    assert_ne!(by[0], by[1]);
    drop(release);
    end(&lanes);
}

#[test]
fn a_leader_that_was_relieved_goes_on_with_the_lane_that_it_served() {
    let team = team(Duration::from_nanos(1), Term::endless);
    let (first, release) = busy_leader(&team);
    let (tell, told) = channel();
    let second = serve(&team, whose(&tell));
    let other = told.recv_timeout(BOUND).unwrap();
    assert_eq!(second.calls.waiting.lock().forgot, 1, "it is not to find out anew who wants the core");
    first.calls.call(whose(&tell));
    drop(release);
    assert_ne!(told.recv_timeout(BOUND).unwrap(), other);
    let banned = team.state.lock().banned.unwrap();
    assert!(banned.time >= BAN[0], "{banned:?}");
    end(&[first, second]);
}

#[test]
fn a_leader_that_stays_away_is_a_ban_for_the_next() {
    let team = team(Duration::from_nanos(1), Term::endless);
    let (tell, told) = channel();
    let relieved = || {
        let (leader, release) = busy_leader(&team);
        let follower = serve(&team, whose(&tell));
        told.recv_timeout(BOUND).expect("it waits for the leader");
        end(&[follower]);
        let mut state = team.state.lock();
        state.last = Some(0);
        (leader, release, state.banned.take().unwrap().time)
    };
    let (first, release, pause) = relieved();
    let (second, release_second, ban) = relieved();
    assert_eq!((pause, ban), (Duration::ZERO, BAN[0]));
    drop((release, release_second));
    until("an absent leader is not back", || team.state.lock().absent == 0);
    end(&[first, second]);
}

#[test]
fn more_than_fit_go_on_alone() {
    let team = patient();
    let (first, release) = busy_leader(&team);
    let (tell, told) = channel();
    let mut lanes: Vec<_> = (1..MOST).map(|_| serve(&team, whose(&tell))).collect();
    follow(&team, MOST - 1);
    lanes.extend([first, serve(&team, whose(&tell))]);
    let alone = told.recv_timeout(BOUND).expect("one more waits for the leader");
    drop(release);
    let by: Vec<_> = (1..MOST).map(|_| told.recv_timeout(BOUND).unwrap()).collect();
    assert!(!by.contains(&alone), "{by:?}");
    end(&lanes);
}

#[test]
fn who_has_to_be_relieved_again_and_again_is_left_alone_for_longer_each_time() {
    let team = patient();
    let mut state = team.state.lock();
    let bans: Vec<_> = (0..10)
        .map(|_| {
            state.ban();
            state.banned.unwrap().time
        })
        .collect();
    assert_eq!(bans[..3], [BAN[0], BAN[0] * 2, BAN[0] * 4]);
    assert_eq!(bans[8..], [BAN[1]; 2]);
    let until = state.banned.unwrap().until;
    state.pause();
    assert_eq!(state.banned.unwrap().until, until, "a pause ends a ban");
    assert!(!state.has_room());
    state.banned = Some(Ban { until: Instant::now() - BAN[1] * FORGOTTEN, time: BAN[1] });
    assert!(state.has_room());
    // A pause is no ban yet, and is not cut short by one.
    state.pause();
    assert!(!state.has_room());
    let until = state.banned.unwrap().until;
    state.ban();
    assert_eq!(state.banned.unwrap().time, BAN[0]);
    assert!(state.banned.unwrap().until >= until);
}

#[test]
fn no_lane_is_lost() {
    let terms: [(_, fn() -> Term); 3] =
        [(Duration::from_nanos(1), Term::new), (STUCK, Term::new), (STUCK, Term::endless)];
    for (stuck, term) in terms {
        let team = team(stuck, term);
        let (tell, told) = channel();
        let lanes: Vec<_> = (0..2 * MOST).map(|_| serve(&team, whose(&tell))).collect();
        for round in 0..200 {
            lanes.iter().for_each(|lane| lane.calls.call(whose(&tell)));
            // The last round is still to be served when the lanes end.
            let rounds = if round == 199 { 0 } else { 1 };
            for _ in 0..rounds * lanes.len() {
                told.recv_timeout(BOUND).expect("a call is lost");
            }
        }
        end(&lanes);
        drop(tell);
        let state = team.state.lock();
        assert!(state.lanes.is_empty() && state.followers.is_empty() && state.lead == Lead::Nobody);
        assert_eq!(state.absent, 0);
    }
}

#[test]
fn the_page_has_these_numbers() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../ARCHITECTURE.md");
    let page = std::fs::read_to_string(page).unwrap();
    let says = |text: &str| assert!(page.contains(text), "{text}");
    says(&format!("one team, of {MOST} lanes at most"));
    says(&format!("looks every {} ms whether the leader goes on", STUCK.as_millis()));
    says(&format!("holds up others for {} ms at most", 2 * STUCK.as_millis()));
    says(&format!("A ban lasts {} ms, and twice as long", BAN[0].as_millis()));
    says(&format!("up to {} s, if that ended less than", BAN[1].as_secs()));
    assert_eq!((IDLE, FORGOTTEN), (8, 8));
    says("nothing comes in eight waits for want of requests");
    says("less than eight times its length ago");
}
