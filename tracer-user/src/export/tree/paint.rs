//! Text of a known width, with or without colours.

use std::fmt::Write as _;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::super::escape::Escaped;
use crate::output::Output;

/// What the output can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Style {
    colour: bool,
    /// Columns of a line.
    pub(super) width: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ink {
    Plain,
    Dim,
    Bold,
    Good,
    Warn,
    Bad,
    /// One of a few colours, the same for the same service.
    Service(u8),
}

impl Style {
    /// Below this nothing useful fits; above, lines are too long to follow.
    const WIDTH: std::ops::RangeInclusive<u16> = 72..=160;

    /// Colours on a terminal only, and not against the user's `NO_COLOR` (<https://no-color.org>) or on a terminal
    /// that has none.
    pub(in super::super) fn of(output: &Output) -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_some_and(|term| term == "dumb");
        let colour = output.is_terminal() && set("NO_COLOR").is_none() && !dumb;
        let width = output.columns().unwrap_or(80).clamp(*Self::WIDTH.start(), *Self::WIDTH.end());
        Self { colour, width: width.into() }
    }

    #[cfg(test)]
    pub(in super::super) fn plain(width: usize) -> Self {
        Self { colour: false, width }
    }

    #[cfg(test)]
    pub(super) fn coloured(width: usize) -> Self {
        Self { colour: true, width }
    }
}

/// A line in the making. What is given as text of unknown origin is escaped; columns are counted.
#[derive(Debug)]
pub(super) struct Painter {
    text: String,
    columns: usize,
    style: Style,
}

impl Painter {
    pub(super) fn new(style: Style) -> Self {
        Self { text: String::new(), columns: 0, style }
    }

    pub(super) fn put(&mut self, text: &str, ink: Ink) -> &mut Self {
        let text = Escaped(text).to_string();
        self.columns += text.width();
        let code = match ink {
            _ if !self.style.colour || text.is_empty() => None,
            Ink::Plain => None,
            Ink::Dim => Some("2".to_owned()),
            Ink::Bold => Some("1".to_owned()),
            Ink::Good => Some("32".to_owned()),
            Ink::Warn => Some("33".to_owned()),
            Ink::Bad => Some("1;31".to_owned()),
            // Cyan, blue, magenta, green, yellow and their bright forms: not red, which means failure.
            Ink::Service(n) => {
                Some(["36", "34", "35", "32", "96", "94", "95", "92"][usize::from(n) % 8].to_owned())
            }
        };
        match code {
            // Writing to a String does not fail.
            Some(code) => drop(write!(self.text, "\x1b[{code}m{text}\x1b[0m")),
            None => self.text.push_str(&text),
        }
        self
    }

    /// Pads with spaces up to `column`.
    pub(super) fn to(&mut self, column: usize) -> &mut Self {
        let missing = column.saturating_sub(self.columns);
        self.text.extend(std::iter::repeat_n(' ', missing));
        self.columns += missing;
        self
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// The line, without spaces at its end.
    pub(super) fn finish(self) -> String {
        self.text.trim_end().to_owned()
    }
}

/// Columns that text takes once escaped.
pub(super) fn width(text: &str) -> usize {
    Escaped(text).to_string().width()
}

/// At most `columns` of the text, escaped; what is cut is shown as `…`.
pub(super) fn cut(text: &str, columns: usize) -> String {
    let text = Escaped(text).to_string();
    if text.width() <= columns {
        return text;
    }
    let mut kept = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > columns {
            break;
        }
        kept.push(c);
    }
    if columns > 0 {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_what_a_terminal_shows() {
        for (text, columns, shown) in [
            ("/cart/42", 8, "/cart/42"),
            ("/cart/42", 7, "/cart/…"),
            ("/注文/42", 7, "/注文/…"),
            ("/注文/42", 4, "/注…"),
            ("\x1b[2J", 20, "\\x1b[2J"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
        ] {
            assert_eq!(cut(text, columns), shown);
            assert!(width(shown) <= columns);
        }
        let mut line = Painter::new(Style::plain(80));
        line.put("注文\n", Ink::Bold).to(10).put("x", Ink::Plain).to(20);
        assert_eq!((line.columns(), line.finish().as_str()), (20, "注文\\n    x"));
    }

    #[test]
    fn colours_take_no_columns() {
        let mut line = Painter::new(Style::coloured(80));
        line.put("x", Ink::Bad).put("", Ink::Dim).put("y", Ink::Plain);
        assert_eq!((line.columns(), line.finish().as_str()), (2, "\x1b[1;31mx\x1b[0my"));
    }
}
