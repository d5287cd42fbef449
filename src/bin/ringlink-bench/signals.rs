//! SIGINT and SIGTERM end a run early; its report is printed all the same.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::far_end;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// True once a signal came.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(SeqCst)
}

/// Calls back on a thread of its own, at the first signal; a second one ends the process at once.
pub(crate) fn on_signal(call: impl Fn() + Send + 'static) {
    let wait = move |mut signals: Signals| {
        for _ in signals.forever() {
            if INTERRUPTED.swap(true, SeqCst) {
                far_end::kill_all();
                std::process::exit(130);
            }
            call();
        }
    };
    let started = Signals::new([SIGINT, SIGTERM])
        .and_then(|signals| thread::Builder::new().spawn(move || wait(signals)));
    if let Err(error) = started {
        tracing::warn!(%error, "signals are not caught");
    }
}
