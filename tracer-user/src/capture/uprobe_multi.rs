//! Probes in user programs of which many are one link of the kernel's (`BPF_TRACE_UPROBE_MULTI`, since 6.6).
//!
//! A link for each probe goes through the kernel's lock of trace events (`perf_uprobe_destroy`), which its end holds for a
//! grace period: fifteen probes end in fifteen grace periods, one after the other, and meanwhile no other begins. All of
//! one link wait for one, and hold up nobody.
//!
//! The library that loads the rest knows no such programs. So this parses the object once more, ties it to the maps that
//! are there, and loads the programs itself.

use std::collections::{BTreeMap, HashSet};
use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya_obj::generated::{
    BPF_F_UPROBE_MULTI_RETURN, bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type,
};
use aya_obj::{Function, Object};
use tracer_abi::task::Tgid;

use super::verdicts::at_once;

/// Since when such a link knows the threads of a process (commit 46ba0e49b642).
const KNOWS_PROCESSES: (u32, u32) = (6, 10);

/// Room for what the verifier says of a program that it refuses.
const LOG_BYTES: usize = 1 << 20;

/// Its last bytes are told.
const LOG_TOLD: usize = 400;

/// Programs by name.
pub(super) struct Programs {
    loaded: BTreeMap<&'static str, OwnedFd>,
}

/// A place for a probe in a file, and what its program is told of it.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) cookie: u64,
}

