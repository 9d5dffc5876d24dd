//! Which device nodes the processes of a version 2 control group may open or make: rules as data, the eBPF program
//! that says the same, and attaching it.
//!
//! ```text
//! r2 type   r3 access   r4 major   r5 minor        (from struct bpf_cgroup_dev_ctx at r1)
//! rule 1:  any field differs -> rule 2; else r0 = 1, exit
//! …
//! end:     r0 = 0, exit                            (refused: EPERM)
//! ```
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use crate::capability::last_errno;

/// Whether a device node is of the block or the character kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    /// Block device.
    Block,
    /// Character device.
    Character,
}

bitflags::bitflags! {
    /// What is done with a device node.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct DeviceAccess: u8 {
        /// Making the node.
        const MKNOD = 1;
        /// Opening it for reading.
        const READ = 2;
        /// Opening it for writing.
        const WRITE = 4;
    }
}

/// One allowed use of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceRule {
    /// Block or character.
    pub kind: DeviceKind,
    /// Major number; `None` is every one.
    pub major: Option<u32>,
    /// Minor number; `None` is every one.
    pub minor: Option<u32>,
    /// What is allowed.
    pub access: DeviceAccess,
}

/// A device program: instructions of 8 bytes in the machine's byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceProgram {
    bytes: Vec<u8>,
}

/// More rules than a program has room for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{count} device rules are more than {RULES_MAX}")]
pub struct CompileDeviceRulesError {
    count: usize,
}

/// Most rules of one program; far below the kernel's 4096 instructions.
const RULES_MAX: usize = 400;

/// One eBPF instruction (`struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    dst: u8,
    src: u8,
    off: i16,
    imm: i32,
}

/// `dst = *(u32 *)(src + off)`
const LDX_W: u8 = 0x61;
/// `dst = src`
const MOV_X: u8 = 0xbf;
/// `dst = imm`
const MOV_K: u8 = 0xb7;
/// `dst &= imm`
const AND_K: u8 = 0x57;
/// `dst >>= imm`
const RSH_K: u8 = 0x77;
/// skip `off` when `dst != imm`
const JNE_K: u8 = 0x55;
/// skip `off` when `dst != src`
const JNE_X: u8 = 0x5d;
/// return r0
const EXIT: u8 = 0x95;

/// The program that allows what one of `rules` allows, and nothing else.
///
/// # Errors
///
/// More than 400 rules.
pub fn compile(rules: &[DeviceRule]) -> Result<DeviceProgram, CompileDeviceRulesError> {
    if rules.len() > RULES_MAX {
        return Err(CompileDeviceRulesError { count: rules.len() });
    }
    let load = |dst, off| Instruction { code: LDX_W, dst, src: 1, off, imm: 0 };
    let set = |code, dst, imm| Instruction { code, dst, src: 0, off: 0, imm };
    let mut program = vec![
        load(2, 0),
        Instruction { code: MOV_X, dst: 3, src: 2, off: 0, imm: 0 },
        set(AND_K, 2, 0xffff),
        set(RSH_K, 3, 16),
        load(4, 4),
        load(5, 8),
    ];
    for rule in rules {
        program.extend(compile_rule(*rule));
    }
    program.extend([set(MOV_K, 0, 0), set(EXIT, 0, 0)]);
    Ok(DeviceProgram { bytes: program.iter().flat_map(|instruction| instruction.to_bytes()).collect() })
}

fn compile_rule(rule: DeviceRule) -> Vec<Instruction> {
    let differs = |dst, value: u32| Instruction { code: JNE_K, dst, src: 0, off: 0, imm: value.cast_signed() };
    let kind = match rule.kind {
        DeviceKind::Block => 1,
        DeviceKind::Character => 2,
    };
    let mut code = vec![differs(2, kind)];
    if rule.access != DeviceAccess::all() {
        // Everything that is asked for must be allowed: asked & allowed == asked.
        code.push(Instruction { code: MOV_X, dst: 1, src: 3, off: 0, imm: 0 });
        code.push(Instruction { code: AND_K, dst: 1, src: 0, off: 0, imm: i32::from(rule.access.bits()) });
        code.push(Instruction { code: JNE_X, dst: 1, src: 3, off: 0, imm: 0 });
    }
    code.extend(rule.major.map(|major| differs(4, major)));
    code.extend(rule.minor.map(|minor| differs(5, minor)));
    code.push(Instruction { code: MOV_K, dst: 0, src: 0, off: 0, imm: 1 });
    code.push(Instruction { code: EXIT, dst: 0, src: 0, off: 0, imm: 0 });
    // Every comparison that fails goes on behind this rule; a rule has ten instructions at most.
    let length = code.len();
    for (index, instruction) in code.iter_mut().enumerate() {
        if matches!(instruction.code, JNE_K | JNE_X) {
            instruction.off = i16::try_from(length - index - 1).unwrap_or_default();
        }
    }
    code
}

impl Instruction {
    fn to_bytes(self) -> [u8; 8] {
        let registers =
            if cfg!(target_endian = "little") { self.src << 4 | self.dst } else { self.dst << 4 | self.src };
        let (off, imm) = (self.off.to_ne_bytes(), self.imm.to_ne_bytes());
        [self.code, registers, off[0], off[1], imm[0], imm[1], imm[2], imm[3]]
    }
}

