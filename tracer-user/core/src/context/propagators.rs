//! Which formats are read, and which of them decides: the list of `OTEL_PROPAGATORS`.
//!
//! Source: OpenTelemetry "Environment Variable Specification", general SDK configuration. Names that it does not know
//! are added for the formats that it does not know.

use super::baggage;
use super::claim::Format;

/// The formats that are read, in order of precedence; and which baggage is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Propagators {
    formats: Vec<Format>,
    reads_baggage: bool,
    baggage_keys: Vec<baggage::Key>,
}

impl Default for Propagators {
    /// Every format, in the order of [`Format::ALL`]: the standard first, then what programs send themselves, last what
    /// clouds' load balancers add to the requests of programs that may be traced otherwise. No baggage.
    fn default() -> Self {
        Self { formats: Format::ALL.to_vec(), reads_baggage: true, baggage_keys: Vec::new() }
    }
}

/// A list that cannot be followed in full.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropagatorsError {
    #[error("`{0}` is not known; {known} are", known = Propagators::NAMES.map(|(name, _)| name).join(", "))]
    Unknown(String),
    #[error("`none` is not the only one")]
    NoneAndOthers,
    #[error("the list is empty: say `none` to read no header")]
    Empty,
    #[error("`{0}` cannot be a key of baggage")]
    BaggageKey(String),
    #[error("more than {} keys of baggage", baggage::MAX_KEYS)]
    TooManyBaggageKeys,
    #[error("baggage is not read: it is not among the propagators")]
    BaggageNotRead,
}

/// What a name of the list stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Formats(&'static [Format]),
    Baggage,
    None,
}

impl Propagators {
    /// OpenTelemetry's "B3" reads both encodings whichever name it has, the single header first.
    const NAMES: [(&'static str, Meaning); 13] = [
        ("tracecontext", Meaning::Formats(&[Format::TraceContext])),
        ("baggage", Meaning::Baggage),
        ("b3", Meaning::Formats(&[Format::B3, Format::B3Multi])),
        ("b3multi", Meaning::Formats(&[Format::B3, Format::B3Multi])),
        ("jaeger", Meaning::Formats(&[Format::Jaeger])),
        ("xray", Meaning::Formats(&[Format::XRay])),
        ("ottrace", Meaning::Formats(&[Format::OtTrace])),
        ("opencensus", Meaning::Formats(&[Format::OpenCensus])),
        ("datadog", Meaning::Formats(&[Format::Datadog])),
        ("gcp", Meaning::Formats(&[Format::Gcp])),
        ("sw8", Meaning::Formats(&[Format::Sw8])),
        ("elastic", Meaning::Formats(&[Format::Elastic])),
        ("none", Meaning::None),
    ];

    /// Reads a list of names, separated by commas. What is named twice counts where it is first.
    ///
    /// # Errors
    /// The first name that is not known; `none` beside others; no name at all.
    pub fn parse(list: &str) -> Result<Self, PropagatorsError> {
        let (known, mut errors) = Self::parse_known(list);
        if errors.is_empty() { Ok(known) } else { Err(errors.swap_remove(0)) }
    }

    /// As [`Propagators::parse`], but goes on with the names that are known; if none is, with the default.
    pub fn parse_known(list: &str) -> (Self, Vec<PropagatorsError>) {
        let mut known = Self { formats: Vec::new(), reads_baggage: false, baggage_keys: Vec::new() };
        let (mut meanings, mut errors) = (Vec::new(), Vec::new());
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match Self::NAMES.iter().find(|(known, _)| *known == name) {
                Some((_, meaning)) => meanings.push(*meaning),
                None => errors.push(PropagatorsError::Unknown(name.to_owned())),
            }
        }
        if meanings.is_empty() {
            if errors.is_empty() {
                errors.push(PropagatorsError::Empty);
            }
            return (Self::default(), errors);
        }
        for meaning in &meanings {
            match meaning {
                Meaning::Formats(named) => {
                    for format in *named {
                        if !known.formats.contains(format) {
                            known.formats.push(*format);
                        }
                    }
                }
                Meaning::Baggage => known.reads_baggage = true,
                Meaning::None if meanings.iter().any(|meaning| *meaning != Meaning::None) => {
                    errors.push(PropagatorsError::NoneAndOthers);
                }
                Meaning::None => {}
            }
        }
        (known, errors)
    }

