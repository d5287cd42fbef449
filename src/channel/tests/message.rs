//! Message mode: the handshake, messages and their limits, and goodbyes, against the link of the other node.

use proptest::prelude::*;

use super::walk::{finish, step};
use super::*;
use crate::link::{LinkEvent, LocalNode, NodeId};

const START: Mono = Mono::from_nanos(1_000_000_000);

fn link(n: u8) -> Link {
    let node = LocalNode {
        node_id: NodeId::from_bytes([n; 32]),
        instance_id: [n; 16],
        network: LocalNode::network_of("test"),
        agent: String::new(),
        listen: Vec::new(),
        limits: Limits { max_frame: 2048, max_message: 16 << 10, ..Limits::default() },
    };
    Link::message(Arc::new(node), Arc::default(), START)
}

/// A channel that was just accepted, and the link at its far end.
fn fresh(change: impl FnOnce(&mut Limits)) -> (Rig, Link) {
    let settings = settings_in(Mode::Message, change);
    let mut rig = Rig::of(settings, |settings| {
        let id = ChannelId::new(0, 1);
        Channel::accepted(id, ListenerId(0), Accepted(5), endpoints(1, 2), link(1), settings, START)
    });
    rig.now = START;
    (rig, link(2))
}

fn open(change: impl FnOnce(&mut Limits)) -> (Rig, Link) {
    let (mut rig, mut far) = fresh(change);
    rig.turn().asked(&["adopt", "resume", "send"]);
    rig.sent().receive(&outputs(&mut far)).saw(&["opened"]);
    assert!(matches!(far_events(&mut rig, &mut far)[..], [LinkEvent::Established]));
    rig.submitted.clear();
    (rig, far)
}

fn outputs(link: &mut Link) -> Vec<u8> {
    std::iter::from_fn(|| link.next_output(START)).flat_map(|frame| frame.to_vec()).collect()
}

/// What the far link makes of everything the channel has sent.
fn far_events<'b>(rig: &'b mut Rig, far: &mut Link) -> Vec<LinkEvent<'b>> {
    rig.kernel.heard = std::mem::take(&mut rig.kernel.sent);
    let (mut input, now) = (&*rig.kernel.heard, rig.now);
    std::iter::from_fn(|| far.next_event(&mut input, now).unwrap()).collect()
}

fn framed(far: &Link, message: &[u8]) -> Vec<u8> {
    far.framing()
        .frames(message.len())
        .flat_map(|(header, range)| [&header[..], &message[range]].concat())
        .collect()
}

#[test]
fn the_hello_is_read_before_the_program_hears_of_the_channel_even_if_it_pauses() {
    let (mut rig, mut far) = fresh(|_| ());
    rig.channel.pause();
    rig.turn().asked(&["adopt", "resume", "send"]).saw(&[]);
    assert_eq!(rig.send(b"x"), Err(SendError::NotOpen));
    let mut bytes = outputs(&mut far);
    rig.sent();
    far_events(&mut rig, &mut far);
    bytes.extend(framed(&far, b"first"));
    rig.receive(&bytes).saw(&["opened"]).asked(&["pause"]);
    assert_eq!(rig.channel.held().len(), 8 + 5);
    rig.channel.resume();
    rig.turn().saw(&["message first"]).asked(&["resume"]);
}

#[test]
fn a_program_that_pauses_after_each_message_gets_them_in_order_and_uncopied() {
    let (mut rig, far) = open(|_| ());
    rig.react = |_, channel, _| channel.pause();
    let bytes: Vec<u8> = (0..100).flat_map(|i| framed(&far, format!("{i}").as_bytes())).collect();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    rig.receive(first).receive(second).saw(&["message 0"]);
    let end = rig.channel.held().as_ptr_range().end;
    for i in 1..100 {
        assert_eq!(rig.channel.held().as_ptr_range().end, end, "what is held stays where it is");
        rig.channel.resume();
        rig.turn().saw(&[&format!("message {i}")]);
        assert_eq!(rig.settings.counters.bytes_held.get(), rig.channel.held().len() as u64);
    }
    assert!(rig.channel.held().is_empty());
}

#[test]
fn a_message_that_will_never_be_delivered_takes_no_memory() {
    let (mut rig, far) = open(|_| ());
    let message = framed(&far, &[7; 5000]);
    let (first, rest) = message.split_at(4000);
    rig.receive(first);
    assert!(rig.channel.link().begun() > 3900);
    rig.channel.close();
    assert_eq!(rig.channel.link().begun(), 0);
    rig.turn().receive(rest).saw(&[]);
    assert_eq!(rig.channel.link().begun(), 0);
}

