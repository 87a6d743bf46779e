//! GnuTLS: where it hands over plaintext, and where a session keeps what ties it to its socket, read off its own functions.
//!
//! Whatever else is called comes to these: what is gathered (`gnutls_record_cork`) is sent by them when it goes, and files
//! (`gnutls_record_send_file`) as well. Early data, which is not, is not seen.

use std::fs::File;

use anyhow::{Context as _, ensure};
use iced_x86::{Mnemonic, Register};
use tracer_abi::config::{GNUTLS_CORKED, GNUTLS_SERVER, TlsCall};
use tracer_abi::openssl::RANDOM_BYTES;

use super::accessor::{self, Seen};
use super::elf::{self, Function, Segment};
use super::follow;
use super::place::{self, Point};

const SEND: &str = "gnutls_record_send";

/// Plaintext goes through these. Those that are there are all probed, or none is.
const MOVING: [(&str, TlsCall); 6] = [
    ("gnutls_record_send2", TlsCall::Write),
    (SEND, TlsCall::Write),
    ("gnutls_record_send_range", TlsCall::Write),
    ("gnutls_record_recv", TlsCall::Read),
    ("gnutls_record_recv_seq", TlsCall::Read),
    ("gnutls_record_recv_packet", TlsCall::ReadAside),
];

const FREE: &str = "gnutls_deinit";

/// They show where something is.
const RANDOMS: &str = "gnutls_session_get_random";
const CORK: &str = "gnutls_record_cork";
/// Both ask whether the session is the server's, or the client's.
const OF_ROLE: [&str; 2] = ["gnutls_auth_get_type", "gnutls_rehandshake"];
const VERSION: &str = "gnutls_check_version";

/// `GNUTLS_CLIENT` (`gnutls/gnutls.h`).
const CLIENT: u32 = 2;

const MAX_VERSION_BYTES: u64 = 16;

/// Where in a session the kernel half finds what it reads there, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// The random values of both hellos, the client's first.
    pub hellos: u16,
    pub role: u16,
    /// Whether what is to be sent is gathered.
    pub corked: u16,
}

/// Its version, as it says itself; where a session has what; and the places for probes.
///
/// # Errors
/// When a function is missing, or not understood.
pub(crate) fn examine(file: &File) -> anyhow::Result<(Option<String>, Fields, Vec<Point>)> {
    let mut names: Vec<&'static str> = MOVING.iter().map(|(name, _)| *name).collect();
    names.extend([FREE, RANDOMS, CORK, VERSION]);
    names.extend(OF_ROLE);
    let functions = elf::functions(file, &names)?;
    let segments = elf::segments(file)?;
    let fields = fields(&functions).context("where a session has its hellos is not understood")?;
    let mut points: Vec<Point> = Vec::new();
    for (name, call) in MOVING {
        let Some(function) = find(&functions, name) else { continue };
        // All that it sends goes through another one.
        if name == SEND && find(&functions, MOVING[0].0).is_some() && follow::only_goes_on(function) {
            continue;
        }
        let begins = place::beginning(function, call).with_context(|| format!("{name} is not understood"))?;
        let depth = follow::depth(function, &begins)
            .with_context(|| format!("the stack of {name} is not understood"))?;
        points.push(Point { depth, ..begins });
        let ends = follow::returns(file, &segments, function);
        points.extend(ends.with_context(|| format!("{name} may end in ways that are not seen"))?);
    }
    for call in [TlsCall::Write, TlsCall::Read] {
        let is_call = |point: &Point| point.site == place::Site::Begins(call);
        ensure!(points.iter().any(is_call), "it exports no function that moves plaintext");
    }
    let free = find(&functions, FREE).and_then(place::freeing);
    points.push(free.context("it exports no function that frees a session")?);
    // Two functions may go on in the same one.
    let mut seen = std::collections::BTreeSet::new();
    points.retain(|point| seen.insert(point.offset));
    Ok((version(file, &segments, &functions), fields, points))
}

fn find<'f>(functions: &'f [Function], name: &str) -> Option<&'f Function> {
    functions.iter().find(|function| function.name == name)
}

pub(crate) fn fields(functions: &[Function]) -> Option<Fields> {
    let seen = |name: &str| accessor::follow(find(functions, name)?);
    let mut randoms = seen(RANDOMS)?.touched.into_iter();
    let (client, server) = (randoms.next()?, randoms.next()?);
    let together = randoms.next().is_none() && client + RANDOM_BYTES as u32 == server;
    let role = role(&seen(OF_ROLE[0])?, &seen(OF_ROLE[1])?)?;
    let mut corks = seen(CORK)?.written.into_iter();
    let (corked, state) = corks.next()?;
    let as_known = corks.next().is_none() && state == u64::from(GNUTLS_CORKED[0]);
    (together && as_known).then_some(Fields {
        hellos: client.try_into().ok()?,
        role: role.try_into().ok()?,
        corked: corked.try_into().ok()?,
    })
}

/// The one place that both compare with what a role is.
fn role(first: &Seen, second: &Seen) -> Option<u32> {
    let places = |seen: &Seen| {
        let is_role = |number: u64| [GNUTLS_SERVER, CLIENT].map(u64::from).contains(&number);
        let of_role = seen.compared.iter().filter(|(_, number)| is_role(*number));
        of_role.map(|(place, _)| *place).collect::<std::collections::BTreeSet<u32>>()
    };
    let (first, second) = (places(first), places(second));
    let mut common = first.intersection(&second);
    common.next().copied().filter(|_| common.next().is_none())
}

/// The text that the function compares with.
fn version(file: &File, segments: &[Segment], functions: &[Function]) -> Option<String> {
    let instructions = place::decode(find(functions, VERSION)?)?;
    let is_text =
        |is: &&iced_x86::Instruction| is.mnemonic() == Mnemonic::Lea && is.memory_base() == Register::RIP;
    let address = instructions.iter().find(is_text)?.ip_rel_memory_address();
    let bytes = elf::at(file, segments, address, MAX_VERSION_BYTES).ok()?;
    let text = bytes.split(|byte| *byte == 0).next()?;
    let is_version = text.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') && text.contains(&b'.');
    (is_version && text.len() < bytes.len()).then(|| String::from_utf8_lossy(text).into_owned())
}
