//! Is one faster than the other? Ratios of runs that lay side by side in time, their median, and an interval for it that
//! assumes nothing about how they are spread: between two of the sorted ratios, counted in from the ends.

use serde::{Deserialize, Serialize};

/// The confidence an interval has at least, where there are enough ratios for it.
const CONFIDENCE: f64 = 0.95;

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// How often such an interval has the true median in it; below 0.95 with fewer than 6 ratios.
    pub(crate) confidence: f64,
    pub(crate) ratios: usize,
}

impl Estimate {
    /// `None` without ratios.
    pub(crate) fn of(ratios: &[f64]) -> Option<Self> {
        let mut sorted = ratios.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let count = sorted.len();
        let outer = (1..=count.div_ceil(2)).rev().find(|k| coverage(count, *k) >= CONFIDENCE).unwrap_or(1);
        Some(Self {
            median: median(&sorted)?,
            low: sorted[outer - 1],
            high: sorted[count - outer],
            confidence: coverage(count, outer),
            ratios: count,
        })
    }

    /// True when the interval does not reach 1.
    fn excludes_one(&self) -> bool {
        self.low > 1.0 || self.high < 1.0
    }

    /// How far from 1 the interval goes: of a contender against itself, the noise floor.
    pub(crate) fn spread(&self) -> f64 {
        (self.high - 1.0).abs().max((1.0 - self.low).abs())
    }
}

/// What two contenders' ratios say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Higher,
    Lower,
    NoDifference,
    /// Too few ratios for an interval that means something.
    Unknown,
}

/// A difference is one when the interval excludes 1 and the effect is above what a contender differs from itself by.
pub(crate) fn verdict(estimate: &Estimate, floor: f64) -> Verdict {
    let effect = (estimate.median - 1.0).abs();
    if estimate.confidence < CONFIDENCE {
        Verdict::Unknown
    } else if !estimate.excludes_one() || effect <= floor {
        Verdict::NoDifference
    } else if estimate.median > 1.0 {
        Verdict::Higher
    } else {
        Verdict::Lower
    }
}

/// Of sorted values.
fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[middle - 1], upper) })
}

pub(crate) fn median_of(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    median(&sorted)
}

/// How often the true median lies between the `outer`th of `count` sorted values and the `outer`th from above: each value
/// is above it or below it like the sides of a coin.
fn coverage(count: usize, outer: usize) -> f64 {
    let (mut term, mut tail) = (0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX)), 0.0);
    for below in 0..outer {
        tail += term;
        term *= (count - below) as f64 / (below + 1) as f64;
    }
    (1.0 - 2.0 * tail).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pacing::Random;

    #[test]
    fn intervals_lie_where_order_statistics_say() {
        // n, the place counted in from the ends, the confidence: as in the tables.
        for (count, outer, confidence) in [(6, 1, 0.969), (9, 2, 0.961), (12, 3, 0.961), (15, 4, 0.965)] {
            let ratios: Vec<f64> = (1..=count).map(f64::from).collect();
            let estimate = Estimate::of(&ratios).unwrap();
            assert_eq!((estimate.low, estimate.high), (f64::from(outer), f64::from(count + 1 - outer)));
            assert!((estimate.confidence - confidence).abs() < 0.001, "{count}: {}", estimate.confidence);
        }
        assert_eq!(Estimate::of(&[]), None);
        let few = Estimate::of(&[1.2, 1.3, 1.4]).unwrap();
        assert_eq!((few.low, few.high, verdict(&few, 0.0)), (1.2, 1.4, Verdict::Unknown));
    }

    #[test]
    fn a_difference_must_exclude_one_and_pass_the_floor() {
        let estimate = |median, low, high| Estimate { median, low, high, confidence: 0.96, ratios: 9 };
        assert_eq!(verdict(&estimate(1.18, 1.14, 1.22), 0.03), Verdict::Higher);
        assert_eq!(verdict(&estimate(0.8, 0.75, 0.85), 0.03), Verdict::Lower);
        assert_eq!(verdict(&estimate(1.02, 1.01, 1.03), 0.03), Verdict::NoDifference);
        assert_eq!(verdict(&estimate(1.2, 0.98, 1.4), 0.03), Verdict::NoDifference);
    }

    /// What the selftest promises too: of two equal contenders it is said, nearly always, that they are equal.
    #[test]
    fn equal_contenders_do_not_differ() {
        let differ = (0..400).filter(|seed| aa(*seed) != Verdict::NoDifference).count();
        assert!(differ <= 20, "{differ} of 400");
    }

    fn aa(seed: u64) -> Verdict {
        let mut random = Random::new(seed);
        let mut ratios = || -> Vec<f64> {
            (0..9).map(|_| (1.0 + 0.1 * random.fraction()) / (1.0 + 0.1 * random.fraction())).collect()
        };
        let (a, b) = (Estimate::of(&ratios()).unwrap(), Estimate::of(&ratios()).unwrap());
        verdict(&a, b.spread())
    }
}
