//! Durations, sizes, shares and seeds as people write them on a command line.

use std::time::Duration;

/// A number outside its grammar. The text completes "invalid value …: ".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnitError {
    #[error("expected a number with a unit, such as 500ms, 30s, 5m or 1h30m")]
    Duration,
    #[error("expected a number of bytes, such as 4096, 64KiB, 100MB or 1GiB")]
    Size,
    #[error("expected a share in percent, from 0.01 to 100, or 0")]
    Percent,
    #[error("expected 64 hexadecimal digits")]
    Seed,
}

/// `500ms`, `30s`, `1h30m`; a number without a unit counts seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, UnitError> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, tail) = split_number(rest).ok_or(UnitError::Duration)?;
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return Err(UnitError::Duration),
        };
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| UnitError::Duration)?;
        total = total.checked_add(part).ok_or(UnitError::Duration)?;
        rest = tail;
    }
    if text.is_empty() { Err(UnitError::Duration) } else { Ok(total) }
}

/// `4096`, `64KiB`, `64K` (both 1024-based), `100MB` (1000-based).
pub(crate) fn size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split_number(text).ok_or(UnitError::Size)?;
    let factor: f64 = match unit.trim_start() {
        "" | "B" => 1.0,
        "K" | "k" | "KiB" => 1024.0,
        "kB" | "KB" => 1e3,
        "M" | "MiB" => 1024.0 * 1024.0,
        "MB" => 1e6,
        "G" | "GiB" => 1024.0 * 1024.0 * 1024.0,
        "GB" => 1e9,
        "T" | "TiB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "TB" => 1e12,
        _ => return Err(UnitError::Size),
    };
    let bytes = number * factor;
    // Beyond 2^53 a float is no longer exact, and no file is that large.
    if bytes < 9.0e15 { Ok(bytes as u64) } else { Err(UnitError::Size) }
}

/// 64 hexadecimal digits.
pub(crate) fn seed(text: &str) -> Result<[u8; 32], UnitError> {
    let digits = text.as_bytes();
    let mut seed = [0; 32];
    if digits.len() != 2 * seed.len() {
        return Err(UnitError::Seed);
    }
    for (byte, pair) in seed.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (high, low) else { return Err(UnitError::Seed) };
        *byte = (high * 16 + low) as u8;
    }
    Ok(seed)
}

/// A leading decimal number, without sign or exponent, and what follows it.
fn split_number(text: &str) -> Option<(f64, &str)> {
    let len = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(len);
    number.parse::<f64>().ok().map(|number| (number, rest))
}

/// `3`, `0.5`: something must be left, and no more than all.
pub(crate) fn percent(text: &str) -> Result<f64, UnitError> {
    let share = text.parse::<f64>().ok().filter(|share| *share == 0.0 || (0.01..=100.0).contains(share));
    share.ok_or(UnitError::Percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, want) in [
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("30", Some(30_000)),
            ("1.5s", Some(1_500)),
            ("5m", Some(300_000)),
            ("1h30m", Some(5_400_000)),
            ("0", Some(0)),
            ("", None),
            ("s", None),
            ("-5s", None),
            ("5 s", None),
            ("5x", None),
            ("1e9s", None),
            ("..s", None),
            ("999999999999999999999999d", None),
        ] {
            assert_eq!(duration(text).ok(), want.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, want) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("64KiB", Some(65536)),
            ("64k", Some(65536)),
            ("1GiB", Some(1 << 30)),
            ("1.5 MB", Some(1_500_000)),
            ("", None),
            ("GiB", None),
            ("-1", None),
            ("1XB", None),
            ("99999999999999999999T", None),
        ] {
            assert_eq!(size(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn percents() {
        for (text, want) in [("3", Some(3.0)), ("0", Some(0.0)), ("0.01", Some(0.01)), ("100", Some(100.0))] {
            assert_eq!(percent(text).ok(), want, "{text}");
        }
        for text in ["", "-1", "0.001", "100.1", "NaN", "inf", "3%", "3 "] {
            assert_eq!(percent(text), Err(UnitError::Percent), "{text}");
        }
    }

    #[test]
    fn seeds() {
        assert_eq!(seed(&"0f".repeat(32)), Ok([15; 32]));
        for bad in ["", "0", &"0g".repeat(32), &"0f".repeat(33), &"é".repeat(32)] {
            assert_eq!(seed(bad), Err(UnitError::Seed), "{bad}");
        }
    }
}
