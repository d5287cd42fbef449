//! Monotonic time as a plain number. Only a driver reads a clock; everybody else gets the time as an argument.

use std::ops::{Add, Sub};
use std::time::Duration;

/// An instant on the monotonic clock, in nanoseconds from an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(u64);

impl Mono {
    /// The instant `nanos` nanoseconds after the clock's start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this instant; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Self;

    /// Saturates at the end of the clock, which is never reached: 584 years.
    fn add(self, duration: Duration) -> Self {
        let nanos = u64::from(duration.subsec_nanos());
        Self(duration.as_secs().saturating_mul(1_000_000_000).saturating_add(nanos).saturating_add(self.0))
    }
}

impl Sub for Mono {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_backwards_is_zero_and_a_sum_saturates() {
        let (early, late) = (Mono::from_nanos(5), Mono::from_nanos(9));
        assert_eq!(late - early, Duration::from_nanos(4));
        assert_eq!(early - late, Duration::ZERO);
        assert_eq!((late + Duration::MAX).as_nanos(), u64::MAX);
    }
}
