//! Where a function ends that may go on in other ones: all returns that it can come to, and how its stack grows.
//!
//! A function that goes on in another one leaves the stack as it has found it, and what that returns is its own result. So
//! one that jumps to a place that is computed while its stack is grown stays inside of itself: a table of cases. Anything
//! else that is not understood gives nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use anyhow::{Context as _, bail, ensure};
use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register,
};

use super::elf::{self, Function, Segment};
use super::place::{self, Gate, Point, Site};

/// Instructions of all that a function goes on with: those of the hosts' libraries have some hundreds.
const MAX_STEPS: usize = 4096;

/// How far an instruction may reach (Intel SDM 2.3.11).
const INSTRUCTION_BYTES: u64 = 15;

const WORD: i32 = 8;

const BRANCHES: [FlowControl; 2] = [FlowControl::ConditionalBranch, FlowControl::UnconditionalBranch];

const END: Site = Site::Ends(Gate::Always);

/// It moves nothing itself: it jumps elsewhere, and neither returns nor calls.
pub(crate) fn only_goes_on(function: &Function) -> bool {
    let Some(instructions) = place::decode(function) else { return false };
    let jumps = |is: &Instruction| is.flow_control() == FlowControl::UnconditionalBranch;
    let leaves = |is: &Instruction| {
        is.flow_control() == FlowControl::Next || jumps(is) && !function.has(is.near_branch_target())
    };
    instructions.iter().all(leaves) && instructions.last().is_some_and(jumps)
}

/// By how many words the stack has grown at a place to which the function comes straight.
pub(crate) fn depth(function: &Function, point: &Point) -> Option<u8> {
    let mut bytes: i32 = 0;
    for instruction in place::decode(function)? {
        if instruction.ip() - function.address >= point.inside {
            return (bytes % WORD == 0).then(|| u8::try_from(bytes / WORD).ok()).flatten();
        }
        bytes = bytes.checked_add(growth(&instruction)?)?;
    }
    None
}

/// All returns of a call of the function. The stack pointer is at each as at the function's beginning.
///
/// # Errors
/// When it may end elsewhere.
pub(crate) fn returns(file: &File, segments: &[Segment], function: &Function) -> anyhow::Result<Vec<Point>> {
    let instructions = place::decode(function).context("it is not code")?;
    let computed = |is: &&Instruction| is.flow_control() == FlowControl::IndirectBranch;
    let depths =
        if instructions.iter().any(|is| computed(&is)) { depths(&instructions) } else { BTreeMap::new() };
    for jump in instructions.iter().filter(computed) {
        let stays = depths.get(&jump.ip()).is_some_and(|depth| depth.is_some_and(|bytes| bytes > 0));
        ensure!(stays, "it goes to where is not known");
    }
    let unknown = |is: &Instruction| is.flow_control() == FlowControl::XbeginXabortXend;
    ensure!(!instructions.iter().any(unknown), "it takes part in a transaction");
    let mut points = Vec::new();
    let mut ahead = Vec::new();
    for instruction in &instructions {
        if instruction.flow_control() == FlowControl::Return {
            let inside = instruction.ip() - function.address;
            let offset = function.offset + inside;
            points.push(place::point(function.name, instruction, END, offset, inside));
        } else if BRANCHES.contains(&instruction.flow_control()) {
            ahead.push(instruction.near_branch_target());
        }
    }
    ahead.retain(|target| !function.has(*target));
    go_on(file, segments, function, ahead, &mut points)?;
    ensure!(!points.is_empty(), "it has no end");
    Ok(points)
}

