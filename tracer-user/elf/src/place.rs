//! Where in a function a probe costs least and still knows what it needs.
//!
//! The kernel *emulates* some instructions under a probe (branches, calls, pushes, nops) and has the processor execute any
//! other one out of its place and trap again, which takes several times as long. So a probe goes to the first instruction
//! that is emulated, as long as the arguments are in their registers; and for the end, to a conditional branch behind which
//! nothing but the return is left and the result does not change. A probe there counts only when the branch is not taken.

use std::collections::BTreeSet;
use std::fmt;

use iced_x86::{
    Decoder, DecoderOptions, FastFormatter, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
    OpAccess, OpKind, Register,
};
use tracer_abi::config::{GrpcFields, TlsCall};

use super::elf::Function;

/// Instructions looked at for a beginning: no compiler puts more before the first branch that matters.
const MAX_ENTRY: usize = 64;

/// What a probe tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    Begins(TlsCall),
    /// The branch there is not taken.
    Ends(Gate),
    /// At the function's beginning, for the kernel to catch its return.
    Returns,
    Frees,
    /// A goroutine begins to serve a stream of HTTP/2.
    ServesStream,
    /// One begins to send the request of a stream.
    CallsStream,
    /// The same in grpc-go, where one has the stream that it will send the request of.
    ServesGrpc(GrpcFields),
    CallsGrpc(GrpcFields),
}

impl Site {
    /// It is no place of TLS.
    pub const fn is_of_streams(self) -> bool {
        matches!(self, Self::ServesStream | Self::CallsStream | Self::ServesGrpc(_) | Self::CallsGrpc(_))
    }
}

/// When passing a probe's place is the end of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Always,
    IfZero,
    IfNotZero,
}

/// A place for a probe.
#[derive(Clone, Debug)]
pub struct Point {
    pub function: &'static str,
    pub site: Site,
    /// In the file.
    pub offset: u64,
    /// From the function's beginning, or from that of another one's in which it goes on.
    pub inside: u64,
    pub instruction: String,
    /// The kernel emulates it.
    pub emulated: bool,
    /// Words of eight bytes by which the stack has grown since the function began, where that matters.
    pub depth: u8,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, offset, inside, instruction, .. } = self;
        let how = if self.emulated { "emulated" } else { "stepped" };
        write!(f, "{function}+{inside:#x} ({offset:#x}) {instruction}: {how}")
    }
}

/// The function decoded, as far as it is one.
struct Body<'f> {
    function: &'f Function,
    instructions: Vec<Instruction>,
    targets: BTreeSet<u64>,
    /// Where it may go on, outside of it.
    outside: Vec<u64>,
    /// It may be left, or entered, in ways that are not seen.
    opaque: bool,
}

/// Registers of the first five integer arguments (System V ABI).
const ARGUMENTS: [Register; 5] = [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8];

/// Where a call begins.
pub(crate) fn beginning(function: &Function, call: TlsCall) -> Option<Point> {
    let arguments = match call {
        TlsCall::Read | TlsCall::Write => 3,
        TlsCall::ReadEx | TlsCall::WriteEx => 4,
        TlsCall::WriteEx2 => 5,
        TlsCall::Other | TlsCall::ReadAside => 1,
    };
    Body::of(function)?.first_emulated(Site::Begins(call), &ARGUMENTS[..arguments])
}

/// Where rustls begins to encrypt or decrypt a record: its arguments, behind the place of the result, are the first four.
pub(super) fn sealing(function: &Function, call: TlsCall) -> Option<Point> {
    Body::of(function)?.first_emulated(Site::Begins(call), &ARGUMENTS[..4])
}

/// Where the session that is its only argument is freed.
pub(crate) fn freeing(function: &Function) -> Option<Point> {
    Body::of(function)?.first_emulated(Site::Frees, &ARGUMENTS[..1])
}

/// Where a call ends: all of its ends, or none, where it may end elsewhere. `seldom`: a part of it that lies elsewhere.
pub(crate) fn ends(function: &Function, seldom: Option<&Function>) -> Option<Vec<Point>> {
    let body = Body::of(function)?;
    if body.opaque || !body.outside.iter().all(|at| seldom.is_some_and(|seldom| seldom.has(*at))) {
        return None;
    }
    if !body.outside.is_empty() {
        // It comes back, or to no end at all: it calls what ends the program.
        let seldom = Body::of(seldom?)?;
        let returns = seldom.instructions.iter().any(|is| is.flow_control() == FlowControl::Return);
        if seldom.opaque || returns || !seldom.outside.iter().all(|at| function.has(*at)) {
            return None;
        }
    }
    let returns = (0..body.instructions.len())
        .filter(|&at| body.instructions[at].flow_control() == FlowControl::Return);
    let points: Vec<Point> = returns.map(|at| body.end(at)).collect();
    (!points.is_empty()).then_some(points)
}

