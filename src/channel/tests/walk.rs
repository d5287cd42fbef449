//! Every phase with every command, and random walks: no panic, no broken contract, exactly one end.

use proptest::prelude::*;

use super::*;

/// What the program may do. The refusals are looked at elsewhere.
const COMMANDS: [fn(&mut Rig); 9] = [
    |rig| rig.send(b"0123456789").unwrap_or(()),
    |rig| rig.channel.send_bytes(Bytes::from(vec![1; 9000]), &mut rig.pool).unwrap_or(()),
    |rig| rig.channel.pause(),
    |rig| rig.channel.resume(),
    |rig| rig.channel.shutdown_write(),
    |rig| rig.channel.close(),
    |rig| rig.channel.abort(),
    |rig| rig.channel.fail(CloseReason::Limit, ClosedBy::Us, None),
    |rig| {
        rig.turn();
    },
];

/// A channel in each phase; `Dialing` and `Flushing` twice, since they differ by what the driver was told.
fn in_every_phase() -> Vec<(Phase, Rig)> {
    let flushing = || {
        let mut rig = Rig::open();
        assert_eq!(rig.send(b"abc"), Ok(()));
        rig.turn();
        rig.channel.close();
        rig
    };
    let mut rigs = vec![Rig::dialing("a.name:1"), Rig::dialing("127.0.0.1:2"), Rig::accepted(), Rig::open()];
    let mut dialing = Rig::dialing("127.0.0.1:2");
    dialing.turn();
    rigs.push(dialing);
    let mut broken = Rig::open();
    broken.send(b"abc").unwrap();
    broken.turn().sent_part(1, Some(libc::EPIPE));
    rigs.push(broken);
    let mut told = flushing();
    told.turn();
    rigs.extend([flushing(), told]);
    let mut lingering = flushing();
    lingering.turn().sent();
    rigs.push(lingering);
    let mut closing = flushing();
    closing.channel.abort();
    rigs.push(closing);
    let mut closed = flushing();
    closed.turn().receive_failed(libc::ECONNRESET);
    closed.sent_part(0, Some(libc::ECANCELED));
    closed.kernel.closed = true;
    closed.channel.handle_closed(closed.now);
    rigs.push(closed);
    rigs.into_iter().map(|rig| (rig.channel.phase(), rig)).collect()
}

/// Whatever is asked, the channel ends within its deadlines when the driver answers; once, and last.
pub(super) fn finish(rig: &mut Rig) {
    rig.channel.close();
    for _ in 0..20 {
        rig.turn();
        if rig.report.is_some() {
            break;
        }
        if rig.kernel.dialing {
            rig.dial_failed(libc::ECANCELED);
        } else if rig.kernel.close.is_some() {
            rig.closed();
        } else if rig.channel.deadline().is_some() {
            rig.time_out(Duration::from_secs(3600));
        }
    }
    assert!(rig.events.last().is_some_and(|last| last.starts_with("closed")), "{:?}", rig.events);
    assert_eq!(rig.events.iter().filter(|event| event.starts_with("closed")).count(), 1);
    assert_eq!(rig.kernel.exists, rig.kernel.closed);
    assert!(rig.channel.is_finished() && rig.channel.deadline().is_none());
    let stats = rig.settings.counters.snapshot();
    assert_eq!((stats.closed, stats.bytes_queued, stats.bytes_held), (1, 0, 0));
    let report = rig.report();
    assert_eq!(report.bytes_out, rig.kernel.sent.len() as u64);
    assert_eq!((stats.bytes_out, stats.bytes_in), (report.bytes_out, report.bytes_in));
    assert_eq!(stats.opened, u64::from(report.opened));
    rig.turn();
}

