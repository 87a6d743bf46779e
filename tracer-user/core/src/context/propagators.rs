//! Which formats are read, and which of them decides: the list of `OTEL_PROPAGATORS`.
//!
//! Source: OpenTelemetry "Environment Variable Specification", general SDK configuration. Names that it does not know
//! are added for the formats that it does not know.

use super::claim::Format;

/// The formats that are read, in order of precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Propagators {
    formats: Vec<Format>,
}

impl Default for Propagators {
    /// Every format.
    fn default() -> Self {
        Self { formats: Format::ALL.to_vec() }
    }
}

/// A list of propagators that cannot be followed in full.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropagatorsError {
    #[error("`{0}` is not known; {known} are", known = Propagators::NAMES.map(|(name, _)| name).join(", "))]
    Unknown(String),
    #[error("`none` is not the only one")]
    NoneAndOthers,
    #[error("the list is empty: say `none` to read no header")]
    Empty,
}

/// What a name of the list stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Formats(&'static [Format]),
    None,
}

impl Propagators {
    const NAMES: [(&'static str, Meaning); 11] = [
        ("tracecontext", Meaning::Formats(&[Format::TraceContext])),
        ("b3", Meaning::Formats(&[Format::B3, Format::B3Multi])),
        ("b3multi", Meaning::Formats(&[Format::B3, Format::B3Multi])),
        ("jaeger", Meaning::Formats(&[Format::Jaeger])),
        ("datadog", Meaning::Formats(&[Format::Datadog])),
        ("elastic", Meaning::Formats(&[Format::Elastic])),
        ("ottrace", Meaning::Formats(&[Format::OtTrace])),
        ("gcp", Meaning::Formats(&[Format::Gcp])),
        ("xray", Meaning::Formats(&[Format::XRay])),
        ("opencensus", Meaning::Formats(&[Format::OpenCensus])),
        ("none", Meaning::None),
    ];

    /// Reads a list of names, separated by commas. What is named twice counts where it is first.
    ///
    /// # Errors
    /// The first name that is not known; `none` beside others; no name at all.
    pub fn parse(list: &str) -> Result<Self, PropagatorsError> {
        let mut formats = Vec::new();
        let (mut names, mut none) = (0, false);
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            names += 1;
            let known = Self::NAMES.iter().find(|(known, _)| *known == name);
            match known.ok_or_else(|| PropagatorsError::Unknown(name.to_owned()))?.1 {
                Meaning::Formats(named) => {
                    for format in named {
                        if !formats.contains(format) {
                            formats.push(*format);
                        }
                    }
                }
                Meaning::None => none = true,
            }
        }
        match (names, none) {
            (0, _) => Err(PropagatorsError::Empty),
            (2.., true) => Err(PropagatorsError::NoneAndOthers),
            _ => Ok(Self { formats }),
        }
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
        check("tracecontext", Ok(&[Format::TraceContext]));
        check(" tracecontext , tracecontext,", Ok(&[Format::TraceContext]));
        check("none", Ok(&[]));
        check("none,tracecontext", Err("not the only one"));
        check("", Err("empty"));
        check(" , ", Err("empty"));
        check("tracecontext,zipkin", Err("`zipkin` is not known; tracecontext,"));
        check("TraceContext", Err("is not known"));
    }
}
