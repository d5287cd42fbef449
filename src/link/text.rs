//! Text from peers, made fit for logs and terminals.

/// The text with what could forge log lines or steer a terminal replaced by `?`, cut to `max` bytes.
pub(super) fn clean(bytes: &[u8], max: usize) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(bytes).chars() {
        let c = if is_harmful(c) { '?' } else { c };
        if text.len() + c.len_utf8() > max {
            break;
        }
        text.push(c);
    }
    text
}

/// Controls, line and paragraph separators, and what turns the direction of writing.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FFFD}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_log_or_terminal_is_left() {
        assert_eq!(clean(b"a\r\nb\x1b[31m\0", 64), "a??b?[31m?");
        assert_eq!(clean("x\u{202E}y\u{85}z\u{2028}".as_bytes(), 64), "x?y?z?");
        assert_eq!(clean(b"\xFF\xFEok", 64), "??ok");
    }

    #[test]
    fn a_cut_is_between_characters() {
        assert_eq!(clean("ééé".as_bytes(), 4), "éé");
        assert_eq!(clean("ééé".as_bytes(), 5), "éé");
        assert_eq!(clean("\u{202E}é\u{61C}é".as_bytes(), 4), "?é?");
        assert_eq!(clean(b"", 0), "");
    }
}