impl Programs {
    /// Loads programs of the object whose maps `ebpf` holds, all of them still. Those that are `optional` may be refused.
    ///
    /// # Errors
    /// When the kernel is too old, or refuses another one.
    pub(super) fn load(
        object: &[u8],
        ebpf: &Ebpf,
        names: &[&'static str],
        optional: &[&'static str],
    ) -> anyhow::Result<Self> {
        ensure!(kernel_version() >= KNOWS_PROCESSES, "this kernel's links of many probes know no processes");
        let mut parsed = Object::parse(object).context("parse the kernel half")?;
        let features = aya::features();
        let types = match features.btf() {
            Some(known) => parsed.fixup_and_sanitize_btf(known).context("types of the kernel half")?,
            None => None,
        };
        let types =
            load_types(&types.context("no types")?.to_bytes()).context("load the kernel half's types")?;
        let sections: HashSet<usize> = parsed.functions.keys().map(|(section, _)| *section).collect();
        let described = mem::take(&mut parsed.maps);
        let maps = described.iter().filter_map(|(name, map)| {
            let known = data(ebpf.map(name)?)?;
            Some((name.as_str(), known.fd().as_fd().as_raw_fd(), map))
        });
        parsed.relocate_maps(maps, &sections).context("tie the kernel half to its maps")?;
        parsed.relocate_calls(&sections).context("link the kernel half")?;
        parsed.sanitize_functions(features);
        let load = |name: &'static str| {
            let program = parsed.programs.get(name).with_context(|| format!("no program {name}"))?;
            let function = parsed.functions.get(&program.function_key()).context("a program without code")?;
            load_program(name, function, &program.license, types.as_fd())
                .with_context(|| format!("load {name}"))
        };
        let mut loaded = BTreeMap::new();
        for (name, program) in at_once(names.iter().chain(optional).collect(), |name| (*name, load(name))) {
            match program {
                Ok(fd) => {
                    loaded.insert(name, fd);
                }
                Err(error) if optional.contains(&name) => tracing::debug!("{error:#}"),
                Err(error) => return Err(error),
            }
        }
        Ok(Self { loaded })
    }

    /// Whether the kernel has taken a program.
    pub(super) fn has(&self, name: &str) -> bool {
        self.loaded.contains_key(name)
    }

    /// Attaches a program at places in a file, for one process. `returns`: when the function that begins there returns.
    ///
    /// # Errors
    /// `ESRCH`: the process is gone.
    pub(super) fn attach(
        &self,
        name: &str,
        file: &Path,
        places: &[Place],
        process: Tgid,
        returns: bool,
    ) -> io::Result<OwnedFd> {
        let refused = || io::Error::new(io::ErrorKind::Unsupported, format!("this kernel refuses {name}"));
        let program = self.loaded.get(name).ok_or_else(refused)?;
        let path = CString::new(file.as_os_str().as_bytes())?;
        let offsets: Vec<u64> = places.iter().map(|place| place.offset).collect();
        let cookies: Vec<u64> = places.iter().map(|place| place.cookie).collect();
        let mut attr = no_attr();
        // SAFETY: this is the part of the union that is of this command.
        let create = unsafe { &mut attr.link_create };
        create.__bindgen_anon_1.prog_fd = number(program.as_fd());
        create.attach_type = bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32;
        // SAFETY: this is the part of the union that is of this attach type.
        let multi = unsafe { &mut create.__bindgen_anon_3.uprobe_multi };
        multi.path = path.as_ptr() as u64;
        multi.offsets = offsets.as_ptr() as u64;
        multi.cookies = cookies.as_ptr() as u64;
        multi.cnt = u32::try_from(places.len()).map_err(io::Error::other)?;
        multi.flags = if returns { BPF_F_UPROBE_MULTI_RETURN } else { 0 };
        multi.pid = process.0;
        // SAFETY: everything that it points to outlives the call.
        unsafe { call(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
    }
}

fn load_types(types: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = no_attr();
    // SAFETY: this is the part of the union that is of this command.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = types.as_ptr() as u64;
    load.btf_size = u32::try_from(types.len()).map_err(io::Error::other)?;
    // SAFETY: everything that it points to outlives the call.
    unsafe { call(bpf_cmd::BPF_BTF_LOAD, &mut attr) }
}

/// # Errors
/// With the verifier's last words.
fn load_program(
    name: &str,
    function: &Function,
    license: &CString,
    types: BorrowedFd<'_>,
) -> anyhow::Result<OwnedFd> {
    let instructions: &[bpf_insn] = &function.instructions;
    let functions = function.func_info.func_info_bytes();
    let lines = function.line_info.line_info_bytes();
    let mut attr = no_attr();
    // SAFETY: this is the part of the union that is of this command.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    let room = load.prog_name.len() - 1;
    for (to, from) in load.prog_name.iter_mut().zip(name.bytes().take(room)) {
        *to = from.cast_signed();
    }
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32;
    load.expected_attach_type = bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = u32::try_from(instructions.len())?;
    load.license = license.as_ptr() as u64;
    load.prog_btf_fd = number(types);
    load.func_info = functions.as_ptr() as u64;
    load.func_info_cnt = u32::try_from(function.func_info.len())?;
    load.func_info_rec_size = u32::try_from(function.func_info_rec_size)?;
    load.line_info = lines.as_ptr() as u64;
    load.line_info_cnt = u32::try_from(function.line_info.len())?;
    load.line_info_rec_size = u32::try_from(function.line_info_rec_size)?;
    // SAFETY: everything that it points to outlives the call.
    if let Ok(fd) = unsafe { call(bpf_cmd::BPF_PROG_LOAD, &mut attr) } {
        return Ok(fd);
    }
    let mut log = vec![0_u8; LOG_BYTES];
    // SAFETY: as above.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.log_level = 1;
    load.log_buf = log.as_mut_ptr() as u64;
    load.log_size = u32::try_from(log.len())?;
    // SAFETY: as above.
    unsafe { call(bpf_cmd::BPF_PROG_LOAD, &mut attr) }.with_context(|| {
        let said = String::from_utf8_lossy(&log);
        let said = said.trim_end_matches('\0').trim_end();
        let from = said.floor_char_boundary(said.len().saturating_sub(LOG_TOLD));
        format!("the verifier says: {}", said.get(from..).unwrap_or_default())
    })
}

/// The maps of the kernel half are of these kinds.
#[expect(clippy::wildcard_enum_match_arm, reason = "any other one is not of the kernel half")]
fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::ProgramArray(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data)
        | Map::Unsupported(data) => Some(data),
        _ => None,
    }
}

fn no_attr() -> bpf_attr {
    // SAFETY: a union of integers.
    unsafe { mem::zeroed() }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// # Safety
/// The command must return a new descriptor, and what `attr` points to must be there.
unsafe fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: as the caller promises.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command as u32, &raw mut *attr, size_of::<bpf_attr>()) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Its first two numbers.
pub(super) fn kernel_version() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
