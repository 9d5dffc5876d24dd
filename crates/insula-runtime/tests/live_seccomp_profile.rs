//! The default profile on the running kernel: ordinary programs work, what it forbids fails as it says.

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use insula_kernel::capability::CapabilitySet;
    use insula_plan::privilege::PrivilegeStep;
    use insula_runtime::seccomp_profile;

    /// What a shell script does under the profile. A filter is its thread's own and that of its children.
    fn under_profile(capabilities: CapabilitySet, script: &'static str) -> Output {
        let program = seccomp_profile::filter(capabilities).unwrap().bytes().to_vec();
        std::thread::spawn(move || {
            PrivilegeStep::NoNewPrivileges.perform().unwrap();
            PrivilegeStep::InstallFilter { program }.perform().unwrap();
            // The C library takes clone instead of the clone3 that it does not find.
            std::thread::spawn(|| ()).join().unwrap();
            Command::new("/bin/sh").args(["-c", script]).output().unwrap()
        })
        .join()
        .unwrap()
    }

    fn said(output: &Output) -> String {
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    #[test]
    fn live_ordinary_programs_run() {
        let script = "set -e; d=$(mktemp -d); cd $d; seq 1000 | sort -rn | head -1 > out; grep -q 1000 out; \
                      (sleep 0 & wait); ln -s out link; cp -a . ../copy-$$; rm -r ../copy-$$ $d; id; uname -a; date; ls -l /";
        let output = under_profile(CapabilitySet::CONTAINER_DEFAULT, script);
        assert!(output.status.success(), "{}", said(&output));
    }

    #[test]
    fn live_namespaces_and_mounts_are_refused_without_the_capability_and_not_with_it() {
        for script in ["unshare --user true", "unshare --mount true", "mount -t tmpfs none /mnt"] {
            let output = under_profile(CapabilitySet::CONTAINER_DEFAULT, script);
            assert!(!output.status.success(), "{script}");
            assert!(
                said(&output).to_lowercase().contains("permi") || said(&output).contains("not permitted"),
                "{}",
                said(&output)
            );
        }
        let output = under_profile(CapabilitySet::ALL, "unshare --user --mount true");
        assert!(output.status.success(), "{}", said(&output));
    }

    #[test]
    fn live_the_kernels_log_is_nobodys() {
        for capabilities in [CapabilitySet::CONTAINER_DEFAULT, CapabilitySet::ALL] {
            let output = under_profile(capabilities, "dmesg --syslog");
            assert!(!output.status.success());
        }
    }
}
