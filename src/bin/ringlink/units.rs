//! What the words of the command line mean: the range of channels, the receive buffers, the length of the demo.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ringlink::units::parse_size;

/// `START:SIZE`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Channels {
    pub(crate) start: u32,
    pub(crate) size: u32,
}

/// `COUNTxSIZE`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buffers {
    pub(crate) count: u16,
    pub(crate) size: u32,
}

impl FromStr for Channels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.parse::<u32>().ok();
        let parsed = text.split_once(':').and_then(|(start, size)| Some((number(start)?, number(size)?)));
        let Some((start, size)) = parsed else {
            return Err("it is written START:SIZE, as in 0:16384".into());
        };
        if size == 0 {
            return Err("there must be at least one channel".into());
        }
        if start.checked_add(size).is_none() {
            return Err(format!("{size} channels from {start} on pass the largest id, {}", u32::MAX));
        }
        Ok(Self { start, size })
    }
}

impl fmt::Display for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.start, self.size)
    }
}

impl FromStr for Buffers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (count, size) = text.split_once('x').ok_or("it is written COUNTxSIZE, as in 512x16KiB")?;
        let count = count.parse().ok().filter(|count: &u16| count.is_power_of_two());
        let count = count.filter(|count| *count <= 32_768);
        let count = count.ok_or("the count must be a power of two, at most 32768")?;
        let size = u32::try_from(parse_size(size)?).map_err(|_| "a buffer must be smaller than 4 GiB")?;
        Ok(Self { count, size })
    }
}

pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("it must be a number from 0.1 to 3600".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_of_the_demo_may_have_a_fraction() {
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "nan", "inf", "3601", "3s", ""] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn channels_are_a_start_and_a_size() {
        assert_eq!("10000:5".parse(), Ok(Channels { start: 10_000, size: 5 }));
        assert_eq!(Channels { start: 1, size: 2 }.to_string(), "1:2");
        for text in ["", "5", ":", "1:", ":1", "0:0", "-1:5", "1:2:3", "4294967295:1", "4294967296:1"] {
            assert!(text.parse::<Channels>().is_err(), "{text}");
        }
    }

    #[test]
    fn buffers_are_a_count_and_a_size() {
        assert_eq!("512x16KiB".parse(), Ok(Buffers { count: 512, size: 16 << 10 }));
        for text in ["", "512", "x", "0x1k", "3x1k", "65536x1k", "1x", "1x4G"] {
            assert!(text.parse::<Buffers>().is_err(), "{text}");
        }
    }
}
