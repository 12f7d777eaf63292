//! What the machine code of a function says about where a probe can sit.
//!
//! Kprobes at a function's first byte ride on ftrace and lose hits that fall into an interrupt's handler (guest kernels
//! 5.10 to 7.2). A probe behind the compiler's `__fentry__` call is a breakpoint instead and loses none, so every probe
//! of a plan sits there, at a return instruction, or behind one atomic instruction; all found here, by decoding.

use crate::error::{FactsError, PlanError};
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use object::{Object, ObjectSection};

/// The instructions of one function, decoded from its first byte to the next symbol.
pub(crate) struct Function {
    name: String,
    start: u64,
    code: Vec<Instruction>,
    thunk: Option<u64>,
}

/// A locked instruction that changes a counter in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Atomic {
    /// Offset of the instruction, and of the one behind it.
    pub offset: u64,
    pub behind: u64,
    /// Register that points to the struct.
    pub base: Register,
    /// Register that holds the counter's old value behind the instruction; none if it does not give one, if the
    /// struct's pointer is overwritten by it, or if the place behind it is also reached in another way.
    pub old: Option<Register>,
}

impl Function {
    /// `start..end` must be code of the image; `thunk` is where returns may jump to instead of returning.
    pub(crate) fn decode(elf: &[u8], name: &str, start: u64, end: u64, thunk: Option<u64>) -> Result<Self, PlanError> {
        let bytes = code_bytes(elf, start, end)?.ok_or_else(|| {
            problem(name, format!("its addresses {start:#x}..{end:#x} are not code of the kernel image"))
        })?;
        let mut decoder = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE);
        let code: Vec<_> = decoder.iter().take_while(|instruction| instruction.code() != Code::INVALID).collect();
        if code.is_empty() {
            return Err(problem(name, "its first bytes are no instruction".into()));
        }
        Ok(Function { name: name.to_string(), start, code, thunk })
    }

    /// Offset of the first instruction that is the function's own: behind `endbr64` and the call of `__fentry__`.
    pub(crate) fn behind_entry(&self) -> u64 {
        let mut at = 0;
        if self.code[at].mnemonic() == Mnemonic::Endbr64 && self.code.len() > 1 {
            at += 1;
        }
        let is_fentry = self.code[at].len() == 5 && matches!(self.code[at].mnemonic(), Mnemonic::Call | Mnemonic::Nop);
        if is_fentry && self.code.len() > at + 1 {
            at += 1;
        }
        self.code[at].ip() - self.start
    }

    /// Offsets of the instructions by which the function returns to its caller. Tail calls are none.
    pub(crate) fn returns(&self) -> Result<Vec<u64>, PlanError> {
        let is_return = |instruction: &&Instruction| {
            instruction.flow_control() == FlowControl::Return
                || (instruction.flow_control() == FlowControl::UnconditionalBranch
                    && self.thunk.is_some_and(|thunk| instruction.near_branch_target() == thunk))
        };
        let found: Vec<_> = self.code.iter().filter(is_return).map(|found| found.ip() - self.start).collect();
        if found.is_empty() {
            return Err(problem(&self.name, "no return instruction".into()));
        }
        Ok(found)
    }

    /// The one locked instruction that adds to or takes from a counter `displacement` bytes behind a register.
    pub(crate) fn atomic(&self, displacement: u32) -> Result<Atomic, PlanError> {
        let hits: Vec<_> =
            self.code.iter().enumerate().filter(|(_, code)| is_locked_step(code, u64::from(displacement))).collect();
        let [(index, atomic)] = hits[..] else {
            let what = format!("{} locked additions at offset {displacement} instead of one", hits.len());
            return Err(problem(&self.name, what));
        };
        let behind = atomic.next_ip();
        let base = atomic.memory_base();
        let gives_old = atomic.mnemonic() == Mnemonic::Xadd && atomic.op1_register().full_register() != base;
        let exclusive = !self.code.iter().any(|code| is_branch(code) && code.near_branch_target() == behind);
        let inside = self.code.get(index + 1).is_some_and(|next| next.ip() == behind);
        Ok(Atomic {
            offset: atomic.ip() - self.start,
            behind: behind - self.start,
            base,
            old: (gives_old && exclusive && inside).then(|| atomic.op1_register().full_register()),
        })
    }

    /// Constants that the function tests a field `displacement` bytes behind a register against, in memory.
    pub(crate) fn tested_bits(&self, displacement: u32) -> Vec<u64> {
        let tests = self.code.iter().filter(|code| {
            code.mnemonic() == Mnemonic::Test
                && code.op0_kind() == OpKind::Memory
                && code.memory_displacement64() == u64::from(displacement)
                && code.op1_kind() != OpKind::Register
        });
        tests.map(|code| code.immediate(1)).collect()
    }
}

fn is_locked_step(code: &Instruction, displacement: u64) -> bool {
    code.has_lock_prefix()
        && matches!(code.mnemonic(), Mnemonic::Xadd | Mnemonic::Inc | Mnemonic::Dec | Mnemonic::Add | Mnemonic::Sub)
        && code.op0_kind() == OpKind::Memory
        && code.memory_displacement64() == displacement
        && code.memory_index() == Register::None
        && kprobe_register(code.memory_base()).is_some()
}

fn is_branch(code: &Instruction) -> bool {
    matches!(code.flow_control(), FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch)
}

/// A 64-bit register as kprobe events name it (without `%`).
pub(crate) fn kprobe_register(register: Register) -> Option<&'static str> {
    Some(match register {
        Register::RAX => "ax",
        Register::RBX => "bx",
        Register::RCX => "cx",
        Register::RDX => "dx",
        Register::RSI => "si",
        Register::RDI => "di",
        Register::RBP => "bp",
        Register::R8 => "r8",
        Register::R9 => "r9",
        Register::R10 => "r10",
        Register::R11 => "r11",
        Register::R12 => "r12",
        Register::R13 => "r13",
        Register::R14 => "r14",
        Register::R15 => "r15",
        _ => return None,
    })
}

fn code_bytes(elf: &[u8], start: u64, end: u64) -> Result<Option<&[u8]>, PlanError> {
    let not_elf = |error: object::Error| PlanError::Facts(FactsError::NotElf(error.to_string()));
    let file = object::File::parse(elf).map_err(not_elf)?;
    let Some(len) = end.checked_sub(start).filter(|&len| len > 0) else { return Ok(None) };
    for section in file.sections() {
        if let Some(bytes) = section.data_range(start, len).map_err(not_elf)? {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

fn problem(function: &str, what: String) -> PlanError {
    PlanError::Code { function: function.to_string(), what }
}