impl DeviceProgram {
    /// The program with these bytes, as [`DeviceProgram::bytes`] gave them; the kernel checks them when it is loaded.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// 8 bytes for each instruction.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// `BPF_PROG_LOAD` part of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// `BPF_PROG_ATTACH` part of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

const _: () = assert!(size_of::<LoadAttr>() == 48 && size_of::<AttachAttr>() == 16);

/// `bpf(BPF_PROG_LOAD)` and `bpf(BPF_PROG_ATTACH)` of a `BPF_PROG_TYPE_CGROUP_DEVICE` program to the version 2 group
/// whose directory `group` is
///
/// The program stays with the group until the group is removed; it is *and*-ed with those of the groups above.
///
/// # Errors
///
/// - `EPERM`: no `CAP_BPF` and `CAP_NET_ADMIN` in the first user namespace.
/// - `EBADF`, `EINVAL`: `group` is no directory of a version 2 hierarchy, or the kernel refuses the program.
/// - `ENOSYS`: a kernel without BPF.
///
/// Source: bpf(2); kernel's cgroup-v2 document, Device controller.
pub fn attach(group: BorrowedFd<'_>, program: &DeviceProgram) -> Result<(), Errno> {
    let license = c"GPL";
    let insn_cnt = u32::try_from(program.bytes.len() / 8).map_err(|_| Errno::TOOBIG)?;
    let load = LoadAttr {
        prog_type: 15, // BPF_PROG_TYPE_CGROUP_DEVICE
        insn_cnt,
        insns: program.bytes.as_ptr().addr() as u64,
        license: license.as_ptr().addr() as u64,
        ..LoadAttr::default()
    };
    let fd = bpf(5, (&raw const load).cast(), size_of::<LoadAttr>())?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: BPF_PROG_LOAD succeeded, so `fd` is open, new (close-on-exec), and owned by nobody else.
    let loaded = unsafe { OwnedFd::from_raw_fd(fd) };
    let attach = AttachAttr {
        target_fd: group.as_raw_fd().cast_unsigned(),
        attach_bpf_fd: loaded.as_raw_fd().cast_unsigned(),
        attach_type: 6,       // BPF_CGROUP_DEVICE
        attach_flags: 1 << 1, // BPF_F_ALLOW_MULTI: a container's own manager may add programs below
    };
    bpf(8, (&raw const attach).cast(), size_of::<AttachAttr>()).map(drop)
}

fn bpf(command: libc::c_int, attr: *const libc::c_void, size: usize) -> Result<libc::c_long, Errno> {
    // SAFETY: both callers pass a live attribute of `size` bytes whose layout is that of `command`, and what it points
    // to (program bytes, license) outlives the call.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size) };
    if ret == -1 { Err(last_errno()) } else { Ok(ret) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the program answers for one request, by interpreting it.
    fn run(program: &DeviceProgram, kind: DeviceKind, access: DeviceAccess, node: (u32, u32)) -> u64 {
        let kind = if kind == DeviceKind::Block { 1 } else { 2 };
        let context = [u32::from(access.bits()) << 16 | kind, node.0, node.1];
        let code: Vec<[u8; 8]> = program.bytes.chunks_exact(8).map(|chunk| chunk.try_into().unwrap()).collect();
        let (mut registers, mut at) = ([0_u64; 11], 0);
        for _ in 0..10_000 {
            let [op, registers_byte, o0, o1, i0, i1, i2, i3] = code[at];
            let (dst, src) = (usize::from(registers_byte & 15), usize::from(registers_byte >> 4));
            let off = i16::from_ne_bytes([o0, o1]);
            let imm = i64::from(i32::from_ne_bytes([i0, i1, i2, i3])).cast_unsigned();
            at += 1;
            let jump = usize::try_from(off).unwrap();
            match op {
                LDX_W => registers[dst] = u64::from(context[jump / 4]),
                MOV_X => registers[dst] = registers[src],
                MOV_K => registers[dst] = imm,
                AND_K => registers[dst] &= imm,
                RSH_K => registers[dst] >>= imm,
                JNE_K if registers[dst] != imm => at += jump,
                JNE_X if registers[dst] != registers[src] => at += jump,
                JNE_K | JNE_X => {}
                EXIT => return registers[0],
                other => panic!("instruction {other:#x}"),
            }
        }
        panic!("the program does not end");
    }

    fn kinds() -> impl Strategy<Value = DeviceKind> {
        prop_oneof![Just(DeviceKind::Block), Just(DeviceKind::Character)]
    }

    fn rules() -> impl Strategy<Value = DeviceRule> {
        (kinds(), proptest::option::of(0..4_u32), proptest::option::of(0..4_u32), 1..8_u8).prop_map(
            |(kind, major, minor, access)| DeviceRule {
                kind,
                major,
                minor,
                access: DeviceAccess::from_bits_truncate(access),
            },
        )
    }

    proptest! {
        #[test]
        fn the_program_allows_what_some_rule_allows(
            rules in proptest::collection::vec(rules(), 0..6), kind in kinds(), access in 1..8_u8,
            major in 0..5_u32, minor in 0..5_u32,
        ) {
            let access = DeviceAccess::from_bits_truncate(access);
            let allowed = rules.iter().any(|rule| {
                rule.kind == kind
                    && rule.access.contains(access)
                    && rule.major.is_none_or(|wanted| wanted == major)
                    && rule.minor.is_none_or(|wanted| wanted == minor)
            });
            let program = compile(&rules).unwrap();
            prop_assert_eq!(run(&program, kind, access, (major, minor)), u64::from(allowed));
        }
    }

    #[test]
    fn more_rules_than_fit_are_refused() {
        let rule = DeviceRule { kind: DeviceKind::Block, major: None, minor: None, access: DeviceAccess::READ };
        assert!(compile(&[rule; RULES_MAX + 1]).is_err());
        assert!(compile(&[rule; RULES_MAX]).unwrap().bytes().len() / 8 < 4_096);
    }
}
