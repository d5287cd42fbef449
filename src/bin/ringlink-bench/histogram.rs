//! Latencies: an HdrHistogram of nanoseconds to a minute, exact to three digits, and what is read out of it.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

const LONGEST: u64 = 60_000_000_000;
/// A percentile with fewer samples above it is an accident.
const FEWEST_ABOVE: f64 = 10.0;

#[derive(Clone, Debug)]
pub(crate) struct Histogram(hdrhistogram::Histogram<u64>);

/// What a result says of a histogram. All times in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) min: u64,
    pub(crate) mean: f64,
    pub(crate) stdev: f64,
    pub(crate) max: u64,
    /// Pairs of a percentile and its time; those with fewer than 10 samples above are left out.
    pub(crate) percentiles: Vec<(f64, u64)>,
}

impl Latency {
    pub(crate) fn at(&self, percentile: f64) -> Option<u64> {
        self.percentiles.iter().find(|(p, _)| (p - percentile).abs() < 1e-9).map(|(_, nanos)| *nanos)
    }
}

/// The percentiles of every result; the HTML report draws its curve through them.
pub(crate) const PERCENTILES: [f64; 13] =
    [5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999];

impl Histogram {
    pub(crate) fn new() -> Self {
        let made = hdrhistogram::Histogram::new_with_bounds(1, LONGEST, 3);
        Self(made.expect("the bounds are in order and the digits at most 5"))
    }

    /// Two digits: a tenth of the memory, for the many there are of one interval.
    pub(crate) fn coarse() -> Self {
        let made = hdrhistogram::Histogram::new_with_bounds(1, LONGEST, 2);
        Self(made.expect("the bounds are in order and the digits at most 5"))
    }

    pub(crate) fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos.max(1));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    pub(crate) fn reset(&mut self) {
        self.0.reset();
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn at(&self, percentile: f64) -> u64 {
        self.0.value_at_percentile(percentile)
    }

    pub(crate) fn max(&self) -> u64 {
        self.0.max()
    }

    pub(crate) fn mean(&self) -> f64 {
        self.0.mean()
    }

    pub(crate) fn count_between(&self, range: std::ops::Range<u64>) -> u64 {
        self.0.count_between(range.start, range.end)
    }

    /// `None` when nothing was recorded.
    pub(crate) fn latency(&self) -> Option<Latency> {
        let count = self.0.len();
        let told = |p: &f64| count as f64 * (1.0 - p / 100.0) >= FEWEST_ABOVE;
        (count > 0).then(|| Latency {
            count,
            min: self.0.min(),
            mean: self.0.mean(),
            stdev: self.0.stdev(),
            max: self.0.max(),
            percentiles: PERCENTILES.iter().filter(|p| told(p)).map(|&p| (p, self.at(p))).collect(),
        })
    }

    /// The percentile table that HdrHistogram's own plotter reads, in microseconds.
    pub(crate) fn hgrm(&self) -> String {
        let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
        let mut total = 0;
        for step in self.0.iter_quantiles(5) {
            total += step.count_since_last_iteration();
            let (value, quantile) = (step.value_iterated_to() as f64 / 1e3, step.quantile_iterated_to());
            let line = if quantile < 1.0 {
                writeln!(text, "{value:12.3} {quantile:14.12} {total:10} {:14.2}", 1.0 / (1.0 - quantile))
            } else {
                writeln!(text, "{value:12.3} {quantile:14.12} {total:10}")
            };
            line.expect("a string takes all");
        }
        let (mean, stdev) = (self.0.mean() / 1e3, self.0.stdev() / 1e3);
        let max = self.0.max() as f64 / 1e3;
        writeln!(text, "#[Mean    = {mean:12.3}, StdDeviation   = {stdev:12.3}]")
            .expect("a string takes all");
        writeln!(text, "#[Max     = {max:12.3}, Total count    = {:12}]", self.0.len())
            .expect("a string takes all");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pacing::Random;

    #[test]
    fn percentiles_are_those_of_the_sorted_samples_to_three_digits() {
        let (mut random, mut histogram, mut samples) = (Random::new(9), Histogram::new(), Vec::new());
        for _ in 0..200_000 {
            // Spread over seven orders of magnitude, as latencies with stalls are.
            let nanos = (1000.0 * 10_f64.powf(7.0 * random.fraction().powi(3))) as u64;
            samples.push(nanos);
            histogram.record(nanos);
        }
        samples.sort_unstable();
        for percentile in PERCENTILES {
            let rank = (percentile / 100.0 * samples.len() as f64).ceil() as usize;
            let (exact, read) = (samples[rank.max(1) - 1] as f64, histogram.at(percentile) as f64);
            assert!((read / exact - 1.0).abs() <= 0.001, "{percentile}: {read} for {exact}");
        }
        assert_eq!(histogram.count(), 200_000);
    }

    #[test]
    fn a_percentile_needs_ten_samples_above_it() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.latency(), None);
        (1..=1000).for_each(|nanos| histogram.record(nanos * 1000));
        let latency = histogram.latency().unwrap();
        assert!(latency.at(99.0).is_some() && latency.at(99.5).is_none());
    }

    #[test]
    fn the_table_ends_with_all_samples() {
        let mut histogram = Histogram::new();
        (1..=1000).for_each(|nanos| histogram.record(nanos * 1000));
        let table = histogram.hgrm();
        assert!(table.contains("1.000000000000       1000\n"), "{table}");
    }
}
