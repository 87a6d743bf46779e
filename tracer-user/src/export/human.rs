//! Times and durations as people read them.

use std::fmt;

/// Unix nanoseconds as `2026-03-01T03:12:09.000250Z`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Utc(pub(super) u64);

/// Unix nanoseconds as `03:12:09.000`, in UTC.
#[derive(Clone, Copy, Debug)]
pub(super) struct UtcTime(pub(super) u64);

/// Three significant digits and a unit, at most six characters below 100 hours: `850µs`, `1.50ms`, `12.3ms`, `2m05s`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Duration(pub(super) std::time::Duration);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, micros) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1000);
        let (year, month, day) = civil(secs / 86_400);
        write!(f, "{year:04}-{month:02}-{day:02}T{}.{micros:06}Z", Clock(secs))
    }
}

impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, millis) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1_000_000);
        write!(f, "{}.{millis:03}", Clock(secs))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos() as f64;
        // Units change where the rounded number would need a fourth digit.
        let (number, unit) = match nanos {
            n if n < 1_000.0 => return write!(f, "{n}ns"),
            n if n < 999_500.0 => (n / 1e3, "µs"),
            n if n < 999_500_000.0 => (n / 1e6, "ms"),
            n if n < 59_950_000_000.0 => (n / 1e9, "s"),
            _ => {
                let secs = (nanos / 1e9).round() as u64;
                return match secs {
                    0..3600 => write!(f, "{}m{:02}s", secs / 60, secs % 60),
                    _ => write!(f, "{}h{:02}m", secs / 3600, secs % 3600 / 60),
                };
            }
        };
        let decimals = match number {
            n if n < 9.995 => 2,
            n if n < 99.95 => 1,
            _ => 0,
        };
        write!(f, "{number:.decimals$}{unit}")
    }
}

/// Seconds since the epoch as the time of day.
struct Clock(u64);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}:{:02}", self.0 / 3600 % 24, self.0 / 60 % 60, self.0 % 60)
    }
}

/// Year, month and day of a number of days since the epoch, in the Gregorian calendar: an era of 400 years has 146,097
/// days, and years are counted from March so that the leap day is the last of a year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000Z"),
            (1_772_334_729, "2026-03-01T03:12:09.000000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(Utc(secs * 1_000_000_000).to_string(), text);
        }
        assert_eq!(UtcTime(3_723_004_999_999).to_string(), "01:02:03.004");
    }

    #[test]
    fn durations_have_three_digits() {
        for (nanos, text) in [
            (0, "0ns"),
            (999, "999ns"),
            (1_000, "1.00µs"),
            (850_400, "850µs"),
            (999_499, "999µs"),
            (999_500, "1.00ms"),
            (1_500_000, "1.50ms"),
            (9_994_999, "9.99ms"),
            (9_995_000, "10.0ms"),
            (99_950_000, "100ms"),
            (1_234_000_000, "1.23s"),
            (59_949_000_000, "59.9s"),
            (59_950_000_000, "1m00s"),
            (125_000_000_000, "2m05s"),
            (5_400_000_000_000, "1h30m"),
        ] {
            assert_eq!(Duration(std::time::Duration::from_nanos(nanos)).to_string(), text);
        }
    }
}
