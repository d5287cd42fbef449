//! Counters of one loop, written by its thread alone and readable from everywhere, and the snapshot users get.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::error::CloseReason;

/// A number with one writer: adding is a load and a store, no locked instruction.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// For the counters that other threads write, and only they.
    pub(crate) fn add_from_any_thread(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    #[inline]
    pub(crate) fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Channels closed, by reason.
#[derive(Debug)]
pub(crate) struct CloseReasons([Counter; CloseReason::ALL.len()]);

impl Default for CloseReasons {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl CloseReasons {
    pub(crate) fn count(&self, reason: CloseReason) {
        self.0[reason.place()].add(1);
    }

    pub(crate) fn get(&self, reason: CloseReason) -> u64 {
        self.0[reason.place()].get()
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// The live counters of one loop.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
            pub(crate) close_reasons: CloseReasons,
        }

        /// What a node, or one of its loops, has done and holds: see [`Handle::stats`](crate::Handle::stats).
        ///
        /// Each figure is exact; figures read together may be of slightly different moments.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.get(),)* }
            }
        }

        impl Stats {
            /// Names and values, in the order of the fields.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }

            pub(crate) fn merge(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// Channels that exist now: dialing, open and closing.
    channels,
    /// Connections accepted.
    accepted,
    /// Dials begun.
    dialed,
    /// Channels that were reported to `on_open`.
    opened,
    /// Channels that were reported to `on_close`.
    closed,
    /// Bytes received.
    bytes_in,
    /// Bytes the kernel took for sending.
    bytes_out,
    /// Messages received and given to `on_message`.
    messages_in,
    /// Messages accepted for sending.
    messages_out,
    /// Bytes waiting in outboxes now, those handed to the kernel and not yet taken included.
    bytes_queued,
    /// Received bytes that wait for paused channels now.
    bytes_held,
    /// Bytes allocated now for messages that come in pieces, beyond 64 KiB of each channel.
    bytes_assembling,
    /// Sends of callbacks refused because an outbox was at `outbox_max`, copies of broadcasts included.
    sends_refused,
    /// Sends of other threads and loops refused for the same reason.
    posts_refused,
    /// Copies of broadcasts refused for the same reason, or because the peer takes no message as long.
    broadcasts_refused,

    /// Turns of the loop.
    turns,
    /// `io_uring_enter` calls.
    enters,
    /// Operations submitted.
    submissions,
    /// Completions reaped.
    completions,
    /// Operations in flight now.
    operations_in_flight,
    /// Receive buffers that are free now: the kernel has them, or is given them when it runs short.
    buffers_free,
    /// Receive buffers lent to a callback now.
    buffers_lent,
    /// Channels that wait for a receive buffer now.
    starved,
    /// Times a channel found no receive buffer.
    starvations,
    /// Receives armed again after the kernel ended them.
    receives_rearmed,
    /// Sends the kernel took only a part of.
    short_sends,
    /// Times the submission queue was full and was flushed early.
    submission_queue_full,
    /// Times completions did not fit their queue, and the kernel kept them until the next call.
    completion_queue_overflows,
    /// Completions of operations whose channel was gone: always 0 unless ringlink or the kernel is wrong.
    stale_completions,
    /// Times accepting was suspended: descriptors or memory ran out, or all channels were in use.
    accepts_paused,
    /// Connections refused after they were accepted.
    accepts_refused,

    /// Connections refused because their address had `channels_per_ip` channels.
    per_ip_refused,
    /// Connections closed without a hello because there were more than `pending_handshakes`.
    handshakes_evicted,
    /// Links that gave way to one of a later instance of the same node.
    takeovers,
    /// Links refused because another instance of the same node had taken over just before.
    takeovers_refused,
    /// Links closed because a message would have made the loop hold more than `assembly_bytes`.
    assemblies_refused,

    /// Commands of other threads carried out.
    commands,
    /// Commands refused because the mailbox was full.
    commands_refused,
    /// Times another thread woke the loop.
    wakes,
    /// Panics of handlers.
    handler_panics,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_what_was_counted_and_merges() {
        let counters = Counters::default();
        counters.bytes_in.add(5);
        counters.channels.add(2);
        counters.channels.sub(1);
        let mut sum = counters.snapshot();
        sum.merge(&counters.snapshot());
        assert_eq!((sum.bytes_in, sum.channels, sum.turns), (10, 2, 0));
        assert!(sum.iter().any(|(name, value)| name == "bytes_in" && value == 10));
    }
}
