//! The program of a simulated node: in its callbacks it does what a program may do, whatever the seed says, and enters
//! everything into the ledger.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::ledger::{Key, Ledger, is_posted};
use crate::addr::Address;
use crate::driver::uring::sim::choices::Fault;
use crate::driver::uring::sim::network::Network;
use crate::error::{CloseReport, SendError};
use crate::id::ChannelId;
use crate::node::context::Context;
use crate::node::handler::Handler;
use crate::node::info::ChannelInfo;
use crate::node::timers::TimerId;

/// What a panic that the simulation means to happen says.
pub(super) const WANTED: &str = "wanted by the simulation";

#[derive(Debug)]
pub(super) struct Program {
    pub(super) node: usize,
    pub(super) life: u8,
    pub(super) ledger: Rc<RefCell<Ledger>>,
    pub(super) network: Rc<RefCell<Network>>,
    /// Where the nodes of the world listen.
    pub(super) addresses: Rc<Vec<Address>>,
    /// Most bytes of a send.
    pub(super) largest: usize,
}

impl Program {
    fn key(&self, channel: ChannelId) -> Key {
        Key::new(self.node, self.life, channel)
    }

    fn below(&self, bound: usize) -> usize {
        self.network.borrow_mut().choices.below(bound)
    }

    fn note(&self, what: &str, channel: ChannelId, number: u64) {
        let key = self.key(channel);
        let mut network = self.network.borrow_mut();
        let code = what.bytes().fold(number, |code, byte| code.rotate_left(7) ^ u64::from(byte));
        network
            .trace
            .add(&[self.node as u64, u64::from(channel.slot()), code], || format!("{key:?} {what} {number}"));
    }

    /// Something, or mostly nothing.
    fn act(&self, cx: &mut Context<'_>, channel: ChannelId) {
        if self.ledger.borrow().calm {
            return;
        }
        if self.network.borrow_mut().fires(Fault::Stall) {
            let time = Duration::from_micros(1 << self.below(16));
            let until = self.network.borrow().now + time;
            self.network.borrow_mut().advance(until);
        }
        match self.below(40) {
            18..=19 => self.reach_over(cx),
            20..=31 => self.send(cx, channel),
            32..=33 => self.pause(cx, channel),
            34..=35 => self.resume_one(cx),
            36 => self.shutdown_write(cx, channel),
            37 => self.close(cx, channel),
            38 => self.dial(cx),
            39 => {
                cx.set_timer(Duration::from_micros(1 << self.below(22)), u64::from(channel.slot()));
            }
            _ => {}
        }
        let panics = self.network.borrow_mut().fires(Fault::Panic);
        assert!(!panics, "{WANTED}");
    }

    fn send(&self, cx: &mut Context<'_>, channel: ChannelId) {
        if is_posted(channel) {
            return;
        }
        for _ in 0..1 + self.below(4) {
            let size = self.size();
            let bytes = self.ledger.borrow().next_bytes(self.key(channel), size);
            let sent = match self.below(2) {
                0 => cx.send(channel, &bytes),
                _ => cx.send_bytes(channel, bytes.clone().into()),
            };
            let mut ledger = self.ledger.borrow_mut();
            match sent {
                Ok(()) => ledger.sent(self.key(channel), bytes.len()),
                // On an empty outbox there is nothing to call back for.
                Err(SendError::WouldBlock { queued, .. }) if queued > 0 => {
                    ledger.begin(self.key(channel), channel).refused = true;
                }
                Err(SendError::Closed) => return,
                Err(
                    SendError::WouldBlock { .. }
                    | SendError::TooBig { .. }
                    | SendError::Busy
                    | SendError::NotOpen,
                ) => {}
            }
        }
    }

    fn size(&self) -> usize {
        match self.below(8) {
            0..=5 => self.below(200),
            6 => self.below(self.largest.min(4000)),
            _ => self.below(self.largest),
        }
    }

    fn pause(&self, cx: &mut Context<'_>, channel: ChannelId) {
        cx.pause(channel);
        self.ledger.borrow_mut().begin(self.key(channel), channel).paused = true;
    }

    /// Some paused channel of this node goes on.
    fn resume_one(&self, cx: &mut Context<'_>) {
        let mut ledger = self.ledger.borrow_mut();
        let paused: Vec<_> = cx
            .channels()
            .iter()
            .map(|info| info.id)
            .filter(|id| ledger.accounts.get(&self.key(*id)).is_some_and(|account| account.paused))
            .collect();
        if !paused.is_empty() {
            let channel = paused[self.below(paused.len())];
            ledger.begin(self.key(channel), channel).paused = false;
            cx.resume(channel);
        }
    }

