//! Which device nodes a container may use.

use insula_kernel::device_filter::{DeviceAccess, DeviceKind, DeviceRule};

/// What every container has: making nodes of any kind (its user namespace lets it make none that do anything), the
/// memory devices, random numbers, its terminals.
#[must_use]
pub fn default_rules() -> Vec<DeviceRule> {
    let make = |kind| DeviceRule { kind, major: None, minor: None, access: DeviceAccess::MKNOD };
    let use_of = |major, minor| DeviceRule {
        kind: DeviceKind::Character,
        major: Some(major),
        minor,
        access: DeviceAccess::all(),
    };
    vec![
        make(DeviceKind::Character),
        make(DeviceKind::Block),
        use_of(1, Some(3)), // null
        use_of(1, Some(5)), // zero
        use_of(1, Some(7)), // full
        use_of(1, Some(8)), // random
        use_of(1, Some(9)), // urandom
        use_of(5, Some(0)), // tty
        use_of(5, Some(1)), // console
        use_of(5, Some(2)), // ptmx
        use_of(136, None),  // pseudo-terminals
    ]
}

/// A rule as version 1's `devices.allow` takes it: `c 1:3 rwm`.
pub(crate) fn version_1_line(rule: &DeviceRule) -> String {
    let kind = match rule.kind {
        DeviceKind::Block => 'b',
        DeviceKind::Character => 'c',
    };
    let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
    let mut access = String::new();
    for (bit, letter) in [(DeviceAccess::READ, 'r'), (DeviceAccess::WRITE, 'w'), (DeviceAccess::MKNOD, 'm')] {
        if rule.access.contains(bit) {
            access.push(letter);
        }
    }
    format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_as_the_kernel_takes_them() {
        let lines: Vec<String> = default_rules().iter().map(version_1_line).collect();
        assert_eq!(lines[..3], ["c *:* m", "b *:* m", "c 1:3 rwm"]);
        assert_eq!(lines.last().unwrap(), "c 136:* rwm");
    }
}
