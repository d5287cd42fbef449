//! Between two network namespaces: a cable that is cut, too many from one address, lost packets.

use std::io::Write;
use std::thread;

use super::namespaces::Namespaces;
use super::process::{HEARTBEAT, LINKED, PEER_DEAD, Process};

const LISTEN: &str = "--listen 10.200.1.1:7000 --channels 0:64";

#[test]
fn a_cut_cable_is_noticed_at_both_ends_and_mended_without_a_hand() {
    let Some(net) = Namespaces::new(&[]) else { return };
    let mut listener = Process::start(&net.in_a(), &format!("{LISTEN} {HEARTBEAT}"));
    listener.address();
    let mut dialer =
        Process::start(&net.in_b(), &format!("--listen none --dial 10.200.1.1:7000 {HEARTBEAT}"));
    listener.logs(LINKED);
    dialer.logs(LINKED);
    net.set_link("down");
    listener.logs(PEER_DEAD);
    dialer.logs(PEER_DEAD);
    net.set_link("up");
    listener.logs(LINKED);
    dialer.logs(LINKED);
    dialer.logs("linked again after");
}

#[test]
fn one_address_has_its_share_of_channels_and_others_have_theirs() {
    let Some(net) = Namespaces::new(&[]) else { return };
    let mut listener = Process::start(
        &net.in_a(),
        "--listen 10.200.1.1:7000 --listen 10.200.2.1:7000 --channels-per-ip 4 --channels 0:64",
    );
    listener.address();
    listener.address();
    let dial = |net_number| {
        let args = format!("--listen none --dial 10.200.{net_number}.1:7000 --channels 0:4");
        Process::start(&net.in_b(), &args)
    };
    let mut crowd: Vec<_> = (0..4).map(|_| dial(1)).collect();
    for process in &mut crowd {
        process.logs(LINKED);
        listener.logs(LINKED);
    }
    let mut fifth = dial(1);
    listener.logs("refused: too many channels from one address");
    fifth.logs("cannot link");
    let mut other = dial(2);
    other.logs(LINKED);
    listener.logs(LINKED);
    assert_eq!((listener.count(LINKED), listener.count("refused: too many")), (5, 1), "{:#?}", listener.seen);
    // A place that is free again is for whoever asks.
    drop(crowd.pop());
    fifth.logs(LINKED);
}

#[test]
fn messages_arrive_exact_though_packets_are_lost() {
    let Some(net) = Namespaces::new(&["nft"]) else { return };
    let echo = Process::start(&net.in_a(), LISTEN);
    echo.address();
    let mut pipe =
        Process::start(&net.in_b(), "--listen none --dial 10.200.1.1:7000 --service pipe --channels 0:4");
    pipe.logs(LINKED);
    net.lose(3);
    let line = |number: usize| {
        let mut line = String::with_capacity(8200);
        while line.len() < 8192 {
            line += &format!("{number}.{};", line.len());
        }
        line
    };
    let mut input = pipe.input.take().unwrap();
    let writer = thread::spawn(move || {
        for number in 0..1024 {
            writeln!(input, "{}", line(number)).unwrap();
        }
        input
    });
    for number in 0..1024 {
        assert!(pipe.line() == line(number), "line {number}");
    }
    assert!(net.lost() > 0);
    assert_eq!(pipe.count(r#""message":"closed"#), 0, "{:#?}", pipe.seen);
    drop(writer.join().unwrap());
}
