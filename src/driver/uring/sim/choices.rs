//! Where the simulation's chances come from: a row of numbers that follows from the seed, and what the kernel and the
//! network may do to a node, each kind on or off by the seed.
//!
//! A number of 0 always means "nothing unusual". So a failing run is made simpler by cutting the row's end, or a piece
//! of it, to zeros, and is told to others in a line.

use std::ops::Range;

/// The row of numbers.
#[derive(Clone, Debug)]
pub(crate) struct Choices {
    random: SplitMix,
    drawn: usize,
    /// From this place on all are 0.
    end: usize,
    calm: Vec<Range<usize>>,
}

impl Choices {
    pub(crate) fn new(seed: u64, end: usize, calm: Vec<Range<usize>>) -> Self {
        Self { random: SplitMix(seed), drawn: 0, end, calm }
    }

    pub(crate) fn drawn(&self) -> usize {
        self.drawn
    }

    fn draw(&mut self) -> u32 {
        let place = self.drawn;
        self.drawn += 1;
        let number = (self.random.next() >> 32) as u32;
        let is_calm = place >= self.end || self.calm.iter().any(|piece| piece.contains(&place));
        if is_calm { 0 } else { number }
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u64::from(self.draw()) * bound as u64) >> 32) as usize
    }

    /// True so many times in a thousand.
    pub(crate) fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1000) >= 1000 - per_mille.min(999) as usize
    }
}

#[derive(Clone, Debug)]
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The kinds of faults: name, the line of help, and the most often that it happens, in a thousand chances.
macro_rules! faults {
    ($($name:ident = $label:literal, $often:literal, $text:literal;)*) => {
        /// What can go wrong, or unusually, in the simulation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Fault {
            $(#[doc = $text] $name,)*
        }

        impl Fault {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name),*];

            pub(crate) const fn label(self) -> &'static str {
                match self { $(Self::$name => $label),* }
            }

            const fn often(self) -> u32 {
                match self { $(Self::$name => $often),* }
            }
        }
    };
}

faults! {
    ShortReceive = "short-receive", 400, "a completion brings less than there is";
    ReceiveEnds = "receive-ends", 200, "a multishot receive ends with the data it brings";
    ReceiveLetGo = "receive-let-go", 50, "a receive is cancelled unasked";
    BufferForNothing = "buffer-for-nothing", 500, "an end of file or an error takes a buffer";
    NoBuffer = "no-buffer", 1000, "the receive buffers run out";
    ShortSend = "short-send", 200, "a send ends with a part sent";
    SendAgain = "send-again", 100, "a send ends with nothing sent, and no error of its own";
    AcceptEnds = "accept-ends", 300, "a multishot accept ends with a connection";
    AcceptFails = "accept-fails", 200, "who knocked is gone when he is accepted";
    NoDescriptors = "no-descriptors", 40, "no descriptors are left for a while";
    DialFails = "dial-fails", 200, "a connect fails";
    NoSocket = "no-socket", 100, "no socket is to be had for a dial";
    Late = "late", 300, "bytes take their time";
    Reset = "reset", 10, "the network resets a connection";
    TimedOut = "timed-out", 10, "the network gives a connection up";
    EnterEarly = "enter-early", 100, "a signal ends the system call before it did anything";
    SubmitPart = "submit-part", 100, "a part of what was queued is submitted";
    WorkLeft = "work-left", 200, "what is due is done in a later system call";
    QueueFull = "queue-full", 1000, "a completion does not fit its queue";
    CancelLate = "cancel-late", 400, "a cancel takes effect later, or too late";
    CancelFirst = "cancel-first", 500, "a cancel's end is told before that of what it cancels";
    WakeForNothing = "wake-for-nothing", 20, "a wake that nobody meant";
    WakeEnds = "wake-ends", 300, "the multishot of the waker ends";
    LinkCut = "link-cut", 4, "nothing passes between two nodes for a while";
    TimeSkip = "time-skip", 2, "the machine stood still";
    Panic = "panic", 10, "a callback panics";
    Stall = "stall", 20, "a callback takes long";
    Crash = "crash", 3, "a node is killed and starts again";
    Shutdown = "shutdown", 2, "a node shuts down and starts again";
}

/// How often each kind happens in a run, and how often it has.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    per_mille: Vec<u32>,
    fired: Vec<u64>,
    /// False once the world is healed.
    pub(crate) active: bool,
}

impl Faults {
    /// About half of the kinds, each at a rate of its own; of `mask` alone.
    pub(crate) fn new(random: &mut SplitMix, mask: u64) -> Self {
        let per_mille = Fault::ALL.iter().map(|&fault| {
            let rate = fault.often().div_ceil([1, 1, 4, 16][random.below(4) as usize]);
            let on = random.below(2) == 1 && mask >> fault as u8 & 1 == 1;
            if on { rate } else { 0 }
        });
        Self { per_mille: per_mille.collect(), fired: vec![0; Fault::ALL.len()], active: true }
    }

    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { per_mille: vec![0; Fault::ALL.len()], fired: vec![0; Fault::ALL.len()], active: false }
    }

    pub(crate) fn fires(&mut self, fault: Fault, choices: &mut Choices) -> bool {
        let per_mille = self.per_mille[fault as usize];
        let fires = self.active && per_mille > 0 && choices.chance(per_mille);
        if fires {
            self.note(fault);
        }
        fires
    }

    /// It happened, by chance or by itself.
    pub(crate) fn note(&mut self, fault: Fault) {
        self.fired[fault as usize] += 1;
    }

    pub(crate) fn fired(&self) -> &[u64] {
        &self.fired
    }
}
