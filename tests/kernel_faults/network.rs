//! Between two network namespaces: a cable that is cut, too many from one address, lost packets, a firewall, a
//! slow line.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;

use rustix::process::Signal;

use super::load::Load;
use super::namespaces::Namespaces;
use super::process::{HEARTBEAT, LINKED, PEER_DEAD, Process};

fn connect(net: &Namespaces, to: SocketAddr) -> TcpStream {
    net.spawn_in_b(move || TcpStream::connect(to).unwrap()).join().unwrap()
}

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

#[test]
fn a_firewall_that_resets_is_one_close_and_who_is_kept_up_comes_back() {
    let Some(net) = Namespaces::new(&["nft"]) else { return };
    let mut listener = Process::start(&net.in_a(), &format!("{LISTEN} {HEARTBEAT}"));
    listener.address();
    let mut dialer =
        Process::start(&net.in_b(), &format!("--listen none --dial 10.200.1.1:7000 {HEARTBEAT}"));
    for _ in 0..3 {
        listener.logs(LINKED);
        dialer.logs(LINKED);
        net.reset_in_a();
        // The first heartbeat is answered by the firewall; the listener hears of nothing any more.
        dialer.logs(r#""reason":"reset""#);
        listener.logs(r#""message":"closed"#);
        dialer.logs("cannot link");
        net.pass();
    }
    listener.logs(LINKED);
    dialer.logs(LINKED);
}

/// In stream mode nobody asks whether the peer lives, and it is the kernel that finds out.
#[test]
fn a_stream_over_a_cut_cable_ends_by_user_timeout() {
    let Some(net) = Namespaces::new(&[]) else { return };
    let mut node = Process::start(
        &format!("{} /usr/bin/env RUST_LOG=ringlink=debug", net.in_a()),
        &format!("{LISTEN} --mode stream --service pipe --user-timeout 1s"),
    );
    node.address();
    let to = "10.200.1.1:7000".parse().unwrap();
    for _ in 0..2 {
        let mut client = connect(&net, to);
        let mut local = net.spawn_in_a(move || TcpStream::connect(to).unwrap()).join().unwrap();
        client.write_all(b"here\n").unwrap();
        assert_eq!(node.line(), "here");
        net.set_link("down");
        node.input.as_mut().unwrap().write_all(b"to nobody\n").unwrap();
        node.logs(PEER_DEAD);
        // Whom the cable does not concern is as well as before.
        local.write_all(b"still here\n").unwrap();
        assert_eq!(node.line(), "still here");
        net.set_link("up");
    }
}

#[test]
fn a_slow_line_makes_it_slower_and_nothing_else() {
    let Some(net) = Namespaces::new(&["tc"]) else { return };
    let mut echo = Process::start(&net.in_a(), &format!("{LISTEN} --mode stream --loops 2"));
    echo.address();
    net.slow_down("20mbit");
    let to = "10.200.1.1:7000".parse().unwrap();
    let clients: Vec<_> = (0..4).map(|seed| Load::on(connect(&net, to), seed)).collect();
    for client in &clients {
        client.wait_for(500_000);
    }
    echo.signal(Signal::TERM);
    for client in clients {
        let end = client.end();
        assert!(end.bytes >= 500_000 && end.orderly, "{end:?}");
    }
    assert_eq!(echo.ended(), Some(0), "{:#?}", echo.seen);
}
