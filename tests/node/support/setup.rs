//! The variants a case is run in: how many loops, which driver, and whether everything is tiny.

use std::env;
use std::process::{Command, Stdio};
use std::time::Duration;

use ringlink::{Address, Builder, Mode, Node};

use super::{OtherProcess, PATIENCE, tiny};

/// Set in a process that a test started to be alone in.
const CHILD: &str = "RINGLINK_TEST_CHILD";

/// One case, run in every variant. **Further variants are added here, and nowhere else.**
///
/// `not tiny` leaves the tiny profile out, for a case that is about the size of something.
macro_rules! node_test {
    ($name:ident, |$setup:ident| $body:block) => {
        mod $name {
            use super::*;
            node_test!(@case $setup, $body);
            node_test!(@variant one_loop, Setup::new(1));
            node_test!(@variant two_loops, Setup::new(2));
            node_test!(@variant tiny, Setup::new(1).tiny());
            node_test!(@variant tokio_uring, Setup::new(1).on(ringlink::DriverKind::TokioUring));
            node_test!(@variant tokio_uring_two_loops, Setup::new(2).on(ringlink::DriverKind::TokioUring));
            node_test!(@variant tokio_uring_tiny, Setup::new(1).tiny().on(ringlink::DriverKind::TokioUring));
        }
    };
    ($name:ident, not tiny, |$setup:ident| $body:block) => {
        mod $name {
            use super::*;
            node_test!(@case $setup, $body);
            node_test!(@variant one_loop, Setup::new(1));
            node_test!(@variant two_loops, Setup::new(2));
            node_test!(@variant tokio_uring, Setup::new(1).on(ringlink::DriverKind::TokioUring));
            node_test!(@variant tokio_uring_two_loops, Setup::new(2).on(ringlink::DriverKind::TokioUring));
        }
    };
    (@case $setup:ident, $body:block) => {
        fn case($setup: &Setup) $body
    };
    (@variant $variant:ident, $setup:expr) => {
        #[test]
        fn $variant() {
            case(&$setup.named(concat!(module_path!(), "::", stringify!($variant))));
        }
    };
}
pub(crate) use node_test;

/// The variant a case is run in.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) loops: usize,
    pub(crate) is_tiny: bool,
    driver: ringlink::DriverKind,
    name: &'static str,
}

impl Setup {
    pub(crate) fn new(loops: usize) -> Self {
        Self { loops, is_tiny: false, driver: ringlink::DriverKind::Uring, name: "" }
    }

    pub(crate) fn on(mut self, driver: ringlink::DriverKind) -> Self {
        self.driver = driver;
        self
    }

    /// True for the driver that alone has receive buffers that the kernel keeps and channels may find empty, and an
    /// operation that stands for the waker. All else that cases claim holds for both.
    pub(crate) fn is_native(&self) -> bool {
        self.driver == ringlink::DriverKind::Uring
    }

    /// Everything as small as it goes: the queues are full, the buffers out and the outboxes at their cap all the
    /// time.
    pub(crate) fn tiny(mut self) -> Self {
        self.is_tiny = true;
        self
    }

    pub(crate) fn named(mut self, path: &'static str) -> Self {
        // The harness's names have no crate in front.
        self.name = path.split_once("::").map_or(path, |(_, name)| name);
        self
    }

    /// `bytes` of a bulk transfer in a release build; less where it would only take longer.
    pub(crate) fn bulk(&self, bytes: usize) -> usize {
        let debug = if cfg!(debug_assertions) { 4 } else { 1 };
        bytes / debug / if self.is_tiny { 16 } else { 1 }
    }

    /// A stream node that only dials; its deadlines are so long that no case depends on them unless it sets them.
    pub(crate) fn dialer(&self) -> Builder {
        let builder = Node::builder().mode(Mode::Stream).driver(self.driver).loops(self.loops).limits(|l| {
            l.close_timeout = PATIENCE;
            l.linger_timeout = Duration::from_secs(5);
            l.write_timeout = PATIENCE;
            l.dial_timeout = PATIENCE;
        });
        if !self.is_tiny {
            return builder;
        }
        tiny::everything(builder)
    }

    /// A stream node that listens on any free port of 127.0.0.1.
    pub(crate) fn listener(&self) -> Builder {
        self.dialer().listen(any_port())
    }

    /// The outbox limits (low, high, max) of this variant's nodes.
    pub(crate) fn outbox(&self) -> (usize, usize, usize) {
        if self.is_tiny { tiny::OUTBOX } else { (64 << 10, 256 << 10, 4 << 20) }
    }

    /// Runs the case again in a process of its own, where it alone decides about descriptors and threads.
    pub(crate) fn in_own_process(&self, body: impl FnOnce()) {
        if env::var_os(CHILD).is_some() {
            return body();
        }
        let output = self.own_process(None).stdin(Stdio::null()).output().expect("the test starts itself");
        assert!(
            output.status.success(),
            "{} in its own process: {}\n{}\n{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
    }

    /// Splits the case in two processes: `child`, started with at most `descriptors`, and `parent`, who talks to it
    /// in lines.
    pub(crate) fn in_two_processes(
        &self,
        descriptors: u32,
        child: impl FnOnce(),
        parent: impl FnOnce(&mut OtherProcess),
    ) {
        if env::var_os(CHILD).is_some() {
            return child();
        }
        super::raise_descriptor_limit();
        let mut command = self.own_process(Some(descriptors));
        let mut process = OtherProcess::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        parent(&mut process);
        process.end();
    }

    fn own_process(&self, descriptors: Option<u32>) -> Command {
        let limit = descriptors.map_or(String::new(), |n| format!("ulimit -n {n}; "));
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("{limit}exec \"$0\" \"$@\""))
            .arg(env::current_exe().expect("a test knows its own path"))
            .args(["--exact", self.name, "--nocapture", "--test-threads=1"])
            .env(CHILD, "1");
        command
    }
}

pub(crate) fn any_port() -> Address {
    "127.0.0.1:0".parse().unwrap()
}
