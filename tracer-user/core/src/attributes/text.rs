//! Makes text that others wrote safe to store and to print.

use smol_str::SmolStr;

/// The longest attribute value, in bytes before escaping: a request target may have tens of kilobytes.
const MAX_BYTES: usize = 4096;

/// Escapes what could drive a terminal or reorder a line (control characters, bidirectional marks), and cuts at a
/// bound, marked by an ellipsis.
pub(super) fn clean(text: &str) -> SmolStr {
    if text.len() <= MAX_BYTES && is_printable_ascii(text) {
        return SmolStr::new(text);
    }
    let cut = text.len() > MAX_BYTES;
    let text = &text[..text.floor_char_boundary(MAX_BYTES)];
    if !cut && !text.chars().any(is_unsafe) {
        return SmolStr::new(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if !is_unsafe(c) {
            clean.push(c);
        } else if u32::from(c) < 0x80 {
            clean.push_str(&format!("\\x{:02x}", u32::from(c)));
        } else {
            clean.push_str(&format!("\\u{{{:x}}}", u32::from(c)));
        }
    }
    if cut {
        clean.push('…');
    }
    SmolStr::from(clean)
}

/// As most text is. Written so that the compiler looks at many bytes at once.
fn is_printable_ascii(text: &str) -> bool {
    text.bytes().fold(true, |all, byte| all & (0x20..0x7f).contains(&byte))
}

/// Control characters, and the marks that change the direction of what follows (UAX #9).
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_text_is_kept() {
        for text in ["", "/a/b?c=d", "Käse ☃", "\\x1b as written"] {
            assert_eq!(clean(text), text);
        }
    }

    #[test]
    fn control_and_direction_characters_are_escaped() {
        assert_eq!(clean("a\u{1b}[2Jb\n\u{7f}"), "a\\x1b[2Jb\\x0a\\x7f");
        assert_eq!(clean("\u{9b}x\u{202e}y"), "\\u{9b}x\\u{202e}y");
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let long = "é".repeat(MAX_BYTES);
        let cut = clean(&long);
        assert!(cut.ends_with("é…") && cut.len() <= MAX_BYTES + '…'.len_utf8());
        let exact = "a".repeat(MAX_BYTES);
        assert_eq!(clean(&exact), exact);
    }
}
