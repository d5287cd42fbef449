//! The rules one by one, and then two nodes that dial each other at random times over a network that delays.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const LOW: NodeId = NodeId::from_bytes([1; 32]);
const HIGH: NodeId = NodeId::from_bytes([2; 32]);

fn at(millis: u64) -> Mono {
    Mono::from_nanos(millis * 1_000_000)
}

fn channel(slot: u32) -> ChannelId {
    ChannelId::new(slot, 1)
}

fn actions(peers: &mut Peers) -> Vec<(u32, Action)> {
    std::iter::from_fn(|| peers.next_action()).map(|(channel, action)| (channel.slot(), action)).collect()
}

fn establish(peers: &mut Peers, slot: u32, instance: u8, dialed: bool, now: Mono) -> Vec<(u32, Action)> {
    let node = if peers.me == LOW { HIGH } else { LOW };
    peers.handle_established(channel(slot), (node, [instance; 16]), dialed, now);
    actions(peers)
}

#[test]
fn a_link_to_oneself_is_refused_and_forgotten() {
    let mut peers = Peers::new(LOW);
    peers.handle_established(channel(0), (LOW, [9; 16]), true, at(0));
    assert_eq!(actions(&mut peers), [(0, Action::RefuseSelf)]);
    assert!(!peers.is_linked(LOW));
}

#[test]
fn the_lower_node_keeps_the_link_it_dialed_once_a_frame_came_on_it() {
    let mut peers = Peers::new(LOW);
    assert_eq!(establish(&mut peers, 1, 0, false, at(0)), [(1, Action::Open)]);
    assert_eq!(establish(&mut peers, 2, 0, true, at(1)), [(2, Action::Watch)]);
    peers.handle_confirmed(channel(1));
    peers.handle_timeout(at(60_000));
    assert_eq!(actions(&mut peers), []);
    peers.handle_confirmed(channel(2));
    assert_eq!(actions(&mut peers), [(2, Action::Open), (1, Action::Retire)]);
    peers.handle_ended(channel(1));
    assert!(peers.is_linked(HIGH));
    peers.handle_ended(channel(2));
    assert!(!peers.is_linked(HIGH));
}

#[test]
fn the_higher_node_waits_until_the_lower_has_closed_one() {
    let mut peers = Peers::new(HIGH);
    assert_eq!(establish(&mut peers, 1, 0, true, at(0)), [(1, Action::Open)]);
    assert_eq!(establish(&mut peers, 2, 0, false, at(1)), []);
    peers.handle_ended(channel(1));
    assert_eq!(actions(&mut peers), [(2, Action::Open)]);
}

#[test]
fn the_higher_node_loses_its_patience_but_not_before_its_time() {
    let mut peers = Peers::new(HIGH);
    establish(&mut peers, 1, 0, true, at(0));
    establish(&mut peers, 2, 0, false, at(1));
    peers.handle_timeout(at(5000));
    assert_eq!(actions(&mut peers), []);
    peers.handle_timeout(at(5001));
    assert_eq!(actions(&mut peers), [(2, Action::Open), (1, Action::Retire)]);
}

#[test]
fn a_message_on_the_lower_node_s_link_settles_it_for_the_higher() {
    let mut peers = Peers::new(HIGH);
    establish(&mut peers, 1, 0, true, at(0));
    establish(&mut peers, 2, 0, false, at(1));
    peers.handle_opened(channel(2));
    assert_eq!(actions(&mut peers), [(1, Action::Retire)]);
}

#[test]
fn of_links_dialed_by_the_same_node_the_lower_node_keeps_the_first() {
    let mut lower = Peers::new(LOW);
    establish(&mut lower, 1, 0, true, at(0));
    assert_eq!(establish(&mut lower, 2, 0, true, at(1)), [(1, Action::Watch)]);
    lower.handle_confirmed(channel(1));
    assert_eq!(actions(&mut lower), [(2, Action::Retire)]);
    let mut higher = Peers::new(HIGH);
    establish(&mut higher, 2, 0, false, at(0));
    establish(&mut higher, 1, 0, false, at(0));
    higher.handle_opened(channel(1));
    assert_eq!(actions(&mut higher), [], "which is the first is for the lower node to say");
    higher.handle_ended(channel(2));
    assert_eq!(actions(&mut higher), []);
}

#[test]
fn a_link_is_watched_once_however_many_others_come() {
    let mut peers = Peers::new(LOW);
    establish(&mut peers, 1, 0, true, at(0));
    assert_eq!(establish(&mut peers, 2, 0, false, at(1)), [(1, Action::Watch)]);
    for slot in 3..100 {
        assert_eq!(establish(&mut peers, slot, 0, false, at(2)), []);
    }
    peers.handle_confirmed(channel(1));
    assert_eq!(actions(&mut peers).len(), 98, "all others go");
    assert_eq!(establish(&mut peers, 100, 0, false, at(3)), [(1, Action::Watch)], "it was confirmed before");
}

#[test]
fn a_restarted_peer_replaces_its_ghost_but_not_again_and_again() {
    let mut peers = Peers::new(LOW);
    establish(&mut peers, 1, 0, false, at(0));
    assert_eq!(establish(&mut peers, 2, 1, false, at(10)), [(2, Action::Open), (1, Action::Replace)]);
    peers.handle_ended(channel(1));
    let wait = Duration::from_millis(9000);
    assert_eq!(establish(&mut peers, 3, 0, false, at(1010)), [(3, Action::RefuseTakeover(wait))]);
    assert_eq!(establish(&mut peers, 4, 0, false, at(10_010)), [(4, Action::Open), (2, Action::Replace)]);
}

