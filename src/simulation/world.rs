//! A world of nodes, and its course: a time of faults, in which programs and other threads do what the seed says; the
//! healing, after which everything that can still arrive must arrive; and the end, after which nothing may be left.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use super::ledger::{Account, Key, Ledger, broadcast, is_posted};
use super::settings::Settings;
use super::{Case, Outcome};
use crate::addr::{Address, Endpoint};
use crate::clock::Mono;
use crate::config::Mode;
use crate::driver::uring::sim::choices::{Choices, Fault, Faults, SplitMix};
use crate::driver::uring::sim::network::{HostId, Network};
use crate::error::{CommandError, SendError};
use crate::id::ChannelId;
use crate::simulation::node::{Node, PORT, Surroundings};

/// How long a healed world has to deliver what it owes, and its nodes to end.
const LIVENESS: Duration = Duration::from_secs(200);
/// Turns that suffice for that by far.
const MOST_TURNS: u64 = 400_000;

pub(super) struct World {
    pub(super) around: Surroundings,
    nodes: Vec<Node>,
    /// The node that was turned last, so that each has its turn.
    last: usize,
    pub(super) turns: u64,
}

impl World {
    pub(super) fn new(case: &Case, keep_trace: bool) -> Result<Self, String> {
        let mut random = SplitMix(case.seed.wrapping_mul(0xA076_1D64_78BD_642F));
        let settings = Settings::new(&mut random, case.seed);
        let faults = Faults::new(&mut random, case.faults);
        let choices = Choices::new(random.next(), case.end, case.calm.clone());
        let mut network = Network::new(choices, faults, settings.room);
        if keep_trace {
            network.trace.keep();
        }
        let hosts: Vec<_> = (0..settings.nodes).map(|_| network.add_host()).collect();
        let address = |host: &HostId| Endpoint::Tcp(SocketAddr::new(Network::address_of(*host), PORT));
        let addresses = hosts.iter().map(|host| Address::from(address(host))).collect();
        let ledger = Ledger { is_stream: settings.config.mode == Mode::Stream, ..Ledger::default() };
        let around = Surroundings {
            settings: Rc::new(settings),
            network: Rc::new(RefCell::new(network)),
            ledger: Rc::new(RefCell::new(ledger)),
            addresses: Rc::new(addresses),
        };
        let nodes =
            hosts.into_iter().map(|host| Node::start(&around, host, 0).map_err(|error| error.to_string()));
        Ok(Self { nodes: nodes.collect::<Result<_, _>>()?, around, last: 0, turns: 0 })
    }

    /// From the first step to the last; the error is what went wrong.
    pub(super) fn run(&mut self) -> Result<(), String> {
        for _ in 0..self.around.settings.steps {
            self.misfortune()?;
            if self.chance(self.around.settings.commands) {
                self.command();
            }
            self.step()?;
        }
        self.heal()?;
        self.settle()?;
        self.press();
        self.settle()?;
        self.end()
    }

    pub(super) fn outcome(&self, failure: Option<String>) -> Outcome {
        let network = self.around.network.borrow();
        let fired = network.faults.fired();
        Outcome {
            failure,
            trace: network.trace.hash(),
            faults: Fault::ALL.iter().map(|&fault| (fault.label(), fired[fault as usize])).collect(),
            choices: network.choices.drawn(),
            turns: self.turns,
            events: network.trace.events(),
            seconds: network.now.as_nanos() as f64 / 1e9,
            last_events: network.trace.to_string(),
        }
    }

    /// Gives up on a world that failed. Its state may be anything: each loop's end may panic, and no two at once.
    pub(super) fn kill(mut self) {
        let loops: Vec<_> = self.nodes.drain(..).flat_map(Node::into_loops).collect();
        for one in loops {
            drop(catch_unwind(AssertUnwindSafe(|| one.kill())));
        }
    }

    // Choices.

    fn below(&self, bound: usize) -> usize {
        self.around.network.borrow_mut().choices.below(bound)
    }

    fn chance(&self, per_mille: u32) -> bool {
        self.around.network.borrow_mut().choices.chance(per_mille)
    }

    fn fires(&self, fault: Fault) -> bool {
        self.around.network.borrow_mut().fires(fault)
    }

    fn now(&self) -> Mono {
        self.around.network.borrow().now
    }

    // A step.

    /// Turns some node that can run; when none can, time passes until one can. False when nothing will ever happen.
    fn step(&mut self) -> Result<bool, String> {
        let count = self.nodes.len();
        let runnable: Vec<_> = (1..=count)
            .map(|after| (self.last + after) % count)
            .filter(|&node| self.nodes[node].is_runnable())
            .collect();
        if runnable.is_empty() {
            return Ok(self.pass_time());
        }
        let node = runnable[self.below(runnable.len())];
        self.last = node;
        self.turns += 1;
        if self.nodes[node].turn(&self.around)? && !self.is_calm() {
            self.start(node)?;
        }
        self.check()?;
        Ok(true)
    }

    fn is_calm(&self) -> bool {
        self.around.ledger.borrow().calm
    }

