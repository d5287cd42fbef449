//! The two drivers with each other: a node on either dials a node on either, in both modes, and hears back what it said.

use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use ringlink::service::Echo;
use ringlink::{
    Address, ChannelId, ChannelInfo, CloseReason, CloseReport, Context, DriverKind, Handler, Mode, Node,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than a frame, a receive buffer and a socket's buffers; within what an outbox takes.
const LEN: usize = 3 << 20;

fn data() -> Vec<u8> {
    (0..LEN as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Says all of it once, and closes when it has heard it back.
struct Caller {
    heard: Vec<u8>,
    ended: Sender<(CloseReason, Vec<u8>)>,
}

impl Caller {
    fn hear(&mut self, cx: &mut Context<'_>, channel: ChannelId, bytes: &[u8]) {
        self.heard.extend_from_slice(bytes);
        if self.heard.len() >= LEN {
            cx.close(channel);
        }
    }
}

impl Handler for Caller {
    fn on_open(&mut self, cx: &mut Context<'_>, channel: ChannelId, _: &ChannelInfo) {
        cx.send(channel, &data()).expect("an outbox takes it");
    }

    fn on_data(&mut self, cx: &mut Context<'_>, channel: ChannelId, bytes: &[u8]) {
        self.hear(cx, channel, bytes);
    }

    fn on_message(&mut self, cx: &mut Context<'_>, channel: ChannelId, message: &[u8]) {
        self.hear(cx, channel, message);
    }

    fn on_close(&mut self, _: &mut Context<'_>, _: ChannelId, report: &CloseReport) {
        drop(self.ended.send((report.reason, std::mem::take(&mut self.heard))));
    }
}

fn call(mode: Mode, caller: DriverKind, called: DriverKind) {
    let there = Node::builder().mode(mode).driver(called).listen_on("127.0.0.1:0").expect("an address");
    let there = there.start(|_| Echo).expect("the node starts");
    let (sender, ended) = mpsc::channel();
    let here = Node::builder().mode(mode).driver(caller);
    let here = here.start(move |_| Caller { heard: Vec::new(), ended: sender.clone() });
    let here = here.expect("the node starts");
    here.handle().dial(Address::from(there.local_addrs()[0].clone())).expect("there is room");
    let (reason, heard) = ended.recv_timeout(PATIENCE).expect("the channel ends");
    assert_eq!(reason, CloseReason::Normal, "{mode:?}, {caller:?} to {called:?}");
    assert!(heard == data(), "{mode:?}, {caller:?} to {called:?}");
    for node in [here, there] {
        node.shutdown(PATIENCE);
        node.join().expect("the node ends well");
    }
}

#[test]
fn each_driver_speaks_with_each_in_both_modes() {
    for mode in [Mode::Stream, Mode::Message] {
        for caller in [DriverKind::Uring, DriverKind::TokioUring] {
            for called in [DriverKind::Uring, DriverKind::TokioUring, DriverKind::Auto] {
                call(mode, caller, called);
            }
        }
    }
}
