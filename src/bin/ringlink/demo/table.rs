//! What the demo prints.

use std::io::{self, Write as _};

use ringlink::{Endpoint, Mode, Stats};

use super::{NAMES, Side};

/// Prints how the two sides fared; true when everything arrived as it was sent.
pub(super) fn print(
    mode: Mode,
    sides: &[Option<Side>; 2],
    listens: &[Option<Endpoint>; 2],
    stats: &[Stats; 2],
) -> bool {
    let verdicts = [verdict(mode, &sides[0], &sides[1]), verdict(mode, &sides[1], &sides[0])];
    // What came: messages as they were sent, or pieces of a stream as they happened to arrive.
    let (pieces, thing) = if mode == Mode::Message { ("messages", "message") } else { ("chunks", "byte") };
    let is_well = verdicts.iter().all(Result::is_ok);
    let mut out = String::new();
    out += &format!("{:<9} {:>15} {:>9} {:>9}  {}\n", "direction", "bytes", "MB/s", pieces, "verified");
    for (from, verdict) in verdicts.iter().enumerate() {
        let (bytes, rate, chunks) = sides[1 - from].as_ref().map_or((0, 0.0, 0), |to| {
            (to.received, to.received as f64 / to.receiving.as_secs_f64().max(1e-9) / 1e6, to.chunks)
        });
        let (Ok(verdict) | Err(verdict)) = verdict;
        let direction = format!("{} -> {}", NAMES[from], NAMES[1 - from]);
        out +=
            &format!("{direction:<9} {:>15} {rate:>9.1} {:>9}  {verdict}\n", grouped(bytes), grouped(chunks));
    }
    out += &format!(
        "\n{:<5} {:<22} {:<9} {:<22} {:<22} {:>15} {:>12}\n",
        "node", "listens on", "channel", "local", "peer", "io_uring enters", "bytes/enter"
    );
    for (side, stats) in stats.iter().enumerate() {
        let link = sides[side].as_ref().and_then(|side| side.link.as_ref());
        let moved = stats.bytes_in + stats.bytes_out;
        out += &format!(
            "{:<5} {:<22} {:<9} {:<22} {:<22} {:>15} {:>12}\n",
            NAMES[side],
            or_dash(listens[side].as_ref()),
            or_dash(link.map(|link| link.channel)),
            or_dash(link.and_then(|link| link.local.as_ref())),
            or_dash(link.and_then(|link| link.peer.as_ref())),
            grouped(stats.enters),
            grouped(moved / stats.enters.max(1)),
        );
    }
    out += &if is_well { format!("\nevery {thing} arrived as it was sent\n") } else { "\nFAILED\n".into() };
    // The exit code says it too, when nobody reads the table.
    drop(io::stdout().write_all(out.as_bytes()));
    is_well
}

/// How the bytes of one direction fared, in a few words.
fn verdict(mode: Mode, from: &Option<Side>, to: &Option<Side>) -> Result<String, String> {
    let (Some(from), Some(to)) = (from, to) else {
        let close = from.iter().chain(to).map(|side| side.close.to_string()).next();
        return Err(close.unwrap_or_else(|| "no report".into()));
    };
    if let Some(at) = to.wrong_at {
        return Err(format!("WRONG at byte {}", grouped(at)));
    }
    if mode == Mode::Message && from.sent_chunks != to.chunks {
        return Err(format!("{} of {} messages", grouped(to.chunks), grouped(from.sent_chunks)));
    }
    match from.sent.checked_sub(to.received) {
        Some(0) if to.received == 0 => Err("nothing was sent".into()),
        Some(0) => Ok("all".into()),
        Some(missing) => Err(format!("{} bytes MISSING (closed: {})", grouped(missing), to.close)),
        None => Err(format!("{} bytes TOO MANY", grouped(to.received - from.sent))),
    }
}

fn or_dash(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
