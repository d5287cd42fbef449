//! What must hold between a driver and its kernel after every turn. The driver's own books are held against the
//! kernel's, so an operation, a buffer or a wake that one of them has lost is seen at once, and not when it is missed.

use super::SimKernel;
use crate::driver::uring::kernel::EnterWait;
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

        // Who does not sleep may still have something to push.
        if state.parked.is_none_or(|wait| wait == EnterWait::Not) {
            return Ok(());
        }
        for socket in self.sockets.iter() {
            self.check_hearing(socket)?;
        }
        require(self.acceptors.iter().all(Acceptor::is_waiting), "a listener neither accepts nor waits")?;
        require(self.wake_armed, "the waker is not armed")
    }

    fn check_hearing(&self, socket: &Socket) -> Result<(), String> {
        let channel = socket.channel();
        match (socket.is_deaf(), socket.is_starved()) {
            (true, false) => Err(format!("{channel}: should be read from, and no receive is armed")),
            (true, true) if !self.starved.contains(channel) => {
                Err(format!("{channel}: waits for a buffer, and nobody knows"))
            }
            (true, true) | (false, _) => Ok(()),
        }
    }
}
