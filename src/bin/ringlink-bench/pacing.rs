//! When operations are due: the schedule of an open loop, which no slow answer moves; and sizes and random numbers drawn
//! by seed.

use std::fmt;
use std::str::FromStr;

use ringlink::units::parse_size;

use crate::flags::parse_count;

/// How arrivals are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Evenly.
    Uniform,
    /// With exponential gaps, as from many independent users.
    Poisson,
    /// So many at once.
    Burst(u32),
}

impl FromStr for Arrival {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("burst:").map(parse_count)) {
            ("uniform", _) => Ok(Self::Uniform),
            ("poisson", _) => Ok(Self::Poisson),
            (_, Some(Ok(count @ 1..=1_000_000))) => Ok(Self::Burst(u32::try_from(count).unwrap_or(u32::MAX))),
            _ => Err("it is uniform, poisson or burst:N".into()),
        }
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Poisson => f.write_str("poisson"),
            Self::Burst(count) => write!(f, "burst:{count}"),
        }
    }
}

/// The due times of one thread, in nanoseconds from its start. Each follows from the rate and its number, so no error
/// adds up.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    gap: f64,
    arrival: Arrival,
    /// This thread's place among the evenly spread arrivals of all.
    offset: f64,
    random: Random,
    issued: u64,
    next: f64,
}

impl Schedule {
    /// The share of thread `thread` of `threads` in `rate` arrivals each second.
    pub(crate) fn new(rate: f64, arrival: Arrival, thread: usize, threads: usize, seed: u64) -> Self {
        let gap = threads as f64 * 1e9 / rate;
        let offset = gap * thread as f64 / threads as f64;
        let mut schedule =
            Self { gap, arrival, offset, random: Random::new(seed ^ thread as u64), issued: 0, next: 0.0 };
        schedule.next = match arrival {
            Arrival::Uniform | Arrival::Burst(_) => offset,
            Arrival::Poisson => schedule.random.exponential(gap),
        };
        schedule
    }

    pub(crate) fn peek(&self) -> u64 {
        self.next as u64
    }

    pub(crate) fn advance(&mut self) {
        self.issued += 1;
        self.next = match self.arrival {
            Arrival::Uniform => self.offset + self.issued as f64 * self.gap,
            Arrival::Poisson => self.next + self.random.exponential(self.gap),
            Arrival::Burst(size) => {
                let bursts = self.issued / u64::from(size);
                self.offset + bursts as f64 * f64::from(size) * self.gap
            }
        };
    }
}

/// xorshift64*: small, seeded, good enough to spread load.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mixed = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self((mixed ^ (mixed >> 31)).max(1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// From 0 to 1, without 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.fraction()).ln()
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// The longest message, in bytes.
pub(crate) const MAX_SIZE: usize = 16 << 20;

/// How long messages are: `64`, `64..4096`, or `mix:64=90,64k=10` by weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    Fixed(usize),
    Range(usize, usize),
    Mix(Vec<(usize, u64)>),
}

impl Sizes {
    pub(crate) fn draw(&self, random: &mut Random) -> usize {
        match self {
            Self::Fixed(size) => *size,
            Self::Range(least, most) => least + random.below(most - least + 1),
            Self::Mix(parts) => {
                let mut left = random.next() % parts.iter().map(|(_, weight)| weight).sum::<u64>();
                let found = parts.iter().find(|(_, weight)| {
                    let is_it = left < *weight;
                    left = left.wrapping_sub(*weight);
                    is_it
                });
                found.expect("the weights add up to more than was left").0
            }
        }
    }

    pub(crate) fn least(&self) -> usize {
        match self {
            Self::Fixed(size) => *size,
            Self::Range(least, _) => *least,
            Self::Mix(parts) => parts.iter().map(|(size, _)| *size).min().unwrap_or(1),
        }
    }

    pub(crate) fn most(&self) -> usize {
        match self {
            Self::Fixed(size) => *size,
            Self::Range(_, most) => *most,
            Self::Mix(parts) => parts.iter().map(|(size, _)| *size).max().unwrap_or(1),
        }
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = |text: &str| match parse_size(text)? {
            size @ 1..=MAX_SIZE => Ok(size),
            _ => Err("a message has 1 byte to 16 MiB".to_owned()),
        };
        if let Some(parts) = text.strip_prefix("mix:") {
            let part = |part: &str| {
                let (len, weight) = part.split_once('=').ok_or("a part of a mix is SIZE=WEIGHT")?;
                let weight = weight.parse().ok().filter(|weight| (1..=1_000_000).contains(weight));
                Ok((size(len)?, weight.ok_or("a weight is 1 to 1000000")?))
            };
            return parts.split(',').map(part).collect::<Result<_, String>>().map(Self::Mix);
        }
        match text.split_once("..") {
            None => size(text).map(Self::Fixed),
            Some((least, most)) => match (size(least)?, size(most)?) {
                (least, most) if least < most => Ok(Self::Range(least, most)),
                _ => Err("a range is LEAST..MOST".into()),
            },
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Range(least, most) => write!(f, "{least}..{most}"),
            Self::Mix(parts) => {
                let parts: Vec<_> = parts.iter().map(|(size, weight)| format!("{size}={weight}")).collect();
                write!(f, "mix:{}", parts.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(mut schedule: Schedule, count: usize) -> Vec<u64> {
        let mut next = || {
            let time = schedule.peek();
            schedule.advance();
            time
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn a_uniform_schedule_never_drifts_and_threads_interleave() {
        let last = times(Schedule::new(30_000.0, Arrival::Uniform, 0, 1, 0), 3_000_001)[3_000_000];
        assert_eq!(last, 100_000_000_000);
        let mut all = times(Schedule::new(1000.0, Arrival::Uniform, 0, 2, 0), 3);
        all.extend(times(Schedule::new(1000.0, Arrival::Uniform, 1, 2, 0), 3));
        all.sort_unstable();
        assert_eq!(all, [0, 1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000]);
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let times = times(Schedule::new(1e6, Arrival::Poisson, 0, 1, 7), 200_001);
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 1000.0).abs() < 10.0, "{mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "{}", variance.sqrt());
    }

    #[test]
    fn bursts_come_at_once_and_keep_the_rate() {
        let times = times(Schedule::new(1000.0, Arrival::Burst(5), 0, 1, 0), 11);
        assert_eq!(times, [0, 0, 0, 0, 0, 5_000_000, 5_000_000, 5_000_000, 5_000_000, 5_000_000, 10_000_000]);
    }

    #[test]
    fn sizes_are_drawn_by_weight_and_within_bounds() {
        let mix: Sizes = "mix:64=90,64k=10".parse().unwrap();
        let mut random = Random::new(1);
        let large = (0..10_000).filter(|_| mix.draw(&mut random) == 65_536).count();
        assert!((900..1100).contains(&large), "{large}");
        let range: Sizes = "5..7".parse().unwrap();
        let mut seen = [0; 3];
        (0..3000).for_each(|_| seen[range.draw(&mut random) - 5] += 1);
        assert!(seen.iter().all(|n| (900..1100).contains(n)), "{seen:?}");
        for text in ["0", "", "7..5", "mix:", "mix:5", "mix:5=0", "17M", "a..b"] {
            assert!(text.parse::<Sizes>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_shuffle_keeps_everything() {
        let mut items: Vec<_> = (0..100).collect();
        Random::new(3).shuffle(&mut items);
        assert_ne!(items[..10], (0..10).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
