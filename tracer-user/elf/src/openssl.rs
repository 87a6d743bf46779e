//! Which OpenSSL a file holds, and where that keeps what ties a session to its socket, read off its own functions.

use tracer_abi::openssl::OpenSslLayout;

use super::accessor::{Seen, Value, follow};
use super::elf::Function;

/// In `libssl`.
pub(crate) const OF_SESSIONS: [&str; 6] = [
    "SSL_get_client_random",
    "SSL_get_server_random",
    "SSL_is_server",
    "SSL_get_read_ahead",
    "SSL_get_rbio",
    "SSL_get_wbio",
];

/// In `libcrypto`.
pub(crate) const OF_CRYPTO: [&str; 3] = ["BIO_number_read", "BIO_number_written", "OpenSSL_version_num"];

/// The random values of a session's hellos lie side by side in it.
const APART: u32 = 32;

/// Nothing, where one of the functions is missing, or not understood.
pub(crate) fn layout(functions: &[Function]) -> Option<OpenSslLayout> {
    let seen = |name: &str| follow(functions.iter().find(|function| function.name == name)?);
    let (client_random, server_random) =
        randoms(&seen("SSL_get_client_random")?, &seen("SSL_get_server_random")?)?;
    let writes_to = seen("SSL_get_wbio")?;
    Some(OpenSslLayout {
        client_random,
        server_random,
        is_server: field(&seen("SSL_is_server")?)?,
        read_ahead: field(&seen("SSL_get_read_ahead")?)?,
        reads_from: field(&seen("SSL_get_rbio")?)?,
        writes_to: field(&writes_to)?,
        gathers_in: only(writes_to.passed.iter().filter_map(as_field))?,
        number_read: field(&seen("BIO_number_read")?)?,
        number_written: field(&seen("BIO_number_written")?)?,
    })
}

/// As its own number says (`OPENSSL_VERSION_NUMBER`): `3.0.19`, `1.1.1w`.
pub(crate) fn version(functions: &[Function]) -> Option<String> {
    let function = functions.iter().find(|function| function.name == "OpenSSL_version_num")?;
    let number = only(follow(function)?.returned.iter().filter_map(|value| match value {
        Value::Number(number) => Some(*number),
        Value::Unknown | Value::Inside(_) | Value::Field(_) => None,
    }))?;
    let part = |shift: u32| number >> shift & 0xff;
    let (major, minor) = (number >> 28, part(20));
    if major >= 3 {
        return Some(format!("{major}.{minor}.{}", part(4)));
    }
    let letter = u8::try_from(part(4)).ok().filter(|number| (1..=26).contains(number));
    let letter = letter.map(|number| char::from(b'a' + number - 1).to_string()).unwrap_or_default();
    Some(format!("{major}.{minor}.{}{letter}", part(12)))
}

/// The one field that is returned.
fn field(seen: &Seen) -> Option<u32> {
    only(seen.returned.iter().filter_map(as_field))
}

const fn as_field(value: &Value) -> Option<u32> {
    match value {
        Value::Field(offset) => Some(*offset),
        Value::Unknown | Value::Inside(_) | Value::Number(_) => None,
    }
}

/// The first places that one function looks at and the other one does not.
fn randoms(client: &Seen, server: &Seen) -> Option<(u32, u32)> {
    let of_client = client.touched.difference(&server.touched).next()?;
    let of_server = server.touched.difference(&client.touched).next()?;
    (of_client.abs_diff(*of_server) == APART).then_some((*of_client, *of_server))
}

fn only<T>(mut values: impl Iterator<Item = T>) -> Option<T> {
    values.next().filter(|_| values.next().is_none())
}
