//! Where CPython counts its tasks, so that it can be told whether one was there before a request.
//!
//! Since 3.12 it is a field of what `_asyncio` keeps for each interpreter, at a place that a row of the table of versions
//! has. In 3.11 it is a variable of that library, which nothing exports: it is the one that the only function that
//! makes names of the form `Task-N` reads and writes.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};

use super::Python;
use crate::runtime::memory::Bytes;
use crate::runtime::module::{Modules, Program, writable};

/// What the names are made with.
const NAME_FORMAT: &[u8] = b"Task-%lu\0";

/// Instructions before and behind the one that hands that on, among which the number is made.
const NEAR: usize = 6;

/// Code and constants of the library: some 40 KiB.
const MAX_BYTES: u64 = 1 << 20;

/// More tasks than any program makes.
const MAX_TASKS: u64 = 1 << 40;

impl<M: Bytes> Python<'_, M> {
    /// `None`: it is not where it should be.
    pub(super) fn task_counter(&self, modules: u64, files: &Modules) -> Option<u64> {
        let found = if let Some(at) = self.version.task_counter {
            let module = self.module_object(modules, "_asyncio")?;
            self.memory
                .word(module.wrapping_add(self.version.module_state))
                .checked_add(at)
                .filter(|found| *found != at)?
        } else {
            self.counting_variable(files.find(|path| {
                path.rsplit('/').next().is_some_and(|name| name.starts_with("_asyncio.cpython-"))
            })?)?
        };
        // None may have been made yet.
        (self.memory.word(found) < MAX_TASKS).then_some(found)
    }

    fn counting_variable(&self, library: u64) -> Option<u64> {
        let program = Program::of(self.memory, library)?;
        let variables = writable(self.memory, library)?;
        let read = |(start, len): (u64, u64)| {
            let mut bytes = vec![0; len.min(MAX_BYTES) as usize];
            self.memory.fill(start, &mut bytes).then_some(bytes)
        };
        let format = program.read_only.iter().find_map(|place| {
            let constants = read(*place)?;
            let at = constants.windows(NAME_FORMAT.len()).position(|found| found == NAME_FORMAT)?;
            Some(place.0 + at as u64)
        })?;
        let place = program.code?;
        let code = read(place)?;
        variable_beside(&code, place.0, format).filter(|found| {
            (variables.start..variables.start + variables.len).contains(found) && found.is_multiple_of(8)
        })
    }
}

/// The one variable that is read and written where this code, which is at that address, hands on the format.
fn variable_beside(code: &[u8], address: u64, format: u64) -> Option<u64> {
    let instructions: Vec<Instruction> =
        Decoder::with_ip(64, code, address, DecoderOptions::NONE).into_iter().collect();
    let is_use = |instruction: &Instruction| {
        instruction.mnemonic() == Mnemonic::Lea
            && instruction.is_ip_rel_memory_operand()
            && instruction.ip_rel_memory_address() == format
    };
    let at = instructions.iter().position(is_use)?;
    let (before, behind) = instructions.split_at_checked(at)?;
    if behind.iter().skip(1).any(is_use) {
        return None;
    }
    let near = || before.iter().rev().take(NEAR).chain(behind.iter().skip(1).take(NEAR));
    let moved = |from: OpKind, to: OpKind| {
        let moves = near().filter(move |instruction| {
            instruction.code().mnemonic() == Mnemonic::Mov
                && instruction.is_ip_rel_memory_operand()
                && (instruction.op1_kind(), instruction.op0_kind()) == (from, to)
        });
        moves.map(Instruction::ip_rel_memory_address)
    };
    let mut both = moved(OpKind::Memory, OpKind::Register)
        .filter(|read| moved(OpKind::Register, OpKind::Memory).any(|written| written == *read));
    let found = both.next()?;
    both.all(|other| other == found).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two builds of 3.11: `mov rax, [rip + n]; lea rdi, [rip + f]; lea rsi, [rax + 1]; mov [rip + n], rsi; call`.
    fn counting(number: i32, format: i32, written: i32) -> Vec<u8> {
        let mut code = vec![0x48, 0x8b, 0x05];
        code.extend(number.to_le_bytes());
        code.extend([0x48, 0x8d, 0x3d]);
        code.extend(format.to_le_bytes());
        code.extend([0x48, 0x8d, 0x70, 0x01, 0x48, 0x89, 0x35]);
        code.extend(written.to_le_bytes());
        code.extend([0xe8, 0, 0, 0, 0]);
        code
    }

    #[test]
    fn the_variable_is_the_one_beside_the_name() {
        let (address, variable, format) = (0x1000, 0x9000, 0x5000);
        let relative = |to: i32, end: i32| to - 0x1000 - end;
        let code = counting(relative(variable, 7), relative(format, 14), relative(variable, 25));
        assert_eq!(variable_beside(&code, address, 0x5000), Some(0x9000));
        assert_eq!(variable_beside(&code, address, 0x5001), None);
        let other = counting(relative(variable, 7), relative(format, 14), relative(variable + 8, 25));
        assert_eq!(variable_beside(&other, address, 0x5000), None, "what is read is not what is written");
        let twice = [code, counting(0, relative(format, 30 + 14), 0)].concat();
        assert_eq!(variable_beside(&twice, address, 0x5000), None, "two names are made");
        assert_eq!(variable_beside(&[], address, 0x5000), None);
    }
}
