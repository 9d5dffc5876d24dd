//! All messages of the protocols: they read back as they were written, and no bytes make a reader panic.

#[cfg(test)]
mod tests {
    use insula_model::ContainerId;
    use insula_plan::protocol::channel::{decode, encode};
    use insula_plan::protocol::facts::{EndedFact, ProcessIdentity, StartedFact};
    use insula_plan::protocol::failure::{Failure, FailureKind};
    use insula_plan::protocol::init::{ExecRequest, InitConfig, InitEvent, InitRequest, OnClose};
    use insula_plan::protocol::keeper::{
        KeeperAnswer, KeeperCall, KeeperMessage, KeeperRequest, LogBounds, LogStart, LogState, LogStream, TeeSpec,
        WhenSlow,
    };
    use insula_plan::protocol::launcher::{
        ContainerCondition, ContainerEntry, ImageKey, LauncherCall, LauncherEvent, LauncherOutcome, LauncherRequest,
        OpId, ShutdownWhen,
    };
    use insula_plan::protocol::process::{
        CapabilityMask, CapabilityRule, NameOrId, NewPrivileges, ProcessSpec, Rlimit, SpawnFailure, Stdio, UserSpec,
        WindowSize,
    };
    use insula_plan::protocol::status::{End, ExitStatus, WallTime};
    use minicbor::{Decode, Encode};
    use proptest::prelude::*;

    fn id() -> ContainerId {
        "01234567-89ab-cdef-0123-456789abcdef".parse().unwrap()
    }

    fn process() -> ProcessSpec {
        let rights = CapabilityRule { bounding: CapabilityMask(0xa804_25fb), ambient: CapabilityMask(0) };
        let mut process = ProcessSpec::new(vec![c"sh".to_owned(), c"-c".to_owned(), c"\xff\n".to_owned()], rights);
        process.env = vec![c"PATH=/bin".to_owned()];
        process.user = UserSpec { user: NameOrId::Name("web".into()), group: Some(NameOrId::Id(33)) };
        process.groups = vec![4, 5];
        process.rlimits = vec![Rlimit { resource: 7, soft: 1024, hard: u64::MAX }];
        process.new_privileges = NewPrivileges::Forbidden;
        process.stdio = Stdio::Terminal(WindowSize::DEFAULT);
        process.umask = Some(0o027);
        process
    }

    fn end() -> End {
        End { status: ExitStatus::Signaled(9), at: WallTime(1_700_000_000_000_000_000) }
    }

    fn failures() -> Vec<Failure> {
        let spawn = SpawnFailure::NotExecutable { program: "/x".into(), errno: 13 };
        [
            FailureKind::Step,
            FailureKind::Spawn(spawn),
            FailureKind::Malformed,
            FailureKind::Busy,
            FailureKind::Ending,
            FailureKind::WorkerLost,
            FailureKind::Unknown,
            FailureKind::Exists,
            FailureKind::KeeperLost,
            FailureKind::Version,
            FailureKind::Kernel,
        ]
        .into_iter()
        .map(|kind| Failure { kind, chain: vec!["a".into(), "b".into()], errno: Some(2), step: Some("s".into()) })
        .collect()
    }

    fn log_start() -> LogStart {
        let tee = TeeSpec { stream: LogStream::Error, when_slow: WhenSlow::Block };
        let streams = vec![LogStream::Output, LogStream::Error];
        LogStart { container: id(), streams, tees: vec![tee], files: Some(LogBounds::DEFAULT) }
    }

    fn keeper_requests() -> Vec<KeeperRequest> {
        let name = || "a/pty".parse().unwrap();
        let tee = TeeSpec { stream: LogStream::Output, when_slow: WhenSlow::Drop };
        vec![
            KeeperRequest::Hello { version: 1 },
            KeeperRequest::Put { name: name() },
            KeeperRequest::Take { name: name() },
            KeeperRequest::Remove { name: name() },
            KeeperRequest::RemoveContainer { container: id() },
            KeeperRequest::List { after: None },
            KeeperRequest::List { after: Some(name()) },
            KeeperRequest::LogStart(log_start()),
            KeeperRequest::Tee { container: id(), tee },
            KeeperRequest::Flush { container: id() },
            KeeperRequest::LogState { container: id() },
            KeeperRequest::Export { after: 3 },
            KeeperRequest::Shutdown,
        ]
    }

