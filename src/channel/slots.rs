//! The slots of one loop's range and their generations, shared between the loop and all other threads: a dial gets its
//! id, and a send from another thread its answer, without asking the loop. The channels themselves are in `table.rs`,
//! which the loop alone owns.

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    fence,
};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::outbox::Room;
use crate::error::SendError;
use crate::id::ChannelId;

/// Bits of `Gate::state`: the generation, three flags, and above them the bytes posted. They share one word so that a
/// thread with a stale id can never charge the slot's next channel: the exchange fails when any of them changed.
const GENERATION: u64 = (1 << 24) - 1;
const LIVE: u64 = 1 << 24;
const OPEN: u64 = 1 << 25;
/// A thread found no room, and the loop does not know it yet.
const REFUSED: u64 = 1 << 26;
const POSTED_SHIFT: u32 = 27;
const POSTED_MAX: u64 = u64::MAX >> POSTED_SHIFT;

const _: () = assert!(GENERATION == ChannelId::MAX_GENERATION as u64);

/// What other threads may know of a slot. All zero while the slot was never used.
#[derive(Debug, Default)]
struct Gate {
    state: AtomicU64,
    /// Bytes in the channel's outbox, as last told by the loop.
    queued: AtomicU32,
    /// Bytes of the longest send.
    longest: AtomicU32,
}

/// Slots that are not in use.
///
/// Invariant: `returned` has no slot twice and none at or above `fresh`.
#[derive(Debug, Default)]
struct Free {
    /// Used before; the last one back is the first one out, since its memory is warm.
    returned: Vec<u32>,
    /// The first index that was never used; the memory of those behind it is untouched.
    fresh: u32,
}

#[derive(Debug)]
pub(crate) struct Slots {
    first: u32,
    room: Room,
    gates: Box<[Gate]>,
    free: Mutex<Free>,
}

impl Slots {
    pub(crate) fn new(first: u32, count: u32, room: Room) -> Self {
        assert!(first.checked_add(count).is_some(), "the configuration was validated");
        let gates = (0..count).map(|_| Gate::default()).collect();
        Self { first, room, gates, free: Mutex::default() }
    }