#[test]
fn what_many_channels_get_is_one_message_whatever_its_length() {
    for len in [0, 1, 2048, 2049, 16 << 10] {
        let (mut rig, mut far) = open(|_| ());
        let message = Bytes::from(vec![7; len]);
        rig.channel.send_common(&Common::new(&message, Mode::Message), &mut rig.pool).unwrap();
        rig.turn().sent();
        let heard = far_events(&mut rig, &mut far);
        assert!(
            matches!(&heard[..], [LinkEvent::Message(got)] if *got == &message[..])
                || matches!(&heard[..], [LinkEvent::Assembled(got)] if got == &message[..]),
            "{len}"
        );
        assert_eq!(rig.channel.messages_out(), 1);
    }
}

#[test]
fn a_peer_that_asks_and_never_reads_is_owed_few_answers() {
    let (mut rig, mut far) = open(|limits| limits.write_timeout = Duration::ZERO);
    rig.send(b"never taken").unwrap();
    rig.turn().asked(&["send"]);
    for _ in 0..1000 {
        rig.now = rig.now + Duration::from_millis(100);
        far.ask();
        let ping = outputs(&mut far);
        assert!(!ping.is_empty());
        rig.receive(&ping).saw(&[]);
    }
    assert!(rig.channel.queued() < 500, "{} bytes wait", rig.channel.queued());
    // What was not said is said once there is room, and before the goodbye.
    rig.sent().sent().sent();
    rig.channel.close();
    rig.turn().sent();
    let heard = far_events(&mut rig, &mut far);
    assert!(matches!(heard[..], [LinkEvent::Message(_), LinkEvent::GoneAway { .. }]), "{heard:?}");
}

#[test]
fn parts_are_one_message_whatever_their_lengths() {
    let long = vec![7; 10_000];
    let all: [&[&[u8]]; 5] = [&[], &[b""], &[b"one"], &[b"head", b"", b"body"], &[b"head", &long, b"end"]];
    for parts in all {
        let (mut rig, mut far) = open(|_| ());
        rig.channel.send_parts(parts, &mut rig.pool).unwrap();
        rig.turn().sent();
        let heard = far_events(&mut rig, &mut far);
        let whole = parts.concat();
        assert!(
            matches!(&heard[..], [LinkEvent::Message(got)] if *got == &whole[..])
                || matches!(&heard[..], [LinkEvent::Assembled(got)] if *got == whole),
            "{} bytes",
            whole.len()
        );
        assert_eq!(rig.channel.messages_out(), 1);
    }
}

#[test]
fn messages_go_both_ways_and_are_counted() {
    let (mut rig, mut far) = open(|_| ());
    let large = vec![7; 10_000];
    rig.send(b"one").unwrap();
    rig.channel.send_bytes(Bytes::from(large.clone()), &mut rig.pool).unwrap();
    rig.send(b"three").unwrap();
    rig.turn().sent();
    let seen: Vec<Vec<u8>> = far_events(&mut rig, &mut far)
        .into_iter()
        .map(|event| match event {
            LinkEvent::Message(message) => message.to_vec(),
            LinkEvent::Assembled(message) => message,
            other @ (LinkEvent::Established | LinkEvent::Data(_) | LinkEvent::GoneAway { .. }) => {
                panic!("{other:?}")
            }
        })
        .collect();
    assert!(seen == [b"one".to_vec(), large, b"three".to_vec()]);
    let bytes = framed(&far, b"in pieces");
    rig.receive(&bytes[..10]).receive(&bytes[10..]).saw(&["message in pieces"]);
    assert_eq!((rig.channel.messages_out(), rig.channel.messages_in()), (3, 1));
    assert_eq!(rig.settings.counters.messages_out.get(), 3);
}

#[test]
fn one_message_alone_may_pass_outbox_max() {
    let (mut rig, _far) = open(|limits| {
        (limits.outbox_low, limits.outbox_high, limits.outbox_max) = (10, 20, 30);
    });
    let max = rig.channel.max_message();
    let too_big = SendError::TooBig { size: max + 1, max };
    assert_eq!(rig.channel.send_bytes(vec![0; max + 1].into(), &mut rig.pool), Err(too_big));
    rig.send(&[0; 100]).unwrap();
    let full = SendError::WouldBlock { queued: 108, size: 9, max: 30 };
    assert_eq!(rig.send(&[0]), Err(full));
    rig.turn().sent().saw(&["drained"]);
}

#[test]
fn a_close_says_goodbye_after_what_is_queued() {
    let (mut rig, mut far) = open(|_| ());
    rig.send(b"last").unwrap();
    rig.channel.close();
    rig.turn().sent().asked(&["send", "fin"]);
    let events = far_events(&mut rig, &mut far);
    assert!(
        matches!(
            events[..],
            [LinkEvent::Message(b"last"), LinkEvent::GoneAway { reason: Some(CloseReason::Normal), .. }]
        ),
        "{events:?}"
    );
    rig.eof().closed().saw(&["closed normal Us"]);
}

