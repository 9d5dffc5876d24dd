//! Capabilities: what of root's power a process has, and how it gives it away for good.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::fmt;
use std::ops::{BitAnd, BitOr, Sub};
use std::str::FromStr;

use rustix::io::Errno;

/// A set of capabilities, of whichever user namespace the process is in.
///
/// As text one name with or without `CAP_` in any case, or `all`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CapabilitySet(u64);

/// Names in the order of their numbers (linux/capability.h).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Text that names no capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("capability `{}` is unknown; the nearest name is {nearest}", given.escape_debug())]
pub struct ParseCapabilityError {
    given: String,
    nearest: &'static str,
}

macro_rules! named {
    ($($name:ident = $number:literal, $doc:literal;)*) => {
        $(#[doc = $doc] pub const $name: Self = Self(1 << $number);)*
    };
}

impl CapabilitySet {
    /// No capability.
    pub const EMPTY: Self = Self(0);
    /// Every capability that has a name here.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);
    /// The fourteen that container engines leave to a container's root by default.
    pub const CONTAINER_DEFAULT: Self = Self(
        1 << 0 // CHOWN
            | 1 << 1 // DAC_OVERRIDE
            | 1 << 3 // FOWNER
            | 1 << 4 // FSETID
            | 1 << 5 // KILL
            | 1 << 6 // SETGID
            | 1 << 7 // SETUID
            | 1 << 8 // SETPCAP
            | 1 << 10 // NET_BIND_SERVICE
            | 1 << 13 // NET_RAW
            | 1 << 18 // SYS_CHROOT
            | 1 << 27 // MKNOD
            | 1 << 29 // AUDIT_WRITE
            | 1 << 31, // SETFCAP
    );

    named! {
        DAC_READ_SEARCH = 2, "Read any file, and open by handle.";
        SETGID = 6, "Change group ids.";
        SETUID = 7, "Change user ids.";
        SETPCAP = 8, "Drop from the bounding set.";
        NET_ADMIN = 12, "Configure the network.";
        SYS_MODULE = 16, "Load kernel modules.";
        SYS_RAWIO = 17, "Reach ports and raw memory.";
        SYS_CHROOT = 18, "Change the root directory.";
        SYS_PTRACE = 19, "Trace others' processes.";
        SYS_PACCT = 20, "Process accounting.";
        SYS_ADMIN = 21, "Mount, make namespaces, and much else.";
        SYS_NICE = 23, "Raise priorities.";
        SYS_TIME = 25, "Set the clock.";
        SYS_TTY_CONFIG = 26, "Hang up terminals.";
        AUDIT_WRITE = 29, "Write to the audit log.";
        SYSLOG = 34, "Read the kernel's log.";
        PERFMON = 38, "Measure performance.";
        BPF = 39, "Load BPF programs.";
    }

    /// The set with these bits; bits without a name are dropped.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// Bit `n` is capability number `n`.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` are in it.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Names without `CAP_`, in the order of their numbers.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().enumerate().filter(move |(number, _)| self.0 & (1 << number) != 0).map(|(_, name)| *name)
    }
}

impl BitOr for CapabilitySet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for CapabilitySet {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Sub for CapabilitySet {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Debug for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl FromStr for CapabilitySet {
    type Err = ParseCapabilityError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let upper = given.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name == "ALL" {
            return Ok(Self::ALL);
        }
        match NAMES.iter().position(|known| *known == name) {
            Some(number) => Ok(Self(1 << number)),
            None => {
                // A name longer than any known one cannot be near one; the bound keeps the distance cheap.
                let head: String = name.chars().take(32).collect();
                let nearest = NAMES.iter().min_by_key(|known| edit_distance(&head, known)).copied().unwrap_or("ALL");
                Err(ParseCapabilityError { given: given.chars().take(64).collect(), nearest })
            }
        }
    }
}

/// Insertions, removals and replacements that make `a` into `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The sets of one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadCapabilities {
    /// What it can use now.
    pub effective: CapabilitySet,
    /// What it can make effective.
    pub permitted: CapabilitySet,
    /// What a program with matching inheritable file capabilities keeps.
    pub inheritable: CapabilitySet,
}

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// `struct __user_cap_data_struct`; a version 3 call has two, low halves first.
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const _: () = assert!(size_of::<Header>() == 8 && size_of::<Data>() == 12);

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION_3: u32 = 0x2008_0522;

