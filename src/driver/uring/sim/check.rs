//! What must hold between a driver and its kernel after every turn. The driver's own books are held against the
//! kernel's, so an operation, a buffer or a wake that one of them has lost is seen at once, and not when it is missed.

use super::SimKernel;
use crate::driver::uring::{Acceptor, Socket, UringDriver};

impl UringDriver<SimKernel> {
    pub(crate) fn check(&self) -> Result<(), String> {
        let state = self.kernel.0.borrow();
        let ring = &state.ring;
        let require = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };

        let (ours, kernels) = (self.in_flight, ring.outstanding());
        require(ours == kernels, &format!("{ours} operations in flight, and the kernel has {kernels}"))?;

        let (ours, kernels) = (self.buffers.of_kernel(), ring.kernel_buffers());
        require(ours == kernels, &format!("buffers {ours:?} are the kernel's, which has {kernels:?}"))?;
        let lent = usize::from(self.lent.is_some());
        require(self.buffers.lent_count() == lent, "a buffer is neither the kernel's nor lent")?;

        // What is still to be looked at may have anything to come.
        if !self.sockets.has_changed() && self.ready.is_empty() {
            for socket in self.sockets.iter() {
                self.check_hearing(socket)?;
            }
            let waits = |acceptor: &Acceptor<_>| acceptor.is_waiting(state.network.borrow().now);
            let deaf = self.acceptors.iter().flatten().find(|acceptor| !waits(acceptor));
            require(deaf.is_none(), "a listener neither accepts nor waits to")?;
            require(self.wake_armed || self.finishing, "the waker is not armed")?;
        }
        Ok(())
    }

    fn check_hearing(&self, socket: &Socket) -> Result<(), String> {
        let channel = socket.channel();
        match (socket.is_deaf(), socket.is_starved()) {
            (true, false) => Err(format!("{channel}: should be read from, and no receive is armed")),
            (true, true) if !self.starved.contains(&channel.slot()) => {
                Err(format!("{channel}: waits for a buffer, and nobody knows"))
            }
            (true, true) | (false, _) => Ok(()),
        }
    }
}