#[test]
fn every_phase_bears_every_pair_of_commands_and_ends_once() {
    let mut phases: Vec<_> = in_every_phase().into_iter().map(|(phase, _)| phase).collect();
    phases.sort_unstable();
    phases.dedup();
    assert_eq!(phases, Phase::ALL, "each phase is there");
    for start in 0..in_every_phase().len() {
        for first in COMMANDS {
            for second in COMMANDS {
                let (_, mut rig) = in_every_phase().swap_remove(start);
                first(&mut rig);
                rig.channel.check();
                second(&mut rig);
                rig.channel.check();
                finish(&mut rig);
            }
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Command(usize),
    Turn,
    Receive(u8),
    Eof,
    ReceiveFailed(i32),
    Sent,
    SentAlone,
    SendFailed(usize, i32),
    Dialed,
    DialFailed,
    Resolved(usize),
    Timeout,
    Closed,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let errno = || prop_oneof![Just(libc::EPIPE), Just(libc::ECONNRESET), Just(libc::EIO)];
    prop_oneof![
        10 => (0..5_usize).prop_map(Step::Command),
        1 => (5..COMMANDS.len()).prop_map(Step::Command),
        6 => Just(Step::Turn),
        5 => (1..20_u8).prop_map(Step::Receive),
        1 => Just(Step::Eof),
        1 => errno().prop_map(Step::ReceiveFailed),
        4 => Just(Step::Sent),
        2 => Just(Step::SentAlone),
        1 => (0..5_usize, errno()).prop_map(|(bytes, errno)| Step::SendFailed(bytes, errno)),
        2 => Just(Step::Dialed),
        1 => Just(Step::DialFailed),
        1 => (1..3_usize).prop_map(Step::Resolved),
        1 => Just(Step::Timeout),
        3 => Just(Step::Closed),
    ]
}

impl Rig {
    /// Takes the step if the driver could.
    pub(super) fn walk(&mut self, script: &[u8], step: &Step) {
        let kernel = &self.kernel;
        let has_socket = kernel.exists && !kernel.closed;
        let receives = has_socket && !kernel.inbound_over;
        let len = kernel.out.as_ref().map_or(0, |batch| batch.len());
        match *step {
            Step::Command(command) => COMMANDS[command](self),
            Step::Turn => _ = self.turn(),
            Step::Receive(len) if receives => {
                let from = self.given.len();
                let bytes: Vec<u8> = script.iter().cycle().skip(from).take(len.into()).copied().collect();
                self.receive(&bytes);
            }
            Step::Eof if receives => _ = self.eof(),
            Step::ReceiveFailed(errno) if receives => _ = self.receive_failed(errno),
            Step::Sent if len > 0 => _ = self.sent(),
            Step::SentAlone if len > 0 => self.sent_alone(),
            Step::SendFailed(bytes, errno) if len > 0 => _ = self.sent_part(bytes.min(len), Some(errno)),
            Step::Dialed if kernel.dialing => _ = self.dialed(),
            Step::DialFailed if kernel.dialing => _ = self.dial_failed(libc::ECONNREFUSED),
            Step::Resolved(addresses) => self.channel.resolved(Ok(vec![tcp(9); addresses])),
            Step::Timeout if self.channel.deadline().is_some() => {
                self.time_out(Duration::from_secs(3600));
            }
            Step::Closed if has_socket && kernel.close.is_some() => _ = self.closed(),
            Step::Receive(_)
            | Step::Eof
            | Step::ReceiveFailed(_)
            | Step::Sent
            | Step::SentAlone
            | Step::SendFailed(..)
            | Step::Dialed
            | Step::DialFailed
            | Step::Timeout
            | Step::Closed => {}
        }
        self.channel.check();
    }
}

/// An outbox that two sends fill and one drains.
fn tight(limits: &mut Limits) {
    (limits.outbox_low, limits.outbox_high, limits.outbox_max) = (5000, 8000, 20_000);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]
    #[test]
    fn random_walks_keep_the_contract_and_end_once(
        start in 0..3_usize,
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut rig = match start {
            0 => Rig::new(|settings| accepted(ChannelId::new(0, 1), settings), tight),
            1 => Rig::dialing("127.0.0.1:2"),
            _ => Rig::dialing("a.name:1"),
        };
        let script: Vec<u8> = (0..=250).collect();
        for step in &steps {
            rig.walk(&script, step);
            let (given, seen) = (&rig.given, &rig.seen);
            prop_assert!(given.starts_with(seen), "in order, each once");
            let all = rig.channel.facts.discarding || seen.len() + rig.channel.held().len() == given.len();
            prop_assert!(all, "nothing is lost by a pause or a failure");
        }
        finish(&mut rig);
    }
}