/// Low and high half of the bits.
fn halves(set: CapabilitySet) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = set.0.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

/// `capget(version 3, this thread)`
///
/// # Errors
///
/// None are expected.
///
/// Source: capget(2).
pub fn thread_capabilities() -> Result<ThreadCapabilities, Errno> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: both pointers are to live, writable values of the layout that version 3 asks for: one header and
    // exactly two data elements.
    let ret = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    check(ret)?;
    let join = |half: fn(&Data) -> u32| CapabilitySet(u64::from(half(&data[1])) << 32 | u64::from(half(&data[0])));
    Ok(ThreadCapabilities {
        effective: join(|data| data.effective),
        permitted: join(|data| data.permitted),
        inheritable: join(|data| data.inheritable),
    })
}

/// `capset(version 3, this thread, …)`
///
/// # Errors
///
/// - `EPERM`: something is asked for that is not permitted now, or the effective set exceeds the new permitted.
///
/// Source: capset(2).
pub fn set_thread_capabilities(sets: ThreadCapabilities) -> Result<(), Errno> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let (effective, permitted) = (halves(sets.effective), halves(sets.permitted));
    let inheritable = halves(sets.inheritable);
    let data: [Data; 2] = std::array::from_fn(|half| Data {
        effective: effective[half],
        permitted: permitted[half],
        inheritable: inheritable[half],
    });
    // SAFETY: both pointers are to live values of the layout that version 3 asks for: one header (which the call may
    // write) and exactly two data elements (which it only reads).
    let ret = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    check(ret)
}

/// `prctl(PR_CAPBSET_DROP, …)` for everything outside `keep`
///
/// Names that the running kernel does not know are passed over.
///
/// # Errors
///
/// - `EPERM`: the thread has no `CAP_SETPCAP` in its user namespace.
///
/// Source: prctl(2), `PR_CAPBSET_DROP`.
pub fn limit_bounding_set(keep: CapabilitySet) -> Result<(), Errno> {
    for number in 0..NAMES.len() {
        if keep.0 & (1 << number) != 0 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, number as libc::c_ulong) {
            Ok(()) => {}
            // The kernel is older than the capability, so that nobody has it.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// `prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)`
///
/// # Errors
///
/// None are expected.
///
/// Source: prctl(2), `PR_CAP_AMBIENT`.
pub fn clear_ambient_set() -> Result<(), Errno> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)
}

/// `prctl(PR_CAPBSET_READ, …)` for every known capability
///
/// # Errors
///
/// None are expected.
///
/// Source: prctl(2), `PR_CAPBSET_READ`.
pub fn bounding_set() -> Result<CapabilitySet, Errno> {
    let mut set = CapabilitySet::EMPTY;
    for number in 0..NAMES.len() {
        // SAFETY: the call takes integers only and touches no memory of ours.
        let ret = unsafe { libc::prctl(libc::PR_CAPBSET_READ, number as libc::c_ulong, 0, 0, 0) };
        match ret {
            1 => set.0 |= 1 << number,
            0 => {}
            _ => break,
        }
    }
    Ok(set)
}

/// `prctl(PR_SET_KEEPCAPS, …)`: whether permitted capabilities outlive the change to user ids other than 0
///
/// # Errors
///
/// - `EPERM`: `SECBIT_KEEP_CAPS_LOCKED` is set.
///
/// Source: prctl(2), `PR_SET_KEEPCAPS`.
pub fn keep_capabilities_over_setuid(keep: bool) -> Result<(), Errno> {
    prctl(libc::PR_SET_KEEPCAPS, libc::c_ulong::from(keep))
}