#[test]
fn the_peer_s_goodbye_is_the_reason() {
    let (mut rig, mut far) = open(|_| ());
    far.go_away(CloseReason::Limit, Duration::from_secs(3), "too many");
    rig.receive(&outputs(&mut far)).saw(&[]);
    rig.eof().closed().saw(&["closed limit Peer"]);
    assert_eq!(rig.report().retry_after, Some(Duration::from_secs(3)));
    assert_eq!(rig.report().detail.as_deref(), Some("too many"));
}

#[test]
fn a_goodbye_that_is_read_after_the_connection_failed_explains_it() {
    let (mut rig, mut far) = open(|_| ());
    far.go_away(CloseReason::Duplicate, Duration::ZERO, "");
    rig.send(b"x").unwrap();
    rig.turn().sent_part(0, Some(libc::EPIPE));
    rig.receive(&outputs(&mut far)).asked(&["send", "reset"]).closed().saw(&["closed duplicate Peer"]);
    assert_eq!(rig.report().errno, Some(Errno(libc::EPIPE)));
}

#[test]
fn garbage_ends_the_channel_with_a_goodbye() {
    let (mut rig, mut far) = open(|_| ());
    rig.receive(&[0xff; 100]).saw(&[]);
    rig.sent().eof();
    let events = far_events(&mut rig, &mut far);
    assert!(matches!(events[..], [LinkEvent::GoneAway { .. }]), "{events:?}");
    rig.closed();
    assert_eq!((rig.report().by, rig.report().bytes_in > 100), (ClosedBy::Us, true));
}

#[test]
fn the_end_in_the_middle_of_a_message_is_no_eof() {
    let (mut rig, far) = open(|_| ());
    rig.receive(&framed(&far, b"abc")[..9]).eof().saw(&[]).asked(&["close"]);
    rig.closed().saw(&["closed truncated Peer"]);
}

#[test]
fn an_end_between_messages_is_told_and_the_answer_still_goes() {
    let (mut rig, mut far) = open(|_| ());
    rig.eof().saw(&["eof"]);
    rig.send(b"answer").unwrap();
    rig.channel.close();
    rig.turn().sent().closed().saw(&["closed peer-closed Peer"]);
    assert!(matches!(far_events(&mut rig, &mut far)[0], LinkEvent::Message(b"answer")));
}

#[test]
fn after_the_peer_s_end_we_show_that_we_live_until_our_own() {
    let (mut rig, _far) = open(|_| ());
    rig.eof().saw(&["eof"]);
    for _ in 0..10 {
        rig.time_out(Duration::from_secs(5)).asked(&["send"]).sent();
    }
    rig.channel.shutdown_write();
    rig.turn().asked(&["fin", "close"]).closed().saw(&["closed peer-closed Peer"]);
}

#[test]
fn a_peer_without_a_hello_never_opens() {
    let (mut rig, _far) = fresh(|_| ());
    rig.turn().sent();
    let within = rig.channel.deadline().unwrap() - START;
    rig.time_out(within);
    rig.sent().eof().closed().saw(&["closed handshake-timeout Us"]);

    let (mut rig, _far) = fresh(|_| ());
    rig.turn().sent().eof().closed().saw(&["closed truncated Peer"]);
    assert!(!rig.report().opened);
}

#[test]
fn a_peer_that_is_silent_is_asked_and_then_dead() {
    let (mut rig, _far) = open(|_| ());
    for _ in 0..10 {
        if rig.channel.phase() != Phase::Open {
            break;
        }
        if rig.kernel.out.is_some() {
            rig.sent();
        }
        rig.time_out(Duration::from_secs(60));
    }
    assert!(rig.submitted.contains(&"send"), "it was asked: {:?}", rig.submitted);
    rig.closed().saw(&["closed peer-dead Us"]);
}

/// Goes on to the next deadline; each end shows the other that it lives.
fn beat(rig: &mut Rig, far: &mut Link) {
    rig.time_out(Duration::from_secs(60));
    far_events(rig, far);
    far.handle_timeout(rig.now).unwrap();
    rig.receive(&outputs(far));
    while rig.kernel.out.is_some() {
        rig.sent();
    }
}