/// What travels from one node to the other on one connection, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frame {
    Hello,
    Ping,
    Pong,
    Message,
    GoAway,
}

/// One node's end of a connection.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    established: bool,
    open: bool,
    watched: bool,
    ended: bool,
}

/// Two nodes; connection `n` is channel `n` on both sides.
struct World {
    nodes: [Peers; 2],
    ends: [BTreeMap<u32, End>; 2],
    /// By arrival: who gets it, on which connection, and what. A connection's frames keep their order.
    queue: BTreeSet<(u64, u64, usize, u32, u8)>,
    sequence: u64,
    now: u64,
    /// The arrival of the last frame in each direction of each connection.
    last: BTreeMap<(usize, u32), u64>,
    delays: Vec<u64>,
    was_linked: [bool; 2],
    /// Whether a node sends a message as soon as a link opens.
    talks: bool,
}

const FRAMES: [Frame; 5] = [Frame::Hello, Frame::Ping, Frame::Pong, Frame::Message, Frame::GoAway];
const TIMEOUT: u8 = 100;
const CONNECT: u8 = 101;

impl World {
    fn new(delays: Vec<u64>, talks: bool) -> Self {
        Self {
            nodes: [Peers::new(LOW), Peers::new(HIGH)],
            ends: Default::default(),
            queue: BTreeSet::new(),
            sequence: 0,
            now: 0,
            last: BTreeMap::new(),
            delays,
            was_linked: [false; 2],
            talks,
        }
    }

    fn push(&mut self, at: u64, to: usize, connection: u32, what: u8) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence, to, connection, what));
    }

    fn send(&mut self, to: usize, connection: u32, frame: Frame) {
        let delay = self.delays[self.sequence as usize % self.delays.len()];
        let last = self.last.get(&(to, connection)).copied().unwrap_or_default();
        let arrival = (self.now + delay).max(last);
        self.last.insert((to, connection), arrival);
        let what = FRAMES.iter().position(|f| *f == frame).unwrap() as u8;
        self.push(arrival, to, connection, what);
    }

    fn run(&mut self) {
        while let Some((time, _, to, connection, what)) = self.queue.pop_first() {
            self.now = time;
            match what {
                TIMEOUT => self.nodes[to].handle_timeout(Mono::from_nanos(time * 1_000_000)),
                CONNECT => {
                    self.send(1 - to, connection, Frame::Hello);
                    self.send(to, connection, Frame::Hello);
                }
                frame => self.receive(to, connection, FRAMES[frame as usize]),
            }
            for node in [0, 1] {
                self.act(node);
                self.check(node);
            }
        }
    }

    fn receive(&mut self, me: usize, connection: u32, frame: Frame) {
        let end = self.ends[me].entry(connection).or_default();
        if end.ended {
            return;
        }
        if frame == Frame::Hello {
            end.established = true;
            // Even connections are dialed by node 0.
            let dialed = connection.is_multiple_of(2) == (me == 0);
            let peer = [(HIGH, [2; 16]), (LOW, [1; 16])][me];
            if self.nodes[me].handle_established(channel(connection), peer, dialed, at(self.now)) {
                self.push(self.now + 5000, me, connection, TIMEOUT);
            }
            return;
        }
        assert!(end.established, "a frame before the hello");
        match frame {
            Frame::GoAway => {
                end.ended = true;
                self.nodes[me].handle_ended(channel(connection));
                return;
            }
            Frame::Message if !end.open => {
                end.open = true;
                self.nodes[me].handle_opened(channel(connection));
            }
            Frame::Ping => self.send(1 - me, connection, Frame::Pong),
            Frame::Hello | Frame::Pong | Frame::Message => {}
        }
        let end = self.ends[me].get_mut(&connection).unwrap();
        if std::mem::take(&mut end.watched) {
            self.nodes[me].handle_confirmed(channel(connection));
        }
    }

    fn act(&mut self, me: usize) {
        for (connection, action) in actions(&mut self.nodes[me]) {
            let end = self.ends[me].get_mut(&connection).unwrap();
            match action {
                Action::Open => {
                    end.open = true;
                    if self.talks {
                        self.send(1 - me, connection, Frame::Message);
                    }
                }
                Action::Watch => {
                    end.watched = true;
                    self.send(1 - me, connection, Frame::Ping);
                }
                Action::Retire => {
                    end.ended = true;
                    self.send(1 - me, connection, Frame::GoAway);
                }
                Action::Replace | Action::RefuseSelf | Action::RefuseTakeover(_) => panic!("{action:?}"),
            }
        }
    }

    fn links(&self, me: usize) -> Vec<u32> {
        let live = self.ends[me].iter().filter(|(_, end)| end.open && !end.ended);
        live.map(|(connection, _)| *connection).collect()
    }

    /// Once linked, a node is never without a link again.
    fn check(&mut self, me: usize) {
        let links = self.links(me);
        assert!(!links.is_empty() || !self.was_linked[me], "node {me} has no link at {}", self.now);
        self.was_linked[me] |= !links.is_empty();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn nodes_that_dial_each_other_end_with_one_link_and_are_never_without(
        dials in prop::collection::vec((0_u64..400, any::<bool>()), 1..5),
        delays in prop::collection::vec(0_u64..200, 1..20),
        talks in any::<bool>(),
    ) {
        let mut world = World::new(delays, talks);
        for (number, (at, by_low)) in (0..).zip(dials) {
            let connection = 2 * number + u32::from(!by_low);
            world.push(at, usize::from(!by_low), connection, CONNECT);
        }
        world.run();
        prop_assert_eq!(world.links(0).len(), 1);
        prop_assert_eq!(world.links(0), world.links(1));
    }
}
