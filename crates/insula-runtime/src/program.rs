//! What process 1 of a container becomes: our init with the command as its child, or the image's init.

use std::collections::BTreeMap;

use insula_model::{ImageConfig, InitKind};
use insula_plan::plan::{Exec, Program};
use insula_plan::privilege::PrivilegeStep;
use insula_plan::protocol::init::InitConfig;
use insula_plan::protocol::keeper::LogStream;
use insula_plan::slot::{FdSlot, Input};

use crate::process::{environment, main_process, string, variables};
use crate::request::{GivenFd, MainStreams, PlanStartError, StartRequest};
use crate::slots::SlotAllocator;

/// Our process 1: its program, its configuration, its sockets, the streams of the main process.
pub(crate) fn insula_init(request: &StartRequest<'_>, slots: &mut SlotAllocator) -> Result<Exec, PlanStartError> {
    let rights_and_streams = (request.rights, request.streams);
    let main = match request.streams {
        MainStreams::Absent => None,
        _ => Some(main_process(request.name, request.spec, request.config, rights_and_streams)?),
    };
    let streams = match request.streams {
        MainStreams::Given => [GivenFd::Stdin, GivenFd::Stdout, GivenFd::Stderr].map(|fd| slots.given(fd)),
        MainStreams::Terminal(_) | MainStreams::Absent => {
            let null = slots.input(Input::Null);
            [null; 3]
        }
    };
    let config = insula_plan::protocol::channel::encode(&InitConfig::new(main));
    let program = slots.input(Input::InitProgram);
    let others = [Input::Content { bytes: config }, Input::Status, Input::ExecListener, Input::ExitFact];
    let others = others.map(|input| slots.input(input));
    let held = [LogStream::Output, LogStream::Error].map(|stream| match request.held.contains(&stream) {
        true => slots.given(GivenFd::Held(stream)),
        false => slots.input(Input::Null),
    });
    let fds = streams.into_iter().chain(others).chain(held).collect();
    let argv = vec![string("program", "insula-init")?];
    Ok(Exec { program: Program::Slot(program), argv, env: Vec::new(), fds })
}

/// The image's init on a console of its own.
pub(crate) fn image_init(
    request: &StartRequest<'_>,
    config: &ImageConfig,
    console: FdSlot,
) -> Result<Exec, PlanStartError> {
    let init = config.init_program();
    let mut env: BTreeMap<String, String> = environment(request.name, request.spec, config, true);
    env.insert("container_uuid".to_owned(), request.id.as_uuid().simple().to_string());
    let mut argv = vec![string("init", init)?];
    for word in &request.spec.command {
        argv.push(string("command", word.as_str())?);
    }
    let program = Program::Path(string("init", init)?);
    Ok(Exec { program, argv, env: variables(env)?, fds: vec![console; 3] })
}

/// What is given up last, in this order: limits, the bounding set, then the filter, under which all else runs.
pub(crate) fn privilege_steps(
    request: &StartRequest<'_>,
    kind: InitKind,
) -> Result<Vec<PrivilegeStep>, PlanStartError> {
    let limits = insula_resources::process_limit_steps(
        &request.spec.resources,
        (request.host.files_soft, request.host.files_hard),
    );
    let mut steps = limits.map_err(PlanStartError::Limit)?;
    steps.extend(match kind {
        InitKind::Insula => request.rights.process_1_steps(),
        InitKind::Image => request.rights.image_init_steps(),
    });
    steps.extend(request.filter.map(|filter| PrivilegeStep::InstallFilter { program: filter.bytes().to_vec() }));
    Ok(steps)
}
