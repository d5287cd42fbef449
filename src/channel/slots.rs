//! The slots of one loop's range and their generations, shared between the loop and all other threads: a dial gets its
//! id, and a send from another thread its answer, without asking the loop. The channels themselves are in `table.rs`,
//! which the loop alone owns.

use std::collections::TryReserveError;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    fence,
};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::outbox::Room;
use crate::error::SendError;
use crate::id::ChannelId;
use crate::link::Framing;

/// Bits of `Gate::state`: the generation, and flags.
const GENERATION: u32 = (1 << 24) - 1;
const LIVE: u32 = 1 << 24;
const OPEN: u32 = 1 << 25;
/// Nothing is to be sent any more; it may be so before the channel opened.
const SHUT: u32 = 1 << 26;
/// A thread found no room, and the loop does not know it yet.
const REFUSED: u32 = 1 << 27;

const _: () = assert!(GENERATION == ChannelId::MAX_GENERATION);

/// What other threads may know of a slot. All zero while the slot was never used.
///
/// `posted` and `taken` go on from one channel of the slot to the next: what was posted is taken, whether or not its channel
/// is still there.
#[derive(Debug, Default)]
struct Gate {
    state: AtomicU32,
    /// Bytes in the channel's outbox, as last told by the loop.
    queued: AtomicU32,
    /// Bytes of the longest send.
    longest: AtomicU32,
    /// [`Framing::to_bits`].
    framing: AtomicU32,
    /// All bytes other threads ever posted to the slot. Whoever holds the loop's mailbox writes it.
    posted: AtomicU64,
    /// Of `posted`, how many the loop has taken out of its mail. The loop alone writes it.
    taken: AtomicU64,
}

impl Gate {
    /// Bytes that wait to be sent, those on their way to the loop included.
    fn queued(&self) -> usize {
        // In this order, or `taken` might be of later than `posted`, and greater.
        let taken = self.taken.load(Acquire);
        let on_the_way = self.posted.load(Relaxed) - taken;
        usize::try_from(on_the_way).unwrap_or(usize::MAX).saturating_add(self.queued.load(Relaxed) as usize)
    }

    fn store_queued(&self, queued: usize) {
        self.queued.store(u32::try_from(queued).unwrap_or(u32::MAX), Relaxed);
    }
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
    /// An error: there is no memory for so many.
    pub(crate) fn new(first: u32, count: u32, room: Room) -> Result<Self, TryReserveError> {
        assert!(first.checked_add(count).is_some(), "the configuration was validated");
        let mut gates = Vec::new();
        gates.try_reserve_exact(count as usize)?;
        gates.resize_with(count as usize, Gate::default);
        Ok(Self { first, room, gates: gates.into(), free: Mutex::default() })
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
        Some(ChannelId::new(self.first + index, generation))
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
        let before = gate.state.swap(id.generation(), Release);
        assert_eq!(before & (GENERATION | LIVE), id.generation() | LIVE, "{id} is freed once");
        free.returned.push(id.slot() - self.first);
    }

    pub(crate) fn is_live(&self, id: ChannelId) -> bool {
        self.state_of(id).is_some()
    }

    /// From here on other threads may send, messages of at most that length, and framed like this.
    pub(crate) fn open(&self, id: ChannelId, max_message: usize, framing: Framing) {
        let gate = self.gate(id).expect("an id of this loop");
        gate.longest.store(u32::try_from(max_message).unwrap_or(u32::MAX), Relaxed);
        gate.framing.store(framing.to_bits(), Relaxed);
        self.update(id, |state| state | OPEN);
    }

    /// From here on sends of other threads are refused as closed, also before the channel opened.
    pub(crate) fn shut(&self, id: ChannelId) {
        self.update(id, |state| state | SHUT);
    }

    /// The loop's word on how much waits in the outbox; other threads see it with some delay. True, once, when one of
    /// them was refused by an earlier word: it is to be called back.
    pub(crate) fn publish_queued(&self, id: ChannelId, queued: usize) -> bool {
        let Some(gate) = self.gate(id) else { return false };
        gate.store_queued(queued);
        // Pairs with the fence in `find_room`: either the thread sees this word, or we its refusal.
        fence(SeqCst);
        let is_refused = self.state_of(id).is_some_and(|state| state & REFUSED != 0);
        if is_refused {
            self.update(id, |state| state & !REFUSED);
        }
        is_refused
    }

