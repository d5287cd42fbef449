//! Waiting for what no event tells of; also of other test binaries, by `#[path]`.

use std::thread;
use std::time::Duration;

/// How long anything may take that is bound to happen. A test that fails by it hangs; none measures with it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a state that no event tells of.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    const STEP: Duration = Duration::from_millis(2);
    for _ in 0..PATIENCE.as_millis() / STEP.as_millis() {
        if holds() {
            return;
        }
        pass(STEP);
    }
    panic!("waited {PATIENCE:?} for {what}");
}

/// Lets time pass. Only for looking again, or for measuring what happens in that time.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where a test sleeps; nobody hopes for anything after it"
)]
pub(crate) fn pass(time: Duration) {
    thread::sleep(time);
}
