//! The pipe's input, cut and sent.

use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;

use super::*;
use crate::Node;

fn blocks(mode: Mode, limits: &Limits, mut input: &[u8]) -> Vec<Bytes> {
    let pipe = Pipe::new(limits);
    std::iter::from_fn(|| pipe.shared.next_block(mode, &mut input).unwrap()).collect()
}

#[test]
fn a_line_is_a_message_without_its_end() {
    let lines = blocks(Mode::Message, &Limits::default(), b"one\n\nthree\r\nlast");
    assert_eq!(lines, ["one", "", "three\r", "last"]);
}

#[test]
fn a_line_that_fits_into_no_outbox_becomes_several_messages() {
    let limits = Limits { outbox_low: 2, outbox_max: 6, ..Limits::default() };
    assert_eq!(blocks(Mode::Message, &limits, b"abcdefghi\nj\n"), ["abcd", "efgh", "i", "j"]);
}

#[test]
fn a_line_that_is_longer_than_a_message_becomes_several() {
    let limits = Limits { max_message: 4, ..Limits::default() };
    assert_eq!(blocks(Mode::Message, &limits, b"abcdefghi\nj\n"), ["abcd", "efgh", "i", "j"]);
}

/// Tells each message it gets.
struct Listener(mpsc::Sender<Vec<u8>>);

impl Handler for Listener {
    fn on_message(&mut self, _: &mut Context<'_>, _: ChannelId, message: &[u8]) {
        self.0.send(message.to_owned()).unwrap();
    }
}

#[test]
fn a_line_that_is_longer_than_the_peer_takes_becomes_several_messages() {
    let (heard, messages) = mpsc::channel();
    let node = Node::builder().limits(|limits| (limits.max_frame, limits.max_message) = (1024, 2048));
    let peer = node.listen_on("127.0.0.1:0").unwrap().start(move |_| Listener(heard.clone())).unwrap();
    let pipe = Pipe::new(&Limits::default());
    let handler = pipe.clone();
    let node = Node::builder().peer(peer.local_addrs()[0].clone()).start(move |_| handler.clone()).unwrap();
    let line: Vec<u8> = (0..5000_u32).map(|n| b'a' + (n % 26) as u8).collect();
    let input = io::Cursor::new([&line[..], b"\nnext\n"].concat());
    pipe.connect(&node.handle(), Mode::Message, input, io::sink()).unwrap();
    let came = [(); 4].map(|()| messages.recv_timeout(Duration::from_secs(60)).unwrap());
    assert_eq!(came.each_ref().map(Vec::len), [2048, 2048, 904, 4]);
    assert!(came[..3].concat() == line);
    node.join().unwrap();
}

#[test]
fn a_stream_is_cut_into_blocks_that_find_room() {
    let input: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
    let all = blocks(Mode::Stream, &Limits::default(), &input);
    assert!(all.iter().all(|block| block.len() <= BLOCK));
    assert_eq!(all.concat(), input);
    let limits = Limits { outbox_low: 0, outbox_max: 100, ..Limits::default() };
    assert!(blocks(Mode::Stream, &limits, &input).iter().all(|block| block.len() <= 50));
}

#[test]
fn flush_gives_up_when_told_to_hurry() {
    let pipe = Pipe::new(&Limits::default());
    lock(&pipe.shared.output).waiting.push(1);
    pipe.hurry(Duration::ZERO);
    pipe.flush().unwrap();
}

/// A pipe whose loop stands still in `on_data`, from when the input may go on until it has ended.
struct Slow {
    pipe: Pipe,
    go_on: mpsc::Sender<()>,
}

impl Handler for Slow {
    fn on_open(&mut self, cx: &mut Context<'_>, channel: ChannelId, info: &ChannelInfo) {
        self.pipe.on_open(cx, channel, info);
    }

    fn on_data(&mut self, cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        self.go_on.send(()).unwrap();
        while !lock(&self.pipe.shared.input).ended {
            thread::yield_now();
        }
        self.pipe.on_data(cx, channel, data);
    }

    fn on_eof(&mut self, cx: &mut Context<'_>, channel: ChannelId) {
        self.pipe.on_eof(cx, channel);
    }

    fn on_close(&mut self, cx: &mut Context<'_>, channel: ChannelId, report: &CloseReport) {
        self.pipe.on_close(cx, channel, report);
    }
}

/// Input that waits until it may go on.
struct Held(mpsc::Receiver<()>, &'static [u8]);

impl io::Read for Held {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if !self.1.is_empty() {
            self.0.recv().unwrap();
        }
        self.1.read(to)
    }
}

#[test]
fn what_was_read_is_sent_though_the_peer_ends_at_the_same_moment() {
    let pipe = Pipe::new(&Limits::default());
    let (go_on, held) = mpsc::channel();
    let slow = pipe.clone();
    let node = Node::builder().mode(Mode::Stream).listen_on("127.0.0.1:0").unwrap();
    let node = node.start(move |_| Slow { pipe: slow.clone(), go_on: go_on.clone() }).unwrap();
    let crate::Endpoint::Tcp(address) = node.local_addrs()[0].clone() else { panic!("it listens on TCP") };
    let mut peer = TcpStream::connect(address).unwrap();
    peer.write_all(b"a question").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let input = io::BufReader::new(Held(held, b"an answer"));
    pipe.connect(&node.handle(), Mode::Stream, input, io::sink()).unwrap();
    let mut answer = String::new();
    peer.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "an answer");
    node.join().unwrap();
}
