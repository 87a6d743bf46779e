//! What a function that only looks into an object returns: where in the object that is.
//!
//! OpenSSL's objects are private, and their fields move from version to version; functions that return one field are not.
//! Their code is a few instructions, which are followed here on every way through them, without being executed. What is not
//! understood gives nothing.

use std::collections::BTreeSet;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::elf::Function;
use super::place;

/// Instructions that are followed on all ways together: these functions have some tens.
const MAX_STEPS: usize = 1024;

/// No field of a session lies further in: the largest one is that of a session with QUIC.
const MAX_OFFSET: u64 = 1 << 16;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    #[default]
    Unknown,
    /// The function's first argument, and so many bytes more.
    Inside(u32),
    /// What lies so many bytes into its first argument.
    Field(u32),
    Number(u64),
}

/// What was met on all ways through a function.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) returned: BTreeSet<Value>,
    /// First arguments of functions that it calls, or goes on with.
    pub(crate) passed: BTreeSet<Value>,
    /// Places of the object that were read, or whose address was taken.
    pub(crate) touched: BTreeSet<u32>,
    /// Places of it that were compared with a number, and the number.
    pub(crate) compared: BTreeSet<(u32, u64)>,
    /// The same, that a number was written to.
    pub(crate) written: BTreeSet<(u32, u64)>,
}

#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    registers: [Value; 16],
}

impl State {
    fn get(&self, register: Register) -> Value {
        slot(register).and_then(|slot| self.registers.get(slot)).copied().unwrap_or_default()
    }

    fn set(&mut self, register: Register, value: Value) {
        if let Some(place) = slot(register).and_then(|slot| self.registers.get_mut(slot)) {
            *place = value;
        }
    }
}

fn slot(register: Register) -> Option<usize> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number())
}

/// Follows the function. Nothing: it is none, or goes on for too long.
pub(crate) fn follow(function: &Function) -> Option<Seen> {
    let instructions = place::decode(function)?;
    let mut seen = Seen::default();
    let mut info = InstructionInfoFactory::new();
    let mut begin = State::default();
    begin.set(Register::RDI, Value::Inside(0));
    let mut ways = vec![(0, begin)];
    // Ways that were gone before, with the same in all registers: others may come to the same place with what is looked for.
    let mut taken = BTreeSet::new();
    let mut steps = 0;
    while let Some((mut at, mut state)) = ways.pop() {
        while let Some(instruction) = instructions.get(at) {
            steps += 1;
            if steps > MAX_STEPS {
                return None;
            }
            let target = || {
                let ip = instruction.near_branch_target();
                instructions.binary_search_by_key(&ip, Instruction::ip).ok()
            };
            match instruction.flow_control() {
                FlowControl::Next => step(instruction, &mut state, &mut seen, &mut info),
                FlowControl::Return => {
                    seen.returned.insert(state.get(Register::RAX));
                    break;
                }
                FlowControl::ConditionalBranch => {
                    if let Some(target) = target()
                        && taken.insert((at, target, state.clone()))
                    {
                        ways.push((target, state.clone()));
                    }
                }
                FlowControl::UnconditionalBranch => match target() {
                    Some(target) if taken.insert((at, target, state.clone())) => {
                        at = target;
                        continue;
                    }
                    Some(_) => break,
                    None => {
                        seen.passed.insert(state.get(Register::RDI));
                        break;
                    }
                },
                FlowControl::Call | FlowControl::IndirectCall => {
                    seen.passed.insert(state.get(Register::RDI));
                    // A function may change all but these (System V ABI).
                    let kept = [
                        Register::RBX,
                        Register::RBP,
                        Register::R12,
                        Register::R13,
                        Register::R14,
                        Register::R15,
                    ];
                    let before = std::mem::take(&mut state);
                    kept.into_iter().for_each(|register| state.set(register, before.get(register)));
                }
                FlowControl::IndirectBranch
                | FlowControl::Interrupt
                | FlowControl::XbeginXabortXend
                | FlowControl::Exception => break,
            }
            at += 1;
        }
    }
    Some(seen)
}

fn step(instruction: &Instruction, state: &mut State, seen: &mut Seen, info: &mut InstructionInfoFactory) {
    let inside = inside(instruction, state);
    if let Some(inside) = inside {
        seen.touched.insert(inside);
        if instruction.op0_kind() == OpKind::Memory
            && instruction.op_count() == 2
            && is_any_number(instruction)
        {
            let of_number = (inside, instruction.immediate(1));
            if instruction.mnemonic() == Mnemonic::Cmp {
                seen.compared.insert(of_number);
            } else if instruction.mnemonic() == Mnemonic::Mov {
                seen.written.insert(of_number);
            }
        }
    }
    let source = instruction.op1_register();
    let value = match (instruction.mnemonic(), instruction.op1_kind()) {
        (Mnemonic::Lea, _) => inside.map(Value::Inside),
        (Mnemonic::Add, _) => further(instruction, state).map(|inside| {
            seen.touched.insert(inside);
            Value::Inside(inside)
        }),
        (Mnemonic::Mov, OpKind::Memory) => inside.map(Value::Field),
        (Mnemonic::Mov, OpKind::Register) => Some(state.get(source)),
        (Mnemonic::Mov, kind) if is_number(kind) => Some(Value::Number(instruction.immediate(1))),
        (Mnemonic::Xor, OpKind::Register) if source == instruction.op0_register() => Some(Value::Number(0)),
        _ => None,
    };
    for used in info.info(instruction).used_registers() {
        let writes = matches!(
            used.access(),
            OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        );
        if writes {
            state.set(used.register(), Value::Unknown);
        }
    }
    if instruction.op0_kind() == OpKind::Register
        && let Some(value) = value
    {
        state.set(instruction.op0_register(), value);
    }
}

const fn is_number(kind: OpKind) -> bool {
    matches!(kind, OpKind::Immediate32 | OpKind::Immediate64 | OpKind::Immediate32to64)
}

/// Its second operand is a number of any size.
fn is_any_number(instruction: &Instruction) -> bool {
    let kind = instruction.op1_kind();
    is_number(kind) || matches!(kind, OpKind::Immediate8 | OpKind::Immediate8to32 | OpKind::Immediate8to64)
}

/// Where in the first argument a register points to that a number is added to.
fn further(instruction: &Instruction, state: &State) -> Option<u32> {
    let is_register = instruction.op0_kind() == OpKind::Register && instruction.op0_register().is_gpr64();
    let Value::Inside(base) = state.get(instruction.op0_register()) else { return None };
    if !is_register || !is_any_number(instruction) {
        return None;
    }
    let offset = u64::from(base).checked_add(instruction.immediate(1))?;
    (offset < MAX_OFFSET).then_some(offset as u32)
}

/// Where in the first argument its memory operand is.
fn inside(instruction: &Instruction, state: &State) -> Option<u32> {
    let has = (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
    if !has || instruction.memory_index() != Register::None {
        return None;
    }
    let Value::Inside(base) = state.get(instruction.memory_base()) else { return None };
    let offset = u64::from(base).checked_add(instruction.memory_displacement64())?;
    (offset < MAX_OFFSET).then_some(offset as u32)
}
