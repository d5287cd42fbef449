//! Faults planted on purpose, to show that the simulator finds such: `planted!(NoRearm)` is true in a simulation that
//! was told to have this one. Without the feature `sim` it is `false`, and the compiler takes it away.

#[cfg(not(feature = "sim"))]
macro_rules! planted {
    ($fault:ident) => {
        false
    };
}

#[cfg(feature = "sim")]
macro_rules! planted {
    ($fault:ident) => {
        $crate::planted::Planted::$fault.is_planted()
    };
}

#[cfg(feature = "sim")]
pub use self::faults::{Planted, plant};

#[cfg(feature = "sim")]
mod faults {
    use std::cell::Cell;

    macro_rules! faults {
        ($($name:ident = $label:literal, $text:literal;)*) => {
            /// A fault that can be planted.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub enum Planted {
                $(#[doc = $text] $name,)*
            }

            impl Planted {
                /// Each of them.
                pub const ALL: &'static [Self] = &[$(Self::$name),*];

                /// Its name.
                pub const fn label(self) -> &'static str {
                    match self { $(Self::$name => $label),* }
                }

                /// What the driver then does wrong.
                pub const fn text(self) -> &'static str {
                    match self { $(Self::$name => $text),* }
                }
            }
        };
    }

    faults! {
        FreeOnCancel = "free-on-cancel", "frees a send's memory when it is cancelled, not when it has ended";
        CancelIsEnd = "cancel-is-end", "takes the completion of a cancel for the end of the receive";
        NoRearm = "no-rearm", "does not arm a multishot again that ended with data";
        EofAfterReset = "eof-after-reset", "tells of an end of file when the connection was reset";
        DropOnPause = "drop-on-pause", "drops what comes between a pause and the end of the receive";
        LostBuffer = "lost-buffer", "keeps a buffer that came with an end of file or an error";
        ForgetStarved = "forget-starved", "forgets a channel that found no buffer";
        ShortIsDone = "short-is-done", "takes a short send for a whole one";
        DoubleSend = "double-send", "sends all again after a short send";
        DropPartialCancel = "drop-partial-cancel", "does not count what a cancelled send sent";
        EarlyClose = "early-close", "closes a descriptor with operations on it";
        SpinOnEmfile = "spin-on-emfile", "accepts again at once when there are no descriptors";
        LostWake = "lost-wake", "does not arm the waker again when its multishot ended";
        LostOperation = "lost-operation", "forgets what did not fit into the submission queue";
        LostAct = "lost-act", "does not tell another loop what is to become of its link";
        ForgetRefused = "forget-refused", "does not call back for a thread whose send was refused";
        NoGeneration = "no-generation", "takes a stale id for the slot's next channel";
    }

    thread_local! {
        static PLANTED: Cell<Option<Planted>> = const { Cell::new(None) };
    }

    /// Plants a fault in everything this thread simulates, or none.
    pub fn plant(fault: Option<Planted>) {
        PLANTED.set(fault);
    }

    impl Planted {
        pub(crate) fn is_planted(self) -> bool {
            PLANTED.get() == Some(self)
        }
    }
}