#[test]
fn a_channel_with_nothing_but_heartbeats_is_idle() {
    let minute = Duration::from_secs(60);
    let (mut rig, mut far) = open(|limits| limits.idle_timeout = Some(minute));
    let moves: [fn(&mut Rig, &Link); 3] = [
        |rig, far| {
            rig.receive(&framed(far, b"x"));
        },
        |rig, _| {
            rig.send(b"x").unwrap();
            rig.turn().sent();
        },
        // The first frame of a message.
        |rig, far| {
            rig.receive(&framed(far, &[7; 5000])[..8 + 2048]);
        },
    ];
    for moves in moves {
        for _ in 0..5 {
            beat(&mut rig, &mut far);
        }
        moves(&mut rig, &far);
        assert_eq!(rig.channel.moved_at(), rig.now);
    }
    let moved_at = rig.now;
    while rig.channel.phase() == Phase::Open && rig.now - moved_at < minute {
        beat(&mut rig, &mut far);
    }
    assert_eq!((rig.channel.reason().unwrap().0, rig.now), (CloseReason::IdleTimeout, moved_at + minute));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]
    #[test]
    fn random_walks_keep_the_contract_and_end_once(
        steps in prop::collection::vec(step(), 0..80),
        goodbye_after in 0..300_usize,
    ) {
        let (mut rig, mut far) = fresh(|_| ());
        let mut script = outputs(&mut far);
        let mut near = link(1);
        far.next_event(&mut &outputs(&mut near)[..], START).unwrap();
        for len in 0..20 {
            script.extend(framed(&far, &vec![b'm'; len * len]));
        }
        script.truncate(script.len().min(200 + goodbye_after));
        far.go_away(CloseReason::Limit, Duration::ZERO, "");
        script.extend(outputs(&mut far));
        for step in &steps {
            rig.walk(&script, step);
        }
        finish(&mut rig);
    }
}

/// A channel whose hellos are said and which is not admitted.
fn in_question() -> (Rig, Link) {
    let (mut rig, mut far) = fresh(|_| ());
    rig.admits = false;
    rig.turn().sent().receive(&outputs(&mut far)).saw(&[]);
    assert!(matches!(far_events(&mut rig, &mut far)[..], [LinkEvent::Established]));
    (rig, far)
}

#[test]
fn the_program_hears_of_a_channel_when_it_is_admitted() {
    let (mut rig, _far) = in_question();
    assert_eq!(rig.send(b"x"), Err(SendError::NotOpen));
    rig.channel.admit();
    rig.turn().saw(&["opened"]);
}

#[test]
fn a_message_opens_a_channel_that_is_not_admitted() {
    let (mut rig, far) = in_question();
    let bytes = [framed(&far, b"one"), framed(&far, b"two")].concat();
    rig.react = |event, channel, _| {
        if event == "opened" {
            channel.pause();
        }
    };
    rig.receive(&bytes).saw(&["opened"]);
    rig.channel.resume();
    rig.turn().saw(&["message one", "message two"]);
    assert_eq!(rig.channel.messages_in(), 2);
}

#[test]
fn a_retired_channel_takes_no_sends_and_delivers_until_the_peer_has_heard() {
    let (mut rig, mut far) = open(|_| ());
    rig.send(b"last").unwrap();
    rig.channel.retire(CloseReason::Duplicate);
    assert_eq!(rig.send(b"x"), Err(SendError::Closed));
    rig.turn().sent();
    let heard = far_events(&mut rig, &mut far);
    assert!(matches!(heard[0], LinkEvent::Message(b"last")));
    assert!(matches!(heard[1], LinkEvent::GoneAway { reason: Some(CloseReason::Duplicate), .. }));
    let bytes = framed(&far, b"on the way");
    rig.receive(&bytes).saw(&["message on the way"]);
    rig.eof().closed().saw(&["eof", "closed duplicate Us"]);
}

#[test]
fn what_is_on_the_way_to_a_retired_channel_opens_it() {
    let (mut rig, far) = in_question();
    rig.channel.retire(CloseReason::Duplicate);
    rig.turn().sent();
    rig.receive(&framed(&far, b"on the way")).saw(&["opened", "message on the way"]);
    rig.eof().closed().saw(&["eof", "closed duplicate Us"]);
    assert!(rig.report().opened);
}

#[test]
fn a_watched_channel_asks_and_is_confirmed_by_the_answer() {
    let (mut rig, mut far) = open(|_| ());
    rig.channel.watch();
    rig.turn().sent().saw(&[]);
    assert!(far_events(&mut rig, &mut far).is_empty());
    let answer = outputs(&mut far);
    rig.receive(&answer).saw(&["confirmed"]);
    rig.channel.watch();
    rig.turn().saw(&["confirmed"]);
}

#[test]
fn a_link_that_its_peer_ends_is_not_confirmed_by_what_came_with_the_end() {
    for (answers, cut) in [(true, 0), (false, 0), (false, 1)] {
        let (mut rig, mut far) = open(|_| ());
        rig.channel.watch();
        rig.turn().sent();
        far_events(&mut rig, &mut far);
        let answer = outputs(&mut far);
        far.go_away(CloseReason::Duplicate, Duration::ZERO, "");
        let mut bytes = if answers { answer } else { Vec::new() };
        bytes.extend(outputs(&mut far));
        let (first, second) = bytes.split_at(bytes.len() - cut);
        rig.receive(first).receive(second).saw(&[]);
        assert!(rig.channel.is_ending());
    }
}
