//! What every channel of a simulated world sent, received and was told, and what must hold of it: what is received is
//! an exact prefix of what was sent, and each channel ends once.
//!
//! The bytes say themselves whose they are: each message begins with the key of the channel that sent it and its number
//! there, each stream with the key, and what follows can be made from them.

use std::collections::BTreeMap;

use crate::error::{CloseReason, CloseReport, ClosedBy};
use crate::id::ChannelId;

/// Names a channel in a world: node, life of that node, generation, slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u64);

impl Key {
    pub(super) fn new(node: usize, life: u8, id: ChannelId) -> Self {
        let (generation, slot) = (u64::from(id.generation()) & 0xFF_FFFF, u64::from(id.slot()) & 0xFF_FFFF);
        Self((node as u64) << 56 | u64::from(life) << 48 | generation << 24 | slot)
    }

    /// Begins what everybody is sent.
    const EVERYBODY: Self = Self(u64::MAX);

    fn of_life(self) -> u64 {
        self.0 >> 48
    }

    fn byte(self, number: u64, place: usize) -> u8 {
        let mixed = (self.0 ^ number << 32 ^ place as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> 40) as u8
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(key) = self;
        write!(f, "n{}.{}:{}.{}", key >> 56, key >> 48 & 0xFF, key & 0xFF_FFFF, key >> 24 & 0xFF_FFFF)
    }
}

const KEY: usize = 8;
const HEAD: usize = KEY + 8;

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about a channel")]
pub(super) struct Account {
    pub(super) id: ChannelId,
    pub(super) opened: bool,
    pub(super) closed: Option<CloseReport>,
    /// Its node was killed: nothing more is heard of it.
    pub(super) crashed: bool,
    /// Its node ended before it did: how much of its last send went out is not known.
    cut: bool,
    /// What was taken for sending: the length of each message, and all bytes.
    messages: Vec<usize>,
    pub(super) bytes: u64,
    /// Whose bytes are received here, and how many.
    pub(super) from: Option<Key>,
    head: Vec<u8>,
    received: u64,
    received_messages: usize,
    /// Paused by a callback.
    pub(super) paused: bool,
    /// Something was given to the program all the same: then the channel must be about to end.
    heard_paused: bool,
    /// Resumed by a command: when it takes effect is not known here.
    pub(super) resumed: bool,
    /// A send was refused; the program must be called back.
    pub(super) refused: bool,
    pub(super) at_eof: bool,
    /// The program closed it in a callback: nothing but its end may come.
    pub(super) ended: bool,
    /// Closed or shut by a command: when it takes effect is not known here.
    pub(super) commanded: bool,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) is_stream: bool,
    pub(super) accounts: BTreeMap<Key, Account>,
    pub(super) failure: Option<String>,
    /// No program does anything any more but receive.
    pub(super) calm: bool,
    pub(super) callbacks: u64,
}

