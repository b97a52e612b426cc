//! What is in the queue: which messages wait, which are out of sight and until when, which are gone. No I/O.

use super::{Action, Tally};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A body as it stands in an answer.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// As JSON, in quotes.
    pub body: Box<str>,
    /// Hexadecimal.
    pub md5: [u8; 32],
}

/// What became of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// How often it was received.
    pub received: u32,
    /// How often its delete was asked for, by whatever handle.
    pub delete_calls: u32,
    /// When it was deleted.
    pub deleted: Option<Instant>,
    /// Whether it went to the dead-letter queue.
    pub dead: bool,
}

/// What a receipt handle says: which receive of which message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    pub number: u64,
    pub receive: u32,
}

/// One message as it is handed out.
#[derive(Debug)]
pub struct Delivery<'a> {
    pub handle: Handle,
    pub rendered: &'a Rendered,
    pub sent_ms: u64,
    pub first_received_ms: u64,
}

#[derive(Debug)]
struct Message {
    /// Gone once it is deleted.
    rendered: Option<Rendered>,
    record: Record,
    place: Place,
    sent_ms: u64,
    first_received_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ready,
    OutOfSight(Instant),
    Gone,
}

/// The queue.
#[derive(Debug, Default)]
pub struct State {
    messages: Vec<Message>,
    /// Numbers of messages; those that are no longer ready are passed over.
    ready: VecDeque<u64>,
    /// When messages come back; entries whose message has another time by now are passed over.
    returns: BinaryHeap<Reverse<(Instant, u64)>>,
    /// The `WaitTimeSeconds` of the receives that wait.
    pub waiting: Vec<u64>,
    calls: [u64; Action::ALL.len()],
    deleted: u64,
    dead: u64,
    first_receive: Option<Instant>,
    last_delete: Option<Instant>,
}

impl State {
    /// Counts a call.
    pub fn count(&mut self, action: Action) {
        self.calls[action as usize] += 1;
        if action == Action::ReceiveMessage {
            self.first_receive.get_or_insert_with(Instant::now);
        }
    }

    pub fn send(&mut self, rendered: Rendered) -> u64 {
        let number = self.messages.len() as u64;
        let message = Message {
            rendered: Some(rendered),
            record: Record::default(),
            place: Place::Ready,
            sent_ms: now_ms(),
            first_received_ms: 0,
        };
        self.messages.push(message);
        self.ready.push_back(number);
        number
    }

