//! `key=value,key=value` with percent-encoded values: the form of `OTEL_RESOURCE_ATTRIBUTES` and of
//! `OTEL_EXPORTER_OTLP_HEADERS` (the `key=value` part of W3C Baggage, section 3.2.1; properties are not part of it).

/// Pairs of one variable at most: more is not a configuration, and every one of them goes into every resource.
const MAX_PAIRS: usize = 128;

/// Why a list was refused. One bad pair makes the whole list void, as the OpenTelemetry resource specification asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PairsError {
    #[error("a pair has no `=`")]
    NoEquals,
    #[error("a key is empty")]
    EmptyKey,
    #[error("a percent sign is not followed by two hexadecimal digits, or what they encode is not UTF-8")]
    BadEncoding,
    #[error("more than {MAX_PAIRS} pairs")]
    TooMany,
}

/// The pairs in order of appearance, white space around keys and values removed. A later pair of the same key
/// replaces an earlier one.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, String)>, PairsError> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in text.split(',') {
        if pair.trim().is_empty() {
            continue;
        }
        let (key, value) = pair.split_once('=').ok_or(PairsError::NoEquals)?;
        let (key, value) = (decode(key.trim())?, decode(value.trim())?);
        if key.is_empty() {
            return Err(PairsError::EmptyKey);
        }
        if let Some(known) = pairs.iter_mut().find(|known| known.0 == key) {
            known.1 = value;
        } else if pairs.len() < MAX_PAIRS {
            pairs.push((key, value));
        } else {
            return Err(PairsError::TooMany);
        }
    }
    Ok(pairs)
}

fn decode(text: &str) -> Result<String, PairsError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
            let (high, low) =
                (digit().ok_or(PairsError::BadEncoding)?, digit().ok_or(PairsError::BadEncoding)?);
            bytes.push((high * 16 + low) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| PairsError::BadEncoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: Result<&[(&str, &str)], PairsError>) {
        let want =
            want.map(|pairs| pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect::<Vec<_>>());
        assert_eq!(parse(text), want, "{text:?}");
    }

    #[test]
    fn pairs() {
        check("", Ok(&[]));
        check("a=b", Ok(&[("a", "b")]));
        check(" a = b , c=d=e ,", Ok(&[("a", "b"), ("c", "d=e")]));
        check("a=b%2Cc%20d%C3%A9", Ok(&[("a", "b,c dé")]));
        check("a=", Ok(&[("a", "")]));
        check("a=1,a=2", Ok(&[("a", "2")]));
        check("a", Err(PairsError::NoEquals));
        check("a=b,c", Err(PairsError::NoEquals));
        check("=b", Err(PairsError::EmptyKey));
        check("a=%", Err(PairsError::BadEncoding));
        check("a=%2", Err(PairsError::BadEncoding));
        check("a=%zz", Err(PairsError::BadEncoding));
        check("a=%ff", Err(PairsError::BadEncoding));
        let many: Vec<String> = (0..=MAX_PAIRS).map(|n| format!("k{n}=v")).collect();
        check(&many.join(","), Err(PairsError::TooMany));
    }
}
