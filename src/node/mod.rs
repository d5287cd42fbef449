//! The node: loops, each on a thread of its own, and how a program drives them.
//!
//! Read [`event_loop`] first. What a loop knows is in `core`, what a program is told in `handler`, what it may ask in
//! `context` (callbacks) and `handle` (other threads), whose commands come by `mailbox`. `start` makes the loops, `names`
//! looks hosts up without holding one up, `timers` holds what is due later. What concerns links as such, the strangers,
//! the peers and the addresses that are dialed again, begins in `linking`.

use std::thread::JoinHandle;
use std::time::Duration;

use crate::addr::Endpoint;
use crate::error::NodeError;

pub(crate) mod admission;
#[cfg(feature = "internals")]
pub(crate) mod bench_support;
pub(crate) mod builder;
pub(crate) mod command;
pub(crate) mod context;
pub(crate) mod core;
pub(crate) mod dialing;
pub(crate) mod event_loop;
pub(crate) mod handle;
pub(crate) mod handler;
pub(crate) mod history;
pub(crate) mod identity;
pub(crate) mod info;
pub(crate) mod linking;
pub(crate) mod mailbox;
pub(crate) mod names;
pub(crate) mod peers;
pub(crate) mod shared;
pub(crate) mod sought;
pub(crate) mod spin;
pub(crate) mod start;
pub(crate) mod timers;

use builder::Builder;
use handle::Handle;

/// A running node. Dropping it ends it at once, and waits for that; [`Node::shutdown`] and [`Node::join`] end it in
/// good order.
#[derive(Debug)]
#[must_use = "a node that is dropped ends at once: keep it, or join it"]
pub struct Node {
    handle: Handle,
    local_addrs: Vec<Endpoint>,
    threads: Vec<JoinHandle<Result<(), NodeError>>>,
}

impl Node {
    /// A node to be: set it up, then [`Builder::start`] it.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Where the node listens, in the order of [`Builder::listen`], with the ports it got.
    pub fn local_addrs(&self) -> &[Endpoint] {
        &self.local_addrs
    }

    /// See [`Handle::shutdown`].
    pub fn shutdown(&self, grace: Duration) {
        self.handle.shutdown(grace);
    }

    /// Waits until the node has ended, and says why it did: `Ok` after a shutdown.
    ///
    /// # Errors
    ///
    /// The first loop that failed: see [`NodeError`]. When one fails the others are shut down at once.
    pub fn join(mut self) -> Result<(), NodeError> {
        self.wait()
    }

    fn wait(&mut self) -> Result<(), NodeError> {
        let mut result = Ok(());
        for (loop_index, thread) in self.threads.drain(..).enumerate() {
            let outcome = thread.join().unwrap_or_else(|payload| {
                let message = event_loop::panic_message(&*payload).to_owned();
                Err(NodeError::Panicked { loop_index, message })
            });
            result = result.and(outcome);
        }
        result
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.handle.shutdown(Duration::ZERO);
            if let Err(error) = self.wait() {
                tracing::error!(%error, "a dropped node did not end well");
            }
        }
    }
}