impl Ledger {
    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.failure.get_or_insert_with(what);
        }
    }

    /// A channel was dialed or opened.
    pub(super) fn begin(&mut self, key: Key, id: ChannelId) -> &mut Account {
        self.accounts.entry(key).or_insert_with(|| Account {
            id,
            opened: false,
            closed: None,
            crashed: false,
            cut: false,
            messages: Vec::new(),
            bytes: 0,
            from: None,
            head: Vec::new(),
            received: 0,
            received_messages: 0,
            paused: false,
            heard_paused: false,
            resumed: false,
            refused: false,
            at_eof: false,
            ended: false,
            commanded: false,
        })
    }

    fn told(&mut self, key: Key, what: &str) {
        self.callbacks += 1;
        let account = self.accounts.get(&key);
        let live = account.is_some_and(|account| account.opened && account.closed.is_none());
        self.require(live, || format!("{key:?}: {what} of a channel that is not open"));
        let ended = self.accounts.get(&key).is_some_and(|account| account.ended);
        self.require(!ended, || format!("{key:?}: {what} after it was closed by its program"));
    }

    pub(super) fn opened(&mut self, key: Key, id: ChannelId) {
        self.callbacks += 1;
        let account = self.begin(key, id);
        let first = !std::mem::replace(&mut account.opened, true) && account.closed.is_none();
        self.require(first, || format!("{key:?}: opened twice, or after its end"));
    }

    pub(super) fn closed(&mut self, key: Key, id: ChannelId, report: &CloseReport) {
        self.callbacks += 1;
        // One that was accepted and never opened is heard of for the first time.
        let is_stream = self.is_stream;
        let account = self.begin(key, id);
        let first = account.closed.replace(report.clone()).is_none();
        let (opened, bytes, posted) = (account.opened, account.bytes, is_posted(id));
        self.require(first, || format!("{key:?}: closed twice"));
        self.require(opened == report.opened, || {
            format!("{key:?}: opened is {opened}, and reported {report:?}")
        });
        // A posted send may come when the channel is gone.
        let told = report.bytes_out + report.bytes_unsent;
        let all = if posted { told <= bytes } else { told == bytes };
        self.require(!is_stream || all, || format!("{key:?}: {bytes} bytes were taken, {report:?}"));
    }

    pub(super) fn eof(&mut self, key: Key) {
        self.told(key, "end of file");
        if let Some(account) = self.accounts.get_mut(&key) {
            account.at_eof = true;
        }
    }

    pub(super) fn drained(&mut self, key: Key) {
        self.told(key, "drained");
        if let Some(account) = self.accounts.get_mut(&key) {
            account.refused = false;
        }
    }

    // Sending.

    /// What the channel sends next, about `size` bytes of it.
    pub(super) fn next_bytes(&self, key: Key, size: usize) -> Vec<u8> {
        let account = &self.accounts[&key];
        if self.is_stream {
            let start = account.bytes;
            return (start..start + size.max(1) as u64).map(|place| stream_byte(key, place)).collect();
        }
        message(key, account.messages.len(), size.max(HEAD))
    }

    pub(super) fn sent(&mut self, key: Key, len: usize) {
        let account = self.accounts.get_mut(&key).expect("it sends");
        account.messages.push(len);
        account.bytes += len as u64;
    }

    // Receiving.

    pub(super) fn received_stream(&mut self, key: Key, data: &[u8]) {
        self.told_data(key);
        let Some(account) = self.accounts.get_mut(&key) else { return };
        for &byte in data {
            let place = account.received;
            account.received += 1;
            if account.head.len() < KEY {
                account.head.push(byte);
                if let Ok(head) = <[u8; KEY]>::try_from(&account.head[..]) {
                    account.from = Some(Key(u64::from_le_bytes(head)));
                }
                continue;
            }
            let from = account.from.expect("its head is here");
            if byte != stream_byte(from, place) {
                let what = || format!("{key:?}: byte {place} of what {from:?} sent is not what it sent");
                self.failure.get_or_insert_with(what);
                return;
            }
        }
        let (from, received) = (account.from, account.received);
        self.hold_against_sender(key, from, received);
    }

    fn hold_against_sender(&mut self, key: Key, from: Option<Key>, received: u64) {
        let Some(from) = from else { return };
        let sender = self.accounts.get(&from);
        let sent = sender.map_or(0, |sender| sender.bytes);
        self.require(received <= sent, || {
            format!("{key:?}: {received} bytes from {from:?}, which sent {sent}")
        });
    }

    pub(super) fn received_message(&mut self, key: Key, bytes: &[u8]) {
        self.told_data(key);
        if bytes.starts_with(&Key::EVERYBODY.0.to_le_bytes()) {
            let right = bytes == broadcast(bytes.len());
            return self
                .require(right, || format!("{key:?}: a broadcast of {} bytes is spoiled", bytes.len()));
        }
        let Some(account) = self.accounts.get_mut(&key) else { return };
        let number = account.received_messages;
        account.received_messages += 1;
        account.received += bytes.len() as u64;
        let head = bytes.first_chunk::<KEY>().map(|head| Key(u64::from_le_bytes(*head)));
        let from = *account.from.get_or_insert(head.unwrap_or(Key(0)));
        let sent = self.accounts.get(&from).and_then(|sender| sender.messages.get(number)).copied();
        let right = sent.is_some_and(|len| bytes == message(from, number, len));
        self.require(right, || {
            let (len, head) = (bytes.len(), &bytes[..bytes.len().min(HEAD)]);
            format!("{key:?}: message {number} from {from:?} is not what it sent: {len} bytes, {head:?}, for {sent:?}")
        });
    }

    fn told_data(&mut self, key: Key) {
        self.told(key, "data");
        if let Some(account) = self.accounts.get_mut(&key) {
            account.heard_paused |= account.paused;
        }
    }

    // Ends.

    pub(super) fn crashed(&mut self, node: usize, life: u8) {
        self.live_of(node, life).for_each(|account| account.crashed = true);
    }

    /// The node ends, though not all of its channels have.
    pub(super) fn cut(&mut self, node: usize, life: u8) {
        self.live_of(node, life).for_each(|account| account.cut = true);
    }

    fn live_of(&mut self, node: usize, life: u8) -> impl Iterator<Item = &mut Account> {
        let life = (node as u64) << 8 | u64::from(life);
        let live = self
            .accounts
            .iter_mut()
            .filter(move |(key, account)| key.of_life() == life && account.closed.is_none());
        live.map(|(_, account)| account)
    }

    /// The channels that receive what each channel sends.
    fn receivers(&self) -> BTreeMap<Key, Key> {
        self.accounts.iter().filter_map(|(&key, account)| Some((account.from?, key))).collect()
    }

    /// What has not come, of what must come in a world without faults: to open channels all that was sent on them, to
    /// others their end. With `may_wait`, one that was dialed may still wait to be accepted.
    pub(super) fn undelivered(&self, may_wait: bool) -> Option<String> {
        let receivers = self.receivers();
        for (key, account) in &self.accounts {
            if account.crashed || account.closed.is_some() {
                continue;
            }
            if !account.opened {
                return Some(format!("{key:?}: neither opened nor closed"));
            }
            if account.refused && !account.commanded {
                return Some(format!("{key:?}: a send was refused, and no call back came"));
            }
            let receiver = receivers.get(key).map(|receiver| (receiver, &self.accounts[receiver]));
            match receiver {
                Some((other, there)) if there.closed.is_some() || there.crashed => {
                    return Some(format!("{key:?}: open, though {other:?} is gone"));
                }
                Some((other, there)) if there.received < account.bytes => {
                    let (some, all) = (there.received, account.bytes);
                    return Some(format!("{other:?}: received {some} of the {all} bytes from {key:?}"));
                }
                None if !may_wait && account.bytes >= HEAD as u64 => {
                    return Some(format!("{key:?}: nothing was received of it"));
                }
                Some(_) | None => {}
            }
        }
        None
    }

    /// Holds at the end, when every node has ended: each channel was reported, and what ended well is complete.
    pub(super) fn final_failure(&self) -> Option<String> {
        for (key, account) in &self.accounts {
            let Some(report) = &account.closed else {
                if account.crashed {
                    continue;
                }
                return Some(format!("{key:?}: never closed"));
            };
            if account.heard_paused && !ends_by_itself(report) && !account.commanded && !account.resumed {
                return Some(format!("{key:?}: data came while it was paused: {report:?}"));
            }
            let Some(from) = account.from else { continue };
            let Some(sender) = self.accounts.get(&from) else {
                return Some(format!("{key:?}: received from {from:?}, which is not"));
            };
            if let Some(sent) = sender.closed.as_ref().filter(|_| !sender.cut)
                && let Some(failure) = self.incomplete((*key, account, report), (from, sender, sent))
            {
                return Some(failure);
            }
        }
        None
    }

    fn incomplete(
        &self,
        (key, account, report): (Key, &Account, &CloseReport),
        (from, sender, sent): (Key, &Account, &CloseReport),
    ) -> Option<String> {
        let received = account.received;
        if self.is_stream {
            if received > sent.bytes_out {
                return Some(format!(
                    "{key:?}: received {received} bytes of {from:?}, which reports {sent:?}"
                ));
            }
            let whole = received == sent.bytes_out;
            return (account.at_eof && !whole).then(|| {
                format!("{key:?}: end of file after {received} bytes from {from:?}, which reports {sent:?}")
            });
        }
        let told = report.by == ClosedBy::Peer
            && matches!(report.reason, CloseReason::Normal | CloseReason::Shutdown | CloseReason::PeerClosed);
        let whole = account.received_messages == sender.messages.len();
        let must = told && sent.bytes_unsent == 0 && !account.ended && !account.commanded;
        (must && !whole).then(|| {
            let (some, all) = (account.received_messages, sender.messages.len());
            format!(
                "{key:?}: closed well with {some} of {all} messages from {from:?}, which reports {sent:?}"
            )
        })
    }
}

fn ends_by_itself(report: &CloseReport) -> bool {
    report.by != ClosedBy::Us || report.errno.is_some() || report.reason != CloseReason::Normal
}

fn stream_byte(key: Key, place: u64) -> u8 {
    let head = key.0.to_le_bytes();
    usize::try_from(place)
        .ok()
        .and_then(|place| head.get(place).copied())
        .unwrap_or_else(|| key.byte(place, 0))
}

fn message(key: Key, number: usize, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&key.0.to_le_bytes());
    bytes.extend_from_slice(&(number as u64).to_le_bytes());
    bytes.extend((HEAD..len).map(|place| key.byte(number as u64, place)));
    bytes
}

/// A message for everybody. Who gets it is not accounted: it may be refused by any channel.
pub(super) fn broadcast(len: usize) -> Vec<u8> {
    message(Key::EVERYBODY, 0, len.max(HEAD))
}

/// Channels whose sends come from other threads alone, so that their order is known here.
pub(super) fn is_posted(id: ChannelId) -> bool {
    id.slot() % 2 == 1
}
