//! The tiny profile: queues that are full, buffers that are out and outboxes at their cap all the time.

use ringlink::Builder;

/// Low, high and most.
pub(crate) const OUTBOX: (usize, usize, usize) = (1 << 10, 4 << 10, 8 << 10);

pub(crate) fn everything(builder: Builder) -> Builder {
    let builder = builder.ring(|r| {
        r.submission_entries = 4;
        r.completion_entries = 8;
        r.receive_buffers = 4;
        r.receive_buffer_size = 1 << 10;
        r.completion_budget = 4;
        r.send_size = 2 << 10;
    });
    // The kernel doubles them. With a window any smaller it waits for its timers after nearly every segment.
    let builder = builder.socket(|s| (s.send_buffer, s.receive_buffer) = (Some(4 << 10), Some(8 << 10)));
    builder.limits(|l| (l.outbox_low, l.outbox_high, l.outbox_max) = OUTBOX)
}
