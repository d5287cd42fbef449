//! What the kernel knows of the connections of a run (`TCP_INFO`), asked by its socket diagnosis (`sock_diag(7)`): by port,
//! so of both engines alike, of foreign servers too, and without a call on the way of a byte.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_AND_DUMP: u16 = 0x301;
const DONE: u16 = 3;
const ERROR: u16 = 2;
const IPPROTO_TCP: u8 = 6;
const ESTABLISHED: u32 = 1 << 1;
/// The attributes that are asked for: `INET_DIAG_INFO` and `INET_DIAG_CONG`.
const INFO: u16 = 2;
const CONG: u16 = 4;
const HEADER: usize = 16;
const MESSAGE: usize = 72;

/// One side of the connections to a port, over their whole life.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TcpInfo {
    pub(crate) connections: u64,
    /// Smoothed round trips as the kernel measures them: those of segments and their acknowledgements.
    pub(crate) rtt_mean_ns: f64,
    pub(crate) rtt_max_ns: u64,
    pub(crate) retransmitted_segments: u64,
    pub(crate) segments_out: u64,
    pub(crate) bytes_acked: u64,
    pub(crate) bytes_received: u64,
    pub(crate) congestion_window_mean: f64,
    pub(crate) busy_ns: u64,
    /// Of the busy time: the receiver had announced no more room.
    pub(crate) rwnd_limited_ns: u64,
    /// Of the busy time: the send buffer was full.
    pub(crate) sndbuf_limited_ns: u64,
    pub(crate) congestion: String,
}

/// The two sides, where they are on this machine and in this network namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Both {
    pub(crate) client: Option<TcpInfo>,
    pub(crate) server: Option<TcpInfo>,
}

impl Both {
    /// Of the connections to a port that are established now.
    pub(crate) fn of(port: u16, is_ipv6: bool) -> Self {
        let side = |sport, dport| match ask(sport, dport, is_ipv6) {
            Ok(info) => Some(info).filter(|info| info.connections > 0),
            Err(error) => {
                tracing::debug!("the kernel does not tell of its sockets: {error:#}");
                None
            }
        };
        Self { client: side(0, port), server: side(port, 0) }
    }
}

fn request(sport: u16, dport: u16, is_ipv6: bool) -> Vec<u8> {
    let family = if is_ipv6 { 10 } else { 2 };
    let wanted = 1 << (INFO - 1) | 1 << (CONG - 1);
    let mut body = vec![family, IPPROTO_TCP, wanted, 0];
    body.extend_from_slice(&ESTABLISHED.to_ne_bytes());
    body.extend_from_slice(&sport.to_be_bytes());
    body.extend_from_slice(&dport.to_be_bytes());
    body.extend_from_slice(&[0; 36]); // any addresses, any interface
    body.extend_from_slice(&[0xFF; 8]); // no cookie
    let len = u32::try_from(HEADER + body.len()).expect("it is short");
    let mut message = len.to_ne_bytes().to_vec();
    message.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend_from_slice(&REQUEST_AND_DUMP.to_ne_bytes());
    message.extend_from_slice(&[0; 8]); // sequence, port
    message.extend(body);
    message
}

fn ask(sport: u16, dport: u16, is_ipv6: bool) -> anyhow::Result<TcpInfo> {
    let (domain, protocol) = (Domain::from(AF_NETLINK), Protocol::from(NETLINK_SOCK_DIAG));
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol)).context("netlink")?;
    socket.write_all(&request(sport, dport, is_ipv6))?;
    let (mut info, mut buffer) = (TcpInfo::default(), vec![0; 64 << 10]);
    loop {
        let len = socket.read(&mut buffer)?;
        let mut rest = &buffer[..len];
        while rest.len() >= HEADER {
            let len = number(rest, 0) as usize;
            let (message, after) =
                rest.split_at_checked(len.next_multiple_of(4).max(HEADER)).unwrap_or((rest, &[]));
            match short(message, 4) {
                DONE => {
                    info.rtt_mean_ns /= info.connections.max(1) as f64;
                    info.congestion_window_mean /= info.connections.max(1) as f64;
                    return Ok(info);
                }
                ERROR => bail!("error {}", number(message, HEADER).cast_signed()),
                _ => info.add(message.get(HEADER + MESSAGE..).unwrap_or(&[])),
            }
            rest = after;
        }
    }
}

fn short(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |value| u16::from_ne_bytes(*value))
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |value| u32::from_ne_bytes(*value))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |value| u64::from_ne_bytes(*value))
}

impl TcpInfo {
    /// Adds a connection, as its attributes describe it.
    fn add(&mut self, mut attributes: &[u8]) {
        self.connections += 1;
        while attributes.len() >= 4 {
            let (len, kind) = (usize::from(short(attributes, 0)), short(attributes, 2));
            let Some(value) = attributes.get(4..len) else { return };
            match kind {
                INFO => self.add_info(value),
                CONG => {
                    let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
                    self.congestion = String::from_utf8_lossy(name).into_owned();
                }
                _ => {}
            }
            attributes = attributes.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
    }

    /// Places are those of `struct tcp_info`; an older kernel's is shorter, and what is missing is zero.
    fn add_info(&mut self, info: &[u8]) {
        let micros = |at| long(info, at).saturating_mul(1000);
        let rtt = u64::from(number(info, 68)) * 1000;
        self.rtt_mean_ns += rtt as f64;
        self.rtt_max_ns = self.rtt_max_ns.max(rtt);
        self.congestion_window_mean += f64::from(number(info, 80));
        self.retransmitted_segments += u64::from(number(info, 100));
        self.bytes_acked += long(info, 120);
        self.bytes_received += long(info, 128);
        self.segments_out += u64::from(number(info, 136));
        self.busy_ns += micros(168);
        self.rwnd_limited_ns += micros(176);
        self.sndbuf_limited_ns += micros(184);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn both_sides_of_a_connection_are_found_by_its_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(Both::of(port, false), Both::default());
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[7; 1000]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        server.write_all(&[7]).unwrap();
        client.read_exact(&mut [0]).unwrap(); // by then the client's bytes are acknowledged
        let both = Both::of(port, false);
        let (client, server) = (both.client.unwrap(), both.server.unwrap());
        assert_eq!((client.connections, server.connections), (1, 1));
        assert_eq!((client.bytes_acked, server.bytes_received), (1001, 1000)); // the SYN counts
        assert!(client.rtt_mean_ns > 0.0 && !client.congestion.is_empty());
    }

    #[test]
    fn what_is_cut_is_no_panic() {
        let mut info = TcpInfo::default();
        for attributes in [&[][..], &[1], &[8, 0, 2, 0], &[3, 0, 2, 0, 1, 1], &[6, 0, 2, 0, 1, 1]] {
            info.add(attributes);
        }
        assert_eq!(info.connections, 5);
    }
}
