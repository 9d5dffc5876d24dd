//! The keeper on a real kernel: logs, tees, stored descriptors, and being killed.

#[cfg(test)]
mod programs;

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::path::PathBuf;
    use std::time::Instant;

    use crate::programs::{Program, eventually, read_log, wait_readable};
    use insula_plan::protocol::ContainerId;
    use insula_plan::protocol::channel::{self, Channel, Wait};
    use insula_plan::protocol::failure::FailureKind;
    use insula_plan::protocol::keeper::{
        FdName, KeeperAnswer, KeeperClient, KeeperError, KeeperMessage, KeeperRequest, LogBounds, LogStart, LogStream,
        TeeSpec, WhenSlow,
    };
    use rustix::fs::{Mode, OFlags};
    use rustix::pipe::{PipeFlags, pipe_with};

    struct Fixture {
        scratch: tempfile::TempDir,
        program: Option<Program>,
        client: KeeperClient,
    }

    fn id() -> ContainerId {
        "11111111-2222-4333-8444-555555555555".parse().unwrap()
    }

    fn other_id() -> ContainerId {
        "21111111-2222-4333-8444-555555555555".parse().unwrap()
    }

    fn start_keeper(scratch: &tempfile::TempDir) -> (Program, KeeperClient) {
        let path = scratch.path().join("keeper.sock");
        let listener = channel::listen(&path).unwrap();
        let program = Program::start(env!("CARGO_BIN_EXE_insula-keeper"), &[], &[listener.as_fd()]);
        drop(listener);
        (program, KeeperClient::connect(&path).unwrap())
    }

    impl Fixture {
        fn new() -> Self {
            let scratch = tempfile::tempdir().unwrap();
            let (program, client) = start_keeper(&scratch);
            Self { scratch, program: Some(program), client }
        }

        fn log_path(&self, container: ContainerId) -> PathBuf {
            self.scratch.path().join(container.to_string())
        }

        fn log_directory(&self, container: ContainerId) -> OwnedFd {
            let path = self.log_path(container);
            std::fs::create_dir_all(&path).unwrap();
            rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
        }

        /// Begins a log of standard output; gives the writing end and our copies of what the keeper was given.
        fn start_log(
            &mut self,
            container: ContainerId,
            bounds: Option<LogBounds>,
            tee: Option<(OwnedFd, WhenSlow)>,
        ) -> (OwnedFd, Vec<OwnedFd>) {
            let directory = self.log_directory(container);
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            let tees = tee.iter().map(|(_, when_slow)| TeeSpec { stream: LogStream::Output, when_slow: *when_slow });
            let start = LogStart { container, streams: vec![LogStream::Output], tees: tees.collect(), files: bounds };
            let mut fds = vec![directory, reader];
            fds.extend(tee.map(|(fd, _)| fd));
            let lent: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            self.client.call(KeeperRequest::LogStart(start), &lent).unwrap();
            (writer, fds)
        }

        fn drained(&mut self, container: ContainerId) {
            eventually("the log is drained", || {
                // Any call takes the events before its answer.
                self.client.call(KeeperRequest::List { after: None }, &[]).unwrap();
                self.client.take_drained().any(|drained| drained == container)
            });
        }

        fn log_state(&mut self, container: ContainerId) -> insula_plan::protocol::keeper::LogState {
            match self.client.call(KeeperRequest::LogState { container }, &[]).unwrap().message {
                KeeperAnswer::LogState(state) => state,
                other => panic!("{other:?}"),
            }
        }
    }

    fn write(fd: impl AsFd, text: &str) {
        assert_eq!(rustix::io::write(fd, text.as_bytes()), Ok(text.len()));
    }

    #[test]
    fn live_output_is_logged_in_order_and_its_end_is_told() {
        let mut fixture = Fixture::new();
        let directory = fixture.log_directory(id());
        let (out_reader, out) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (err_reader, err) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let streams = vec![LogStream::Output, LogStream::Error];
        let start = LogStart { container: id(), streams, tees: vec![], files: Some(LogBounds::DEFAULT) };
        let fds = [directory.as_fd(), out_reader.as_fd(), err_reader.as_fd()];
        fixture.client.call(KeeperRequest::LogStart(start), &fds).unwrap();
        write(&out, "one\n");
        fixture.client.flush(id()).unwrap();
        write(&err, "two\n");
        fixture.client.flush(id()).unwrap();
        write(&out, "no newline");
        drop(out);
        drop(err);
        fixture.drained(id());
        assert_eq!(read_log(&fixture.log_path(id())).0, "one\ntwo\nno newline");
        let error = fixture.client.call(KeeperRequest::LogState { container: id() }, &[]).unwrap_err();
        assert!(matches!(error, KeeperError::Refused(failure) if failure.kind == FailureKind::Unknown));
        // A flush of what is over is done.
        fixture.client.flush(id()).unwrap();
    }

    #[test]
    fn live_a_flood_stays_within_the_bounds_and_every_lost_byte_is_counted() {
        let mut fixture = Fixture::new();
        let bounds = LogBounds {
            segment_bytes: 256 * 1024,
            segments: 4,
            rate_bytes_per_second: 1024 * 1024,
            burst_bytes: 256 * 1024,
        };
        let (writer, _copies) = fixture.start_log(id(), Some(bounds), None);
        let line = format!("{}\n", "x".repeat(1023));
        let begin = Instant::now();
        for _ in 0..64 * 1024 {
            write(&writer, &line);
        }
        fixture.client.flush(id()).unwrap();
        let state = fixture.log_state(id());
        let kept_at_most = bounds.burst_bytes + bounds.rate_bytes_per_second * (begin.elapsed().as_secs() + 1);
        assert!(state.lost_bytes >= (64 << 20) - kept_at_most, "{state:?}");
        assert!(state.lost_bytes < 64 << 20, "{state:?}");
        drop(writer);
        fixture.drained(id());
        let sizes =
            std::fs::read_dir(fixture.log_path(id())).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        assert!(sizes.sum::<u64>() <= 4 * 256 * 1024);
        let (_, lost) = read_log(&fixture.log_path(id()));
        assert!(lost > 0);
    }

    #[test]
    fn live_a_slow_client_gets_all_and_holds_up_nobody_else() {
        let mut fixture = Fixture::new();
        let (client_end, tee) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (writer, copies) = fixture.start_log(id(), Some(LogBounds::DEFAULT), Some((tee, WhenSlow::Block)));
        drop(copies);
        let (other, _copies) = fixture.start_log(other_id(), Some(LogBounds::DEFAULT), None);
        let text: String = (0..200_000).map(|number| format!("{number}\n")).collect();
        let expected = text.clone();
        let writing = std::thread::spawn(move || {
            let mut left = text.as_bytes();
            while !left.is_empty() {
                let written = rustix::io::write(&writer, left).unwrap();
                left = &left[written..];
            }
        });
        // Our client reads nothing yet; the other container's output comes through.
        write(&other, "other\n");
        fixture.client.flush(other_id()).unwrap();
        assert_eq!(read_log(&fixture.log_path(other_id())).0, "other\n");
        assert!(!writing.is_finished());
        let mut got = Vec::new();
        std::io::Read::read_to_end(&mut std::fs::File::from(client_end), &mut got).unwrap();
        writing.join().unwrap();
        assert!(got == expected.as_bytes(), "{} of {} bytes", got.len(), expected.len());
        fixture.drained(id());
        assert!(read_log(&fixture.log_path(id())).0 == expected);
    }

    /// Everything that one client gets which begins to read only now.
    fn read_all(client_end: OwnedFd) -> Vec<u8> {
        let mut got = Vec::new();
        std::io::Read::read_to_end(&mut std::fs::File::from(client_end), &mut got).unwrap();
        got
    }

    #[test]
    fn live_a_slow_client_gets_the_end_of_a_run_that_is_over_and_nothing_of_the_next() {
        let mut fixture = Fixture::new();
        let bounds = Some(LogBounds::DEFAULT);
        let (client_end, tee) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (writer, copies) = fixture.start_log(id(), bounds, Some((tee, WhenSlow::Block)));
        drop(copies);
        // More than the client's pipe takes: the keeper holds one read, the rest is in the container's pipe.
        let last_words = vec![b'a'; 3 * 65_536];
        assert_eq!(rustix::io::write(&writer, &last_words), Ok(last_words.len()));
        // Somebody holds the pipe open; the run is over all the same.
        fixture.client.call(KeeperRequest::RemoveContainer { container: id() }, &[]).unwrap();
        let (other_end, tee) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (next, copies) = fixture.start_log(id(), bounds, Some((tee, WhenSlow::Block)));
        drop(copies);
        write(&next, "next run\n");
        drop(next);
        assert_eq!(read_all(other_end), b"next run\n");
        assert!(read_all(client_end) == last_words);
        fixture.drained(id());
        let (log, _) = read_log(&fixture.log_path(id()));
        assert_eq!(log.len(), last_words.len() + "next run\n".len());
    }

    #[test]
    fn live_a_keeper_that_is_told_to_end_lets_a_slow_client_read_to_the_end() {
        let mut fixture = Fixture::new();
        let program = fixture.program.take().unwrap();
        let (client_end, tee) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (writer, copies) = fixture.start_log(id(), Some(LogBounds::DEFAULT), Some((tee, WhenSlow::Block)));
        drop(copies);
        assert_eq!(rustix::io::write(&writer, &[b'a'; 65_536]), Ok(65_536));
        assert_eq!(rustix::io::write(&writer, &[b'b'; 65_536]), Ok(65_536));
        fixture.client.call(KeeperRequest::Shutdown, &[]).unwrap();
        assert_eq!(read_all(client_end).len(), 2 * 65_536);
        assert_eq!(program.join(), 0);
    }

    #[test]
    fn live_a_client_that_goes_away_costs_nothing() {
        let mut fixture = Fixture::new();
        let (client_end, tee) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (writer, copies) = fixture.start_log(id(), Some(LogBounds::DEFAULT), Some((tee, WhenSlow::Block)));
        drop(copies);
        write(&writer, "seen\n");
        wait_readable(&client_end);
        drop(client_end);
        eventually("the tee is given up", || fixture.log_state(id()).tees == 0);
        write(&writer, "unseen\n");
        fixture.client.flush(id()).unwrap();
        assert_eq!(read_log(&fixture.log_path(id())).0, "seen\nunseen\n");
    }

    #[test]
    fn live_an_onlooker_may_come_later_and_output_may_go_to_nobody_but_it() {
        let mut fixture = Fixture::new();
        let (writer, _copies) = fixture.start_log(id(), None, None);
        write(&writer, "unseen\n");
        fixture.client.flush(id()).unwrap();
        let (client_end, tee) = std::os::unix::net::UnixStream::pair().unwrap();
        let spec = TeeSpec { stream: LogStream::Output, when_slow: WhenSlow::Drop };
        fixture.client.call(KeeperRequest::Tee { container: id(), tee: spec }, &[tee.as_fd()]).unwrap();
        drop(tee);
        write(&writer, "seen\n");
        drop(writer);
        let mut got = String::new();
        std::io::Read::read_to_string(&mut &client_end, &mut got).unwrap();
        assert_eq!(got, "seen\n");
        fixture.drained(id());
        assert_eq!(std::fs::read_dir(fixture.log_path(id())).unwrap().count(), 0);
    }

    #[test]
    fn live_a_killed_keeper_is_replaced_by_one_with_the_same_descriptors() {
        let mut fixture = Fixture::new();
        let (writer, copies) = fixture.start_log(id(), Some(LogBounds::DEFAULT), None);
        write(&writer, "before\n");
        fixture.client.flush(id()).unwrap();
        fixture.program.take().unwrap().kill();
        // The launcher has copies: nothing is lost meanwhile.
        write(&writer, "between\n");
        let (program, client) = start_keeper(&fixture.scratch);
        (fixture.program, fixture.client) = (Some(program), client);
        let start = LogStart {
            container: id(),
            streams: vec![LogStream::Output],
            tees: vec![],
            files: Some(LogBounds::DEFAULT),
        };
        let lent: Vec<BorrowedFd<'_>> = copies.iter().map(AsFd::as_fd).collect();
        fixture.client.call(KeeperRequest::LogStart(start), &lent).unwrap();
        drop(copies);
        write(&writer, "after\n");
        drop(writer);
        fixture.drained(id());
        assert_eq!(read_log(&fixture.log_path(id())).0, "before\nbetween\nafter\n");
    }

    #[test]
    fn live_descriptors_are_stored_listed_given_back_exported_and_removed() {
        let mut fixture = Fixture::new();
        let pty: FdName = FdName::of_container(id(), "pty").unwrap();
        let port: FdName = FdName::of_container(other_id(), "port:tcp:80").unwrap();
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        fixture.client.put(&pty, writer.as_fd()).unwrap();
        fixture.client.put(&port, writer.as_fd()).unwrap();
        drop(writer);
        let copy = fixture.client.take(&pty).unwrap();
        write(&copy, "x");
        drop(copy);
        let list = fixture.client.call(KeeperRequest::List { after: None }, &[]).unwrap().message;
        assert_eq!(list, KeeperAnswer::Names { names: vec![pty.clone(), port.clone()], more: false });
        let (log_writer, _copies) = fixture.start_log(id(), Some(LogBounds::DEFAULT), None);

        let mut exported = Vec::new();
        let mut after = 0;
        loop {
            let received = fixture.client.call(KeeperRequest::Export { after }, &[]).unwrap();
            after = match received.message {
                KeeperAnswer::Stored { cursor, ref name } => {
                    exported.push((name.as_str().to_owned(), received.fds.len()));
                    cursor
                }
                KeeperAnswer::Log { cursor, ref log } => {
                    exported.push((format!("log {:?}", log.streams), received.fds.len()));
                    cursor
                }
                KeeperAnswer::End => break,
                other => panic!("{other:?}"),
            };
        }
        let expected = [(pty.as_str(), 1), (port.as_str(), 1), ("log [Output]", 2)];
        assert_eq!(exported, expected.map(|(name, count)| (name.to_owned(), count)));

        write(&log_writer, "last words\n");
        fixture.client.call(KeeperRequest::RemoveContainer { container: id() }, &[]).unwrap();
        assert_eq!(read_log(&fixture.log_path(id())).0, "last words\n");
        assert!(matches!(fixture.client.take(&pty), Err(KeeperError::Refused(_))));
        fixture.client.call(KeeperRequest::Remove { name: port }, &[]).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(rustix::io::read(&reader, &mut buffer), Ok(1));
        wait_readable(&reader);
        assert_eq!(rustix::io::read(&reader, &mut buffer), Ok(0), "the keeper closed what it held");
    }

    #[test]
    fn live_the_keeper_has_no_capability_and_ends_only_when_told() {
        let mut fixture = Fixture::new();
        let program = fixture.program.take().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid.as_raw_nonzero())).unwrap();
        for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Threads:\t1"] {
            assert!(status.lines().any(|found| found == line), "{line} in {status}");
        }
        fixture.client.call(KeeperRequest::Shutdown, &[]).unwrap();
        assert_eq!(program.join(), 0);
    }

    #[test]
    fn live_nonsense_and_a_missing_hello_close_their_connection_only() {
        let mut fixture = Fixture::new();
        let path = fixture.scratch.path().join("keeper.sock");
        let channel = Channel::connect(&path).unwrap();
        rustix::net::send(&channel, b"\xff\x00", rustix::net::SendFlags::empty()).unwrap();
        wait_readable(&channel);
        assert!(channel.receive::<KeeperMessage>(Wait::Never).is_err());
        let channel = Channel::connect(&path).unwrap();
        let call = insula_plan::protocol::keeper::KeeperCall { number: 1, request: KeeperRequest::Shutdown };
        channel.send(&call, &[], Wait::Never).unwrap();
        wait_readable(&channel);
        assert!(matches!(
            channel.receive::<KeeperMessage>(Wait::Never).unwrap().message,
            KeeperMessage::Answer { answer: KeeperAnswer::Failed(failure), .. } if failure.kind == FailureKind::Version
        ));
        fixture.client.call(KeeperRequest::List { after: None }, &[]).unwrap();
    }
}
