//! A peer that is stopped is dead; one that is busy is not.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use ringlink::{ChannelId, ChannelInfo, CloseReport, Context, Direction, Handler, Node};
use rustix::process::Signal;

use super::process::{HEARTBEAT, LINKED, PATIENCE, PEER_DEAD, Process};

fn stopped_and_linked_again(stop_the_dialer: bool) {
    let listener = Process::start("", &format!("--listen 127.0.0.1:0 {HEARTBEAT}"));
    let address = listener.address();
    let dialer = Process::start("", &format!("--listen none --dial {address} {HEARTBEAT}"));
    let (mut stopped, mut other) = if stop_the_dialer { (dialer, listener) } else { (listener, dialer) };
    stopped.logs(LINKED);
    other.logs(LINKED);
    stopped.signal(Signal::STOP);
    other.logs(PEER_DEAD);
    stopped.signal(Signal::CONT);
    stopped.logs(LINKED);
    other.logs(LINKED);
}

#[test]
fn a_stopped_listener_is_dead_and_linked_again_when_it_goes_on() {
    stopped_and_linked_again(false);
}

#[test]
fn a_stopped_dialer_is_dead_and_linked_again_when_it_goes_on() {
    stopped_and_linked_again(true);
}

/// Messages to be received; each takes 20 ms at least, and all three times `dead_after`.
const ENOUGH: u64 = 150;

enum Event {
    Enough,
    Closed(Box<CloseReport>),
}

/// Sends as much as goes, one way; whoever receives takes its time.
struct OneWay {
    events: Sender<Event>,
    received: u64,
    /// Never speaks: waiting for it takes time.
    nobody: (Sender<()>, Receiver<()>),
}

impl OneWay {
    fn fill(cx: &mut Context<'_>, channel: ChannelId) {
        while !cx.is_backed_up(channel) {
            cx.send(channel, &[7; 4096]).unwrap();
        }
    }
}

impl Handler for OneWay {
    fn on_open(&mut self, cx: &mut Context<'_>, channel: ChannelId, info: &ChannelInfo) {
        if info.direction == Direction::Dialed {
            Self::fill(cx, channel);
        }
    }

    fn on_drained(&mut self, cx: &mut Context<'_>, channel: ChannelId) {
        Self::fill(cx, channel);
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: ChannelId, _: &[u8]) {
        self.received += 1;
        if self.received == ENOUGH {
            drop(self.events.send(Event::Enough));
        }
        let _ = self.nobody.1.recv_timeout(Duration::from_millis(20));
    }

    fn on_close(&mut self, _: &mut Context<'_>, _: ChannelId, report: &CloseReport) {
        drop(self.events.send(Event::Closed(Box::new(report.clone()))));
    }
}

#[test]
fn a_link_that_is_busy_one_way_is_never_taken_for_dead() {
    let (sender, events) = mpsc::channel();
    let start = || {
        let builder = Node::builder().listen_on("127.0.0.1:0").unwrap();
        let builder = builder.limits(|limits| {
            (limits.heartbeat, limits.dead_after) = (Duration::from_millis(200), Duration::from_secs(1));
            (limits.outbox_low, limits.outbox_high) = (64 << 10, 256 << 10);
        });
        let builder = builder.socket(|socket| {
            (socket.send_buffer, socket.receive_buffer) = (Some(16 << 10), Some(16 << 10));
        });
        let builder = builder.ring(|ring| {
            (ring.receive_buffers, ring.receive_buffer_size, ring.completion_budget) = (4, 4 << 10, 4);
        });
        let sender = sender.clone();
        let handler = move |_| OneWay { events: sender.clone(), received: 0, nobody: mpsc::channel() };
        builder.start(handler).unwrap()
    };
    let nodes = [start(), start()];
    nodes[0].handle().dial(nodes[1].local_addrs()[0].clone()).unwrap();
    match events.recv_timeout(PATIENCE).unwrap() {
        Event::Enough => {}
        Event::Closed(report) => panic!("{report}"),
    }
    for node in &nodes {
        assert_eq!(node.handle().closed_channels(), []);
    }
}
