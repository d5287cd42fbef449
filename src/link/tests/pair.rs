//! Two links and a wire between them that takes its time and can be cut.

use super::*;

const LATENCY: Duration = Duration::from_millis(30);

struct Side {
    link: Link,
    /// What is on the way to this side: when it arrives, and what. In this order.
    wire: Vec<(Mono, Vec<u8>)>,
    got: Vec<Got>,
    error: Option<LinkError>,
    reading: bool,
}

struct Pair {
    now: Mono,
    sides: [Side; 2],
    /// Nothing that is sent arrives.
    cut: bool,
    /// The side that sent FIN: it says nothing more.
    ended: Option<usize>,
}

impl Pair {
    fn new(nodes: [LocalNode; 2]) -> Self {
        let side = |node| Side {
            link: Link::message(Arc::new(node), Arc::default(), START),
            wire: Vec::new(),
            got: Vec::new(),
            error: None,
            reading: true,
        };
        Self { now: START, sides: nodes.map(side), cut: false, ended: None }
    }

    fn shaken() -> Self {
        let mut pair = Self::new([node(1), node(2)]);
        pair.run_for(Duration::from_millis(100));
        for side in &mut pair.sides {
            assert_eq!(std::mem::take(&mut side.got), [Got::Established]);
            assert_eq!(side.error, None);
        }
        pair
    }

    fn post(&mut self, from: usize, bytes: Vec<u8>) {
        let now = self.now;
        self.sides[from].link.handle_sent(now);
        if !self.cut && self.ended != Some(from) {
            self.sides[1 - from].wire.push((self.now + LATENCY, bytes));
        }
    }

    fn send(&mut self, from: usize, message: &[u8]) {
        for (header, range) in self.sides[from].link.framing().frames(message.len()) {
            self.post(from, header.to_vec());
            self.post(from, message[range].to_vec());
        }
    }

    fn set_reading(&mut self, at: usize, reading: bool) {
        self.sides[at].reading = reading;
        self.sides[at].link.set_reading(reading, self.now);
    }

    /// Shuts the sending half of one side down; nothing is on the way.
    fn end(&mut self, from: usize) {
        assert!(self.sides[1 - from].wire.is_empty());
        self.ended = Some(from);
        self.sides[1 - from].link.handle_eof(self.now).unwrap();
    }

    /// Does all that is due now, and moves on to the next moment something is. `None`: nothing will be.
    fn step(&mut self) -> Option<Mono> {
        let now = self.now;
        for at in 0..2 {
            let side = &mut self.sides[at];
            while side.reading
                && side.error.is_none()
                && side.wire.first().is_some_and(|(due, _)| *due <= now)
            {
                let (_, bytes) = side.wire.remove(0);
                let (got, result) = receive(&mut side.link, &bytes, now);
                side.got.extend(got);
                side.error = result.err();
            }
            if side.error.is_none() && side.link.deadline().is_some_and(|due| due <= now) {
                side.error = side.link.handle_timeout(now).err();
            }
            let side = &mut self.sides[at];
            assert!(side.link.deadline().is_none_or(|due| due > now), "what is due is done");
            while let Some(output) = self.sides[at].link.next_output(now) {
                self.post(at, output.to_vec());
            }
        }
        let arrivals =
            |s: &Side| s.wire.first().filter(|_| s.reading && s.error.is_none()).map(|(due, _)| *due);
        self.sides.iter().flat_map(|s| [s.link.deadline(), arrivals(s)]).flatten().min()
    }

    fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        for _ in 0..100_000 {
            match self.step() {
                Some(due) if due <= end => self.now = due.max(self.now),
                Some(_) | None => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("it never comes to rest");
    }

    fn reasons(&self) -> [Option<CloseReason>; 2] {
        [0, 1].map(|at| self.sides[at].error.as_ref().map(|e| e.reason))
    }
}

#[test]
fn two_nodes_shake_hands_and_know_each_other() {
    let pair = Pair::shaken();
    for (at, n) in [(0, 2), (1, 1)] {
        let peer = pair.sides[at].link.peer().unwrap();
        assert_eq!((peer.node_id, &*peer.agent), (node(n).node_id, &*format!("fuzz/{n}")));
        assert_eq!(peer.addresses, node(n).listen);
    }
}

#[test]
fn messages_of_all_lengths_arrive_in_order() {
    let mut pair = Pair::shaken();
    let messages: Vec<Vec<u8>> =
        [0, 1, 100, 2047, 2048, 2049, 4096, 5000, 16 << 10].map(|len| vec![len as u8; len]).into();
    for message in &messages {
        pair.send(0, message);
        pair.send(1, message);
    }
    pair.run_for(Duration::from_secs(1));
    for side in &pair.sides {
        assert_eq!(side.got, messages.iter().cloned().map(Got::Message).collect::<Vec<_>>());
    }
}

#[test]
fn the_lesser_limits_count() {
    let (mut small, large) = (node(1), node(2));
    (small.limits.max_frame, small.limits.max_message) = (1024, 4096);
    let mut pair = Pair::new([small, large]);
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.sides.each_ref().map(|s| s.link.max_message()), [4096, 4096]);
    assert_eq!(pair.sides.each_ref().map(|s| s.link.framing().frames(4096).count()), [2, 4]);
    pair.sides.iter_mut().for_each(|s| s.got.clear());
    for from in [0, 1] {
        pair.send(from, &[7; 4096]);
    }
    pair.run_for(Duration::from_secs(1));
    assert_eq!(
        pair.sides.each_ref().map(|s| s.got.clone()),
        [(); 2].map(|()| vec![Got::Message(vec![7; 4096])])
    );
}