    fn keeper_answers() -> Vec<KeeperAnswer> {
        let name = || "a/pty".parse().unwrap();
        let state = LogState { open: vec![LogStream::Output], segment: 9, lost_bytes: 10, tees: 1 };
        let mut answers = vec![
            KeeperAnswer::Welcome { version: 1, pid: 2 },
            KeeperAnswer::Done,
            KeeperAnswer::Names { names: vec![name()], more: true },
            KeeperAnswer::LogState(state),
            KeeperAnswer::Stored { cursor: 1, name: name() },
            KeeperAnswer::Log { cursor: 2, log: log_start() },
            KeeperAnswer::End,
        ];
        answers.extend(failures().into_iter().map(KeeperAnswer::Failed));
        answers
    }

    fn launcher_requests() -> Vec<LauncherRequest> {
        let mut requests = vec![
            LauncherRequest::Hello { version: 1 },
            LauncherRequest::Start { container: id() },
            LauncherRequest::Join { container: id(), process: process(), on_close: OnClose::Kill },
            LauncherRequest::Sweep { container: id() },
            LauncherRequest::MountImage { key: ImageKey("0ab".into()) },
            LauncherRequest::UnmountImage { key: ImageKey("0ab".into()) },
            LauncherRequest::List { after: None },
            LauncherRequest::List { after: Some(id()) },
            LauncherRequest::Shutdown(ShutdownWhen::Idle),
            LauncherRequest::Upgrade,
            LauncherRequest::ListImages,
            LauncherRequest::EndGuests,
        ];
        requests.extend(keeper_requests().into_iter().map(LauncherRequest::Keep));
        requests
    }

    fn launcher_events() -> Vec<LauncherEvent> {
        let identity = ProcessIdentity { pid: 100, start_ticks: 7 };
        let ended = EndedFact { status: None, at: WallTime(1), unknown_because: Some("nobody saw it".into()) };
        let condition = |condition| ContainerEntry { container: id(), condition };
        let containers = vec![
            condition(ContainerCondition::Running(identity)),
            condition(ContainerCondition::Ended(ended.clone())),
            condition(ContainerCondition::Starting),
        ];
        let mut outcomes = vec![
            LauncherOutcome::Welcome { version: 1, pid: 2, running: 3 },
            LauncherOutcome::Started { process: identity, main_pid: 2 },
            LauncherOutcome::Joined { process: identity },
            LauncherOutcome::Done,
            LauncherOutcome::Mounted,
            LauncherOutcome::Containers { containers, more: false },
            LauncherOutcome::Images { keys: vec![ImageKey("0ab".into())] },
        ];
        outcomes.extend(failures().into_iter().map(LauncherOutcome::Failed));
        outcomes.extend(keeper_answers().into_iter().map(LauncherOutcome::Kept));
        let mut events: Vec<LauncherEvent> =
            outcomes.into_iter().map(|outcome| LauncherEvent::Outcome { op: OpId(5), outcome }).collect();
        events.push(LauncherEvent::Exited { container: id(), end: ended });
        events.push(LauncherEvent::LogDrained { container: id() });
        events.push(LauncherEvent::KeeperRestarted);
        events
    }

