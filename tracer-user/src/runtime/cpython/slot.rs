//! Where a thread has the interpreter's state of it: a thread-specific value, and since 3.15 a variable of the thread's.
//!
//! Another variable has the state of the thread that holds the interpreter's lock only, which none does that uses a socket.
//! Which is which, `PyGILState_GetThisThreadState` says, which reads the right one, in one of two ways:
//!
//! | the interpreter is | its code |
//! |---|---|
//! | the program | `mov rax, fs:[slot]` |
//! | a library | `lea rdi, [rip + index]`, a call of `__tls_get_addr`, and `mov rax, [rax + offset]` |

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Register};
use tracer_abi::python::MAX_FRAMES;
use tracer_abi::python_frame::{LAST_OWNER, OWNED_BY_C, untagged};

use super::{Failure, Python, TYPE};
use crate::runtime::memory::Bytes;

/// Thread-specific values of glibc's first block, behind the thread pointer: a number and the value each.
const SPECIFIC_VALUES: i32 = 0x310;
const SPECIFIC_VALUE_BYTES: i32 = 16;
const SPECIFIC_VALUE_COUNT: i32 = 32;

/// Threads that are looked at to find out how the interpreter knows its threads.
const MAX_THREADS: usize = 64;

/// A thread runs on while its frames are read.
const ATTEMPTS: usize = 5;

/// What says which variable it is, and how much of it is looked at.
const READER: &str = "PyGILState_GetThisThreadState";
const READER_BYTES: usize = 48;
const READER_INSTRUCTIONS: usize = 8;

/// Of glibc, from the thread pointer: the addresses of each library's variables, by the library's index.
const VARIABLES: u64 = 8;
const VARIABLES_BYTES: u64 = 16;
/// What loads with a program has its variables no further from the thread pointer than this.
const MAX_DISTANCE: u64 = 1 << 20;
const MAX_INDEX: u64 = 1 << 16;

impl<M: Bytes> Python<'_, M> {
    /// Where, from a thread's pointer, its state is: as one thread of the interpreter shows whose frames make sense.
    pub(super) fn thread_slot(&self, interpreter: u64) -> Result<i32, Failure> {
        let mut failure = Failure::Unfit("its threads are not where they should be");
        let mut thread = self.memory.word(interpreter.wrapping_add(self.version.threads));
        for _ in 0..MAX_THREADS {
            if thread == 0 {
                break;
            }
            let pointer = self.memory.word(thread.wrapping_add(self.version.thread_id));
            let is_there = |slot: &i32| {
                pointer != 0 && self.memory.word(pointer.wrapping_add_signed((*slot).into())) == thread
            };
            let specific =
                || (0..SPECIFIC_VALUE_COUNT).map(|index| SPECIFIC_VALUES + SPECIFIC_VALUE_BYTES * index + 8);
            let slot = specific().find(is_there).or_else(|| self.variable(pointer).filter(is_there));
            match slot {
                Some(slot) if (0..ATTEMPTS).any(|_| self.frames_make_sense(thread)) => return Ok(slot),
                Some(_) => failure = Failure::Unfit("its frames make no sense"),
                None => {}
            }
            thread = self.memory.word(thread.wrapping_add(self.version.thread_next));
        }
        Err(failure)
    }

    fn frames_make_sense(&self, thread: u64) -> bool {
        let layout = &self.version.layout;
        let Some(code_type) = self.symbols.find("PyCode_Type") else { return false };
        let mut frame = self.memory.word(thread.wrapping_add(layout.thread_frame.into()));
        if layout.is_indirect == 1 {
            frame = self.memory.word(frame.wrapping_add(layout.indirect_frame.into()));
        }
        let mut functions = 0;
        for _ in 0..MAX_FRAMES * 4 {
            if frame == 0 {
                return functions > 0;
            }
            match self.memory.byte(frame.wrapping_add(layout.frame_owner.into())) {
                ..OWNED_BY_C => {
                    let code = untagged(self.memory.word(frame.wrapping_add(layout.frame_code.into())));
                    if self.memory.word(code.wrapping_add(TYPE)) != code_type {
                        return false;
                    }
                    functions += 1;
                }
                OWNED_BY_C..=LAST_OWNER => {}
                _ => return false,
            }
            frame = self.memory.word(frame.wrapping_add(layout.frame_previous.into()));
        }
        false
    }

    /// The variable that has the state of a thread, from its pointer.
    fn variable(&self, pointer: u64) -> Option<i32> {
        let address = self.symbols.find(READER)?;
        let mut code = [0; READER_BYTES];
        let read = if self.memory.fill(address, &mut code) {
            Variable::read_by(&code, address)?
        } else {
            return None;
        };
        match read {
            Variable::Program(slot) => Some(slot),
            Variable::Library { index, offset } => {
                let number = self.memory.word(index);
                let within = self.memory.word(index.wrapping_add(8)).wrapping_add(offset);
                let table = self.memory.word(pointer.wrapping_add(VARIABLES));
                if number == 0 || number > MAX_INDEX || table == 0 {
                    return None;
                }
                let variables = self.memory.word(table.wrapping_add(VARIABLES_BYTES * number));
                let distance = pointer.wrapping_sub(variables.wrapping_add(within));
                (0..MAX_DISTANCE).contains(&distance).then(|| -(distance as i32))
            }
        }
    }
}

