//! Lanes whose threads want the same core. One of the threads, the leader, serves the lanes of all; the others, its followers,
//! sleep. Calls then cost the callers' turns on the core, and the server's only where the leader finds nothing to do.

use std::collections::VecDeque;
use std::hint;
use std::ptr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use shmrpc_transport::lane::Patience;

use self::term::{Over, Term};

mod term;
#[cfg(test)]
mod tests;

/// What a thread of the team serves.
pub(super) trait Lane: Send {
    /// Serves it until it ends or others want the core, beginning with a wait of this patience.
    fn serve(&mut self, patience: Patience) -> After;
    /// Serves one request, if one is there.
    fn take_turn(&mut self) -> After;
    /// Whether a turn would find something, if only the end.
    fn is_due(&self) -> bool;
    /// The next waits find out anew whether others want the core.
    fn forget_crowd(&mut self);
}

/// What there is to serve afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing just now, as far as it is known.
    Nothing,
    /// Nothing ever.
    Ended,
}

/// Lanes of one team, at most: further threads go on alone.
const MOST: usize = 8;
/// Looks in which nothing came for any lane, until a lane goes back to a thread of its own, to sleep.
const IDLE: u32 = 8;
/// A leader that has not looked for so long is not waited for, nor is the next one for as long again.
const STUCK: Duration = Duration::from_millis(2);
/// How long no team is made after one that did not do: the first time, and after many times.
const BAN: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];
/// After so many times as long as a ban took, the next one is the first again.
const FORGOTTEN: u32 = 8;

/// The team of one server, if it has one just now.
pub(super) struct Team<L> {
    state: Mutex<State<L>>,
    stuck: Duration,
    new_term: fn() -> Term,
}

struct State<L> {
    /// Those that nobody serves just now, in the order in which they are looked at: as many as there are followers, and one
    /// more unless the leader holds it.
    lanes: VecDeque<Member<L>>,
    /// The first one watches.
    followers: Vec<Sender<Given<L>>>,
    lead: Lead,
    /// Where the lane is that last found no leader: one that is the only one in its crowd leads nobody.
    last: Option<usize>,
    /// Counts the leader's steps.
    steps: u64,
    /// Counts the leaders.
    leaders: u64,
    banned: Option<Ban>,
    /// Leaders that were relieved in a request of theirs and have not come back.
    absent: u32,
}

/// No team is made.
#[derive(Debug, Clone, Copy)]
struct Ban {
    until: Instant,
    /// What it was for, the next one being twice as long.
    time: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lead {
    Nobody,
    Leads(u64),
    /// Its team was dissolved in its absence. It comes for the last lane.
    Relieved,
}

struct Member<L> {
    lane: Box<L>,
    /// Looks since something came for it in which nothing came at all.
    idle: u32,
}

/// A lane that its thread serves alone, beginning with a wait of this patience.
type Given<L> = (Box<L>, Patience);

impl<L> Default for Team<L> {
    fn default() -> Self {
        Self::with(STUCK, Term::new)
    }
}

impl<L> Team<L> {
    fn with(stuck: Duration, new_term: fn() -> Term) -> Self {
        let (lanes, followers) = (VecDeque::with_capacity(MOST), Vec::with_capacity(MOST));
        let (steps, leaders, absent) = (0, 0, 0);
        let state =
            State { lanes, followers, lead: Lead::Nobody, last: None, steps, leaders, banned: None, absent };
        Self { state: Mutex::new(state), stuck, new_term }
    }
}

impl<L: Lane> Team<L> {
    /// Serves the lane, or others in its place, until one of them ends.
    pub(super) fn serve(&self, lane: Box<L>) {
        let mut next = Some((lane, Patience::UntilCrowded));
        while let Some((mut lane, patience)) = next {
            match lane.serve(patience) {
                After::Nothing => next = self.join(lane),
                After::Ended => return,
            }
        }
    }

    /// Leads or follows, until the thread has a lane of its own again.
    fn join(&self, lane: Box<L>) -> Option<Given<L>> {
        let mut state = self.state.lock();
        if !state.has_room() {
            return Some((lane, Patience::InTurns));
        }
        if state.lead == Lead::Nobody {
            let own = Some(ptr::from_ref::<L>(&lane).addr());
            let other = state.last.is_some() && state.last != own;
            state.last = own;
            if !other {
                return Some((lane, Patience::InTurns));
            }
            state.lanes.push_back(Member { lane, idle: 0 });
            state.leaders += 1;
            state.lead = Lead::Leads(state.leaders);
            return self.lead(state.leaders, state);
        }
        state.lanes.push_back(Member { lane, idle: 0 });
        let (give, given) = channel();
        state.followers.push(give);
        let watches = state.followers.len() == 1;
        drop(state);
        if watches { self.watch(&given) } else { given.recv().ok() }
    }

    /// Follows, and sees to it that the leader goes on: what it serves may take long, or somebody has its core.
    fn watch(&self, given: &Receiver<Given<L>>) -> Option<Given<L>> {
        let mut seen = None;
        loop {
            match given.recv_timeout(self.stuck) {
                Err(RecvTimeoutError::Timeout) => {}
                other => return other.ok(),
            }
            let mut state = self.state.lock();
            // Given before the lock was had, by a leader that may be another's by now.
            if let Ok(given) = given.try_recv() {
                return Some(given);
            }
            if seen == Some(state.steps) {
                // Whether that was a call or the system, the leader finds out when it is back. One that stays away does not.
                if state.absent == 0 {
                    state.pause()
                } else {
                    state.ban()
                }
                state.relieve();
            }
            seen = Some(state.steps);
        }
    }

