//! Commands from other threads to one loop: a bounded queue, and a loop woken at most once for a burst.
//!
//! Posters append under a lock, the loop swaps the whole mail against an empty one, so neither waits for the other for
//! long and nothing is allocated in steady state. A loop with no mail learns so from an atomic, without the lock. Who
//! wakes whom is settled between `pending` and `sleeping`; `model.rs` has loom try every order of it.

#[cfg(not(all(test, loom)))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering, fence},
};
use std::{collections::VecDeque, mem, sync::Arc};

#[cfg(all(test, loom))]
use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering, fence},
};

use crate::config::Limits;
use crate::driver::Waker;
use crate::id::ChannelId;
use crate::link::Framing;
use crate::node::command::Command;
use crate::stats::Counters;

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;

/// Memory of each kind that an emptied mail may keep, once less than a quarter of it was used for long.
const KEPT_BYTES: usize = 1 << 20;

/// That long, in mails taken: a thread that sends as it can fills one mail and not the next, and memory that goes each
/// time comes back page by page. (Without mail it stays.)
const PATIENCE: u32 = 128;

/// Commands in order, and the bytes of their [`Command::Sends`] one after the other.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    commands: VecDeque<Command>,
    bytes: Vec<u8>,
    /// How many were posted; a [`Command::Sends`] counts each of its sends.
    pub(crate) count: usize,
    /// Of `bytes`, how many belonged to commands that were taken out.
    bytes_done: usize,
}

impl Mail {
    fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.bytes.is_empty()
    }

    /// True when all commands were taken out.
    pub(crate) fn is_done(&self) -> bool {
        self.commands.is_empty()
    }

    /// The next command, and what it is to send if it is a [`Command::Sends`].
    pub(crate) fn next(&mut self) -> Option<(Command, &[u8])> {
        let command = self.commands.pop_front()?;
        let size = if let Command::Sends { size, .. } = command { size } else { 0 };
        let bytes = &self.bytes[self.bytes_done..][..size];
        self.bytes_done += size;
        Some((command, bytes))
    }

    /// Makes the mail ready for the next [`Mailbox::take`]; its memory stays.
    pub(crate) fn clear(&mut self) {
        self.commands.clear();
        self.bytes.clear();
        (self.count, self.bytes_done) = (0, 0);
    }

    /// True when it has far more memory than what is in `used` takes.
    fn is_oversized_for(&self, used: &Self) -> bool {
        is_oversized::<Command>(self.commands.capacity(), used.commands.len())
            || is_oversized::<u8>(self.bytes.capacity(), used.bytes.len())
    }

    fn shrink_for(&mut self, used: &Self) {
        if is_oversized::<Command>(self.commands.capacity(), used.commands.len()) {
            self.commands.shrink_to(kept::<Command>());
        }
        if is_oversized::<u8>(self.bytes.capacity(), used.bytes.len()) {
            self.bytes.shrink_to(kept::<u8>());
        }
    }
}

const fn kept<T>() -> usize {
    KEPT_BYTES / size_of::<T>()
}

fn is_oversized<T>(capacity: usize, used: usize) -> bool {
    capacity > kept::<T>() && used < capacity / 4
}

/// Why a command was not taken. Nothing of it was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PostError {
    /// `mailbox_commands` or `mailbox_bytes` would be passed.
    Full,
    /// The loop has ended.
    Closed,
}

/// What the lock guards.
#[derive(Debug, Default)]
struct Queue {
    mail: Mail,
    /// The sum of [`Command::shared_bytes`] over `mail`.
    shared_bytes: usize,
    /// Mails taken in a row that were small for the memory of either mail.
    small_mails: u32,
    closed: bool,
}

impl Queue {
    /// Gives memory back some time after a burst. A load that fills a mail now and then keeps it, however large.
    fn trim(&mut self, taken: &Mail) {
        let is_small = self.mail.is_oversized_for(taken) || taken.is_oversized_for(taken);
        self.small_mails = if is_small { self.small_mails.saturating_add(1) } else { 0 };
        if self.small_mails > PATIENCE {
            self.mail.shrink_for(taken);
        }
    }
}

/// The mailbox of one loop, shared in an `Arc` with everybody who posts.
///
/// Invariant: whenever the lock is free, `pending` is true exactly when the mail has a command.
#[derive(Debug)]
pub(crate) struct Mailbox<W: Waker> {
    queue: Mutex<Queue>,
    pending: AtomicBool,
    /// True when the loop sleeps, or is about to, and nobody has woken it yet. Changed by swaps alone, on both sides:
    /// loom does not know that a store cannot come between what a swap reads and what it writes.
    sleeping: AtomicBool,
    waker: W,
    max_commands: usize,
    max_bytes: usize,
    counters: Arc<Counters>,
}

impl<W: Waker> Mailbox<W> {
    /// An empty mailbox of the loop that `waker` wakes. Refusals and wakes are counted in `counters`.
    pub(crate) fn new(waker: W, limits: &Limits, counters: Arc<Counters>) -> Self {
        Self {
            queue: Mutex::new(Queue::default()),
            pending: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            waker,
            max_commands: limits.mailbox_commands,
            max_bytes: limits.mailbox_bytes,
            counters,
        }
    }

    /// Posts a command, from any thread. Small sends go by [`Mailbox::post_send`].
    pub(crate) fn post(&self, command: Command) -> Result<(), PostError> {
        self.post_made(command.shared_bytes(), || Ok((command, ())))
    }

