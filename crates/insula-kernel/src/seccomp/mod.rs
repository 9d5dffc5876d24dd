//! System call filters: rules as data, the classic BPF program that says the same, and handing it to the kernel.
//!
//! ```text
//! RuleSet ── compile ──> Filter (bytes) ── install ──> every later system call
//! ```

mod arch;
mod compile;
mod install;
mod rules;

pub use arch::Architecture;
pub use compile::CompileFilterError;
pub use install::{InstallFlags, install, install_with_listener};
pub use rules::{Action, Argument, Clause, Condition, Rule, RuleSet, Test, UnknownSystemCall};

/// Most instructions that the kernel takes in one program (`BPF_MAXINSNS`).
pub const INSTRUCTIONS_MAX: usize = 4_096;

/// One classic BPF instruction (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jt: u8,
    pub(crate) jf: u8,
    pub(crate) k: u32,
}

/// A filter program: instructions of 8 bytes, little-endian (code, jt, jf, k).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    bytes: Vec<u8>,
}

/// Bytes that are no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes are no filter of 1 to {INSTRUCTIONS_MAX} instructions of 8 bytes")]
pub struct FilterBytesError {
    length: usize,
}

impl Filter {
    /// The filter with these bytes, as [`Filter::bytes`] gave them. Only the length is checked; the kernel checks the
    /// rest when it is installed.
    ///
    /// # Errors
    ///
    /// The length is not that of 1 to 4096 instructions.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, FilterBytesError> {
        let count = bytes.len() / 8;
        if !bytes.len().is_multiple_of(8) || count == 0 || count > INSTRUCTIONS_MAX {
            return Err(FilterBytesError { length: bytes.len() });
        }
        Ok(Self { bytes })
    }

    /// 8 bytes for each instruction.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn instructions(&self) -> impl Iterator<Item = Instruction> {
        self.bytes.chunks_exact(8).map(|chunk| Instruction {
            code: u16::from_le_bytes([chunk[0], chunk[1]]),
            jt: chunk[2],
            jf: chunk[3],
            k: u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
        })
    }
}