    /// Serves all lanes of the team in turn.
    fn lead<'a>(&'a self, id: u64, mut state: MutexGuard<'a, State<L>>) -> Option<Given<L>> {
        let mut term = (self.new_term)();
        loop {
            state.steps += 1;
            let owed = term.owes_a_turn();
            let due = if owed { None } else { state.next_due().or_else(|| look(&mut state, id, &mut term)) };
            drop(state);
            let Some(mut member) = due else {
                thread::yield_now();
                let over = term.waited();
                state = self.state.lock();
                if state.lead != Lead::Leads(id) {
                    return state.leave();
                }
                if !owed && let Some(last) = state.let_idle_go() {
                    return Some(last);
                }
                if let Some(over) = over {
                    return state.end(over);
                }
                continue;
            };
            let after = member.lane.take_turn();
            let over = term.served();
            state = self.state.lock();
            if state.lead != Lead::Leads(id) {
                // Relieved meanwhile, with this lane for its own: its call took too long.
                state.absent -= 1;
                state.ban();
                return Some((member.lane, Patience::UntilCrowded));
            }
            if after == After::Ended {
                if let Some(last) = state.let_go(member.lane) {
                    return Some(last);
                }
                continue;
            }
            state.lanes.push_back(Member { idle: 0, ..member });
            if let Some(over) = over {
                return state.end(over);
            }
        }
    }
}

impl<L: Lane> State<L> {
    /// Whether one more thread may join.
    fn has_room(&mut self) -> bool {
        match self.lead {
            Lead::Leads(_) => self.followers.len() + 1 < MOST,
            Lead::Relieved => false,
            Lead::Nobody => self.banned.is_none_or(|ban| Instant::now() >= ban.until),
        }
    }

    fn next_due(&mut self) -> Option<Member<L>> {
        let at = self.lanes.iter().position(|member| member.lane.is_due())?;
        self.lanes.rotate_left(at);
        self.lanes.pop_front()
    }

    /// Nothing came for any lane. Lanes that have long had nothing go to threads of their own, the last one to the leader's.
    fn let_idle_go(&mut self) -> Option<Given<L>> {
        for _ in 0..self.lanes.len() {
            let mut member = self.lanes.pop_front()?;
            member.idle += 1;
            if member.idle < IDLE {
                self.lanes.push_back(member);
            } else if let Some(last) = self.let_go(member.lane) {
                return Some(last);
            }
        }
        None
    }

    /// Gives the lane, which is none of `lanes` any more, to a follower; to the leader, which leads no more, if it has none.
    fn let_go(&mut self, lane: Box<L>) -> Option<Given<L>> {
        match self.followers.pop() {
            Some(follower) => give(&follower, (lane, Patience::Asleep)),
            None => {
                debug_assert!(self.lanes.is_empty(), "a lane without a thread");
                self.lead = Lead::Nobody;
                return Some((lane, Patience::Asleep));
            }
        }
        None
    }

    /// All followers go on alone, and so does the leader when it comes back.
    fn relieve(&mut self) {
        while let Some(follower) = self.followers.pop() {
            let Some(mut member) = self.lanes.pop_front() else { return };
            member.lane.forget_crowd();
            give(&follower, (member.lane, Patience::UntilCrowded));
        }
        if self.lanes.is_empty() {
            self.lead = Lead::Nobody;
            self.absent += 1;
        } else {
            self.lead = Lead::Relieved;
        }
    }

    /// The leader goes on alone, with the last lane.
    fn leave(&mut self) -> Option<Given<L>> {
        self.lead = Lead::Nobody;
        let mut member = self.lanes.pop_front()?;
        member.lane.forget_crowd();
        Some((member.lane, Patience::UntilCrowded))
    }

    /// The leader dissolves its team.
    fn end(&mut self, over: Over) -> Option<Given<L>> {
        if over == Over::Vain {
            self.ban();
        }
        self.relieve();
        self.leave()
    }

    /// No team for a while, and for longer each time.
    fn ban(&mut self) {
        let [first, longest] = BAN;
        let now = Instant::now();
        let last = self.recent_ban(now);
        let time = (last.time * 2).clamp(first, longest);
        // Whoever was relieved finds a pause when it comes back, and that lasts.
        self.banned = Some(Ban { until: last.until.max(now + time), time });
    }

    /// No team for a moment.
    fn pause(&mut self) {
        let now = Instant::now();
        let last = self.recent_ban(now);
        self.banned = Some(Ban { until: last.until.max(now + BAN[0]), ..last });
    }

    /// What counts for the next one.
    fn recent_ban(&self, now: Instant) -> Ban {
        let recent = self.banned.filter(|ban| now < ban.until + ban.time * FORGOTTEN);
        recent.unwrap_or(Ban { until: now, time: Duration::ZERO })
    }
}

/// Looks for as long as that pays: a client that has a core of its own calls again within less time than a turn takes. The lock is
/// free between two looks, for whoever watches: the leader may lose its core at any time.
fn look<L: Lane>(state: &mut MutexGuard<'_, State<L>>, leader: u64, term: &mut Term) -> Option<Member<L>> {
    let looks = term.looks();
    for _ in 0..looks {
        MutexGuard::unlocked(state, hint::spin_loop);
        if state.lead != Lead::Leads(leader) {
            return None;
        }
        if let Some(due) = state.next_due() {
            term.found();
            return Some(due);
        }
    }
    if looks > 0 {
        term.looked_in_vain();
    }
    None
}

fn give<L>(follower: &Sender<Given<L>>, given: Given<L>) {
    if let Err(SendError((lane, _))) = follower.send(given) {
        debug_assert!(false, "a follower left without a lane");
        drop(lane);
    }
}