    /// Bytes that wait to be sent, as far as is known outside the loop; 0 for a channel that is gone.
    pub(crate) fn queued(&self, id: ChannelId) -> usize {
        match (self.gate(id), self.state_of(id)) {
            (Some(gate), Some(state)) if state & SHUT == 0 => gate.queued(),
            _ => 0,
        }
    }

    /// Reserves room for a message that is about to be posted, and says how it is framed. For whoever holds the loop's
    /// mailbox, one after another; what is reserved must be posted.
    #[inline(always)]
    pub(crate) fn charge(&self, id: ChannelId, len: usize) -> Result<Framing, SendError> {
        let gate = self.gate(id).ok_or(SendError::Closed)?;
        let state = gate.state.load(Acquire);
        if !is_of(state, id) || state & SHUT != 0 {
            return Err(SendError::Closed);
        }
        if state & OPEN == 0 {
            return Err(SendError::NotOpen);
        }
        let longest = gate.longest.load(Relaxed) as usize;
        if len > longest {
            return Err(SendError::TooBig { size: len, max: longest });
        }
        let framing = Framing::from_bits(gate.framing.load(Relaxed));
        let size = framing.framed_len(len);
        if !self.room.takes(gate.queued(), size) {
            self.find_room(id, gate, size)?;
        }
        let posted = gate.posted.load(Relaxed) + size as u64;
        gate.posted.store(posted, Relaxed);
        Ok(framing)
    }

    /// A second look for room, after the loop was told to call back whoever finds none.
    #[cold]
    fn find_room(&self, id: ChannelId, gate: &Gate, size: usize) -> Result<(), SendError> {
        let max = self.room.max();
        if !self.room.takes(0, size) {
            return Err(SendError::TooBig { size, max });
        }
        self.update(id, |state| state | REFUSED);
        // Pairs with the fence in `publish_queued`: the loop may just have made room, and call nobody back.
        fence(SeqCst);
        let queued = gate.queued();
        if self.room.takes(queued, size) { Ok(()) } else { Err(SendError::WouldBlock { queued, size, max }) }
    }

    /// The loop took `size` posted bytes out of its mail; `queued` is what the channel's outbox has with them, if it is
    /// still there.
    pub(crate) fn discharge(&self, id: ChannelId, size: usize, queued: Option<usize>) {
        let gate = self.gate(id).expect("an id of this loop");
        // Before `taken`: whoever sees these bytes gone from the mail sees them in the outbox.
        if let Some(queued) = queued {
            gate.store_queued(queued);
        }
        let taken = gate.taken.load(Relaxed) + size as u64;
        debug_assert!(taken <= gate.posted.load(Relaxed), "{id}: discharged more than charged");
        gate.taken.store(taken, Release);
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        // Nothing here can panic half-way through a change.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gate(&self, id: ChannelId) -> Option<&Gate> {
        self.gates.get(id.slot().checked_sub(self.first)? as usize)
    }

    fn state_of(&self, id: ChannelId) -> Option<u32> {
        let state = self.gate(id)?.state.load(Acquire);
        is_of(state, id).then_some(state)
    }

    /// Changes the flags unless the channel is gone.
    fn update(&self, id: ChannelId, change: impl Fn(u32) -> u32) {
        let Some(gate) = self.gate(id) else { return };
        // An error: it is gone.
        let _ = gate.state.fetch_update(Release, Acquire, |state| is_of(state, id).then(|| change(state)));
    }
}