    /// Posts the command that `make` makes, which has that many [`Command::shared_bytes`], once there is room for it: what
    /// it takes for the command is never to be given back. It is called under the lock.
    pub(crate) fn post_made<T, E: From<PostError>>(
        &self,
        shared_bytes: usize,
        make: impl FnOnce() -> Result<(Command, T), E>,
    ) -> Result<T, E> {
        let mut queue = self.admit(shared_bytes)?;
        let (command, made) = make()?;
        debug_assert!(!matches!(command, Command::Sends { .. }), "sends without their bytes; use post_send");
        queue.shared_bytes += shared_bytes;
        self.push(queue, command);
        Ok(made)
    }

    /// Posts a send, whose bytes are copied into the mail. One after another to the same channel is the same command.
    ///
    /// Once there is room for it, `charge` is called under the lock, with the length of the parts together; it says how
    /// they are framed.
    #[inline(always)]
    pub(crate) fn post_send<E: From<PostError>>(
        &self,
        channel: ChannelId,
        parts: &[&[u8]],
        charge: impl FnOnce(usize) -> Result<Framing, E>,
    ) -> Result<(), E> {
        let len = parts.iter().map(|part| part.len()).sum();
        let mut queue = self.admit(len)?;
        let framing = charge(len)?;
        let mail = &mut queue.mail;
        let before = mail.bytes.len();
        framing.write(parts, len, &mut mail.bytes);
        let added = mail.bytes.len() - before;
        if let Some(Command::Sends { channel: last, count, size }) = mail.commands.back_mut()
            && *last == channel
        {
            *count += 1;
            *size += added;
            mail.count += 1;
        } else {
            self.push(queue, Command::Sends { channel, count: 1, size: added });
        }
        Ok(())
    }

    /// Posts past the bounds: for what a loop says to another or its helpers to it, and for [`Command::Shutdown`], which
    /// may not get lost. The only error is [`PostError::Closed`].
    pub(crate) fn post_always(&self, command: Command) -> Result<(), PostError> {
        let mut queue = self.lock();
        if queue.closed {
            return Err(PostError::Closed);
        }
        queue.shared_bytes += command.shared_bytes();
        self.push(queue, command);
        Ok(())
    }

    /// Swaps all that was posted into `into`, which must be empty, and says whether it was anything.
    ///
    /// For the loop alone. Takes no lock when nothing was posted.
    #[inline]
    pub(crate) fn take(&self, into: &mut Mail) -> bool {
        // Relaxed: a post missed now is found by the next turn or by prepare_to_sleep.
        self.pending.load(Ordering::Relaxed) && self.take_locked(into)
    }

    fn take_locked(&self, into: &mut Mail) -> bool {
        assert!(into.is_empty(), "mail is taken before the last one was carried out");
        let mut queue = self.lock();
        mem::swap(&mut queue.mail, into);
        queue.shared_bytes = 0;
        queue.trim(into);
        self.pending.store(false, Ordering::Relaxed);
        !into.commands.is_empty()
    }

    /// Announces that the loop will wait for its driver. `false`: something was posted, do not wait.
    ///
    /// After a wait [`Mailbox::awake`] must follow. A wake may still come after `false`; it is harmless.
    #[must_use = "a loop that sleeps though something was posted is not woken for it"]
    pub(crate) fn prepare_to_sleep(&self) -> bool {
        let _was = self.sleeping.swap(true, Ordering::Relaxed);
        // Pairs with the fence in `push`: of the two stores, ours and the poster's, at least one is seen by the other
        // side. Without the fences both loads may pass their stores, and the loop would sleep on mail.
        fence(Ordering::SeqCst);
        let sleep = !self.pending.load(Ordering::Relaxed);
        if !sleep {
            self.awake();
        }
        sleep
    }

    /// The loop runs again: nobody needs to wake it.
    pub(crate) fn awake(&self) {
        let _was = self.sleeping.swap(false, Ordering::Relaxed);
    }

    /// Makes every later post fail, and returns what was posted and not taken.
    pub(crate) fn close(&self) -> Mail {
        let mut queue = self.lock();
        queue.closed = true;
        queue.shared_bytes = 0;
        self.pending.store(false, Ordering::Relaxed);
        mem::take(&mut queue.mail)
    }

    /// The queue, if it has room for one command more with `bytes` bytes. Without any bytes it has room for as many as
    /// there are: what is larger than the bound would never be taken else.
    #[inline(always)]
    fn admit(&self, bytes: usize) -> Result<MutexGuard<'_, Queue>, PostError> {
        let queue = self.lock();
        if queue.closed {
            return Err(PostError::Closed);
        }
        let waiting = queue.mail.bytes.len() + queue.shared_bytes;
        let has_room = waiting == 0 || bytes <= self.max_bytes.saturating_sub(waiting);
        if queue.mail.count >= self.max_commands || !has_room {
            drop(queue);
            self.counters.commands_refused.add_from_any_thread(1);
            return Err(PostError::Full);
        }
        Ok(queue)
    }

    /// The command becomes visible, and the loop is woken if it sleeps. Only for the first of a mail: whoever posted
    /// that one has woken the loop, or is about to.
    fn push(&self, mut queue: MutexGuard<'_, Queue>, command: Command) {
        let is_first = queue.mail.commands.is_empty();
        queue.mail.commands.push_back(command);
        queue.mail.count += 1;
        if !is_first {
            return;
        }
        self.pending.store(true, Ordering::Relaxed);
        drop(queue); // the loop, once woken, must not run into the lock
        // Pairs with the fence in `prepare_to_sleep`.
        fence(Ordering::SeqCst);
        // Another poster may have come first to a mail that was taken meanwhile: the swap lets one of them wake.
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            self.counters.wakes.add_from_any_thread(1);
            self.waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nothing panics while it holds the mailbox")
    }
}
