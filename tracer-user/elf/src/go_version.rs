//! What a program of Go says of itself, and what is known of the version that it was built with.
//!
//! The version is in the build information that every program of Go carries, stripped or not; where that version has its
//! fields, a row of [`VERSIONS`] says. To add a version is to add a row, and its name to the tests.

use tracer_abi::golang::GoLayout;

/// A version: where the kernel half, and who looks for goroutines, find what they read.
#[derive(Debug)]
pub struct Version {
    pub minor: u8,
    /// From `runtime.sched`: the limit of threads, in words.
    pub max_threads: usize,
    /// From a `tls.Conn`: `rawInput`, in bytes.
    pub raw_input: u16,
    pub layout: GoLayout,
}

/// Read off the debugging information of each version. Fields are the same in all releases of a minor version.
pub const VERSIONS: &[Version] = &[
    Version { minor: 22, max_threads: 7, raw_input: 680, layout: layout(144, 272, 56, (48, 16), 384) },
    Version { minor: 23, max_threads: 7, raw_input: 688, layout: layout(152, 280, 64, (40, 8), 376) },
    Version { minor: 24, max_threads: 7, raw_input: 688, layout: layout(152, 280, 64, (40, 8), 376) },
    Version { minor: 25, max_threads: 8, raw_input: 672, layout: layout(144, 272, 64, (40, 8), 376) },
    Version { minor: 26, max_threads: 10, raw_input: 672, layout: layout(144, 280, 64, (40, 8), 384) },
    Version { minor: 27, max_threads: 10, raw_input: 696, layout: layout(144, 280, 64, (40, 8), 384) },
];

/// What follows directly in all of them: a goroutine's number its state, where it was started the number of who did, the
/// end of a processor's numbers the next of them.
const fn layout(status: u32, parent: u32, receivers: u32, request: (u32, u32), cache: u32) -> GoLayout {
    GoLayout {
        status,
        number: status + 8,
        parent,
        started_at: parent + 8,
        receivers,
        request_bytes: request.0,
        request_channel: request.1,
        cache,
        cache_end: cache + 8,
        reserved: 0,
    }
}

/// What begins the build information, which is among a program's variables, at their start unless C's linker made it. At a
/// multiple of 16.
const MAGIC: &[u8; 14] = b"\xff Go buildinf:";
const INFO_VERSION: usize = 32;
const FLAG_INLINE: u8 = 2;

/// Among a program's variables, as its file or its memory has them: `go1.26.1`, and what a vendor adds; and the modules that
/// it was built of, text in lines, which is empty where it does not say.
pub fn build_info(variables: &[u8]) -> Option<(String, &str)> {
    let at = (0..variables.len()).step_by(16).find(|at| variables[*at..].starts_with(MAGIC))?;
    let info = variables.get(at..)?;
    if info.get(MAGIC.len() + 1)? & FLAG_INLINE == 0 {
        // Before 1.18.
        return Some(("go1.17 or older".to_owned(), ""));
    }
    // A length of one byte: versions are short.
    let len = usize::from(*info.get(INFO_VERSION)?);
    let (text, rest) = info.get(INFO_VERSION + 1..)?.split_at_checked(len)?;
    let is_version =
        len < 64 && text.starts_with(b"go") && text.iter().all(|byte| (b' '..0x7f).contains(byte));
    is_version.then(|| (String::from_utf8_lossy(text).into_owned(), modules(rest).unwrap_or_default()))
}

/// Between two marks of 16 bytes, behind their length, of which each byte but the last has its highest bit set.
fn modules(info: &[u8]) -> Option<&str> {
    const MARK: usize = 16;
    let mut len = 0;
    for (place, byte) in info.iter().enumerate().take(4) {
        len |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let text = info.get(place + 1..)?.get(..len)?;
            return str::from_utf8(text.get(MARK..len.checked_sub(MARK)?)?).ok();
        }
    }
    None
}

/// What is needed for one that has no row.
pub fn unknown_version() -> String {
    let known: Vec<String> = VERSIONS.iter().map(|version| format!("1.{}", version.minor)).collect();
    format!("it needs a row in the table of versions, which has {}", known.join(", "))
}

/// The minor version of `go1.26.1`.
pub fn minor_of(version: &str) -> Option<u8> {
    let digits: String = version.strip_prefix("go1.")?.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// In `go1.26.1`, if it is known: where a goroutine has its number, and a `tls.Conn` what it has read and not looked at, in
/// bytes.
pub fn tls_fields(version: &str) -> Option<(u32, u16)> {
    let minor = minor_of(version)?;
    let version = VERSIONS.iter().find(|version| version.minor == minor)?;
    Some((version.layout.number, version.raw_input))
}