    pub(crate) fn first(&self) -> u32 {
        self.first
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.gates.len()).expect("made from a u32")
    }

    /// Channels that exist, or are about to.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn live_count(&self) -> u32 {
        let free = self.lock();
        free.fresh - u32::try_from(free.returned.len()).expect("at most fresh")
    }

    /// An id for a new channel; `None` when all slots are in use. From any thread.
    pub(crate) fn allocate(&self) -> Option<ChannelId> {
        let mut free = self.lock();
        let index = match free.returned.pop() {
            Some(index) => index,
            None if free.fresh < self.count() => {
                free.fresh += 1;
                free.fresh - 1
            }
            None => return None,
        };
        let gate = &self.gates[index as usize];
        let state = gate.state.load(Relaxed);
        debug_assert_eq!(state & (LIVE | OPEN), 0, "a free slot is not live");
        let generation = match state & GENERATION {
            GENERATION => 1,
            generation => generation + 1,
        };
        gate.queued.store(0, Relaxed);
        gate.state.store(generation | LIVE, Release);
        Some(ChannelId::new(self.first + index, u32::try_from(generation).expect("24 bits")))
    }

    /// True when [`Slots::allocate`] would give none.
    pub(crate) fn is_full(&self) -> bool {
        let free = self.lock();
        free.returned.is_empty() && free.fresh == self.count()
    }

    /// Gives the slot of a finished channel out again. Its id reaches nobody from here on.
    pub(crate) fn free(&self, id: ChannelId) {
        let mut free = self.lock();
        let gate = self.gate(id).expect("an id of this loop");
        let before = gate.state.swap(u64::from(id.generation()), Release);
        assert_eq!(before & (GENERATION | LIVE), u64::from(id.generation()) | LIVE, "{id} is freed once");
        free.returned.push(id.slot() - self.first);
    }

    pub(crate) fn is_live(&self, id: ChannelId) -> bool {
        self.state_of(id).is_some()
    }

    /// From here on other threads may send, messages of at most that length.
    pub(crate) fn open(&self, id: ChannelId, max_message: usize) {
        let gate = self.gate(id).expect("an id of this loop");
        gate.longest.store(u32::try_from(max_message).unwrap_or(u32::MAX), Relaxed);
        self.update(id, |state| Some(state | OPEN));
    }

    /// From here on sends of other threads are refused as closed, also before the channel opened.
    pub(crate) fn shut(&self, id: ChannelId) {
        // Shut is: posted full up, which no charge can pass, and not open.
        self.update(id, |state| Some((state & !OPEN) | (POSTED_MAX << POSTED_SHIFT)));
    }

    /// The loop's word on how much waits in the outbox; other threads see it with some delay. True, once, when one of
    /// them was refused by an earlier word: it is to be called back.
    pub(crate) fn publish_queued(&self, id: ChannelId, queued: usize) -> bool {
        let Some(gate) = self.gate(id) else { return false };
        gate.queued.store(u32::try_from(queued).unwrap_or(u32::MAX), Relaxed);
        // Pairs with the fence in `charge`: either the thread sees this word, or we its refusal.
        fence(SeqCst);
        let is_refused = self.state_of(id).is_some_and(|state| state & REFUSED != 0);
        if is_refused {
            self.update(id, |state| Some(state & !REFUSED));
        }
        is_refused
    }

    /// Bytes that wait to be sent, as far as is known outside the loop; 0 for a channel that is gone.
    pub(crate) fn queued(&self, id: ChannelId) -> usize {
        match (self.gate(id), self.state_of(id)) {
            (Some(gate), Some(state)) if !is_shut(state) => queued(gate, state),
            _ => 0,
        }
    }

    /// Reserves room for `size` bytes that another thread is about to post. From any thread.
    #[inline]
    pub(crate) fn charge(&self, id: ChannelId, size: usize) -> Result<(), SendError> {
        let gate = self.gate(id).ok_or(SendError::Closed)?;
        let mut state = gate.state.load(Acquire);
        loop {
            if !is_of(state, id) || is_shut(state) {
                return Err(SendError::Closed);
            }
            if state & OPEN == 0 {
                return Err(SendError::NotOpen);
            }
            let longest = gate.longest.load(Relaxed) as usize;
            if size > longest {
                return Err(SendError::TooBig { size, max: longest });
            }
            let queued = queued(gate, state);
            if self.room.takes(queued, size) {
                let next = state + ((size as u64) << POSTED_SHIFT);
                debug_assert!(!is_shut(next), "outbox_max and max_message are far below 2^37");
                match gate.state.compare_exchange_weak(state, next, Release, Acquire) {
                    Ok(_) => return Ok(()),
                    Err(now) => state = now,
                }
            } else if !self.room.takes(0, size) {
                return Err(SendError::TooBig { size, max: self.room.max() });
            } else if state & REFUSED == 0 {
                self.update(id, |state| Some(state | REFUSED));
                // Pairs with the fence in `publish_queued`: the loop may just have made room, and call nobody back.
                fence(SeqCst);
                state = gate.state.load(Acquire);
            } else {
                return Err(SendError::WouldBlock { queued, size, max: self.room.max() });
            }
        }
    }

    /// `size` posted bytes were taken into the outbox, or their posting failed.
    pub(crate) fn discharge(&self, id: ChannelId, size: usize) {
        self.update(id, |state| {
            // Shutting forgot what was posted.
            (!is_shut(state)).then(|| {
                debug_assert!(state >> POSTED_SHIFT >= size as u64, "{id}: discharged more than charged");
                state.saturating_sub((size as u64) << POSTED_SHIFT)
            })
        });
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        // Nothing here can panic half-way through a change.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gate(&self, id: ChannelId) -> Option<&Gate> {
        self.gates.get(id.slot().checked_sub(self.first)? as usize)
    }

    fn state_of(&self, id: ChannelId) -> Option<u64> {
        let state = self.gate(id)?.state.load(Acquire);
        is_of(state, id).then_some(state)
    }

    /// Changes the state unless the channel is gone.
    fn update(&self, id: ChannelId, change: impl Fn(u64) -> Option<u64>) {
        let Some(gate) = self.gate(id) else { return };
        let mut state = gate.state.load(Acquire);
        while is_of(state, id)
            && let Some(next) = change(state)
            && let Err(now) = gate.state.compare_exchange_weak(state, next, Release, Acquire)
        {
            state = now;
        }
    }
}

