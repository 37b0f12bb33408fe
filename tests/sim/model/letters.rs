//! Time and dead letters: what may have left its queue by itself or for another, and where it must be then.
//!
//! A message that may be dead is in doubt in both queues, until somebody gets it from one of them or everything is at rest.

use super::{
    Kind, Message, Model, State,
    crash::{Recovered, TIME_SURVIVES},
};

impl Model {
    /// Time goes on.
    pub fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        while let Some((at_ms, queue, place)) = self.dated.first().copied().filter(|due| due.0 <= now_ms) {
            self.dated.remove(&(at_ms, queue, place));
            self.look_again(queue, place);
        }
    }

    /// Looks at a message whose time may have come, or will.
    pub(super) fn look_again(&mut self, queue: usize, place: u64) {
        let now_ms = self.now_ms;
        let Some(message) = self.queues[queue].messages.get_mut(&place) else { return };
        let is_ready = match message.state {
            State::Available => true,
            State::Held => message.until_ms <= now_ms,
            _ => false,
        };
        if is_ready && message.deadline_ms <= now_ms {
            (message.state, message.met_purge) = (State::MaybePurged, true);
            self.may_be_dead(queue, place);
            return;
        }
        let times = [message.deadline_ms, message.until_ms];
        self.dated
            .extend(times.into_iter().filter(|at_ms| *at_ms > now_ms).map(|at_ms| (at_ms, queue, place)));
    }

    /// What a limit may have taken.
    pub(super) fn bound(&mut self, queue: usize) {
        self.queues[queue].bound().into_iter().for_each(|place| self.may_be_dead(queue, place));
    }

    /// Whether a client may get it now.
    pub(super) fn may_be_ready(&self, message: &Message) -> bool {
        match message.state {
            State::Available | State::MaybePurged => true,
            State::Held => message.until_ms <= self.now_ms,
            State::Unacked | State::Gone => false,
        }
    }

    fn targets(&self, queue: usize) -> Vec<usize> {
        let names = self.queues[queue].kind.targets().iter();
        names.filter_map(|name| self.live.get(*name).copied()).collect()
    }

    /// It may have left for another queue.
    pub(super) fn may_be_dead(&mut self, queue: usize, place: u64) {
        let Message { id, persistent, .. } = self.queues[queue].messages[&place];
        for target in self.targets(queue) {
            let target = &mut self.queues[target];
            let letter = Message {
                state: State::MaybePurged,
                met_purge: true,
                from: Some((queue, place)),
                returns_before: target.returns,
                give_backs_before: target.give_backs,
                ..Message::new(id, persistent)
            };
            target.positions.insert(id, id);
            target.messages.entry(id).or_insert(letter);
        }
    }

    /// It has left for another queue, if its own says one.
    pub(super) fn is_dead(&mut self, queue: usize, place: u64) {
        self.may_be_dead(queue, place);
        self.has_left(queue, place);
    }

    /// It is not in that queue, so it is in the next ones, but for those that wait until that has room.
    fn has_left(&mut self, queue: usize, place: u64) {
        let message = self.queues[queue].messages.get_mut(&place).expect("it was there");
        let id = message.id;
        message.state = State::Gone;
        let what = if self.queues[queue].kind == Kind::Delayed { "delayed" } else { "dead letter" };
        for target in self.targets(queue) {
            let is_narrow = self.queues[target].kind == Kind::Narrow;
            let letter = self.queues[target].messages.get_mut(&id);
            if let Some(letter) = letter.filter(|letter| letter.state == State::MaybePurged && !is_narrow) {
                letter.state = State::Available;
                *self.seen.entry(what).or_default() += 1;
            }
        }
    }

    /// It is in that queue: not in the next ones, and not in the one before any more.
    pub(super) fn is_alive(&mut self, queue: usize, place: u64) {
        let Message { id, from, .. } = self.queues[queue].messages[&place];
        for target in self.targets(queue) {
            let Some(letter) = self.queues[target].messages.remove(&id) else { continue };
            assert!(letter.state == State::MaybePurged && !letter.seen, "{id} is dead and alive");
            self.queues[target].positions.remove(&id);
        }
        if let Some((before, place)) = from {
            let state = self.queues[before].messages[&place].state;
            let has_left = matches!(state, State::MaybePurged | State::Held | State::Gone);
            assert!(has_left, "{id} is in two queues");
            self.has_left(before, place);
        }
    }

    /// Its publisher is told whether its queue has taken it.
    pub(super) fn was_taken(&mut self, id: u64, is_taken: bool) {
        if let Some(may_repeat) = self.refused.remove(&id) {
            assert!(!is_taken || may_repeat, "{id} was not refused");
            *self.seen.entry("refused, to come again").or_default() += 1;
            return;
        }
        let Some(queue) = self.unsure.remove(&id) else {
            assert!(is_taken, "{id} was refused by a queue that takes everything");
            return;
        };
        match self.queues[queue].messages[&id].state {
            State::MaybePurged if is_taken => {
                self.is_alive(queue, id);
                let message = self.queues[queue].messages.get_mut(&id).expect("it is there");
                (message.state, message.met_purge) = (State::Available, false);
            }
            State::MaybePurged | State::Gone if !is_taken => self.has_left(queue, id),
            state => assert!(is_taken, "{id} was refused and is {state:?}"),
        }
    }

    /// Everything that is due was done: what is left in doubt is so for other reasons.
    pub fn settle_time(&mut self) {
        let now_ms = self.now_ms;
        for queue in 0..self.queues.len() {
            let messages = self.queues[queue].messages.iter_mut();
            let held =
                messages.filter(|(_, message)| message.state == State::Held && message.until_ms <= now_ms);
            held.for_each(|(_, message)| message.state = State::Available);
            let is_over =
                |message: &Message| message.state == State::MaybePurged && message.deadline_ms <= now_ms;
            let messages = self.queues[queue].messages.iter();
            let over: Vec<u64> =
                messages.filter(|(_, message)| is_over(message)).map(|(place, _)| *place).collect();
            if !self.forgets_time {
                for place in over {
                    self.has_left(queue, place);
                }
            }
        }
    }

    /// That many are ready in a queue, and nothing is on its way.
    pub fn check_ready(&mut self, index: usize, ready: usize) {
        let queue = &self.queues[index];
        let (available, unsure) = (queue.count(State::Available), queue.count(State::MaybePurged));
        let name = &queue.name;
        let waits = queue.available().count() > queue.free().count();
        if waits {
            *self.seen.entry("wait for the group").or_default() += 1;
        }
        if self.is_tracing {
            let there = queue.available().map(|(_, message)| (message.id, message.deadline_ms));
            eprintln!("{ready} ready in {name} at {}: {:?}", self.now_ms, there.collect::<Vec<_>>());
        }
        assert!((available..=available + unsure).contains(&ready), "{ready} ready, not {available}: {name}");
        let in_doubt = queue.messages.iter().filter(|(_, message)| message.state == State::MaybePurged);
        let in_doubt: Vec<u64> = in_doubt.map(|(place, _)| *place).collect();
        if ready == available {
            if queue.kind.is_for_letters() {
                // They are in the queue before, and may come later.
                return;
            }
            in_doubt.into_iter().for_each(|place| self.has_left(index, place));
        } else if ready == available + unsure {
            for place in in_doubt {
                self.is_alive(index, place);
                let message = self.queues[index].messages.get_mut(&place).expect("it is there");
                message.state = State::Available;
                self.look_again(index, place);
            }
            self.bound(index);
        }
    }

    /// The log has all that it has been told: dead letters, too.
    pub fn settle_letters(&mut self) {
        for queue in self.queues.iter_mut().filter(|queue| queue.kind.is_for_letters()) {
            let sure = queue.messages.values_mut().filter(|letter| letter.state == State::Available);
            sure.for_each(|letter| letter.met_purge = false);
        }
    }

    /// After a crash, a message that may have died is in one of its queues: in none only if it is gone from the last of
    /// them, or if the log had never heard of it.
    pub(super) fn check_letters(&self, recovered: &Recovered) -> Result<(), String> {
        let has = |queue: usize, id: u64| {
            let queue = recovered.get(&self.queues[queue].name);
            queue.is_some_and(|queue| queue.messages.iter().any(|message| message.id == id))
        };
        for queue in self.live.values().copied() {
            let roots = self.queues[queue].messages.values().filter(|it| it.persistent && it.from.is_none());
            for root in roots {
                for chain in self.chains(queue, root.id) {
                    let count = chain.iter().filter(|queue| has(**queue, root.id)).count();
                    let name = &self.queues[queue].name;
                    if chain.len() > 1 && count > 1 {
                        return Err(format!("{} of {name} is dead and alive", root.id));
                    }
                    let last = *chain.last().expect("it begins somewhere");
                    let is_gone = self.queues[last]
                        .messages
                        .values()
                        .any(|it| it.id == root.id && it.state == State::Gone);
                    if chain.len() > 1 && count == 0 && self.durable.contains(&root.id) && !is_gone {
                        return Err(format!("{} of {name} has died and is nowhere", root.id));
                    }
                }
            }
        }
        Ok(())
    }

    /// The queues that a message may be in, one after the other, in each way that it may have gone.
    fn chains(&self, queue: usize, id: u64) -> Vec<Vec<usize>> {
        let targets = self.targets(queue).into_iter();
        let next = targets.filter(|target| self.queues[*target].messages.contains_key(&id));
        let rests = next.flat_map(|target| self.chains(target, id));
        let chains: Vec<_> = rests.map(|rest| [vec![queue], rest].concat()).collect();
        if chains.is_empty() { vec![vec![queue]] } else { chains }
    }

    /// Deadlines of what was there before the broker began.
    pub(super) fn deadline_after_crash(message: &Message) -> u64 {
        if TIME_SURVIVES { message.deadline_ms } else { u64::MAX }
    }
}