/// Which variable a function returns.
#[derive(Debug, PartialEq, Eq)]
enum Variable {
    /// From the thread pointer.
    Program(i32),
    /// Where the library's index is, and behind it an offset; and another one.
    Library { index: u64, offset: u64 },
}

impl Variable {
    fn read_by(code: &[u8], address: u64) -> Option<Self> {
        let instructions = || {
            Decoder::with_ip(64, code, address, DecoderOptions::NONE).into_iter().take(READER_INSTRUCTIONS)
        };
        let mut body = instructions().take_while(|instruction| instruction.code() != Code::Retnq);
        let is_load = |instruction: &Instruction| {
            instruction.code() == Code::Mov_r64_rm64 && instruction.op0_register() == Register::RAX
        };
        let offset = |instruction: &Instruction| instruction.memory_displacement64();
        let mut index = None;
        let mut is_called = false;
        body.by_ref().find_map(|instruction| {
            let from = (instruction.segment_prefix(), instruction.memory_base(), instruction.memory_index());
            if is_load(&instruction) && from == (Register::FS, Register::None, Register::None) {
                return i32::try_from(offset(&instruction) as i64).ok().map(Self::Program);
            }
            if instruction.code() == Code::Lea_r64_m
                && instruction.op0_register() == Register::RDI
                && instruction.is_ip_rel_memory_operand()
            {
                index = Some(instruction.ip_rel_memory_address());
            }
            is_called |= index.is_some() && instruction.is_call_near();
            if is_called && is_load(&instruction) && from == (Register::None, Register::RAX, Register::None) {
                return Some(Self::Library { index: index?, offset: offset(&instruction) });
            }
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `endbr64; mov rax, fs:[-0x28]; ret`, as the program of 3.15 has it.
    const PROGRAM: [u8; 14] =
        [0xf3, 0x0f, 0x1e, 0xfa, 0x64, 0x48, 0x8b, 0x04, 0x25, 0xd8, 0xff, 0xff, 0xff, 0xc3];

    /// `endbr64; push rbp; mov rbp, rsp; lea rdi, [rip + 0x100]; call; pop rbp; mov rax, [rax + 0x28]; ret`
    const LIBRARY: [u8; 29] = [
        0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5, 0x48, 0x8d, 0x3d, 0, 1, 0, 0, 0xe8, 0x5c, 0x9d, 0xcf,
        0xff, 0x5d, 0x48, 0x8b, 0x80, 0x28, 0, 0, 0, 0xc3,
    ];

    #[test]
    fn the_variable_is_the_one_that_is_returned() {
        assert_eq!(Variable::read_by(&PROGRAM, 0x1000), Some(Variable::Program(-0x28)));
        let index = 0x1000 + 15 + 0x100;
        assert_eq!(Variable::read_by(&LIBRARY, 0x1000), Some(Variable::Library { index, offset: 0x28 }));
    }

    #[test]
    fn what_reads_otherwise_is_not_believed() {
        // A thread-specific value, as before 3.15: `cmp dword [rip], 0; je; mov edi, key; jmp`.
        let before =
            [0xf3, 0x0f, 0x1e, 0xfa, 0x83, 0x3d, 0, 0, 0, 0, 0, 0x74, 10, 0xbf, 0, 0, 0, 0, 0xe9, 0, 0, 0, 0];
        assert_eq!(Variable::read_by(&before, 0x1000), None);
        let mut elsewhere = PROGRAM;
        elsewhere[4] = 0x65;
        assert_eq!(Variable::read_by(&elsewhere, 0x1000), None, "gs");
        let mut returns = LIBRARY;
        returns[20] = 0xc3;
        assert_eq!(Variable::read_by(&returns, 0x1000), None, "it returns before");
        for len in 0..LIBRARY.len() {
            let _ = Variable::read_by(&LIBRARY[..len], u64::MAX - 8);
        }
    }
}
