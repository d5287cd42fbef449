//! Where a node listens and whom it dials: addresses as people write them, and endpoints as sockets know them.
//! Names are resolved elsewhere (`node/names.rs`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// The port of an address that names none.
pub const DEFAULT_PORT: u16 = 10_000;

/// An address as written: `host:port`, `:port`, `host` or `unix:/path`.
///
/// No port means [`DEFAULT_PORT`]. `:port` is every interface for a listener and this machine for a dial. A literal
/// IPv6 address with a port is bracketed, `[::1]:7000`; a link-local one names its interface, `[fe80::1%eth0]:7000`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// A host name or a literal IP address, and a port. An empty host is the `:port` form. A literal IPv6 address may have
    /// a scope, `fe80::1%2`; by the interface's name it is looked up as a name is.
    Host(String, u16),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// A text that is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not an address ({why}); use host:port, :port, host or unix:/path")]
pub struct ParseAddressError {
    text: String,
    why: &'static str,
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |why| ParseAddressError { text: text.to_owned(), why };
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => Err(fail("the path is empty")),
                // sun_path holds 108 bytes with its terminating zero.
                1..=107 => Ok(Self::Unix(PathBuf::from(path))),
                _ => Err(fail("a Unix socket's path has at most 107 bytes")),
            };
        }
        if text.is_empty() {
            return Err(fail("it is empty"));
        }
        let of_host = |host: &str, port| match host.parse::<Ipv6Addr>() {
            Ok(ip) if ip.is_unicast_link_local() => {
                Err(fail("a link-local address needs its interface, as in [fe80::1%eth0]:7000"))
            }
            Ok(_) | Err(_) => Ok(Self::Host(host.to_owned(), port)),
        };
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if is_literal(bare) {
            return of_host(bare, DEFAULT_PORT);
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                (host, port.parse().map_err(|_| fail("the port is not a number from 0 to 65535"))?)
            }
            None => (text, DEFAULT_PORT),
        };
        let literal = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = literal.unwrap_or(host);
        if literal.is_some_and(|h| !is_literal(h)) {
            return Err(fail("what is in brackets is not an IP address"));
        }
        if literal.is_none() && host.contains(':') {
            return Err(fail("an IPv6 address with a port needs brackets, as in [::1]:7000"));
        }
        if host.chars().any(is_in_no_host) {
            return Err(fail("the host has a character no host has"));
        }
        of_host(host, port)
    }
}

/// An IP address; of IPv6 also with a scope.
fn is_literal(host: &str) -> bool {
    match host.split_once('%') {
        None => host.parse::<IpAddr>().is_ok(),
        Some((ip, scope)) => {
            let is_scope = !scope.is_empty() && !scope.contains(|c| is_in_no_host(c) || ":]".contains(c));
            is_scope && ip.parse::<Ipv6Addr>().is_ok()
        }
    }
}

fn is_in_no_host(c: char) -> bool {
    c.is_whitespace() || c == '/' || c.is_control()
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let host = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
            SocketAddr::V4(_) | SocketAddr::V6(_) => address.ip().to_string(),
        };
        Self::Host(host, address.port())
    }
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Self {
        Self::Unix(path.to_owned())
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

impl Address {
    /// The endpoint, when no name has to be looked up for it; `any` stands for the empty host.
    pub(crate) fn literal(&self, any: IpAddr) -> Option<Endpoint> {
        match self {
            Self::Unix(path) => Some(Endpoint::Unix(Arc::from(path.as_path()))),
            Self::Host(host, port) if host.is_empty() => Some(Endpoint::Tcp(SocketAddr::new(any, *port))),
            Self::Host(host, port) => {
                let scoped = || format!("[{host}]:{port}").parse().map(|v6: SocketAddrV6| v6.into());
                let plain = host.parse().map(|ip| SocketAddr::new(ip, *port));
                plain.or_else(|_| scoped()).ok().map(Endpoint::Tcp)
            }
        }
    }

    /// True for the `:port` form.
    pub(crate) fn has_no_host(&self) -> bool {
        matches!(self, Self::Host(host, _) if host.is_empty())
    }

    /// [`Address::literal`] for a dial.
    pub(crate) fn dial_literal(&self) -> Option<Endpoint> {
        self.literal(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Both ends of a connection.
#[derive(Debug)]
pub(crate) struct Endpoints {
    pub(crate) local: Endpoint,
    pub(crate) peer: Endpoint,
}

/// One end of a connection, as its socket knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix socket. The dialing end has no name: an empty path.
    Unix(Arc<Path>),
}

impl Endpoint {
    /// The IP address; `None` for a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix(_) => None,
        }
    }

    /// The socket address; `None` for a Unix socket.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) if path.as_os_str().is_empty() => f.write_str("unix:(unnamed)"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<Endpoint> for Address {
    fn from(endpoint: Endpoint) -> Self {
        match endpoint {
            Endpoint::Tcp(address) => Self::from(address),
            Endpoint::Unix(path) => Self::from(&*path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn host(text: &str, host: &str, port: u16) {
        assert_eq!(text.parse(), Ok(Address::Host(host.to_owned(), port)), "{text}");
    }

    #[test]
    fn every_written_form_is_read() {
        host("example.org:7000", "example.org", 7000);
        host("example.org", "example.org", DEFAULT_PORT);
        host(":7000", "", 7000);
        host("127.0.0.1", "127.0.0.1", DEFAULT_PORT);
        host("127.0.0.1:0", "127.0.0.1", 0);
        host("::1", "::1", DEFAULT_PORT);
        host("[::1]", "::1", DEFAULT_PORT);
        host("[::1]:7000", "::1", 7000);
        host("[fe80::1%eth0]:7000", "fe80::1%eth0", 7000);
        host("fe80::1%2", "fe80::1%2", DEFAULT_PORT);
        assert_eq!("unix:/run/x".parse(), Ok(Address::Unix("/run/x".into())));
    }

    #[test]
    fn a_wrong_address_says_what_is_wrong_with_it() {
        for (text, why) in [
            ("", "it is empty"),
            ("unix:", "the path is empty"),
            ("a:b", "not a number"),
            ("a:65536", "not a number"),
            ("fe80::1:x", "not a number"),
            ("a:b:1", "needs brackets"),
            ("[x]:1", "not an IP address"),
            ("[fe80::1%]:1", "not an IP address"),
            ("[fe80::1%a b]:1", "not an IP address"),
            ("[127.0.0.1%lo]:1", "not an IP address"),
            ("fe80::1%eth0:1", "needs brackets"),
            ("fe80::1", "needs its interface"),
            ("[fe80::1]:1", "needs its interface"),
            ("a b:1", "a character no host has"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn display_reads_back() {
        for text in ["example.org:1", "[::1]:7000", "[fe80::1%eth0]:7000", ":7000", "unix:/run/x"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_scope_stays_with_its_address() {
        let endpoint = Endpoint::Tcp("[fe80::1%3]:7".parse().unwrap());
        let address = Address::from(endpoint.clone());
        assert_eq!(address.to_string(), "[fe80::1%3]:7");
        assert_eq!(address.dial_literal(), Some(endpoint));
        let by_name: Address = "[fe80::1%eth0]:7".parse().unwrap();
        assert_eq!(by_name.dial_literal(), None, "which number the interface has is looked up");
    }

    #[test]
    fn the_empty_host_is_what_the_caller_says() {
        let address: Address = ":9".parse().unwrap();
        assert_eq!(address.dial_literal().unwrap().to_string(), "127.0.0.1:9");
        assert_eq!("name:9".parse::<Address>().unwrap().dial_literal(), None);
    }
}