/// Goes all ways from these places, which are of other functions, to their ends.
fn go_on(
    file: &File,
    segments: &[Segment],
    function: &Function,
    mut ahead: Vec<u64>,
    points: &mut Vec<Point>,
) -> anyhow::Result<()> {
    let mut gone = BTreeSet::new();
    while let Some(begins) = ahead.pop() {
        let mut at = begins;
        // Inside of the function itself all returns are known.
        while !function.has(at) && gone.insert(at) {
            ensure!(gone.len() <= MAX_STEPS, "it goes on for too long");
            let code =
                elf::at(file, segments, at, INSTRUCTION_BYTES).context("it goes to where no code is")?;
            let instruction = Decoder::with_ip(64, &code, at, DecoderOptions::NONE).decode();
            ensure!(!instruction.is_invalid(), "it goes on with what is not code");
            let target = instruction.near_branch_target();
            match instruction.flow_control() {
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => {
                    at = instruction.next_ip()
                }
                FlowControl::ConditionalBranch => {
                    ahead.push(target);
                    at = instruction.next_ip();
                }
                FlowControl::UnconditionalBranch => at = target,
                FlowControl::Return => {
                    let offset = elf::offset(segments, at, 1).context("no place in the file")?;
                    let inside = at.saturating_sub(begins);
                    points.push(place::point(function.name, &instruction, END, offset, inside));
                    break;
                }
                FlowControl::Exception => break,
                FlowControl::IndirectBranch | FlowControl::Interrupt | FlowControl::XbeginXabortXend => {
                    bail!("it goes to where is not known")
                }
            }
        }
    }
    Ok(())
}

/// By how many bytes the stack has grown before each instruction. `None`: it is not known.
///
/// What is come to by computed jumps only is a case of their tables, or where an unwinding goes on: the stack is as at those,
/// if it is the same at all of them.
fn depths(instructions: &[Instruction]) -> BTreeMap<u64, Option<i32>> {
    let mut depths: BTreeMap<u64, Option<i32>> = BTreeMap::new();
    follow_depths(instructions, 0, Some(0), &mut depths);
    let computed = instructions.iter().filter(|is| is.flow_control() == FlowControl::IndirectBranch);
    let mut known = computed.filter_map(|jump| depths.get(&jump.ip()).copied().flatten());
    if let Some(depth) = known.next()
        && known.all(|other| other == depth)
    {
        for (at, instruction) in instructions.iter().enumerate() {
            if !depths.contains_key(&instruction.ip()) {
                follow_depths(instructions, at, Some(depth), &mut depths);
            }
        }
    }
    depths
}

/// Goes all ways from an instruction.
fn follow_depths(
    instructions: &[Instruction],
    begins: usize,
    depth: Option<i32>,
    depths: &mut BTreeMap<u64, Option<i32>>,
) {
    let mut ahead = vec![(begins, depth)];
    while let Some((mut at, mut depth)) = ahead.pop() {
        while let Some(instruction) = instructions.get(at) {
            match depths.get(&instruction.ip()) {
                Some(known) if *known == depth || known.is_none() => break,
                // Two ways with different stacks.
                Some(_) => depth = None,
                None => {}
            }
            depths.insert(instruction.ip(), depth);
            depth = depth.and_then(|bytes: i32| bytes.checked_add(growth(instruction)?));
            let find = |ip: u64| instructions.binary_search_by_key(&ip, Instruction::ip).ok();
            match instruction.flow_control() {
                FlowControl::ConditionalBranch => {
                    ahead.extend(find(instruction.near_branch_target()).map(|target| (target, depth)));
                    at += 1;
                }
                FlowControl::UnconditionalBranch => match find(instruction.near_branch_target()) {
                    Some(target) => at = target,
                    None => break,
                },
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => at += 1,
                FlowControl::IndirectBranch
                | FlowControl::Return
                | FlowControl::Interrupt
                | FlowControl::XbeginXabortXend
                | FlowControl::Exception => break,
            }
        }
    }
}

/// By how many bytes an instruction makes the stack grow. Nothing: it is not known.
fn growth(instruction: &Instruction) -> Option<i32> {
    if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
        return Some(0);
    }
    let mnemonic = instruction.mnemonic();
    let into_stack_pointer =
        instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::RSP;
    if mnemonic == Mnemonic::Push || mnemonic == Mnemonic::Pop && !into_stack_pointer {
        return Some(-instruction.stack_pointer_increment());
    }
    if matches!(mnemonic, Mnemonic::Sub | Mnemonic::Add) && into_stack_pointer {
        let is_number = matches!(instruction.op1_kind(), OpKind::Immediate8to64 | OpKind::Immediate32to64);
        let bytes = is_number.then(|| i32::try_from(instruction.immediate(1) as i64).ok())??;
        return if mnemonic == Mnemonic::Sub { Some(bytes) } else { bytes.checked_neg() };
    }
    let mut info = InstructionInfoFactory::new();
    (!place::writes(&mut info, instruction, Register::RSP)).then_some(0)
}
