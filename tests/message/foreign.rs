//! The wire format once more, written from its description and sharing no code with the node: a fault of the node's own
//! codec cannot cancel itself out.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::support::PATIENCE;

pub(crate) const DATA: u8 = 0;
pub(crate) const PING: u8 = 1;
pub(crate) const HELLO: u8 = 3;
pub(crate) const GOAWAY: u8 = 4;
pub(crate) const MORE: u8 = 1;

/// A header whose check byte is right, whatever else is wrong with it.
pub(crate) fn header(len: u32, kind: u8, flags: u8, reserved: u16) -> [u8; 8] {
    let low = u64::from(len) | u64::from(kind) << 24 | u64::from(flags) << 32 | u64::from(reserved) << 40;
    let check = low.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
    (low | check << 56).to_le_bytes()
}

pub(crate) fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    [&header(payload.len() as u32, kind, flags, 0)[..], payload].concat()
}

/// What a hello says; the rest is as good as any.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) magic: [u8; 8],
    pub(crate) versions: (u16, u16),
    pub(crate) required: u64,
    pub(crate) network: [u8; 16],
    pub(crate) node: [u8; 32],
    pub(crate) instance: [u8; 16],
    pub(crate) max_frame: u32,
    pub(crate) tlvs: Vec<u8>,
}

impl Hello {
    /// A good one, in the network of the node whose hello this is.
    pub(crate) fn in_answer_to(theirs: &[u8], node: u8, instance: u8) -> Self {
        Self {
            magic: *b"\x89RING\r\n\x1a",
            versions: (1, 1),
            required: 0,
            network: theirs[28..44].try_into().unwrap(),
            node: [node; 32],
            instance: [instance; 16],
            max_frame: 1 << 20,
            tlvs: Vec::new(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let payload = [
            &self.magic[..],
            &self.versions.0.to_le_bytes(),
            &self.versions.1.to_le_bytes(),
            &self.required.to_le_bytes(),
            &0_u64.to_le_bytes(),
            &self.network,
            &self.node,
            &self.instance,
            &self.max_frame.to_le_bytes(),
            &(16_u32 << 20).to_le_bytes(),
            &5000_u32.to_le_bytes(),
            &self.tlvs,
        ]
        .concat();
        frame(HELLO, 0, &payload)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GoAway {
    pub(crate) code: u16,
    pub(crate) retry_after_ms: u32,
    pub(crate) text: String,
}

/// A peer that is not ringlink.
#[derive(Debug)]
pub(crate) struct Foreign {
    pub(crate) stream: TcpStream,
    /// The payload of the node's hello.
    pub(crate) hello: Vec<u8>,
}

impl Foreign {
    /// Connects and hears the node's hello, but says none.
    #[track_caller]
    pub(crate) fn connect(to: SocketAddr) -> Self {
        Self::of(TcpStream::connect(to).unwrap())
    }

    #[track_caller]
    fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut peer = Self { stream, hello: Vec::new() };
        let (kind, hello) = peer.read_frame().expect("a hello");
        assert_eq!(kind, HELLO);
        assert_eq!(hello[..8], *b"\x89RING\r\n\x1a");
        peer.hello = hello;
        peer
    }

    /// Connects and shakes hands.
    #[track_caller]
    pub(crate) fn link(to: SocketAddr, node: u8, instance: u8) -> Self {
        Self::connect(to).greet(node, instance)
    }

    /// [`Foreign::link`] from the other end: the node has dialed.
    #[track_caller]
    pub(crate) fn answer(listener: &TcpListener, node: u8, instance: u8) -> Self {
        Self::of(listener.accept().unwrap().0).greet(node, instance)
    }

    fn greet(mut self, node: u8, instance: u8) -> Self {
        let hello = Hello::in_answer_to(&self.hello, node, instance);
        self.write(&hello.encode());
        self
    }

    /// The node may close while this is written.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            let gone = matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
            assert!(gone, "{error}");
        }
    }

    /// The next frame; `None` at the end, however it comes.
    pub(crate) fn read_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 8];
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return None;
            }
            Err(error) => panic!("{error}: the node neither speaks nor closes"),
        }
        let len = u32::from_le_bytes([head[0], head[1], head[2], 0]);
        assert_eq!(head, header(len, head[3], head[4], 0), "the node's header is right");
        let mut payload = vec![0; len as usize];
        self.stream.read_exact(&mut payload).unwrap();
        Some((head[3], payload))
    }

    /// The node's goodbye, after which nothing comes; pings before it are not answered.
    #[track_caller]
    pub(crate) fn goodbye(&mut self) -> GoAway {
        loop {
            let (kind, payload) = self.read_frame().expect("a goodbye before the end");
            if kind == GOAWAY {
                assert_eq!(self.read_frame(), None, "the goodbye comes last");
                return GoAway {
                    code: u16::from_le_bytes(payload[..2].try_into().unwrap()),
                    retry_after_ms: u32::from_le_bytes(payload[2..6].try_into().unwrap()),
                    text: String::from_utf8(payload[6..].to_vec()).unwrap(),
                };
            }
        }
    }
}
