//! Which capabilities a container has.

use insula_kernel::capability::{CapabilitySet, ParseCapabilityError};
use insula_model::ContainerSpec;
use insula_plan::privilege::PrivilegeStep;
use insula_plan::protocol::process::{CapabilityMask, CapabilityRule, NewPrivileges};

/// Capabilities that our process 1 needs to run commands as other users and with fewer rights.
const PROCESS_1_NEEDS: u64 = (1 << 5) // KILL
    | (1 << 6) // SETGID
    | (1 << 7) // SETUID
    | (1 << 8); // SETPCAP

/// The rights of a container's processes, in its own user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// What any process of it may ever have.
    pub capabilities: CapabilitySet,
    /// Whether set-user-id programs have their effect.
    pub new_privileges: NewPrivileges,
    /// Whether masks and filter are left out.
    pub privileged: bool,
}

/// A capability that was asked for does not exist.
#[derive(Debug, thiserror::Error)]
#[error("{option} of the container")]
pub struct ParseRightsError {
    option: &'static str,
    /// What is wrong with it.
    #[source]
    source: ParseCapabilityError,
}

impl Rights {
    /// The rights that `spec` asks for; `full_init` gives all of the container's user namespace.
    ///
    /// # Errors
    ///
    /// A capability has no such name.
    pub fn resolve(spec: &ContainerSpec, full_init: bool) -> Result<Self, ParseRightsError> {
        let start = if spec.privileged || full_init { CapabilitySet::ALL } else { CapabilitySet::CONTAINER_DEFAULT };
        // What is dropped is dropped even where `ALL` was added, as in the field: drops of `ALL` go first.
        let dropped = parse("--cap-drop", &spec.cap_drop)?;
        let added = parse("--cap-add", &spec.cap_add)?;
        let bits =
            if dropped == CapabilitySet::ALL { added.bits() } else { (start.bits() | added.bits()) & !dropped.bits() };
        let new_privileges = if spec.no_new_privileges { NewPrivileges::Forbidden } else { NewPrivileges::Allowed };
        Ok(Self { capabilities: CapabilitySet::from_bits(bits), new_privileges, privileged: spec.privileged })
    }

    /// The same for our process 1, which hands them out.
    pub(crate) fn rule(self) -> CapabilityRule {
        CapabilityRule { bounding: CapabilityMask(self.capabilities.bits()), ambient: CapabilityMask(0) }
    }

    /// What process 1 keeps: the container's own, and what it needs itself.
    pub(crate) fn process_1_steps(self) -> Vec<PrivilegeStep> {
        let keep = self.capabilities.bits() | PROCESS_1_NEEDS;
        vec![PrivilegeStep::LimitBoundingSet { keep }]
    }

    /// What an image's own init keeps.
    pub(crate) fn image_init_steps(self) -> Vec<PrivilegeStep> {
        vec![PrivilegeStep::LimitBoundingSet { keep: self.capabilities.bits() }]
    }
}

fn parse(option: &'static str, names: &[String]) -> Result<CapabilitySet, ParseRightsError> {
    let mut bits = 0;
    for name in names {
        let set: CapabilitySet = name.parse().map_err(|source| ParseRightsError { option, source })?;
        bits |= set.bits();
    }
    Ok(CapabilitySet::from_bits(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(add: &[&str], drop: &[&str]) -> CapabilitySet {
        let mut spec = ContainerSpec::new("a".parse().unwrap());
        spec.cap_add = add.iter().map(|&name| name.to_owned()).collect();
        spec.cap_drop = drop.iter().map(|&name| name.to_owned()).collect();
        Rights::resolve(&spec, false).unwrap().capabilities
    }

    #[test]
    fn capabilities_are_those_of_the_field_with_what_was_added_and_dropped() {
        assert_eq!(rights(&[], &[]), CapabilitySet::CONTAINER_DEFAULT);
        assert_eq!(rights(&[], &["ALL"]), CapabilitySet::EMPTY);
        assert_eq!(rights(&["NET_ADMIN"], &["ALL"]), CapabilitySet::NET_ADMIN);
        assert!(!rights(&["ALL"], &["SYS_ADMIN"]).contains(CapabilitySet::SYS_ADMIN));
        assert!(!rights(&[], &["NET_RAW"]).contains(CapabilitySet::from_bits(1 << 13)));
    }

    #[test]
    fn an_unknown_capability_names_its_option() {
        let mut spec = ContainerSpec::new("a".parse().unwrap());
        spec.cap_add = vec!["NET_ADMN".to_owned()];
        assert!(Rights::resolve(&spec, false).unwrap_err().to_string().contains("--cap-add"));
    }

    #[test]
    fn process_1_can_become_another_user_even_where_nothing_is_left() {
        let none =
            Rights { capabilities: CapabilitySet::EMPTY, new_privileges: NewPrivileges::Allowed, privileged: false };
        let [PrivilegeStep::LimitBoundingSet { keep }] = none.process_1_steps()[..] else { panic!("one step") };
        assert_eq!(keep, PROCESS_1_NEEDS);
        assert_eq!(none.rule().bounding, CapabilityMask(0));
    }
}
