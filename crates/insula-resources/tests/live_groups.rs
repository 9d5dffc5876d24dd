//! Limits, freezing, devices and sweeping on the machine's own control groups. Needs root.

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Duration, Instant};

    use insula_kernel::device_filter::DeviceRule;
    use insula_model::{Bytes, ContainerId, IdRange, NodeName, ResourceSpec};
    use insula_plan::cgroup::CgroupStep;
    use insula_resources::{
        CgroupLayout, ContainerGroupError, Controller, Limits, NodeGroups, StartGroups, Version, devices,
    };
    use rustix::process::Pid;

    const WITHIN: Duration = Duration::from_secs(10);

    /// A node of its own for one test; everything of it is removed at the end, of a failed test too.
    struct Fixture {
        groups: NodeGroups,
        container: ContainerId,
    }

    impl Fixture {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let node = NodeName::new(format!("test-{}-{count}", std::process::id())).unwrap();
            let groups = NodeGroups::new(CgroupLayout::detect().expect("run as root on a machine with cgroups"), node);
            let text = format!("00000000-0000-4000-8000-{:08x}{count:04x}", std::process::id());
            let fixture = Self { groups, container: text.parse().unwrap() };
            // Another test may remove the empty slice between two steps.
            let mut tries = 0;
            while let Err(error) = perform(&fixture.groups.setup_steps(), None) {
                tries += 1;
                assert!(tries < 20, "set up (needs root): {error}");
            }
            fixture
        }

        fn start(&self, spec: &ResourceSpec, devices: &[DeviceRule], delegate_to: Option<IdRange>) -> Shell {
            let limits = Limits::resolve(spec);
            let start = StartGroups { container: self.container, limits: &limits, devices, delegate_to };
            let steps = self.groups.start_steps(&start).unwrap();
            perform(&steps.before, None).unwrap();
            // Groups of version 1 are a thread's own, so that a thread stands for the process that clones.
            std::thread::spawn(move || {
                perform(&steps.enter, None).unwrap();
                let shell = Shell::spawn();
                perform(&steps.leave, None).unwrap();
                let born = steps.spawn.map(|dir| CgroupStep::Attach { dir });
                perform(born.as_slice(), Some(shell.pid())).unwrap();
                shell
            })
            .join()
            .unwrap()
        }

        fn dir(&self, controller: Controller) -> std::path::PathBuf {
            self.groups.dir_of(controller, self.container).unwrap().1
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            for step in self.groups.remove_steps() {
                if let CgroupStep::Remove { dir, .. } = &step {
                    step.perform(None).unwrap_or_else(|error| eprintln!("clean up: {error}"));
                    // Others may use the slice.
                    let _ = std::fs::remove_dir(dir.parent().unwrap());
                } else {
                    step.perform(None).unwrap_or_else(|error| eprintln!("clean up: {error}"));
                }
            }
        }
    }

    fn perform(steps: &[CgroupStep], attached: Option<Pid>) -> Result<(), String> {
        steps.iter().try_for_each(|step| {
            step.perform(attached).map_err(|error| format!("{error}: {:?}", std::error::Error::source(&error)))
        })
    }

    /// A shell that runs what it is told, once it is in its groups.
    struct Shell {
        child: Child,
    }

    impl Shell {
        fn spawn() -> Self {
            let child = Command::new("/bin/sh")
                .args(["-c", "read script; eval \"$script\""])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            Self { child }
        }

        fn pid(&self) -> Pid {
            Pid::from_child(&self.child)
        }

        fn tell(&mut self, script: &str) {
            writeln!(self.child.stdin.take().unwrap(), "{script}").unwrap();
        }

        fn finish(mut self, script: &str) -> std::process::Output {
            self.tell(script);
            self.child.wait_with_output().unwrap()
        }
    }

    #[test]
    fn live_the_first_process_is_born_into_every_group_and_its_maker_is_left_in_none() {
        let fixture = Fixture::new();
        let shell = fixture.start(&ResourceSpec::default(), &devices::default_rules(), None);
        let name = fixture.container.to_string();
        let groups = |path: String| std::fs::read_to_string(path).unwrap();
        let inside = groups(format!("/proc/{}/cgroup", shell.pid().as_raw_nonzero()));
        for controller in [Controller::Memory, Controller::Pids, Controller::Cpu] {
            let dir = fixture.dir(controller);
            assert!(groups(format!("{}/cgroup.procs", dir.display())).contains(&shell.child.id().to_string()));
        }
        assert!(inside.lines().filter(|line| line.ends_with(&name)).count() >= 1, "{inside}");
        assert!(!groups("/proc/thread-self/cgroup".to_owned()).contains(&name));
        drop(shell.finish("exit 0"));
    }

    #[test]
    fn live_memory_beyond_the_limit_is_an_oom_kill_inside_and_is_counted() {
        let fixture = Fixture::new();
        let spec = ResourceSpec { memory_limit: Some(Bytes::mib(32)), ..ResourceSpec::default() };
        let output =
            fixture.start(&spec, &devices::default_rules(), None).finish("head -c 200M /dev/zero | tail -n 1 | wc -c");
        assert_ne!(String::from_utf8_lossy(&output.stdout), "209715200\n", "nothing was killed");
        let usage = fixture.groups.usage(fixture.container).unwrap();
        // While the first victim is dying the kernel may choose another.
        assert!(usage.memory_kills >= 1 && usage.memory.limit == Some(32 << 20), "{usage:?}");
        assert!(usage.memory.max_held.unwrap_or(0) > 30 << 20 && usage.memory.fail_count > 0, "{usage:?}");
        assert!(usage.cpu_time > Duration::ZERO);
    }

    #[test]
    fn live_processes_beyond_the_limit_are_refused_and_counted() {
        let fixture = Fixture::new();
        let spec = ResourceSpec { pids_limit: Some(3), ..ResourceSpec::default() };
        let script = "for i in 1 2 3 4 5; do sleep 60 </dev/null >/dev/null 2>&1 & done";
        let output = fixture.start(&spec, &devices::default_rules(), None).finish(script);
        assert!(String::from_utf8_lossy(&output.stderr).contains("fork"), "{output:?}");
        let usage = fixture.groups.usage(fixture.container).unwrap();
        assert_eq!(usage.pids.limit, Some(3));
        assert!(usage.pids.fail_count > 0, "{usage:?}");
        assert!(!fixture.groups.processes(fixture.container).unwrap().is_empty());
        assert!(fixture.groups.kill_all(fixture.container, WITHIN).unwrap());
        assert_eq!(fixture.groups.processes(fixture.container).unwrap(), []);
    }

    #[test]
    fn live_a_frozen_container_stands_still_and_goes_on() {
        let fixture = Fixture::new();
        let mut shell = fixture.start(&ResourceSpec::default(), &devices::default_rules(), None);
        fixture.groups.freeze(fixture.container, WITHIN).unwrap();
        shell.tell("echo awake");
        let state =
            std::fs::read_to_string(fixture.groups.unified_dir(fixture.container).unwrap().join("cgroup.events"));
        assert!(state.unwrap().contains("frozen 1"));
        fixture.groups.thaw(fixture.container, WITHIN).unwrap();
        let mut line = String::new();
        BufReader::new(shell.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "awake\n");
        shell.child.wait().unwrap();
    }

    #[test]
    fn live_a_frozen_container_can_be_swept() {
        let fixture = Fixture::new();
        let mut shell = fixture.start(&ResourceSpec::default(), &devices::default_rules(), None);
        fixture.groups.freeze(fixture.container, WITHIN).unwrap();
        perform(&fixture.groups.sweep_steps(fixture.container), None).unwrap();
        assert_eq!(shell.child.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn live_a_device_that_is_not_listed_cannot_be_opened() {
        let fixture = Fixture::new();
        let rules: Vec<DeviceRule> =
            devices::default_rules().into_iter().filter(|rule| rule.minor != Some(5)).collect();
        let shell = fixture.start(&ResourceSpec::default(), &rules, None);
        let output = shell.finish(": </dev/null && echo null; (: </dev/zero) && echo zero");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "null\n", "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("not permitted"), "{output:?}");
    }

    #[test]
    fn live_the_device_program_of_version_2_decides_as_its_rules() {
        let fixture = Fixture::new();
        let Some(dir) = fixture.groups.unified_dir(fixture.container) else { return };
        let rules: Vec<DeviceRule> =
            devices::default_rules().into_iter().filter(|rule| rule.minor != Some(5)).collect();
        let shell = fixture.start(&ResourceSpec::default(), &devices::default_rules(), None);
        let program = insula_kernel::device_filter::compile(&rules).unwrap().bytes().to_vec();
        CgroupStep::FilterDevices { dir, program }.perform(None).unwrap();
        let output = shell.finish(": </dev/null && echo null; (: </dev/zero) && echo zero");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "null\n", "{output:?}");
    }

    #[test]
    fn live_a_delegated_container_may_make_groups_but_not_change_its_limits() {
        let fixture = Fixture::new();
        let range = IdRange { base: 1_879_048_192, size: IdRange::SIZE };
        let shell = fixture.start(&ResourceSpec::default(), &devices::default_rules(), Some(range));
        let mut delegated = vec![fixture.groups.unified_dir(fixture.container).unwrap()];
        delegated.extend(fixture.groups.layout().systemd.iter().map(|_| {
            let systemd = fixture.groups.layout().systemd.as_ref().unwrap();
            let name = fixture.dir(Controller::Pids);
            let mut parts = name.components().rev();
            let (id, node) = (parts.next().unwrap(), parts.next().unwrap());
            systemd.join("insula.slice").join(node).join(id)
        }));
        for dir in &delegated {
            for path in [dir.clone(), dir.join("cgroup.procs")] {
                assert_eq!(std::fs::metadata(&path).unwrap().uid(), range.base, "{}", path.display());
            }
            assert_eq!(std::fs::metadata(dir.parent().unwrap()).unwrap().uid(), 0);
        }
        assert_eq!(std::fs::metadata(fixture.dir(Controller::Pids).join("pids.max")).unwrap().uid(), 0);
        // Groups that an init system made are swept with their container.
        std::fs::create_dir_all(delegated[0].join("init.scope/deeper")).unwrap();
        let joiner = fixture.groups.join(fixture.container, true);
        std::thread::spawn(move || perform(&joiner.enter, None)).join().unwrap().unwrap();
        perform(&fixture.groups.sweep_steps(fixture.container), None).unwrap();
        assert!(!delegated[0].exists());
        drop(shell.child.wait_with_output());
    }

    #[test]
    fn live_limits_change_while_the_container_runs() {
        let fixture = Fixture::new();
        let spec = |mib: u64| ResourceSpec {
            memory_limit: Some(Bytes::mib(mib)),
            cpu_limit: Some("0.5".parse().unwrap()),
            ..ResourceSpec::default()
        };
        let shell = fixture.start(&spec(64), &devices::default_rules(), None);
        let mut old = Limits::resolve(&spec(64));
        for new in [Limits::resolve(&spec(128)), Limits::resolve(&spec(32)), Limits::resolve(&ResourceSpec::default())]
        {
            perform(&fixture.groups.update_steps(fixture.container, &old, &new), None).unwrap();
            let usage = fixture.groups.usage(fixture.container).unwrap();
            assert_eq!(usage.memory.limit, new.memory.map(|limit| limit.0));
            old = new;
        }
        let (version, dir) = fixture.groups.dir_of(Controller::Cpu, fixture.container).unwrap();
        let (file, none) = match version {
            Version::One => ("cpu.cfs_quota_us", "-1\n"),
            Version::Two => ("cpu.max", "max 100000\n"),
        };
        assert_eq!(std::fs::read_to_string(dir.join(file)).unwrap(), none);
        drop(shell.finish("exit 0"));
    }

    #[test]
    fn live_every_prefix_of_a_start_is_undone_by_one_sweep_and_a_second_does_nothing() {
        let fixture = Fixture::new();
        let limits = Limits::resolve(&ResourceSpec::default());
        let rules = devices::default_rules();
        let range = Some(IdRange { base: 1_879_048_192, size: IdRange::SIZE });
        let start = StartGroups { container: fixture.container, limits: &limits, devices: &rules, delegate_to: range };
        let steps = fixture.groups.start_steps(&start).unwrap();
        for length in 0..=steps.before.len() {
            perform(&steps.before[..length], None).unwrap();
            // The start goes on after a crash from its beginning as well.
            perform(&steps.before[..length], None).unwrap();
            assert_eq!(fixture.groups.containers().unwrap().len(), usize::from(length > 0));
            perform(&fixture.groups.sweep_steps(fixture.container), None).unwrap();
            perform(&fixture.groups.sweep_steps(fixture.container), None).unwrap();
            assert_eq!(fixture.groups.containers().unwrap(), []);
        }
        let usage = fixture.groups.usage(fixture.container);
        assert!(matches!(usage, Err(ContainerGroupError::Absent { .. })), "{usage:?}");
    }

    #[test]
    fn live_a_sweep_does_not_wait_longer_than_the_processes_live() {
        let fixture = Fixture::new();
        let mut shell = fixture.start(&ResourceSpec::default(), &devices::default_rules(), None);
        shell.tell("for i in 1 2 3 4 5 6 7 8 9; do sleep 60 & done; wait");
        let begin = Instant::now();
        perform(&fixture.groups.sweep_steps(fixture.container), None).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
        shell.child.wait().unwrap();
    }
}