fn is_of(state: u64, id: ChannelId) -> bool {
    if planted!(NoGeneration) {
        return state & LIVE != 0;
    }
    state & (GENERATION | LIVE) == u64::from(id.generation()) | LIVE
}

fn queued(gate: &Gate, state: u64) -> usize {
    let posted = usize::try_from(state >> POSTED_SHIFT).unwrap_or(usize::MAX);
    posted.saturating_add(gate.queued.load(Relaxed) as usize)
}

fn is_shut(state: u64) -> bool {
    state >> POSTED_SHIFT == POSTED_MAX
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::config::{Limits, Mode};

    fn slots(first: u32, count: u32, mode: Mode, outbox_max: usize) -> Slots {
        let limits = Limits { outbox_high: outbox_max / 2, outbox_max, ..Limits::default() };
        Slots::new(first, count, Room::new(mode, &limits))
    }

    #[test]
    fn a_stale_id_reaches_nobody() {
        let slots = slots(10, 1, Mode::Stream, 10);
        let old = slots.allocate().unwrap();
        slots.open(old, usize::MAX);
        assert_eq!(slots.charge(old, 3), Ok(()));
        slots.free(old);
        assert!(!slots.is_live(old));

        let new = slots.allocate().unwrap();
        assert_eq!((new.slot(), new.generation()), (10, 2));
        slots.open(old, usize::MAX);
        assert_eq!(slots.charge(new, 1), Err(SendError::NotOpen), "the old id opened nothing");
        slots.open(new, usize::MAX);
        slots.discharge(old, 3);
        slots.shut(old);
        assert_eq!(slots.charge(old, 1), Err(SendError::Closed));
        assert_eq!(slots.charge(new, 10), Ok(()), "what the old channel had posted is forgotten");
    }

    #[test]
    fn foreign_ids_reach_nobody() {
        let slots = slots(10, 2, Mode::Stream, 10);
        for slot in [0, 9, 10, 12, u32::MAX] {
            let id = ChannelId::new(slot, 1);
            assert!(!slots.is_live(id));
            assert_eq!(slots.charge(id, 1), Err(SendError::Closed));
        }
    }

    #[test]
    fn the_range_is_used_from_its_start_and_then_is_full() {
        let slots = slots(7, 3, Mode::Stream, 10);
        let ids: Vec<_> = (0..3).map(|_| slots.allocate().unwrap()).collect();
        assert_eq!(ids.iter().map(|id| id.slot()).collect::<Vec<_>>(), [7, 8, 9]);
        assert_eq!((slots.allocate(), slots.live_count()), (None, 3));
        slots.free(ids[1]);
        assert_eq!(slots.allocate(), Some(ChannelId::new(8, 2)));
    }

    #[test]
    fn generations_start_again_after_the_greatest() {
        let slots = slots(0, 1, Mode::Stream, 10);
        slots.gates[0].state.store(GENERATION, Relaxed);
        assert_eq!(slots.allocate().unwrap().generation(), 1);
    }

    #[test]
    fn a_gate_refuses_by_phase_size_and_room() {
        let slots = slots(0, 1, Mode::Message, 100);
        let id = slots.allocate().unwrap();
        assert_eq!(slots.charge(id, 1), Err(SendError::NotOpen));
        slots.open(id, 200);
        assert_eq!(slots.charge(id, 201), Err(SendError::TooBig { size: 201, max: 200 }));
        assert_eq!(slots.charge(id, 150), Ok(()), "one message may pass outbox_max");
        assert_eq!(slots.charge(id, 1), Err(SendError::WouldBlock { queued: 150, size: 1, max: 100 }));
        slots.discharge(id, 150);
        slots.publish_queued(id, 49);
        assert_eq!(slots.charge(id, 150), Ok(()), "as long as it is below outbox_high");
        slots.discharge(id, 150);
        slots.publish_queued(id, 99);
        assert_eq!(slots.charge(id, 2), Err(SendError::WouldBlock { queued: 99, size: 2, max: 100 }));
        assert_eq!(slots.charge(id, 1), Ok(()));
        assert_eq!(slots.queued(id), 100);
        slots.shut(id);
        assert_eq!(slots.charge(id, 1), Err(SendError::Closed));
        slots.discharge(id, 1);
        assert_eq!(slots.charge(id, 1), Err(SendError::Closed), "a discharge opens nothing");
        slots.free(id);
        let next = slots.allocate().unwrap();
        slots.shut(next);
        assert_eq!(slots.charge(next, 1), Err(SendError::Closed));
    }

    #[test]
    fn what_a_stream_can_never_take_is_too_big() {
        let slots = slots(0, 1, Mode::Stream, 100);
        let id = slots.allocate().unwrap();
        slots.open(id, usize::MAX);
        assert_eq!(slots.charge(id, 101), Err(SendError::TooBig { size: 101, max: 100 }));
        assert_eq!(slots.charge(id, 100), Ok(()));
    }

    #[test]
    fn the_loop_hears_once_of_who_was_refused() {
        let slots = slots(0, 1, Mode::Stream, 100);
        let id = slots.allocate().unwrap();
        slots.open(id, usize::MAX);
        assert!(!slots.publish_queued(id, 100));
        assert!(slots.charge(id, 1).is_err());
        assert!(slots.charge(id, 1).is_err());
        assert!(slots.publish_queued(id, 0));
        assert!(!slots.publish_queued(id, 0));
        assert_eq!(slots.charge(id, 1), Ok(()));
    }

    #[test]
    fn whoever_is_refused_is_called_back_or_finds_room() {
        let slots = Arc::new(slots(0, 1, Mode::Stream, 1));
        let id = slots.allocate().unwrap();
        slots.open(id, usize::MAX);
        let (call, called) = std::sync::mpsc::channel();
        let sender = std::thread::spawn({
            let slots = Arc::clone(&slots);
            move || {
                for _ in 0..20_000 {
                    while slots.charge(id, 1).is_err() {
                        called.recv().unwrap();
                    }
                }
            }
        });
        // The loop: takes what was posted, and sends it.
        while !sender.is_finished() {
            let posted = slots.queued(id);
            let is_refused = slots.publish_queued(id, posted);
            slots.discharge(id, posted);
            if slots.publish_queued(id, 0) || is_refused {
                call.send(()).unwrap();
            }
        }
        sender.join().unwrap();
    }

    #[test]
    fn eight_threads_never_hold_the_same_slot_nor_overcharge() {
        let slots = Arc::new(slots(0, 16, Mode::Stream, 10));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let slots = Arc::clone(&slots);
                std::thread::spawn(move || {
                    let mut seen = BTreeSet::new();
                    for round in 0..2_000 {
                        let (a, b) = (slots.allocate().unwrap(), slots.allocate().unwrap());
                        assert!(seen.insert(a) && seen.insert(b), "an id is given out once");
                        slots.open(a, usize::MAX);
                        slots.charge(a, 10).unwrap();
                        assert!(slots.charge(a, 1).is_err());
                        if round % 2 == 0 {
                            slots.discharge(a, 10);
                            slots.charge(a, 10).unwrap();
                        }
                        slots.free(a);
                        slots.free(b);
                        assert!(!slots.is_live(a));
                    }
                    seen
                })
            })
            .collect();
        let all: Vec<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(slots.live_count(), 0);
    }

    #[test]
    fn a_gate_is_small() {
        assert!(size_of::<Gate>() <= 24);
    }
}
