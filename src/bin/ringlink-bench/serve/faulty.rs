//! Echo servers that are wrong in one way each. A load tester that does not find every one of them out measures nothing.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ringlink::units::parse_duration;
use ringlink::{ChannelId, ChannelInfo, CloseReport, Context, Handler, TimerId};

/// Faults that need no time come once in so many answers.
const EVERY: u64 = 100;
/// What `pad` fills every answer up to: the buffer of a server that does not look at what it read.
const PADDED: usize = 2048;
/// How long after the first connection `stall` begins.
const BEFORE_STALL: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Sends its whole buffer back.
    Pad,
    /// Changes a byte.
    Corrupt,
    /// Answers twice.
    Dup,
    /// Loses the last byte.
    Short,
    /// Keeps an answer until after the next.
    Reorder,
    /// Answers nothing for so long, once; nothing is lost.
    Stall(Duration),
    /// Answers everything so much later; nothing is lost.
    Delay(Duration),
    /// Closes.
    Close,
    /// Never answers.
    Mute,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("stall", time)) => parse_duration(time).map(Self::Stall),
            Some(("delay", time)) => parse_duration(time).map(Self::Delay),
            Some(_) => Err("only stall and delay have a time".into()),
            None => match text {
                "pad" => Ok(Self::Pad),
                "corrupt" => Ok(Self::Corrupt),
                "dup" => Ok(Self::Dup),
                "short" => Ok(Self::Short),
                "reorder" => Ok(Self::Reorder),
                "close" => Ok(Self::Close),
                "mute" => Ok(Self::Mute),
                _ => {
                    Err("there are pad, corrupt, dup, short, reorder, stall:1s, delay:1ms, close and mute"
                        .into())
                }
            },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pad => f.write_str("pad"),
            Self::Corrupt => f.write_str("corrupt"),
            Self::Dup => f.write_str("dup"),
            Self::Short => f.write_str("short"),
            Self::Reorder => f.write_str("reorder"),
            Self::Stall(time) => write!(f, "stall:{}ms", time.as_millis()),
            Self::Delay(time) => write!(f, "delay:{}us", time.as_micros()),
            Self::Close => f.write_str("close"),
            Self::Mute => f.write_str("mute"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stall {
    NotYet,
    Now,
    Over,
}

#[derive(Debug)]
pub(crate) struct Faulty {
    fault: Fault,
    answers: u64,
    /// What is answered later, in order.
    held: VecDeque<(ChannelId, Vec<u8>)>,
    reordered: HashMap<ChannelId, Vec<u8>>,
    stall: Stall,
}

const STALL_BEGINS: u64 = 1;
const STALL_ENDS: u64 = 2;
const ONE_IS_DUE: u64 = 3;

impl Faulty {
    pub(crate) fn new(fault: Fault) -> Self {
        Self { fault, answers: 0, held: VecDeque::new(), reordered: HashMap::new(), stall: Stall::NotYet }
    }

    fn answer(cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        if cx.send(channel, data).is_err() {
            cx.abort(channel);
        }
    }

    fn answer_one_held(&mut self, cx: &mut Context<'_>) {
        if let Some((channel, data)) = self.held.pop_front() {
            Self::answer(cx, channel, &data);
        }
    }

    /// The answer whose turn it is to be wrong.
    fn answer_wrongly(&mut self, cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        let mut wrong = data.to_vec();
        match self.fault {
            Fault::Corrupt => wrong[data.len() / 2] ^= 1,
            Fault::Dup => wrong.extend_from_slice(data),
            Fault::Short => drop(wrong.pop()),
            Fault::Close => {
                cx.close(channel);
                return;
            }
            Fault::Reorder => {
                self.reordered.insert(channel, wrong);
                return;
            }
            Fault::Pad | Fault::Stall(_) | Fault::Delay(_) | Fault::Mute => {}
        }
        Self::answer(cx, channel, &wrong);
    }
}

impl Handler for Faulty {
    fn on_open(&mut self, cx: &mut Context<'_>, _: ChannelId, _: &ChannelInfo) {
        if let (Fault::Stall(_), Stall::NotYet, 0) = (self.fault, self.stall, self.answers) {
            self.answers = 1;
            cx.set_timer(BEFORE_STALL, STALL_BEGINS);
        }
    }

    fn on_data(&mut self, cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        self.answers += 1;
        match self.fault {
            Fault::Mute => {}
            Fault::Pad => {
                let mut padded = data.to_vec();
                padded.resize(PADDED.max(data.len()), 0);
                Self::answer(cx, channel, &padded);
            }
            Fault::Stall(_) if self.stall == Stall::Now => self.held.push_back((channel, data.to_vec())),
            Fault::Stall(_) => Self::answer(cx, channel, data),
            Fault::Delay(time) => {
                self.held.push_back((channel, data.to_vec()));
                cx.set_timer(time, ONE_IS_DUE);
            }
            Fault::Corrupt | Fault::Dup | Fault::Short | Fault::Reorder | Fault::Close => {
                if self.answers.is_multiple_of(EVERY) {
                    self.answer_wrongly(cx, channel, data);
                } else {
                    Self::answer(cx, channel, data);
                }
                if let Some(late) =
                    self.reordered.remove(&channel).filter(|_| !self.answers.is_multiple_of(EVERY))
                {
                    Self::answer(cx, channel, &late);
                }
            }
        }
    }

    fn on_close(&mut self, _: &mut Context<'_>, channel: ChannelId, _: &CloseReport) {
        self.reordered.remove(&channel);
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, _: TimerId, token: u64) {
        match (token, self.fault) {
            (STALL_BEGINS, Fault::Stall(time)) => {
                self.stall = Stall::Now;
                cx.set_timer(time, STALL_ENDS);
            }
            (STALL_ENDS, _) => {
                self.stall = Stall::Over;
                while !self.held.is_empty() {
                    self.answer_one_held(cx);
                }
            }
            _ => self.answer_one_held(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_they_are_written() {
        for text in
            ["pad", "corrupt", "dup", "short", "reorder", "stall:1000ms", "delay:250us", "close", "mute"]
        {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
        for text in ["", "stall", "pad:1s", "stall:1"] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }
}