    fn shutdown_write(&self, cx: &mut Context<'_>, channel: ChannelId) {
        cx.shutdown_write(channel);
        // There is no sending any more to call back for.
        self.ledger.borrow_mut().begin(self.key(channel), channel).refused = false;
    }

    fn close(&self, cx: &mut Context<'_>, channel: ChannelId) {
        match self.below(3) {
            0 => return,
            1 => cx.close(channel),
            _ => cx.abort(channel),
        }
        self.ledger.borrow_mut().begin(self.key(channel), channel).ended = true;
    }

    /// Asks something of a channel of another loop, as another thread would.
    fn reach_over(&self, cx: &mut Context<'_>) {
        let mut ledger = self.ledger.borrow_mut();
        let is_near = |id: ChannelId| cx.channel(id).is_some();
        let live = ledger.accounts.iter().filter(|(_, account)| account.closed.is_none());
        let far: Vec<_> = live
            .filter(|&(&key, account)| key == self.key(account.id) && !is_near(account.id))
            .map(|(_, account)| account.id)
            .collect();
        if far.is_empty() {
            return;
        }
        let id = far[self.below(far.len())];
        let key = self.key(id);
        match self.below(8) {
            0..=3 if is_posted(id) => {
                let bytes = ledger.next_bytes(key, self.size());
                match cx.send(id, &bytes) {
                    Ok(()) => ledger.sent(key, bytes.len()),
                    Err(SendError::WouldBlock { .. }) => ledger.begin(key, id).refused = true,
                    Err(
                        SendError::TooBig { .. } | SendError::Busy | SendError::NotOpen | SendError::Closed,
                    ) => {}
                }
            }
            0..=3 => {}
            4 => cx.pause(id),
            5 => {
                let account = ledger.begin(key, id);
                (account.paused, account.resumed) = (false, true);
                cx.resume(id);
            }
            6 => {
                ledger.begin(key, id).commanded = true;
                cx.shutdown_write(id);
            }
            _ => {
                ledger.begin(key, id).commanded = true;
                cx.close(id);
            }
        }
    }

    fn dial(&self, cx: &mut Context<'_>) {
        let address = self.addresses[self.below(self.addresses.len())].clone();
        if let Ok(channel) = cx.dial(address) {
            self.ledger.borrow_mut().begin(self.key(channel), channel);
        }
    }
}

impl Handler for Program {
    fn on_open(&mut self, cx: &mut Context<'_>, channel: ChannelId, _: &ChannelInfo) {
        self.note("open", channel, 0);
        self.ledger.borrow_mut().opened(self.key(channel), channel);
        if !self.ledger.borrow().calm {
            self.send(cx, channel);
        }
        self.act(cx, channel);
    }

    fn on_data(&mut self, cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        self.note("data", channel, data.len() as u64);
        self.ledger.borrow_mut().received_stream(self.key(channel), data);
        self.act(cx, channel);
    }

    fn on_message(&mut self, cx: &mut Context<'_>, channel: ChannelId, message: &[u8]) {
        self.note("message", channel, message.len() as u64);
        self.ledger.borrow_mut().received_message(self.key(channel), message);
        self.act(cx, channel);
    }

    fn on_eof(&mut self, cx: &mut Context<'_>, channel: ChannelId) {
        self.note("eof", channel, 0);
        self.ledger.borrow_mut().eof(self.key(channel));
        // The peer may be left waiting for our end, but not in a world that is to come to rest.
        if self.below(4) != 3 || self.ledger.borrow().calm {
            self.shutdown_write(cx, channel);
        }
        self.act(cx, channel);
    }

    fn on_drained(&mut self, cx: &mut Context<'_>, channel: ChannelId) {
        self.note("drained", channel, 0);
        self.ledger.borrow_mut().drained(self.key(channel));
        self.act(cx, channel);
    }

    fn on_close(&mut self, cx: &mut Context<'_>, channel: ChannelId, report: &CloseReport) {
        self.note("close", channel, u64::from(report.reason.code()));
        self.ledger.borrow_mut().closed(self.key(channel), channel, report);
        self.act(cx, channel);
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, _: TimerId, slot: u64) {
        let live = cx.channels().into_iter().map(|info| info.id).find(|id| u64::from(id.slot()) == slot);
        if let Some(channel) = live.filter(|&id| {
            let ledger = self.ledger.borrow();
            ledger
                .accounts
                .get(&self.key(id))
                .is_some_and(|account| account.opened && account.closed.is_none())
        }) {
            self.act(cx, channel);
        }
    }
}