fn is_of(state: u32, id: ChannelId) -> bool {
    if planted!(NoGeneration) {
        return state & LIVE != 0;
    }
    state & (GENERATION | LIVE) == id.generation() | LIVE
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::config::{Limits, Mode};

    fn slots(first: u32, count: u32, mode: Mode, outbox_max: usize) -> Slots {
        let limits = Limits { outbox_high: outbox_max / 2, outbox_max, ..Limits::default() };
        Slots::new(first, count, Room::new(mode, &limits)).unwrap()
    }

    #[test]
    fn a_stale_id_reaches_nobody() {
        let slots = slots(10, 1, Mode::Stream, 10);
        let old = slots.allocate().unwrap();
        slots.open(old, usize::MAX, Framing::STREAM);
        assert_eq!(slots.charge(old, 3), Ok(Framing::STREAM));
        slots.free(old);
        assert!(!slots.is_live(old));

        let new = slots.allocate().unwrap();
        assert_eq!((new.slot(), new.generation()), (10, 2));
        slots.open(old, usize::MAX, Framing::STREAM);
        assert_eq!(slots.charge(new, 1), Err(SendError::NotOpen), "the old id opened nothing");
        slots.open(new, usize::MAX, Framing::STREAM);
        slots.shut(old);
        assert_eq!(slots.charge(old, 1), Err(SendError::Closed));
        assert!(slots.charge(new, 10).is_err(), "what the old channel had posted still lies in the mail");
        slots.discharge(old, 3, None);
        assert_eq!(
            (slots.charge(new, 10), slots.queued(new), slots.queued(old)),
            (Ok(Framing::STREAM), 10, 0)
        );
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
        slots.open(id, 200, Framing::STREAM);
        assert_eq!(slots.charge(id, 201), Err(SendError::TooBig { size: 201, max: 200 }));
        assert_eq!(slots.charge(id, 150), Ok(Framing::STREAM), "one message may pass outbox_max");
        assert_eq!(slots.charge(id, 1), Err(SendError::WouldBlock { queued: 150, size: 1, max: 100 }));
        slots.discharge(id, 150, Some(49));
        assert_eq!(slots.charge(id, 150), Ok(Framing::STREAM), "as long as it is below outbox_high");
        slots.discharge(id, 150, Some(99));
        assert_eq!(slots.charge(id, 2), Err(SendError::WouldBlock { queued: 99, size: 2, max: 100 }));
        assert_eq!(slots.charge(id, 1), Ok(Framing::STREAM));
        assert_eq!(slots.queued(id), 100);
        slots.shut(id);
        assert_eq!(slots.charge(id, 1), Err(SendError::Closed));
        slots.discharge(id, 1, Some(99));
        assert_eq!(slots.charge(id, 1), Err(SendError::Closed), "a discharge opens nothing");
        slots.free(id);
        let next = slots.allocate().unwrap();
        slots.shut(next);
        assert_eq!(slots.charge(next, 1), Err(SendError::Closed));
    }

    #[test]
    fn headers_need_room_too() {
        let slots = slots(0, 1, Mode::Stream, 100);
        let (id, framing) = (slots.allocate().unwrap(), Framing::from_bits(30));
        slots.open(id, 200, framing);
        assert_eq!((slots.charge(id, 60), slots.queued(id)), (Ok(framing), 60 + 2 * 8));
        assert_eq!(slots.charge(id, 17), Err(SendError::WouldBlock { queued: 76, size: 25, max: 100 }));
        assert_eq!((slots.charge(id, 16), slots.queued(id)), (Ok(framing), 100));
    }

    #[test]
    fn what_a_stream_can_never_take_is_too_big() {
        let slots = slots(0, 1, Mode::Stream, 100);
        let id = slots.allocate().unwrap();
        slots.open(id, usize::MAX, Framing::STREAM);
        assert_eq!(slots.charge(id, 101), Err(SendError::TooBig { size: 101, max: 100 }));
        assert_eq!(slots.charge(id, 100), Ok(Framing::STREAM));
    }

    #[test]
    fn the_loop_hears_once_of_who_was_refused() {
        let slots = slots(0, 1, Mode::Stream, 100);
        let id = slots.allocate().unwrap();
        slots.open(id, usize::MAX, Framing::STREAM);
        assert!(!slots.publish_queued(id, 100));
        assert!(slots.charge(id, 1).is_err());
        assert!(slots.charge(id, 1).is_err());
        assert!(slots.publish_queued(id, 0));
        assert!(!slots.publish_queued(id, 0));
        assert_eq!(slots.charge(id, 1), Ok(Framing::STREAM));
    }

    #[test]
    fn whoever_is_refused_is_called_back_or_finds_room() {
        let slots = Arc::new(slots(0, 1, Mode::Stream, 1));
        let id = slots.allocate().unwrap();
        slots.open(id, usize::MAX, Framing::STREAM);
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
            slots.discharge(id, posted, Some(posted));
            if slots.publish_queued(id, 0) {
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
                    for _ in 0..2_000 {
                        let (a, b) = (slots.allocate().unwrap(), slots.allocate().unwrap());
                        assert!(seen.insert(a) && seen.insert(b), "an id is given out once");
                        slots.open(a, usize::MAX, Framing::STREAM);
                        slots.charge(a, 10).unwrap();
                        assert!(slots.charge(a, 1).is_err());
                        slots.discharge(a, 10, None);
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
        assert!(size_of::<Gate>() <= 32);
    }
}
