//! Process 1 on a real kernel: started in namespaces of its own as the launcher would, asked as the daemon would.

#[cfg(test)]
mod harness;

#[cfg(test)]
mod tests {
    use crate::harness::{Container, closed, eventually, read_to_end, read_until, shell, wait_readable};
    use insula_plan::protocol::channel::{Channel, Wait};
    use insula_plan::protocol::facts;
    use insula_plan::protocol::init::{EXEC_CONNECTIONS_MAX, ExecError, ExecRequest, InitEvent, InitRequest, OnClose};
    use insula_plan::protocol::process::{
        CapabilityMask, NewPrivileges, Rlimit, SpawnFailure, Stdio, UserSpec, WindowSize,
    };
    use insula_plan::protocol::status::{End, ExitStatus};
    use rustix::net::SendFlags;

    const IDLE: &str = "trap 'exit 7' TERM; trap 'echo got-usr1' USR1; echo up; while :; do sleep 0.05; done";

    fn idle() -> Container {
        let container = Container::start(shell(IDLE));
        container.started();
        read_until(&container.output, "up\n");
        container
    }

    #[test]
    fn live_the_main_process_runs_and_its_code_is_everybodys() {
        let container = Container::start(shell("echo hello; echo to-stderr >&2; exit 3"));
        assert_eq!(container.started(), 2);
        assert_eq!(read_to_end(&container.output), "hello\nto-stderr\n");
        let end = container.main_end();
        assert_eq!(end.status, ExitStatus::Exited(3));
        assert_eq!(facts::read::<End>(&container.exit_fact()).unwrap(), Some(end));
        assert_eq!(container.join(), 3);
    }

    #[test]
    fn live_a_main_process_that_a_signal_ends_gives_128_and_the_signal() {
        let container = Container::start(shell("kill -SEGV $$"));
        container.started();
        assert_eq!(container.main_end().status, ExitStatus::Signaled(11));
        assert_eq!(container.join(), 139);
    }

    #[test]
    fn live_a_main_process_that_cannot_start_is_a_typed_failure_and_126_or_127() {
        let mut absent = shell("");
        absent.argv = vec![c"absent".to_owned()];
        let mut plain = absent.clone();
        plain.argv = vec![c"/bin/plain".to_owned()];
        let mut nobody = absent.clone();
        nobody.user = "nobody".parse().unwrap();
        for (spec, failure, code) in [
            (absent, SpawnFailure::NotFound { program: "absent".into(), searched: true }, 127),
            (plain, SpawnFailure::NotExecutable { program: "/bin/plain".into(), errno: 13 }, 126),
            (nobody, SpawnFailure::UserUnknown { user: "nobody".into() }, 125),
        ] {
            let container = Container::start(spec);
            assert_eq!(container.event().0, InitEvent::Failed(failure));
            let fact = facts::read::<End>(&container.exit_fact()).unwrap().unwrap();
            assert_eq!(fact.status, ExitStatus::Exited(code));
            assert_eq!(container.join(), i32::from(code));
        }
    }

    #[test]
    fn live_signals_reach_the_main_process_and_only_there_have_an_effect() {
        let container = idle();
        container.signal(10);
        read_until(&container.output, "got-usr1\n");
        container.signal(15);
        assert_eq!(container.main_end().status, ExitStatus::Exited(7));
        assert_eq!(container.join(), 7);
    }

    #[test]
    fn live_orphans_are_reaped_and_killed_with_the_main_process() {
        let container = idle();
        // Two orphans: one that ends at once, one that would stay.
        container.exec_to_end("(sleep 0.01 >/dev/null 2>&1 &) ; (sleep 1000 >/dev/null 2>&1 &)");
        let zombies = || container.exec_to_end("ps -o stat,comm | grep -c '^Z'").0.trim().to_owned();
        eventually("no zombie is left", || zombies() == "0");
        assert_eq!(container.exec_to_end("ps -o args | grep -c '^sleep 1000'").0, "1\n");
        container.signal(15);
        // Process 1 would wait for ever for a process that is not killed.
        assert_eq!(container.join(), 7);
    }

    #[test]
    fn live_a_process_by_request_is_inside_and_its_end_is_told() {
        let container = idle();
        let (text, status) = container.exec_to_end("id -u; pwd; echo $HOME; exit 5");
        assert_eq!((text.as_str(), status), ("0\n/\n/root\n", ExitStatus::Exited(5)));
        let (_, status) = container.exec_to_end("kill -9 $$");
        assert_eq!(status, ExitStatus::Signaled(9));
    }