    /// How many wait; a few may be counted that are gone.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Takes up to `most` messages out of sight until `until`, and hands each to `each`.
    pub fn receive(
        &mut self,
        most: usize,
        (now, until): (Instant, Instant),
        max_receives: Option<u32>,
        twice: bool,
        mut each: impl FnMut(&Delivery<'_>),
    ) -> usize {
        self.bring_back(now);
        let mut found = 0;
        while found < most {
            let Some(number) = self.ready.pop_front() else { break };
            let Some(message) = self.messages.get_mut(number as usize).filter(|m| m.place == Place::Ready) else {
                continue;
            };
            if max_receives.is_some_and(|most| message.record.received >= most) {
                message.record.dead = true;
                message.place = Place::Gone;
                self.dead += 1;
                continue;
            }
            let Some(rendered) = &message.rendered else { continue };
            message.record.received += 1;
            if message.record.received == 1 {
                message.first_received_ms = now_ms();
            }
            each(&Delivery {
                handle: Handle { number, receive: message.record.received },
                rendered,
                sent_ms: message.sent_ms,
                first_received_ms: message.first_received_ms,
            });
            found += 1;
            if twice && message.record.received == 1 {
                self.ready.push_back(number);
            } else {
                message.place = Place::OutOfSight(until);
                self.returns.push(Reverse((until, number)));
            }
        }
        found
    }

    /// When the next message comes back into sight.
    pub fn next_return(&self) -> Option<Instant> {
        self.returns.peek().map(|Reverse((at, _))| *at)
    }

    /// Deletes a message by its newest handle; by an older one it is not deleted. `false`: no such message.
    pub fn delete(&mut self, handle: Handle) -> bool {
        let Some(message) = self.messages.get_mut(handle.number as usize) else { return false };
        message.record.delete_calls += 1;
        if message.record.received == handle.receive && message.place != Place::Gone {
            let now = Instant::now();
            message.place = Place::Gone;
            message.rendered = None;
            message.record.deleted = Some(now);
            self.deleted += 1;
            self.last_delete = Some(now);
        }
        true
    }

    /// Has a message come back after so long; `false` where it is not out of sight.
    pub fn change_visibility(&mut self, handle: Handle, visibility: Duration) -> bool {
        let Some(message) = self.messages.get_mut(handle.number as usize) else { return false };
        if message.record.received != handle.receive || !matches!(message.place, Place::OutOfSight(_)) {
            return false;
        }
        let until = Instant::now() + visibility;
        message.place = Place::OutOfSight(until);
        self.returns.push(Reverse((until, handle.number)));
        true
    }

    pub fn in_flight(&mut self, now: Instant) -> usize {
        self.bring_back(now);
        self.messages.iter().filter(|m| matches!(m.place, Place::OutOfSight(_))).count()
    }

    pub fn tally(&self) -> Tally {
        let span = match (self.first_receive, self.last_delete) {
            (Some(from), Some(to)) => to.saturating_duration_since(from),
            _ => Duration::ZERO,
        };
        Tally { calls: self.calls, sent: self.messages.len() as u64, deleted: self.deleted, dead: self.dead, span }
    }

    pub fn records(&self) -> Vec<Record> {
        self.messages.iter().map(|m| m.record).collect()
    }

    fn bring_back(&mut self, now: Instant) {
        while let Some(Reverse((at, number))) = self.returns.peek().copied() {
            if at > now {
                return;
            }
            self.returns.pop();
            if let Some(message) = self.messages.get_mut(number as usize)
                && message.place == Place::OutOfSight(at)
            {
                message.place = Place::Ready;
                self.ready.push_back(number);
            }
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue in which so many messages wait.
    fn with(messages: usize) -> State {
        let mut state = State::default();
        for _ in 0..messages {
            state.send(Rendered { body: "\"x\"".into(), md5: [b'0'; 32] });
        }
        state
    }

    fn receive(state: &mut State, now: Instant, max_receives: Option<u32>, twice: bool) -> Vec<Handle> {
        let mut handles = Vec::new();
        let until = now + Duration::from_secs(10);
        state.receive(10, (now, until), max_receives, twice, |delivery| handles.push(delivery.handle));
        handles
    }

    #[test]
    fn what_is_not_deleted_comes_again_by_a_new_handle() {
        let (mut state, now) = (with(3), Instant::now());
        let first = receive(&mut state, now, None, false);
        assert_eq!((first.len(), state.next_return()), (3, Some(now + Duration::from_secs(10))));
        assert!(receive(&mut state, now + Duration::from_secs(9), None, false).is_empty());
        assert!(state.delete(first[0]));
        let second = receive(&mut state, now + Duration::from_secs(11), None, false);
        assert_eq!(second, [1, 2].map(|number| Handle { number, receive: 2 }));
        // The old handle is taken, and does nothing.
        assert!(state.delete(first[1]) && state.tally().deleted == 1);
        assert!(state.delete(second[0]) && state.tally().deleted == 2);
        assert!(!state.delete(Handle { number: 3, receive: 1 }));
    }

    #[test]
    fn what_is_prolonged_comes_later_and_what_is_given_back_at_once() {
        let (mut state, now) = (with(2), Instant::now());
        let held = receive(&mut state, now, None, false);
        assert!(state.change_visibility(held[0], Duration::from_secs(60)));
        assert!(state.change_visibility(held[1], Duration::ZERO));
        assert_eq!(receive(&mut state, now + Duration::from_secs(1), None, false).len(), 1);
        assert_eq!(receive(&mut state, now + Duration::from_secs(30), None, false).len(), 1);
        assert_eq!(receive(&mut state, now + Duration::from_secs(90), None, false).len(), 2);
        assert!(!state.change_visibility(held[0], Duration::ZERO), "an old handle");
    }

    #[test]
    fn what_was_received_too_often_is_dead() {
        let (mut state, now) = (with(1), Instant::now());
        for n in 0..3 {
            assert_eq!(
                receive(&mut state, now + Duration::from_secs(11 * n), Some(2), false).len(),
                usize::from(n < 2)
            );
        }
        assert_eq!(state.tally().dead, 1);
        assert!(state.records()[0].dead);
    }

    #[test]
    fn what_comes_twice_comes_at_once() {
        let (mut state, now) = (with(1), Instant::now());
        let handles = receive(&mut state, now, None, true);
        assert_eq!(handles, [1, 2].map(|receive| Handle { number: 0, receive }));
        assert!(state.delete(handles[0]) && state.tally().deleted == 0);
        assert!(state.delete(handles[1]) && state.tally().deleted == 1);
    }
}
