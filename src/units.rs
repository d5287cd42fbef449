//! Sizes and durations as the command lines of both binaries write them. No part of the library's API.

use std::time::Duration;

/// Digits after the point that are taken: nanoseconds of a second.
const PLACES: usize = 9;
const SCALE: u128 = 10_u128.pow(PLACES as u32);

/// A decimal number, in units of 1/SCALE, and the unit after it.
fn split_unit(text: &str) -> Result<(u128, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() {
        return Err("it must start with a number".to_owned());
    }
    if part.is_empty() || part.contains('.') || part.len() > PLACES {
        return Err(format!("'{number}' is no number of at most {PLACES} decimal places"));
    }
    let whole: u64 = whole.parse().map_err(|_| format!("{whole} is too large"))?;
    let part: u128 = format!("{part:0<PLACES$}").parse().map_err(|_| format!("'{part}' is no number"))?;
    Ok((u128::from(whole) * SCALE + part, unit.trim_start()))
}

/// A number of bytes: units are powers of two, as in 64, 16k or 1.5M.
///
/// # Errors
///
/// What is wrong with the text.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let (number, unit) = split_unit(text)?;
    let shift = match unit {
        "" | "B" => 0,
        "k" | "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        _ => return Err(format!("'{unit}' is no unit of size; use k, M, G or KiB, MiB, GiB")),
    };
    let scaled = number << shift; // below 2^64 times 10^9 times 2^30
    if !scaled.is_multiple_of(SCALE) {
        return Err(format!("{text} is no whole number of bytes"));
    }
    usize::try_from(scaled / SCALE).map_err(|_| format!("{text} is too large"))
}

/// A number with a unit of time, as in 20ms or 1.5s.
///
/// # Errors
///
/// What is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text)?;
    let nanos: u128 = match unit {
        "ns" => 1,
        "us" | "µs" => 1000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3600 * 1_000_000_000,
        "" => return Err(format!("it needs a unit, as in {text}s; there are ns, us, ms, s, m and h")),
        _ => return Err(format!("'{unit}' is no unit of time; there are ns, us, ms, s, m and h")),
    };
    // What is below a nanosecond is left out.
    let nanos = number.checked_mul(nanos).and_then(|scaled| u64::try_from(scaled / SCALE).ok());
    // Sums of a time and a hundred years never overflow.
    let century = Duration::from_secs(100 * 366 * 86_400);
    let duration = nanos.map(Duration::from_nanos).filter(|duration| *duration <= century);
    duration.ok_or_else(|| format!("{text} is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_two() {
        for (text, size) in [
            ("0", 0),
            ("7", 7),
            ("7B", 7),
            ("16k", 16 << 10),
            ("16K", 16 << 10),
            ("16KiB", 16 << 10),
            ("16 KiB", 16 << 10),
            ("4M", 4 << 20),
            ("4MiB", 4 << 20),
            ("1G", 1 << 30),
            ("1GiB", 1 << 30),
            ("1.5M", 3 << 19),
            ("0.5k", 512),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        // kB and MB are powers of ten elsewhere: refused rather than guessed.
        for text in [
            "",
            "k",
            "-1",
            "1.5",
            ".5M",
            "1.M",
            "1.1.1M",
            "0.3k",
            "1kB",
            "1MB",
            "1kk",
            "18446744073709551616",
            "17179869184G",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, duration) in [
            ("50us", Duration::from_micros(50)),
            ("50µs", Duration::from_micros(50)),
            ("9ns", Duration::from_nanos(9)),
            ("20ms", Duration::from_millis(20)),
            ("5s", Duration::from_secs(5)),
            ("0s", Duration::ZERO),
            ("1m", Duration::from_secs(60)),
            ("2h", Duration::from_secs(7200)),
            ("1.5s", Duration::from_millis(1500)),
            ("0.25us", Duration::from_nanos(250)),
            ("1.5h", Duration::from_secs(5400)),
        ] {
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
        }
        for text in [
            "",
            "5",
            "0",
            "s",
            "-5s",
            ".5s",
            "1.s",
            "1.2.3s",
            "1.5",
            "5M",
            "5 days",
            "99999999999h",
            "18446744073709551615h",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_duration("5").unwrap_err().contains("5s"));
    }
}