    #[test]
    fn live_a_request_that_cannot_start_is_a_typed_failure_on_its_connection_only() {
        let container = idle();
        let mut absent = shell("");
        absent.argv = vec![c"absent".to_owned()];
        let null = std::fs::File::open("/dev/null").unwrap();
        let null = std::os::fd::AsFd::as_fd(&null);
        let fds = insula_plan::protocol::init::StdioFds { input: null, output: null, error: null };
        let request = ExecRequest { process: absent, on_close: OnClose::Leave };
        let error = container.client().exec(request, Some(fds)).unwrap_err();
        let ExecError::Refused(failure) = error else { panic!("{error:?}") };
        assert_eq!(failure.exit_code(), 127);
        assert_eq!(container.exec_to_end("echo on").0, "on\n");
    }

    #[test]
    fn live_user_groups_directory_umask_limits_and_rights_are_the_requests() {
        let container = idle();
        let mut spec = shell(
            "id; pwd; umask; echo $HOME; ulimit -n; grep -E 'Cap|NoNewPrivs|SigBlk|SigIgn' /proc/self/status; ls /proc/self/fd",
        );
        spec.user = "web".parse::<UserSpec>().unwrap();
        spec.groups = vec![4];
        spec.cwd = c"/tmp/made/here".to_owned();
        spec.umask = Some(0o077);
        spec.rlimits = vec![Rlimit { resource: 7, soft: 100, hard: 200 }];
        spec.new_privileges = NewPrivileges::Forbidden;
        spec.capabilities.ambient = CapabilityMask(1 << 10);
        let (running, output) = container.exec(spec, OnClose::Kill);
        let text = read_to_end(&output);
        assert_eq!(running.wait().unwrap().status, ExitStatus::Exited(0));
        let expected = "uid=33(web) gid=33(web) groups=4,29(audio),33(web)\n/tmp/made/here\n0077\n/home/web\n100\n\
            SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nCapInh:\t0000000000000400\nCapPrm:\t0000000000000400\n\
            CapEff:\t0000000000000400\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000400\nNoNewPrivs:\t1\n0\n1\n2\n3\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn live_root_by_request_has_its_bounding_set_and_nothing_to_inherit() {
        let container = idle();
        let (text, _) = container.exec_to_end("grep Cap /proc/self/status");
        let expected = "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
            CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn live_a_terminal_controls_its_process_and_hangs_up_with_the_request() {
        let container = idle();
        let mut spec = shell("tty; stty size; echo ready; read x; stty size; echo $x; cat");
        spec.stdio = Stdio::Terminal(WindowSize { rows: 30, columns: 90 });
        let request = ExecRequest { process: spec, on_close: OnClose::Leave };
        let mut running = container.client().exec(request, None).unwrap();
        let master = running.terminal.take().unwrap();
        let text = read_until(&master, "ready\r\n");
        assert_eq!(text, "/dev/pts/0\r\n30 90\r\nready\r\n");
        running.resize(WindowSize { rows: 40, columns: 100 }).unwrap();
        eventually("the size is 40 by 100", || rustix::termios::tcgetwinsize(&master).unwrap().ws_row == 40);
        rustix::io::write(&master, b"hello\n").unwrap();
        let text = read_until(&master, "\r\nhello\r\n");
        assert!(text.contains("40 100\r\nhello\r\n"), "{text:?}");
        // Interrupt from the terminal reaches the foreground process.
        rustix::io::write(&master, b"\x03").unwrap();
        wait_readable(&running);
        assert_eq!(running.wait().unwrap().status, ExitStatus::Signaled(2));

        let mut spec = shell("echo ready; cat");
        spec.stdio = Stdio::Terminal(WindowSize::DEFAULT);
        let running = container.client().exec(ExecRequest { process: spec, on_close: OnClose::Leave }, None).unwrap();
        read_until(running.terminal.as_ref().unwrap(), "ready\r\n");
        // The shell may still be about to run it.
        eventually("it runs", || container.exec_to_end("ps -o args | grep -c '^cat'").0 == "1\n");
        drop(running);
        eventually("the hang-up ends it", || container.exec_to_end("ps -o args | grep -c '^cat'").0 == "0\n");
    }

    #[test]
    fn live_a_main_process_with_a_terminal_sends_its_master_with_the_start() {
        let mut spec = shell("tty; read x; echo \"<$x>\"");
        spec.stdio = Stdio::Terminal(WindowSize::DEFAULT);
        let container = Container::start(spec);
        let (event, fds) = container.event();
        assert_eq!(event, InitEvent::Started { pid: 2 });
        let [master] = &fds[..] else { panic!("{fds:?}") };
        read_until(master, "/dev/pts/0\r\n");
        rustix::io::write(master, b"in\n").unwrap();
        read_until(master, "<in>\r\n");
        assert_eq!(container.join(), 0);
    }

    #[test]
    fn live_closing_the_connection_kills_only_what_asked_for_it() {
        let container = idle();
        let (left, _output) = container.exec(shell("exec sleep 1001"), OnClose::Leave);
        let (killed, _output) = container.exec(shell("exec sleep 1002"), OnClose::Kill);
        drop(left);
        drop(killed);
        let count = |name: &str| container.exec_to_end(&format!("ps -o args | grep -c '^sleep {name}'")).0;
        eventually("one is killed", || count("1002") == "0\n");
        assert_eq!(count("1001"), "1\n");
    }

    #[test]
    fn live_a_signal_by_message_reaches_the_process_of_the_connection() {
        let container = idle();
        let (running, output) =
            container.exec(shell("trap 'exit 9' HUP; echo up; while :; do sleep 0.05; done"), OnClose::Kill);
        read_until(&output, "up\n");
        running.signal(1).unwrap();
        wait_readable(&running);
        assert_eq!(running.wait().unwrap().status, ExitStatus::Exited(9));
    }

    #[test]
    fn live_nonsense_closes_its_connection_only() {
        let container = idle();
        let (running, _output) = container.exec(shell("exec sleep 1000"), OnClose::Kill);
        for bytes in [&b"\xff"[..], b"hello", &[0x82, 0x00], &[0; 200_000]] {
            let channel = Channel::connect(&container.exec_socket()).unwrap();
            rustix::net::send(&channel, bytes, SendFlags::empty()).unwrap();
            assert!(closed(&channel));
        }
        for early in [InitRequest::Signal(9), InitRequest::Resize(WindowSize::DEFAULT)] {
            let channel = Channel::connect(&container.exec_socket()).unwrap();
            channel.send(&early, &[], Wait::Never).unwrap();
            assert!(closed(&channel));
        }
        assert_eq!(running.try_wait().unwrap(), None);
        assert_eq!(container.exec_to_end("echo on").0, "on\n");
    }

    #[test]
    fn live_more_connections_than_the_bound_are_told_so_and_the_others_go_on() {
        let container = idle();
        let waiting: Vec<_> =
            (0..EXEC_CONNECTIONS_MAX).map(|_| Channel::connect(&container.exec_socket()).unwrap()).collect();
        let refused = Channel::connect(&container.exec_socket()).unwrap();
        wait_readable(&refused);
        let answer = refused.receive::<InitEvent>(Wait::Never).unwrap().message;
        assert_eq!(answer, InitEvent::Failed(SpawnFailure::Busy { limit: 256 }));
        drop(waiting);
        eventually("there is room again", || {
            let channel = Channel::connect(&container.exec_socket()).unwrap();
            let mut fds = [rustix::event::PollFd::new(&channel, rustix::event::PollFlags::IN)];
            let soon = rustix::time::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            rustix::event::poll(&mut fds, Some(&soon)) == Ok(0)
        });
        assert_eq!(container.exec_to_end("echo on").0, "on\n");
    }

    #[test]
    fn live_t01_root_inside_can_neither_trace_nor_read_nor_signal_process_1() {
        let container = idle();
        let script = "for f in mem exe environ fd maps; do ls -l /proc/1/$f >/dev/null 2>&1 && echo listed $f; \
            cat /proc/1/$f >/dev/null 2>&1 && echo read $f; done; kill -9 1; kill -STOP 1; echo done";
        let (text, _) = container.exec_to_end(script);
        // `ls` of a link's own entry needs no right; everything behind it does.
        let allowed = ["listed mem", "listed exe", "listed environ", "listed maps", "done"];
        assert!(text.lines().all(|line| allowed.contains(&line)), "{text}");
        assert_eq!(container.exec_to_end("echo alive").0, "alive\n");
    }

    #[test]
    fn live_a_directory_outside_and_a_directory_as_stream_are_refused() {
        let container = idle();
        for path in [c"/proc/self/fd/3", c"/proc/self/fd/9", c"relative", c"/etc/passwd", c"/proc/1/root"] {
            let mut spec = shell("pwd");
            spec.cwd = path.to_owned();
            let null = std::fs::File::open("/dev/null").unwrap();
            let null = std::os::fd::AsFd::as_fd(&null);
            let fds = insula_plan::protocol::init::StdioFds { input: null, output: null, error: null };
            let request = ExecRequest { process: spec, on_close: OnClose::Kill };
            let error = container.client().exec(request, Some(fds)).unwrap_err();
            assert!(matches!(error, ExecError::Refused(SpawnFailure::WorkingDirectory { .. })), "{path:?}: {error:?}");
        }
        let directory = std::fs::File::open("/").unwrap();
        let directory = std::os::fd::AsFd::as_fd(&directory);
        let fds = insula_plan::protocol::init::StdioFds { input: directory, output: directory, error: directory };
        let request = ExecRequest { process: shell("ls"), on_close: OnClose::Kill };
        let error = container.client().exec(request, Some(fds)).unwrap_err();
        assert!(matches!(error, ExecError::Refused(SpawnFailure::Unusable { .. })), "{error:?}");
    }

    #[test]
    fn live_t02_no_descriptor_can_be_a_directory_or_a_program_of_a_request() {
        let container = idle();
        let null = std::fs::File::open("/dev/null").unwrap();
        let null = std::os::fd::AsFd::as_fd(&null);
        let refused = |process| {
            let fds = insula_plan::protocol::init::StdioFds { input: null, output: null, error: null };
            match container.client().exec(ExecRequest { process, on_close: OnClose::Kill }, Some(fds)).unwrap_err() {
                ExecError::Refused(failure) => failure,
                error => panic!("{error:?}"),
            }
        };
        for number in 3..1024 {
            let path = std::ffi::CString::new(format!("/proc/self/fd/{number}")).unwrap();
            let mut directory = shell("pwd");
            directory.cwd = path.clone();
            let failure = refused(directory);
            assert!(matches!(failure, SpawnFailure::WorkingDirectory { .. }), "{number}: {failure:?}");
            let mut program = shell("");
            program.argv = vec![path];
            let failure = refused(program);
            let is_named = matches!(failure, SpawnFailure::NotFound { .. } | SpawnFailure::NotExecutable { .. });
            assert!(is_named, "{number}: {failure:?}");
        }
    }

    #[test]
    fn live_those_who_wait_when_the_container_ends_are_told() {
        let container = idle();
        let (running, _output) = container.exec(shell("exec sleep 1000"), OnClose::Leave);
        let idle_connection = Channel::connect(&container.exec_socket()).unwrap();
        container.exec_to_end("true");
        container.signal(15);
        wait_readable(&running);
        assert_eq!(running.wait().unwrap().status, ExitStatus::Signaled(9));
        wait_readable(&idle_connection);
        let answer = idle_connection.receive::<InitEvent>(Wait::Never).unwrap().message;
        assert_eq!(answer, InitEvent::Failed(SpawnFailure::Ending));
        assert_eq!(container.join(), 7);
    }

    /// An idle container is charged for its init; it must stay small however much it was asked to do.
    #[test]
    fn live_process_1_stays_below_150_kib_of_its_own_memory() {
        let container = idle();
        let private = || {
            let text =
                std::fs::read_to_string(format!("/proc/{}/smaps_rollup", container.init.as_raw_nonzero())).unwrap();
            let field = |name: &str| -> u64 {
                let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
            };
            // Pages of the program's file are one copy for all containers of a node.
            field("Anonymous")
        };
        let before = private();
        for _ in 0..50 {
            container.exec_to_end("true");
        }
        let after = private();
        println!("process 1 holds {before} KiB of its own at first, {after} KiB after 50 requests");
        // An unoptimised build uses about 50 KiB more of the stack.
        let allowed = if cfg!(debug_assertions) { 200 } else { 150 };
        assert!(after <= allowed, "{after} KiB");
        assert!(after <= before + 16, "{before} KiB grew to {after} KiB");
    }
}