    /// Keeps the baggage of these keys, separated by commas.
    ///
    /// # Errors
    /// What is no key; too many; baggage is not among the propagators.
    pub fn with_baggage_keys(mut self, list: &str) -> Result<Self, PropagatorsError> {
        for name in list.split(',').map(str::trim) {
            let key = baggage::Key::new(name).ok_or_else(|| PropagatorsError::BaggageKey(name.to_owned()))?;
            if !self.baggage_keys.contains(&key) {
                self.baggage_keys.push(key);
            }
        }
        if self.baggage_keys.len() > baggage::MAX_KEYS {
            return Err(PropagatorsError::TooManyBaggageKeys);
        }
        if self.reads_baggage { Ok(self) } else { Err(PropagatorsError::BaggageNotRead) }
    }

    pub(super) fn baggage_keys(&self) -> &[baggage::Key] {
        &self.baggage_keys
    }

    /// Place in the order of precedence, if it is read at all.
    pub fn rank(&self, format: Format) -> Option<usize> {
        self.formats.iter().position(|known| *known == format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(list: &str, want: Result<&[Format], &str>) {
        let got = Propagators::parse(list);
        match want {
            Ok(formats) => {
                assert_eq!(got.as_ref().map(|got| got.formats.as_slice()), Ok(formats), "{list:?}")
            }
            Err(part) => {
                let error = got.expect_err(list).to_string();
                assert!(error.contains(part), "{list:?}: {error}");
            }
        }
    }

    #[test]
    fn lists() {
        use Format::{B3, B3Multi, TraceContext};
        check("tracecontext", Ok(&[TraceContext]));
        check(" tracecontext , tracecontext,", Ok(&[TraceContext]));
        check("b3,tracecontext,b3multi", Ok(&[B3, B3Multi, TraceContext]));
        check("tracecontext,b3multi,baggage", Ok(&[TraceContext, B3, B3Multi]));
        check("none", Ok(&[]));
        check("none,none", Ok(&[]));
        check("baggage", Ok(&[]));
        check("none,tracecontext", Err("not the only one"));
        check("", Err("empty"));
        check(" , ", Err("empty"));
        check("tracecontext,zipkin,x", Err("`zipkin` is not known; tracecontext, baggage,"));
        check("TraceContext", Err("is not known"));
    }

    #[test]
    fn every_format_has_a_name() {
        for format in Format::ALL {
            let named = Propagators::parse(format.as_str()).unwrap();
            assert!(named.rank(*format).is_some(), "{format:?}");
            assert!(Propagators::default().rank(*format).is_some(), "{format:?}");
        }
    }

    #[test]
    fn unknown_names_can_be_passed_over() {
        let (known, errors) = Propagators::parse_known("x,b3,none,y");
        assert_eq!(known.formats, [Format::B3, Format::B3Multi]);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 3);
        assert!(texts[0].starts_with("`x`") && texts[1].starts_with("`y`"), "{texts:?}");
        assert_eq!(Propagators::parse_known("x").0, Propagators::default());
        assert_eq!(Propagators::parse_known("").0, Propagators::default());
    }

    #[test]
    fn baggage_keys() {
        let keys = |list: &str| Propagators::default().with_baggage_keys(list);
        assert_eq!(keys("a, b,a").unwrap().baggage_keys().len(), 2);
        for (list, part) in [("", "``"), ("a,,b", "``"), ("a b", "`a b`"), ("k\u{e9}", "`k\u{e9}`")] {
            assert!(keys(list).unwrap_err().to_string().contains(part), "{list:?}");
        }
        let many: Vec<String> = (0..=baggage::MAX_KEYS).map(|n| n.to_string()).collect();
        assert_eq!(keys(&many.join(",")), Err(PropagatorsError::TooManyBaggageKeys));
        assert!(keys(&many[1..].join(",")).is_ok());
        let without = Propagators::parse("b3").unwrap();
        assert_eq!(without.with_baggage_keys("a"), Err(PropagatorsError::BaggageNotRead));
    }
}
