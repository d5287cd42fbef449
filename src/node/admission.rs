//! Strangers: accepted connections that have not said hello. How many there may be, and how many links one IP address
//! may have, so that nobody takes the slots of all others.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::addr::Endpoint;
use crate::clock::Mono;
use crate::id::ChannelId;

/// One line in the log for all refusals of a kind in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The strangers of one loop, the oldest first.
///
/// When there are too many the oldest goes, not the newest: an honest peer says hello at once, so it is through before
/// its turn comes, however many others come and say nothing.
#[derive(Debug)]
pub(crate) struct Strangers {
    waiting: VecDeque<ChannelId>,
    max: usize,
}

impl Strangers {
    /// For a loop with so many slots, one of so many loops. A quarter of the slots is never for strangers.
    pub(crate) fn new(pending_handshakes: usize, loops: usize, slots: u32) -> Self {
        let max = (pending_handshakes / loops).min(slots as usize * 3 / 4).max(1);
        Self { waiting: VecDeque::new(), max }
    }

    /// One more. Returns the one that has to go for it.
    pub(crate) fn insert(&mut self, channel: ChannelId) -> Option<ChannelId> {
        self.waiting.push_back(channel);
        if self.waiting.len() > self.max { self.waiting.pop_front() } else { None }
    }

    /// It said hello, or is gone.
    pub(crate) fn remove(&mut self, channel: ChannelId) {
        if let Some(place) = self.waiting.iter().position(|waiting| *waiting == channel) {
            self.waiting.remove(place);
        }
    }
}

/// Channels accepted from each IP address, for all loops of a node.
#[derive(Debug, Default)]
pub(crate) struct PerIp {
    counts: BTreeMap<IpAddr, usize>,
}

impl PerIp {
    /// Counts a channel from this end; false when that would be more than `max`.
    pub(crate) fn admit(&mut self, peer: &Endpoint, max: usize) -> bool {
        let Some(ip) = counted(peer) else { return true };
        let count = self.counts.entry(ip).or_default();
        if *count >= max {
            return false;
        }
        *count += 1;
        true
    }

    /// A channel that was admitted is gone.
    pub(crate) fn release(&mut self, peer: &Endpoint) {
        let Some(ip) = counted(peer) else { return };
        let Some(count) = self.counts.get_mut(&ip) else { return };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&ip);
        }
    }
}

/// What a channel counts for; nothing for those of this machine. Whoever has an IPv6 address has its /64.
fn counted(peer: &Endpoint) -> Option<IpAddr> {
    let ip = match peer.ip()?.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            if ip.is_loopback() { ip.into() } else { Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into() }
        }
        ip @ IpAddr::V4(_) => ip,
    };
    (!ip.is_loopback()).then_some(ip)
}

/// Says what happens often only so many times in [`LOG_EVERY`].
#[derive(Debug, Default)]
pub(crate) struct RateLimit<const TIMES: u32 = 1> {
    since: Option<Mono>,
    said: u32,
    unsaid: u64,
}

impl<const TIMES: u32> RateLimit<TIMES> {
    /// How often it happened since it was last said, this time included, when it may be said.
    pub(crate) fn happened(&mut self, now: Mono) -> Option<u64> {
        self.unsaid += 1;
        if self.since.is_none_or(|since| now - since >= LOG_EVERY) {
            (self.since, self.said) = (Some(now), 0);
        }
        if self.said == TIMES {
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// What strangers could fill the log with.
#[derive(Debug, Default)]
pub(crate) struct LogLimits {
    pub(crate) evicted: RateLimit,
    pub(crate) per_ip: RateLimit,
    pub(crate) linked: RateLimit<100>,
    pub(crate) closed: RateLimit<100>,
    pub(crate) replaced: RateLimit,
    pub(crate) refused_takeover: RateLimit,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(slot: u32) -> ChannelId {
        ChannelId::new(slot, 1)
    }

    fn end(ip: &str) -> Endpoint {
        Endpoint::Tcp((ip.parse::<IpAddr>().unwrap(), 1).into())
    }

    #[test]
    fn the_oldest_stranger_goes_and_those_who_said_hello_are_none() {
        let mut strangers = Strangers::new(2, 1, 100);
        assert_eq!((strangers.insert(channel(1)), strangers.insert(channel(2))), (None, None));
        strangers.remove(channel(1));
        assert_eq!(strangers.insert(channel(3)), None);
        assert_eq!(strangers.insert(channel(4)), Some(channel(2)));
        strangers.remove(channel(2));
        assert_eq!(strangers.insert(channel(5)), Some(channel(3)));
    }

    #[test]
    fn a_quarter_of_the_slots_is_never_for_strangers() {
        assert_eq!(Strangers::new(1024, 1, 16).max, 12);
        assert_eq!(Strangers::new(1024, 4, 16_384).max, 256);
        assert_eq!(Strangers::new(1, 4, 1).max, 1);
    }

    #[test]
    fn an_address_has_its_share_and_this_machine_has_none() {
        let mut per_ip = PerIp::default();
        assert!(per_ip.admit(&end("10.0.0.1"), 1));
        assert!(!per_ip.admit(&end("10.0.0.1"), 1));
        assert!(!per_ip.admit(&end("::ffff:10.0.0.1"), 1), "the same in other words");
        assert!(per_ip.admit(&end("10.0.0.2"), 1));
        assert!(per_ip.admit(&end("2001:db8::1"), 1));
        assert!(!per_ip.admit(&end("2001:db8::ffff:1"), 1), "the same /64");
        for _ in 0..3 {
            assert!(per_ip.admit(&end("127.0.0.9"), 1) && per_ip.admit(&end("::1"), 1));
        }
        per_ip.release(&end("10.0.0.1"));
        per_ip.release(&end("127.0.0.9"));
        assert!(per_ip.admit(&end("10.0.0.1"), 1));
        assert_eq!(per_ip.counts.len(), 3);
    }

    #[test]
    fn a_flood_is_a_line_now_and_then() {
        let (mut once, mut thrice): (RateLimit, RateLimit<3>) = Default::default();
        let at = |seconds| Mono::default() + Duration::from_secs(seconds);
        let said: Vec<_> = (0..25).filter_map(|second| once.happened(at(second))).collect();
        assert_eq!(said, [1, 10, 10]);
        let said: Vec<_> = (0..25).filter_map(|second| thrice.happened(at(second))).collect();
        assert_eq!(said, [1, 1, 1, 8, 1, 1, 8, 1, 1]);
    }
}
