//! Makes text of unknown origin safe to show: nothing in it can move a cursor, start a line or reverse its reading.

use std::fmt::{self, Display, Write};

/// Shows text with everything that is not plainly visible as `\n`, `\xNN` or `\u{NNNN}`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

/// The same, and without spaces: one column of a table that is split at spaces. Empty text is `-`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word<'a>(pub(crate) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| escape(c, f))
    }
}

impl Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_char('-');
        }
        self.0.chars().try_for_each(|c| if c == ' ' { f.write_str("\\x20") } else { escape(c, f) })
    }
}

fn escape(c: char, f: &mut impl Write) -> fmt::Result {
    match c {
        '\t' => f.write_str("\\t"),
        '\n' => f.write_str("\\n"),
        '\r' => f.write_str("\\r"),
        _ if is_plain(c) => f.write_char(c),
        _ if (c as u32) < 0x100 => write!(f, "\\x{:02x}", c as u32),
        _ => write!(f, "\\u{{{:x}}}", c as u32),
    }
}

/// Neither a control character (C0, DEL, C1: terminals obey them) nor one that changes how its neighbours are shown
/// (bidirectional controls, invisible and line separators).
pub(crate) fn is_plain(c: char) -> bool {
    !matches!(
        c,
        '\0'..='\x1f'
            | '\x7f'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_visible_characters_come_through() {
        for (text, shown) in [
            ("/cart/42?x=ü", "/cart/42?x=ü"),
            ("a b", "a b"),
            ("\x1b[2J\r\n\t", "\\x1b[2J\\r\\n\\t"),
            ("\u{9b}31m\u{7f}", "\\x9b31m\\x7f"),
            ("a\u{202e}b\u{feff}", "a\\u{202e}b\\u{feff}"),
        ] {
            assert_eq!(Escaped(text).to_string(), shown);
        }
        assert_eq!(Word("my shop\n").to_string(), "my\\x20shop\\n");
        assert_eq!(Word("").to_string(), "-");
    }
}