    fn check(&self) -> Result<(), String> {
        let network = self.around.network.borrow();
        let ledger = self.around.ledger.borrow();
        match network.violation.as_ref().or(ledger.failure.as_ref()) {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }

    fn pass_time(&mut self) -> bool {
        let mut network = self.around.network.borrow_mut();
        let deadlines = self.nodes.iter().filter_map(Node::deadline);
        let next = deadlines.chain(network.next_event()).min();
        if let Some(next) = next {
            network.advance(next);
        }
        next.is_some()
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        let (host, life) = (self.nodes[node].host, self.nodes[node].life + 1);
        self.nodes[node] = Node::start(&self.around, host, life).map_err(|error| error.to_string())?;
        Ok(())
    }

    // What happens to a world.

    fn misfortune(&mut self) -> Result<(), String> {
        if self.fires(Fault::Reset) {
            self.around.network.borrow_mut().break_one(libc::ECONNRESET);
        }
        if self.fires(Fault::TimedOut) {
            self.around.network.borrow_mut().break_one(libc::ETIMEDOUT);
        }
        if self.fires(Fault::NoDescriptors) {
            let host = self.nodes[self.below(self.nodes.len())].host;
            let until = self.now() + Duration::from_millis(1 << self.below(12));
            self.around.network.borrow_mut().lack_descriptors(host, until);
        }
        if self.fires(Fault::LinkCut) {
            let (a, b) = (self.below(self.nodes.len()), self.below(self.nodes.len()));
            self.around.network.borrow_mut().cut(HostId(a), HostId(b));
        } else if self.chance(10) {
            self.around.network.borrow_mut().mend_one();
        }
        if self.fires(Fault::TimeSkip) {
            let to = self.now() + Duration::from_millis(1 << self.below(16));
            self.around.network.borrow_mut().advance(to);
        }
        if self.fires(Fault::Shutdown) {
            let grace = Duration::from_millis(1 << self.below(13));
            self.nodes[self.below(self.nodes.len())].shutdown(grace);
        }
        if self.fires(Fault::Crash) {
            let node = self.below(self.nodes.len());
            if self.nodes[node].life < u8::MAX {
                self.nodes[node].crash(&self.around);
                self.start(node)?;
            }
        }
        self.check()
    }

    /// Another thread asks something.
    fn command(&mut self) {
        let node = &self.nodes[self.below(self.nodes.len())];
        let chosen = node.host.0;
        let live: Vec<_> = self.live_channels().into_iter().filter(|&(node, ..)| node == chosen).collect();
        let mut ledger = self.around.ledger.borrow_mut();
        let what = self.below(20);
        if live.is_empty() || what >= 17 {
            let to = self.around.addresses[self.below(self.nodes.len())].clone();
            if let Ok(id) = node.handle.dial(to) {
                ledger.begin(Key::new(node.host.0, node.life, id), id);
            }
            return;
        }
        if what == 16 {
            if !ledger.is_stream && self.chance(500) {
                let size = self.below(self.around.settings.largest_send);
                let _ = node.handle.broadcast(&broadcast(size).into());
                return;
            }
            drop(ledger);
            return self.ask_of_nobody(chosen);
        }
        let (_, key, id) = live[self.below(live.len())];
        match what {
            0..=9 if is_posted(id) => {
                let size = self.below(self.around.settings.largest_send);
                self.post_send(node, &mut ledger, key, id, size);
            }
            0..=9 => {}
            10..=12 => {
                // From now on the program may be given nothing or something.
                let _ = node.handle.pause(id);
            }
            13 => {
                ledger.begin(key, id).commanded = true;
                let _ = node.handle.shutdown_write(id);
            }
            14 => {
                ledger.begin(key, id).commanded = true;
                let _ = node.handle.close(id);
            }
            15 => {
                ledger.begin(key, id).commanded = true;
                let _ = node.handle.abort(id);
            }
            _ => {
                let account = ledger.begin(key, id);
                (account.paused, account.resumed) = (false, true);
                let _ = node.handle.resume(id);
            }
        }
    }

    /// What is asked by the id of a channel that is gone reaches nobody.
    fn ask_of_nobody(&self, node: usize) {
        let mut ledger = self.around.ledger.borrow_mut();
        let (handle, life) = (&self.nodes[node].handle, self.nodes[node].life);
        let gone = |(key, account): &(&Key, &Account)| {
            account.closed.is_some() && **key == Key::new(node, life, account.id)
        };
        let gone: Vec<_> = ledger.accounts.iter().filter(gone).map(|(_, account)| account.id).collect();
        if gone.is_empty() {
            return;
        }
        let id = gone[self.below(gone.len())];
        let asked = match self.below(3) {
            0 => handle.send(id, b"stale").is_ok(),
            1 => handle.pause(id).is_ok(),
            _ => handle.abort(id).is_ok(),
        };
        if asked {
            ledger
                .failure
                .get_or_insert_with(|| format!("n{node}: a command for {id}, which is closed, was taken"));
        }
    }

    fn post_send(&self, node: &Node, ledger: &mut Ledger, key: Key, id: ChannelId, size: usize) {
        let bytes = ledger.next_bytes(key, size);
        let posted = match self.below(2) {
            0 => node.handle.send(id, &bytes),
            _ => node.handle.send_bytes(id, bytes.clone().into()),
        };
        match posted {
            Ok(()) => ledger.sent(key, bytes.len()),
            Err(SendError::WouldBlock { .. }) => ledger.begin(key, id).refused = true,
            Err(SendError::TooBig { .. } | SendError::Busy | SendError::NotOpen | SendError::Closed) => {}
        }
        // Nobody else sends on it, and in a stream nothing else is sent.
        let (queued, max) = (node.handle.queued(id), self.around.settings.config.limits.outbox_max);
        if ledger.is_stream && queued > max {
            ledger.failure.get_or_insert_with(|| format!("{key:?}: {queued} bytes wait, of at most {max}"));
        }
    }

    // Healing.

    /// No more faults; programs only receive, and nothing is paused.
    fn heal(&mut self) -> Result<(), String> {
        self.around.network.borrow_mut().heal();
        self.around.ledger.borrow_mut().calm = true;
        for node in 0..self.nodes.len() {
            if !self.nodes[node].is_up() {
                self.start(node)?;
            }
        }
        Ok(())
    }

    /// Goes on until everything is delivered that can be.
    fn settle(&mut self) -> Result<(), String> {
        let deadline = self.now() + LIVENESS;
        let mut to_resume = self.live_channels();
        loop {
            self.resume(&mut to_resume);
            let turns = self.turns;
            while self.nodes.iter().any(Node::is_runnable) {
                self.step_bounded()?;
            }
            if let Some((_, _, id)) = to_resume.first() {
                if self.turns == turns {
                    return Err(format!("{id} cannot be resumed: its loop sleeps on a full mailbox"));
                }
                continue;
            }
            let owed = self
                .around
                .ledger
                .borrow()
                .undelivered(self.nodes.iter().any(Node::is_any_full))
                .or_else(|| self.unlinked());
            let Some(owed) = owed else { return Ok(()) };
            if self.now() > deadline || !self.step_bounded()? {
                return Err(format!("healed for {} s: {owed}", LIVENESS.as_secs()));
            }
        }
    }

    /// Threads are refused though little waits: they must be called back all the same.
    fn press(&self) {
        let most = self.around.settings.config.limits.outbox_max;
        for (node, key, id) in self.live_channels().into_iter().filter(|&(.., id)| is_posted(id)) {
            for size in [1, most] {
                let mut ledger = self.around.ledger.borrow_mut();
                self.post_send(&self.nodes[node], &mut ledger, key, id, size);
            }
        }
    }

    fn step_bounded(&mut self) -> Result<bool, String> {
        if self.turns > MOST_TURNS {
            return Err(format!("{MOST_TURNS} turns, and no end"));
        }
        for node in 0..self.nodes.len() {
            if !self.nodes[node].is_up() {
                self.start(node)?;
            }
        }
        self.step()
    }

    /// The channels that are not closed, with their nodes.
    fn live_channels(&self) -> Vec<(usize, Key, ChannelId)> {
        let ledger = self.around.ledger.borrow();
        let live = ledger.accounts.iter().filter(|(_, account)| account.closed.is_none());
        let node_of = |(&key, account): (&Key, &Account)| {
            let is_its = |node: &Node| key == Key::new(node.host.0, node.life, account.id);
            Some((self.nodes.iter().position(is_its)?, key, account.id))
        };
        live.filter_map(node_of).collect()
    }

    /// Reading goes on everywhere, and who was left waiting for our end gets it. What does not fit a mailbox stays.
    fn resume(&mut self, channels: &mut Vec<(usize, Key, ChannelId)>) {
        let mut ledger = self.around.ledger.borrow_mut();
        channels.retain(|&(node, key, id)| {
            let handle = &self.nodes[node].handle;
            let account = ledger.begin(key, id);
            (account.paused, account.resumed) = (false, true);
            if account.at_eof {
                account.commanded = true;
                if handle.shutdown_write(id) == Err(CommandError::Busy) {
                    return true;
                }
            }
            handle.resume(id) == Err(CommandError::Busy)
        });
    }

    /// A peer to be kept that is not linked, where there are channels enough for all.
    fn unlinked(&self) -> Option<String> {
        let settings = &self.around.settings;
        if settings.config.mode == Mode::Stream || settings.config.channels < 32 {
            return None;
        }
        self.nodes.iter().find_map(|node| {
            let away = settings.peers_of(node.host).find(|&peer| !node.is_linked(HostId(peer)))?;
            Some(format!("n{} has not linked to its peer n{away}", node.host.0))
        })
    }

    // The end.

    fn end(&mut self) -> Result<(), String> {
        let deadline = self.now() + LIVENESS;
        for node in &self.nodes {
            node.shutdown(Duration::from_secs(20));
        }
        while self.nodes.iter().any(Node::is_up) {
            if self.turns > MOST_TURNS || self.now() > deadline || !self.step()? {
                return Err(format!("nodes do not end within {} s", LIVENESS.as_secs()));
            }
        }
        match self.around.ledger.borrow().final_failure() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}
