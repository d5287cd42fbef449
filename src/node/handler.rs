//! The program's side of a loop: what it is told.

use crate::error::{CloseReport, Errno};
use crate::id::ChannelId;
use crate::node::context::Context;
use crate::node::info::ChannelInfo;
use crate::node::timers::TimerId;

/// A program's callbacks. Each loop has a handler of its own, made, called and dropped on the loop's thread, so a
/// handler needs no locks and need not be `Send`.
///
/// All callbacks of a loop come one at a time, on its thread; while one runs, the loop does nothing else. From any
/// callback everything in [`Context`] may be asked, in any order, for any channel, also for the one called back for,
/// also twice: it takes effect on the channel at once and on the kernel when the callback has returned, and it never
/// calls back from within.
///
/// For each channel: `on_open` comes first, if the channel opens at all, then `on_data` (stream mode) or `on_message`
/// (message mode), `on_eof` and `on_drained` as it happens, and last, for every channel id there ever was, exactly one
/// `on_close`. After [`Context::close`] or [`Context::abort`] nothing but `on_close` comes for a channel.
///
/// A callback that panics closes its channel with [`CloseReason::Internal`](crate::CloseReason::Internal); the loop and
/// its other channels go on. (A panic in `on_start` or `on_stop` ends the loop.)
pub trait Handler: 'static {
    /// The loop runs: the first callback there is.
    fn on_start(&mut self, cx: &mut Context<'_>) {
        let _ = cx;
    }

    /// The channel can be used: bytes can be sent, and from now on are received. The place to keep the id and to pause
    /// reading that should not begin yet.
    ///
    /// In stream mode that is when the connection is there, in message mode when both hellos are said and this is the
    /// link to its node. Of two links between the same nodes one goes, by
    /// [`CloseReason::Duplicate`](crate::CloseReason::Duplicate); normally only the other is ever reported. Where the
    /// first one reported has to go, `on_open` of the second comes before `on_close` of the first, and between them
    /// the first takes no sends but still delivers. If messages came on a link that was to go unreported, it is
    /// reported after all, so that they are not lost; it then takes no sends.
    fn on_open(&mut self, cx: &mut Context<'_>, channel: ChannelId, info: &ChannelInfo) {
        let _ = (cx, channel, info);
    }

    /// Stream mode: bytes came, in their order, cut where they happened to arrive. They lie in the receive buffer of
    /// the kernel, which gets it back when this returns: copy what is to be kept. Not called while reading is paused
    /// ([`Context::pause`]).
    fn on_data(&mut self, cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        let _ = (cx, channel, data);
    }

    /// Message mode: a whole message came. Where it came in one piece it lies in the kernel's receive buffer, which is
    /// lent until this returns. Not called while reading is paused ([`Context::pause`]).
    fn on_message(&mut self, cx: &mut Context<'_>, channel: ChannelId, message: &[u8]) {
        let _ = (cx, channel, message);
    }

    /// The peer will send nothing more, and everything it sent has been given to `on_data` or `on_message`. Sending
    /// may go on; when this side is through, too, the channel closes by itself. Unless this is overridden, that is now:
    /// what is queued is sent, then FIN ([`Context::shutdown_write`]).
    fn on_eof(&mut self, cx: &mut Context<'_>, channel: ChannelId) {
        cx.shutdown_write(channel);
    }

    /// The outbox fell to `outbox_low` or below after it was above: time to send more. Called once for each such fall,
    /// and when an outbox that refused a send is empty. "Sent" is: taken by the kernel, not received by the peer.
    fn on_drained(&mut self, cx: &mut Context<'_>, channel: ChannelId) {
        let _ = (cx, channel);
    }

    /// The channel is gone, or could never be opened: the last callback for its id, after all its data.
    fn on_close(&mut self, cx: &mut Context<'_>, channel: ChannelId, report: &CloseReport) {
        let _ = (cx, channel, report);
    }

    /// A timer of [`Context::set_timer`] is due. Called at its time or later, never earlier, and in a later turn of the
    /// loop than the one that set it.
    fn on_timer(&mut self, cx: &mut Context<'_>, timer: TimerId, token: u64) {
        let _ = (cx, timer, token);
    }

    /// Another thread has called [`Handle::notify`](crate::Handle::notify). Called on every loop, once for each call, in
    /// their order, and after what that thread had asked of the loop before.
    fn on_notify(&mut self, cx: &mut Context<'_>, token: u64) {
        let _ = (cx, token);
    }

    /// Nothing is accepted for now: the process or the system has no descriptors or memory left (`errno` says which),
    /// or all channels of the loop are in use (`None`). Called once, until accepting goes on by itself. `listener` is a
    /// place in [`Node::local_addrs`](crate::Node::local_addrs).
    fn on_accept_paused(&mut self, cx: &mut Context<'_>, listener: usize, errno: Option<Errno>) {
        let _ = (cx, listener, errno);
    }

    /// Accepting goes on.
    fn on_accept_resumed(&mut self, cx: &mut Context<'_>, listener: usize) {
        let _ = (cx, listener);
    }

    /// The listener, a place in [`Node::local_addrs`](crate::Node::local_addrs), has failed, since somebody else ended its
    /// socket. It is closed, and nothing more is told of it on this loop; the node goes on with what else it has.
    fn on_listener_failed(&mut self, cx: &mut Context<'_>, listener: usize, errno: Errno) {
        let _ = (cx, listener, errno);
    }

    /// The loop ends; no channel is left. The last callback there is.
    fn on_stop(&mut self, cx: &mut Context<'_>) {
        let _ = cx;
    }
}
