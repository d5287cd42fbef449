//! Tests of a result that decide the exit code: `p99<2ms`, `rate>50k`, `max<10ms`, `cpu<5us`.

use std::fmt;
use std::str::FromStr;

use crate::clock;
use crate::flags::{parse_count, parse_time};
use crate::histogram::PERCENTILES;

use super::{Check, Report, text};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Measure {
    Percentile(f64),
    Max,
    Mean,
    Rate,
    ServerCpu,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Threshold {
    text: String,
    measure: Measure,
    is_upper: bool,
    bound: f64,
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = "it is written as in p99<2ms, max<10ms, mean<1ms, rate>50k or cpu<5us";
        let place = text.find(['<', '>']).ok_or(hint)?;
        let (name, bound) = (text[..place].trim(), text[place + 1..].trim());
        let measure = match (name, name.strip_prefix('p').map(str::parse)) {
            ("max", _) => Measure::Max,
            ("mean", _) => Measure::Mean,
            ("rate", _) => Measure::Rate,
            ("cpu", _) => Measure::ServerCpu,
            (_, Some(Ok(percentile))) if PERCENTILES.contains(&percentile) => Measure::Percentile(percentile),
            _ => return Err(hint.into()),
        };
        let bound = match measure {
            Measure::Rate => parse_count(bound)? as f64,
            Measure::Percentile(_) | Measure::Max | Measure::Mean | Measure::ServerCpu => {
                clock::span(parse_time(bound)?) as f64
            }
        };
        Ok(Self { text: text.to_owned(), measure, is_upper: text[place..].starts_with('<'), bound })
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Threshold {
    pub(crate) fn is_of_latency(&self) -> bool {
        match self.measure {
            Measure::Percentile(_) | Measure::Max | Measure::Mean => true,
            Measure::Rate | Measure::ServerCpu => false,
        }
    }

    /// What cannot be told has not held.
    pub(crate) fn check(&self, report: &Report) -> Check {
        let latency = report.latency_ns.response.as_ref().or(report.latency_ns.service.as_ref());
        let value = match self.measure {
            Measure::Percentile(p) => latency.and_then(|l| l.at(p)).map(|nanos| nanos as f64),
            Measure::Max => latency.map(|l| l.max as f64),
            Measure::Mean => latency.map(|l| l.mean),
            Measure::Rate => Some(report.rate.ops_per_s),
            Measure::ServerCpu => report.cost.server.map(|server| server.cpu_ns_per_op),
        };
        let ok = value.is_some_and(|v| if self.is_upper { v < self.bound } else { v > self.bound });
        let told = match (value, self.measure) {
            (None, _) => "it was not measured".to_owned(),
            (Some(value), Measure::Rate) => format!("it was {}/s", text::count(value)),
            (Some(value), _) => format!("it was {}", text::time(value)),
        };
        Check::new(&self.text, ok, told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_understood_or_refused() {
        let threshold: Threshold = "p99.9<2ms".parse().unwrap();
        assert_eq!((threshold.measure, threshold.bound), (Measure::Percentile(99.9), 2e6));
        let threshold: Threshold = "rate > 50k".parse().unwrap();
        assert_eq!((threshold.is_upper, threshold.bound), (false, 50_000.0));
        for text in ["", "p99", "p98.5<1ms", "speed>1", "p99<fast"] {
            assert!(text.parse::<Threshold>().is_err(), "{text}");
        }
    }
}