/// For a function whose ends are not known.
pub(crate) fn caught(function: &Function) -> Option<Point> {
    let body = Body::of(function)?;
    Some(body.point(0, Site::Returns))
}

/// The function's instructions, in order. Nothing: it is not code.
pub(crate) fn decode(function: &Function) -> Option<Vec<Instruction>> {
    Body::of(function).map(|body| body.instructions)
}

/// The registers of the first arguments in Go (`src/cmd/compile/abi-internal.md`).
const GO_ARGUMENTS: [Register; 3] = [Register::RAX, Register::RBX, Register::RCX];

/// And where grpc-go has what it serves, behind an interface's first word, as long as the frame is the caller's.
const GRPC_SERVED: [Register; 3] = [Register::RCX, Register::RDI, Register::RBP];

/// `cmp 16(%r14),%rsp` and `cmp 16(%r14),%r12`, before which there is a `lea` where the frame is large: whether there is
/// room on the goroutine's stack.
const STACK_CHECKS: [[u8; 4]; 2] = [[0x49, 0x3b, 0x66, 0x10], [0x4d, 0x3b, 0x66, 0x10]];

/// Where a call of Go's begins for good, with the stack as its caller has left it: who finds no room on the stack comes to
/// the function's beginning a second time.
pub(crate) fn behind_stack_check(function: &Function, call: TlsCall) -> Option<Point> {
    let arguments = if call == TlsCall::Other { 1 } else { GO_ARGUMENTS.len() };
    Body::of(function)?.behind_stack_check(Site::Begins(call), &GO_ARGUMENTS[..arguments])
}

/// The same of the function that ends a session.
pub(crate) fn closing(function: &Function) -> Option<Point> {
    Body::of(function)?.behind_stack_check(Site::Frees, &GO_ARGUMENTS[..1])
}

/// The same of a function that takes up a stream: where it begins for good, with its first arguments.
pub(crate) fn of_stream(function: &Function, site: Site) -> Option<Point> {
    let arguments = if let Site::ServesGrpc(_) = site {
        &GRPC_SERVED[..]
    } else {
        &GO_ARGUMENTS[..if site == Site::ServesStream { 2 } else { 1 }]
    };
    Body::of(function)?.behind_stack_check(site, arguments)
}

/// All returns of a function, where the stack is as at its beginning; or none, where it may be left elsewhere.
pub(crate) fn returns(function: &Function) -> Option<Vec<Point>> {
    let body = Body::of(function)?;
    let points = body.returns(Site::Ends(Gate::Always));
    (!body.opaque && body.outside.is_empty() && !points.is_empty()).then_some(points)
}

/// The same of a function that hands out a stream; it may be left elsewhere, too.
pub(crate) fn hand_out(function: &Function, site: Site) -> Vec<Point> {
    Body::of(function).map(|body| body.returns(site)).unwrap_or_default()
}

/// Whether code is that of a function of Go's that needs room on the stack.
pub(crate) fn begins_as_go_does(code: &[u8]) -> bool {
    let lea = match code {
        // lea -N(%rsp),%r12, of a byte and of four.
        [0x4c, 0x8d, 0x64, 0x24, ..] => 5,
        [0x4c, 0x8d, 0xa4, 0x24, ..] => 8,
        _ => 0,
    };
    let check = if lea == 0 { STACK_CHECKS[0] } else { STACK_CHECKS[1] };
    code.get(lea..).is_some_and(|code| code.starts_with(&check))
}

impl<'f> Body<'f> {
    fn of(function: &'f Function) -> Option<Self> {
        function.address.checked_add(function.code.len() as u64)?;
        let decoder = Decoder::with_ip(64, &function.code, function.address, DecoderOptions::NONE);
        let mut body = Self {
            function,
            instructions: Vec::new(),
            targets: BTreeSet::new(),
            outside: Vec::new(),
            opaque: false,
        };
        for instruction in decoder {
            if instruction.is_invalid() {
                return None;
            }
            let branches = matches!(
                instruction.flow_control(),
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
            );
            if branches {
                let target = instruction.near_branch_target();
                if function.has(target) {
                    body.targets.insert(target);
                } else {
                    body.outside.push(target);
                }
            }
            body.opaque |= matches!(
                instruction.flow_control(),
                FlowControl::IndirectBranch | FlowControl::XbeginXabortXend
            );
            body.instructions.push(instruction);
        }
        (!body.instructions.is_empty()).then_some(body)
    }

    fn returns(&self, site: Site) -> Vec<Point> {
        let returns =
            self.instructions.iter().zip(0..).filter(|(is, _)| is.flow_control() == FlowControl::Return);
        returns.map(|(_, at)| self.point(at, site)).collect()
    }