bitflags::bitflags! {
    /// How user ids and capabilities influence each other (capabilities(7), securebits).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct SecureBits: u32 {
        /// User id 0 gives no capability at exec.
        const NOROOT = 1 << 0;
        /// `NOROOT` cannot be changed any more.
        const NOROOT_LOCKED = 1 << 1;
        /// Changing user ids changes no capability.
        const NO_SETUID_FIXUP = 1 << 2;
        /// `NO_SETUID_FIXUP` cannot be changed any more.
        const NO_SETUID_FIXUP_LOCKED = 1 << 3;
        /// The ambient set cannot be raised.
        const NO_CAP_AMBIENT_RAISE = 1 << 6;
        /// `NO_CAP_AMBIENT_RAISE` cannot be changed any more.
        const NO_CAP_AMBIENT_RAISE_LOCKED = 1 << 7;
    }
}

/// `prctl(PR_SET_SECUREBITS, …)`
///
/// # Errors
///
/// - `EPERM`: no `CAP_SETPCAP`, or a locked bit would change.
///
/// Source: prctl(2), `PR_SET_SECUREBITS`.
pub fn set_secure_bits(bits: SecureBits) -> Result<(), Errno> {
    prctl(libc::PR_SET_SECUREBITS, libc::c_ulong::from(bits.bits()))
}

/// `prctl(PR_SET_NO_NEW_PRIVS, 1)`: no exec of this thread or its children gains anything, for ever
///
/// # Errors
///
/// None are expected.
///
/// Source: prctl(2), `PR_SET_NO_NEW_PRIVS`.
pub fn set_no_new_privileges() -> Result<(), Errno> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// A `prctl` that takes one integer and answers 0.
fn prctl(option: libc::c_int, argument: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: every option this file passes takes integers only, so that the call touches no memory of ours; unused
    // arguments must be 0 and are.
    let ret = unsafe { libc::prctl(option, argument, 0, 0, 0) };
    check(libc::c_long::from(ret))
}

/// Turns the C library's -1 into the errno it stored.
fn check(ret: libc::c_long) -> Result<(), Errno> {
    if ret == -1 { Err(last_errno()) } else { Ok(()) }
}

/// What the C library stored for the call that just failed.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back() {
        for name in CapabilitySet::ALL.names() {
            let set: CapabilitySet = name.parse().unwrap();
            assert_eq!(set.names().collect::<Vec<_>>(), [name]);
            assert_eq!(format!("cap_{}", name.to_lowercase()).parse::<CapabilitySet>().unwrap(), set);
        }
        assert_eq!("all".parse::<CapabilitySet>().unwrap(), CapabilitySet::ALL);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest() {
        let message = "CAP_NET_ADMN".parse::<CapabilitySet>().unwrap_err().to_string();
        assert!(message.ends_with("nearest name is NET_ADMIN"), "{message}");
        for bad in ["", "CAP_", "-all", "NET ADMIN", "SYS_ADMIN\0", &"x".repeat(100_000)] {
            assert!(bad.parse::<CapabilitySet>().is_err());
        }
    }

    #[test]
    fn named_constants_have_the_bits_of_their_names() {
        for (name, set) in [
            ("DAC_READ_SEARCH", CapabilitySet::DAC_READ_SEARCH),
            ("SETPCAP", CapabilitySet::SETPCAP),
            ("NET_ADMIN", CapabilitySet::NET_ADMIN),
            ("SYS_ADMIN", CapabilitySet::SYS_ADMIN),
            ("SYS_TTY_CONFIG", CapabilitySet::SYS_TTY_CONFIG),
            ("AUDIT_WRITE", CapabilitySet::AUDIT_WRITE),
            ("SYSLOG", CapabilitySet::SYSLOG),
            ("BPF", CapabilitySet::BPF),
        ] {
            assert_eq!(name.parse::<CapabilitySet>().unwrap(), set, "{name}");
        }
    }

    #[test]
    fn the_default_set_is_the_fourteen_of_the_field() {
        let names: Vec<_> = CapabilitySet::CONTAINER_DEFAULT.names().collect();
        let field = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT \
                     MKNOD AUDIT_WRITE SETFCAP";
        assert_eq!(names, field.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn sets_of_this_thread_can_be_read() {
        let now = thread_capabilities().unwrap();
        assert!(now.permitted.contains(now.effective));
    }
}
