//! What is due later: one queue of timers for each loop, whose next deadline is the longest the loop waits.
//!
//! An ordered map, not a wheel: it fires at the exact deadline, a cancelled timer leaves nothing behind, and it needs no
//! tick. It costs a logarithm, a few times in a channel's life: what moves with every message (idle, heartbeat) does
//! not re-arm a timer but looks at the time when it fires.

use std::collections::BTreeMap;

use crate::clock::Mono;

/// Names one timer until it fires or is cancelled; after that it names nothing, and never another timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId {
    // The map's key: ordered by deadline, and among equal deadlines by age.
    deadline: Mono,
    sequence: u64,
}

impl TimerId {
    pub(crate) fn deadline(self) -> Mono {
        self.deadline
    }
}

/// A moment between two timers that were set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(u64);

/// Timers with what they are for, a `K`.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    queue: BTreeMap<TimerId, K>,
    next_sequence: u64,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { queue: BTreeMap::new(), next_sequence: 0 }
    }
}

impl<K> Timers<K> {
    /// Sets a timer. A deadline in the past is due at once.
    pub(crate) fn insert(&mut self, deadline: Mono, key: K) -> TimerId {
        let id = TimerId { deadline, sequence: self.next_sequence };
        self.next_sequence += 1; // 64 bits: never again the same
        let before = self.queue.insert(id, key);
        debug_assert!(before.is_none());
        id
    }

    /// Takes a timer back; `None` when it fired or was cancelled before.
    pub(crate) fn cancel(&mut self, id: TimerId) -> Option<K> {
        self.queue.remove(&id)
    }

    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        self.queue.first_key_value().map(|(id, _)| id.deadline)
    }

    /// To be given to [`Timers::pop_due`]: timers set from here on are not due yet, whatever their deadline.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.next_sequence)
    }

    /// The next timer whose deadline is `now` or earlier; the earliest first, of equals the oldest. One that was set
    /// after the mark, and whatever is due after it, waits: timers that set each other never keep the loop.
    pub(crate) fn pop_due(&mut self, now: Mono, mark: Mark) -> Option<(TimerId, K)> {
        let entry = self.queue.first_entry()?;
        let TimerId { deadline, sequence } = *entry.key();
        (deadline <= now && sequence < mark.0).then(|| entry.remove_entry())
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(nanos: u64) -> Mono {
        Mono::from_nanos(nanos)
    }

    fn pop<K>(timers: &mut Timers<K>, now: u64) -> Option<(TimerId, K)> {
        timers.pop_due(at(now), timers.mark())
    }

    #[test]
    fn timers_fire_by_deadline_then_by_age_and_none_early() {
        let mut timers = Timers::default();
        for (deadline, key) in [(20, 'c'), (10, 'a'), (20, 'd'), (10, 'b')] {
            timers.insert(at(deadline), key);
        }
        assert_eq!(timers.next_deadline(), Some(at(10)));
        assert_eq!(pop(&mut timers, 9), None);
        let fired: String = std::iter::from_fn(|| pop(&mut timers, 20)).map(|(_, key)| key).collect();
        assert_eq!(fired, "abcd");
        assert_eq!((timers.next_deadline(), timers.len()), (None, 0));
    }

    #[test]
    fn an_id_names_one_timer_once() {
        let mut timers = Timers::default();
        let first = timers.insert(at(5), 1);
        assert_eq!(timers.cancel(first), Some(1));
        let second = timers.insert(at(5), 2);
        assert_eq!(timers.cancel(first), None);
        assert_eq!(pop(&mut timers, 5), Some((second, 2)));
        assert_eq!(timers.cancel(second), None);
    }

    #[test]
    fn a_timer_set_after_the_mark_waits_for_the_next_time() {
        let mut timers = Timers::default();
        let first = timers.insert(at(5), 1);
        let mark = timers.mark();
        let second = timers.insert(at(5), 2);
        assert_eq!(timers.pop_due(at(5), mark), Some((first, 1)));
        assert_eq!(timers.pop_due(at(5), mark), None);
        assert_eq!(timers.pop_due(at(5), timers.mark()), Some((second, 2)));
    }

    proptest! {
        #[test]
        fn whatever_is_set_and_cancelled_the_rest_fires_in_order(
            steps in prop::collection::vec((0_u64..50, any::<bool>()), 0..100),
        ) {
            let (mut timers, mut model) = (Timers::default(), Vec::new());
            for (number, &(deadline, cancel)) in steps.iter().enumerate() {
                let id = timers.insert(at(deadline), number);
                model.push((deadline, number, id));
                if cancel {
                    let (_, key, id) = model.swap_remove(number % model.len());
                    prop_assert_eq!(timers.cancel(id), Some(key));
                }
            }
            model.sort_unstable();
            for (deadline, key, id) in model {
                prop_assert_eq!(timers.next_deadline(), Some(at(deadline)));
                prop_assert_eq!(pop(&mut timers, deadline), Some((id, key)));
            }
            prop_assert_eq!(pop(&mut timers, u64::MAX), None);
        }
    }
}