    /// In the straight line from the beginning, while no argument has changed; else the beginning itself.
    fn first_emulated(&self, site: Site, arguments: &[Register]) -> Option<Point> {
        let mut info = InstructionInfoFactory::new();
        for (at, instruction) in self.instructions.iter().enumerate().take(MAX_ENTRY) {
            // Who jumps here has not come past the beginning just now.
            if at > 0 && self.targets.contains(&instruction.ip()) {
                break;
            }
            if is_emulated(instruction) {
                return Some(self.point(at, site));
            }
            let leaves = instruction.flow_control() != FlowControl::Next;
            if leaves || arguments.iter().any(|argument| writes(&mut info, instruction, *argument)) {
                break;
            }
        }
        Some(self.point(0, site))
    }

    /// As [`behind_stack_check`]: the first push behind it, which is emulated and comes before the stack pointer moves.
    fn behind_stack_check(&self, site: Site, arguments: &[Register]) -> Option<Point> {
        if !begins_as_go_does(&self.function.code) {
            return None;
        }
        let mut info = InstructionInfoFactory::new();
        let branch = self.instructions.iter().position(|is| is.mnemonic() == Mnemonic::Jbe)?;
        for (at, instruction) in
            self.instructions.iter().enumerate().take(branch + MAX_ENTRY).skip(branch + 1)
        {
            if self.targets.contains(&instruction.ip()) {
                return None;
            }
            let changes = |register: Register| writes(&mut info, instruction, register);
            if is_emulated(instruction) && instruction.flow_control() == FlowControl::Next {
                return Some(self.point(at, site));
            }
            let mut gone = arguments.iter().copied().chain([Register::RSP]);
            if instruction.flow_control() != FlowControl::Next || gone.any(changes) {
                return None;
            }
        }
        None
    }

    /// The best place for the return at `at`.
    fn end(&self, at: usize) -> Point {
        let mut info = InstructionInfoFactory::new();
        for before in (0..at).rev() {
            let (instruction, next) = (&self.instructions[before], &self.instructions[before + 1]);
            if self.targets.contains(&next.ip()) {
                break;
            }
            let gates = [(Mnemonic::Jne, Gate::IfZero), (Mnemonic::Je, Gate::IfNotZero)];
            if let Some((_, gate)) = gates.into_iter().find(|(branch, _)| *branch == instruction.mnemonic())
                && is_emulated(instruction)
            {
                return self.point(before, Site::Ends(gate));
            }
            let straight = instruction.flow_control() == FlowControl::Next;
            if !straight || writes(&mut info, instruction, Register::RAX) {
                break;
            }
        }
        self.point(at, Site::Ends(Gate::Always))
    }

    fn point(&self, at: usize, site: Site) -> Point {
        let instruction = &self.instructions[at];
        let inside = instruction.ip() - self.function.address;
        point(self.function.name, instruction, site, self.function.offset + inside, inside)
    }
}

/// A place for a probe of a function, this far into the file and into it.
pub(crate) fn point(
    function: &'static str,
    instruction: &Instruction,
    site: Site,
    offset: u64,
    inside: u64,
) -> Point {
    let mut text = String::new();
    FastFormatter::new().format(instruction, &mut text);
    Point { function, site, offset, inside, instruction: text, emulated: is_emulated(instruction), depth: 0 }
}

/// As `arch/x86/kernel/uprobes.c` does: `branch_setup_xol_ops`, `push_setup_xol_ops`.
fn is_emulated(instruction: &Instruction) -> bool {
    let mnemonic = instruction.mnemonic();
    match instruction.flow_control() {
        FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch | FlowControl::Call => {
            let counting =
                [Mnemonic::Loop, Mnemonic::Loope, Mnemonic::Loopne, Mnemonic::Jrcxz, Mnemonic::Jecxz];
            instruction.op0_kind() == OpKind::NearBranch64 && !counting.contains(&mnemonic)
        }
        FlowControl::Next => {
            let of_register =
                instruction.op0_kind() == OpKind::Register && instruction.op0_register().is_gpr64();
            mnemonic == Mnemonic::Nop || mnemonic == Mnemonic::Push && of_register
        }
        FlowControl::IndirectBranch
        | FlowControl::Return
        | FlowControl::IndirectCall
        | FlowControl::Interrupt
        | FlowControl::XbeginXabortXend
        | FlowControl::Exception => false,
    }
}

pub(crate) fn writes(
    info: &mut InstructionInfoFactory,
    instruction: &Instruction,
    register: Register,
) -> bool {
    info.info(instruction).used_registers().iter().any(|used| {
        used.register().full_register() == register
            && matches!(
                used.access(),
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            )
    })
}