    fn init_events() -> Vec<InitEvent> {
        let program = || "x".to_owned();
        let spawn = [
            SpawnFailure::NotFound { program: program(), searched: true },
            SpawnFailure::NotExecutable { program: program(), errno: 8 },
            SpawnFailure::UserUnknown { user: program() },
            SpawnFailure::GroupUnknown { group: program() },
            SpawnFailure::WorkingDirectory { path: program(), errno: 20 },
            SpawnFailure::Kernel { call: program(), errno: 1 },
            SpawnFailure::Unusable { reason: program() },
            SpawnFailure::Busy { limit: 256 },
            SpawnFailure::Ending,
        ];
        let mut events = vec![InitEvent::Started { pid: 2 }, InitEvent::Ended(end()), InitEvent::EndedUnseen];
        events.extend(spawn.into_iter().map(InitEvent::Failed));
        events
    }

    fn reads_back<M>(message: &M)
    where
        M: Encode<()> + for<'b> Decode<'b, ()> + PartialEq + std::fmt::Debug,
    {
        let bytes = encode(message);
        assert!(!bytes.is_empty());
        assert_eq!(&decode::<M>(&bytes).unwrap(), message);
        // Every truncation is refused and none panics.
        for end in 0..bytes.len() {
            assert!(decode::<M>(&bytes[..end]).is_err(), "{message:?} cut at {end}");
        }
    }

    #[test]
    fn every_message_reads_back_and_no_part_of_it_does() {
        for request in launcher_requests() {
            reads_back(&LauncherCall { op: OpId(u64::MAX), request });
        }
        launcher_events().iter().for_each(reads_back);
        for request in keeper_requests() {
            reads_back(&KeeperCall { number: 1, request });
        }
        for answer in keeper_answers() {
            reads_back(&KeeperMessage::Answer { number: 1, answer });
        }
        reads_back(&KeeperMessage::Drained { container: id() });
        reads_back(&KeeperMessage::RunsDrained { container: id() });
        init_events().iter().for_each(reads_back);
        reads_back(&InitRequest::Exec(Box::new(ExecRequest { process: process(), on_close: OnClose::Kill })));
        reads_back(&InitRequest::Signal(15));
        reads_back(&InitRequest::Resize(WindowSize { rows: 1, columns: u16::MAX }));
        reads_back(&InitConfig::new(Some(process())));
        reads_back(&InitConfig::new(None));
        reads_back(&StartedFact { process: ProcessIdentity { pid: 1, start_ticks: 2 }, at: WallTime(3) });
    }

    /// The wire form is a format: what is written today must be read by a launcher of tomorrow.
    #[test]
    fn wire_form_is_the_documented_one() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let call = LauncherCall { op: OpId(5), request: LauncherRequest::Start { container: id() } };
        assert_eq!(hex(encode(&call)), "a2000501820181500123456789abcdef0123456789abcdef");
        let event = LauncherEvent::Outcome { op: OpId(5), outcome: LauncherOutcome::Done };
        assert_eq!(hex(encode(&event)), "82008205820580");
        assert_eq!(hex(encode(&InitEvent::Started { pid: 2 })), "82008102");
        assert_eq!(hex(encode(&end())), "a2008201810901 1b17979cfe362a0000".replace(' ', ""));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<LauncherCall>(&bytes);
            let _ = decode::<LauncherEvent>(&bytes);
            let _ = decode::<KeeperCall>(&bytes);
            let _ = decode::<KeeperMessage>(&bytes);
            let _ = decode::<InitRequest>(&bytes);
            let _ = decode::<InitEvent>(&bytes);
            let _ = decode::<InitConfig>(&bytes);
        }

        #[test]
        fn no_damage_to_a_message_makes_a_reader_panic(at in any::<prop::sample::Index>(), value in any::<u8>()) {
            for request in launcher_requests() {
                let mut bytes = encode(&LauncherCall { op: OpId(1), request });
                let at = at.index(bytes.len());
                bytes[at] = value;
                let _ = decode::<LauncherCall>(&bytes);
            }
            let mut bytes = encode(&InitRequest::Exec(Box::new(ExecRequest { process: process(), on_close: OnClose::Leave })));
            let at = at.index(bytes.len());
            bytes[at] = value;
            let _ = decode::<InitRequest>(&bytes);
        }
    }
}
