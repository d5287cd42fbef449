//! Sizes and durations as the command lines of both binaries write them. No part of the library's API.

use std::time::Duration;

/// Digits, and the unit after them.
fn split_unit(text: &str) -> Result<(u64, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number = digits.parse().map_err(|_| match digits {
        "" => "it must start with a number".to_owned(),
        _ => format!("{digits} is too large"),
    })?;
    Ok((number, unit.trim_start()))
}

/// A number of bytes: units are powers of two.
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
    let bytes = number.checked_mul(1 << shift).and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| format!("{text} is too large"))
}

/// A number with a unit of time.
///
/// # Errors
///
/// What is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text)?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
    let duration = match unit {
        "ns" => Some(Duration::from_nanos(number)),
        "us" | "µs" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "" => return Err(format!("it needs a unit, as in {number}s; there are ns, us, ms, s, m and h")),
        _ => return Err(format!("'{unit}' is no unit of time; there are ns, us, ms, s, m and h")),
    };
    // Sums of a time and a hundred years never overflow.
    let century = Duration::from_secs(100 * 366 * 86_400);
    duration.filter(|d| *d <= century).ok_or_else(|| format!("{text} is too long"))
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
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        // kB and MB are powers of ten elsewhere: refused rather than guessed.
        for text in ["", "k", "-1", "1.5M", "1kB", "1MB", "1kk", "18446744073709551616", "17179869184G"] {
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
        ] {
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
        }
        for text in
            ["", "5", "0", "s", "-5s", "1.5s", "5M", "5 days", "99999999999h", "18446744073709551615h"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_duration("5").unwrap_err().contains("5s"));
    }
}
