//! The table of traced processes, as user space writes it.
//!
//! The kernel half enters forked and execed processes by itself, and takes every process out when it exits. A
//! bitmap of number slots lets it pass over untraced processes without a look-up; each side writes only its own.

use std::collections::{HashMap, HashSet};

use anyhow::Context as _;
use aya::Pod;
use aya::maps::{Array, HashMap as BpfHashMap, MapData};
use tracer_abi::config::{NANOS_PER_TICK, PREFILTER_SLOTS, ProcessState, process_flags};
use tracer_abi::task::{ProcessKey, Tgid};

use super::object::Loaded;
use super::record;

/// `BPF_ANY` and `BPF_EXIST`: the key may be absent, or must not.
const ANY: u64 = 0;
const EXIST: u64 = 2;

pub(super) struct Processes {
    table: BpfHashMap<MapData, u32, Entry>,
    slots: Array<MapData, u64>,
    /// Processes entered from here, and how many of them share each slot.
    entered: HashSet<u32>,
    slot_users: HashMap<u32, u32>,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Entry(ProcessState);

// SAFETY: `repr(C)` integers without padding.
unsafe impl Pod for Entry {}

impl Processes {
    pub(super) fn new(loaded: &mut Loaded) -> anyhow::Result<Self> {
        Ok(Self {
            table: loaded.take_map("TRACER_PROCS")?.try_into().context("open map TRACER_PROCS")?,
            slots: loaded.take_map("TRACER_USLOTS")?.try_into().context("open map TRACER_USLOTS")?,
            entered: HashSet::new(),
            slot_users: HashMap::new(),
        })
    }

    /// Says whether the process was not captured before.
    pub(super) fn trace(&mut self, process: ProcessKey) -> anyhow::Result<bool> {
        self.enter(process, 0, 0)
    }

    /// Traces one thread of the tracer itself.
    pub(super) fn trace_self_test(&mut self, tracer: ProcessKey, tid: u32) -> anyhow::Result<()> {
        self.enter(tracer, process_flags::SELF_TEST, tid).map(drop)
    }

    fn enter(&mut self, process: ProcessKey, flags: u32, only_tid: u32) -> anyhow::Result<bool> {
        let tgid = process.tgid.0;
        let in_ticks = process.start_boottime.is_multiple_of(NANOS_PER_TICK);
        let (start_boottime, precision) = if in_ticks {
            (process.start_boottime / NANOS_PER_TICK, process_flags::START_IN_TICKS)
        } else {
            (process.start_boottime, 0)
        };
        let mut entry = ProcessState { start_boottime, flags: flags | precision, only_tid };
        if let Ok(Entry(known)) = self.table.get(&tgid, 0)
            && known.flags & process_flags::BY_KERNEL != 0
        {
            // Still counted in the kernel half's slots. Should the process exit just now, there is nothing to keep.
            entry.flags |= process_flags::BY_KERNEL;
            if self.table.insert(tgid, Entry(entry), EXIST).is_ok() {
                return Ok(known.flags & process_flags::UNTRACED != 0);
            }
            entry.flags &= !process_flags::BY_KERNEL;
        }
        let new = self.take_slot(tgid)?;
        self.table
            .insert(tgid, Entry(entry), ANY)
            .with_context(|| format!("enter process {tgid} into the table"))?;
        Ok(new)
    }

    pub(super) fn untrace(&mut self, process: ProcessKey) {
        let tgid = process.tgid.0;
        let Ok(Entry(mut entry)) = self.table.get(&tgid, 0) else {
            return;
        };
        if entry.flags & process_flags::BY_KERNEL == 0 {
            // Absent by now: it has exited.
            let _ = self.table.remove(&tgid);
            self.give_back_slot(tgid);
        } else {
            // The kernel half's own entry stays until exit, when its slot is given back.
            entry.flags |= process_flags::UNTRACED;
            let _ = self.table.insert(tgid, Entry(entry), EXIST);
        }
    }

    /// Looks at a record on its way: the kernel half has removed a process that ended.
    pub(super) fn observe(&mut self, record: &[u8]) {
        if record::is_process_end(record)
            && let Some(Tgid(tgid)) = record::tgid(record)
        {
            self.give_back_slot(tgid);
        }
    }

    /// Says whether the process had none.
    fn take_slot(&mut self, tgid: u32) -> anyhow::Result<bool> {
        if !self.entered.insert(tgid) {
            return Ok(false);
        }
        let slot = tgid % PREFILTER_SLOTS;
        let users = self.slot_users.entry(slot).or_default();
        *users += 1;
        if *users == 1 {
            self.write_slot(slot, true)?;
        }
        Ok(true)
    }

    fn give_back_slot(&mut self, tgid: u32) {
        if !self.entered.remove(&tgid) {
            return;
        }
        let slot = tgid % PREFILTER_SLOTS;
        if let Some(users) = self.slot_users.get_mut(&slot) {
            *users -= 1;
            if *users == 0 {
                self.slot_users.remove(&slot);
                // A slot that stays marked costs look-ups, nothing else.
                let _ = self.write_slot(slot, false);
            }
        }
    }

    fn write_slot(&mut self, slot: u32, used: bool) -> anyhow::Result<()> {
        let (word, bit) = (slot / 64, 1 << (slot % 64));
        let old = self.slots.get(&word, 0).context("read map TRACER_USLOTS")?;
        let new = if used { old | bit } else { old & !bit };
        self.slots.set(word, new, 0).context("write map TRACER_USLOTS")
    }
}