#[test]
fn an_idle_link_lives_and_knows_its_round_trip() {
    let mut pair = Pair::shaken();
    pair.run_for(Duration::from_secs(3600));
    assert_eq!(pair.reasons(), [None, None]);
    for side in &pair.sides {
        let rtt = side.link.rtt().unwrap();
        assert_eq!((rtt.smoothed, rtt.min), (LATENCY * 2, LATENCY * 2));
    }
}

#[test]
fn a_cut_is_noticed_by_both_within_dead_after() {
    let mut pair = Pair::shaken();
    pair.run_for(Duration::from_secs(60));
    pair.cut = true;
    // Each had heard of the other within the last heartbeat.
    pair.run_for(Duration::from_secs(9));
    assert_eq!(pair.reasons(), [None, None]);
    pair.run_for(Duration::from_secs(6) + LATENCY);
    assert_eq!(pair.reasons(), [Some(CloseReason::PeerDead); 2]);
}

#[test]
fn a_cut_during_the_handshake_ends_it() {
    let mut pair = Pair::new([node(1), node(2)]);
    pair.cut = true;
    pair.run_for(Duration::from_secs(5));
    assert_eq!(pair.reasons(), [Some(CloseReason::HandshakeTimeout); 2]);
}

#[test]
fn a_node_that_pauses_buries_nobody_and_loses_nothing() {
    let mut pair = Pair::shaken();
    pair.set_reading(0, false);
    pair.send(1, b"later");
    // The other node reads, and would bury this one, were it silent; but who does not read still shows that it lives.
    pair.run_for(Duration::from_secs(240));
    assert_eq!((pair.reasons(), pair.sides[0].got.len()), ([None, None], 0));
    pair.set_reading(0, true);
    pair.run_for(Duration::from_secs(60));
    assert_eq!((pair.reasons(), &pair.sides[0].got), ([None, None], &vec![Got::Message(b"later".to_vec())]));
}

#[test]
fn who_has_sent_fin_is_answered_late_and_takes_nobody_for_dead() {
    for from in [0, 1] {
        let mut pair = Pair::shaken();
        pair.run_for(Duration::from_secs(1));
        pair.end(from);
        pair.run_for(Duration::from_secs(3600));
        pair.send(1 - from, b"the answer");
        pair.run_for(Duration::from_secs(1));
        assert_eq!(pair.reasons(), [None, None]);
        assert_eq!(pair.sides[from].got, [Got::Message(b"the answer".to_vec())]);
        // It still knows a cut when it sees one.
        pair.cut = true;
        pair.run_for(Duration::from_secs(16));
        assert_eq!(pair.reasons()[from], Some(CloseReason::PeerDead));
    }
}

#[test]
fn nodes_of_two_networks_part_and_both_know_why() {
    let mut other = node(2);
    other.network = LocalNode::network_of("other");
    let mut pair = Pair::new([node(1), other]);
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.reasons(), [Some(CloseReason::WrongNetwork); 2]);
    assert!(pair.sides.iter().all(|s| s.got.is_empty()));
}

#[test]
fn who_is_sent_away_learns_why() {
    let mut pair = Pair::shaken();
    pair.send(0, b"last words");
    pair.sides[0].link.go_away(CloseReason::Shutdown, Duration::from_secs(2), "maintenance");
    pair.run_for(Duration::from_secs(1));
    let away = Got::GoneAway(Some(CloseReason::Shutdown), 1, "maintenance".to_owned());
    assert_eq!(pair.sides[1].got, [Got::Message(b"last words".to_vec()), away]);
}
