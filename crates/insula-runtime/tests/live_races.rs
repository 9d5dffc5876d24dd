//! Places that somebody exchanges while a start uses them: what was checked is what is used, or the start is refused.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "a test program")]

mod harness;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use harness::{Node, Planned, Start, id, read_until};
use insula_model::{ContainerSpec, ImageConfig, InitKind};
use insula_plan::inside_step::InsideStep;
use insula_plan::protocol::launcher::{LauncherError, LauncherOutcome};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Starts that race in the test; more are asked for by the variable.
const STARTS_DEFAULT: u32 = 100;

/// Names how many.
const STARTS_VARIABLE: &str = "INSULA_RACE_STARTS";

/// A name that is a file and a link by turns, as fast as the kernel exchanges them.
struct Exchanged<'a> {
    name: PathBuf,
    goes_on: &'a AtomicBool,
}

impl Exchanged<'_> {
    /// Exchanges until it is told to stop.
    fn exchange(&self) {
        let other = self.name.with_extension("other");
        while self.goes_on.load(Ordering::Relaxed) {
            renameat_with(CWD, &self.name, CWD, &other, RenameFlags::EXCHANGE).unwrap();
        }
    }
}

/// What the steps would be without care: looks whether it is a file, and then opens whatever it is. Whether it was led
/// to where the link leads.
fn is_led_astray(name: &Path, trap: &str) -> bool {
    let found = std::fs::symlink_metadata(name).unwrap();
    found.is_file() && std::fs::read_to_string(name).unwrap() == trap
}

/// Says whether its console is where the link leads.
const INIT: &str = "#!/bin/sh\ntest -c /etc/trap && echo astray\necho end\n";

#[test]
fn live_t04_a_place_that_is_exchanged_while_the_console_is_put_there_leads_nowhere_else() {
    let mut node = Node::start();
    let key = node.image_with("console", |root| {
        std::fs::write(root.join("sbin/init"), INIT).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(root.join("sbin/init"), mode).unwrap();
        std::fs::write(root.join("etc/trap"), "").unwrap();
    });
    let folder = node.path("data");
    std::fs::create_dir(&folder).unwrap();
    let (name, trap) = (folder.join("console"), node.path("trap"));
    std::fs::write(&name, "").unwrap();
    std::fs::write(&trap, "the trap").unwrap();
    let spec = ContainerSpec { init: Some(InitKind::Image), ..ContainerSpec::new("init".parse().unwrap()) };
    let config = ImageConfig { init: Some("/sbin/init".to_owned()), ..ImageConfig::default() };
    let starts = std::env::var(STARTS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(STARTS_DEFAULT);
    let goes_on = AtomicBool::new(true);
    let (mut started, mut refused, mut astray) = (0, 0, 0);
    std::thread::scope(|scope| {
        std::os::unix::fs::symlink(&trap, name.with_extension("other")).unwrap();
        let exchanged = Exchanged { name: name.clone(), goes_on: &goes_on };
        scope.spawn(move || exchanged.exchange());
        // The race is one: without care it is lost.
        harness::wait_until("the careless one is led astray", || {
            astray += u32::from(is_led_astray(&name, "the trap"));
            astray > 0
        });
        goes_on.store(false, Ordering::Relaxed);
    });
    // From inside, the same link leads to a file of the container's own.
    let link = [name.clone(), name.with_extension("other")].into_iter().find(|path| path.is_symlink()).unwrap();
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("/etc/trap", &link).unwrap();
    goes_on.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let exchanged = Exchanged { name: name.clone(), goes_on: &goes_on };
        scope.spawn(move || exchanged.exchange());
        for _ in 0..starts {
            let Planned { mut plan, fds, .. } =
                node.plan(&key, id(1), &Start { spec: &spec, config: &config, volumes: Vec::new() });
            // The console's own directory is reached by nobody; this one is.
            let at = plan.inside.iter().position(|step| matches!(step, InsideStep::Console { .. })).unwrap();
            let InsideStep::Console { into, .. } = plan.inside.remove(at) else { unreachable!() };
            let data = |step: &InsideStep| matches!(step, InsideStep::Attach { target, .. } if target == "/data");
            let at = plan.inside.iter().position(data).unwrap().max(at);
            plan.inside.insert(at + 1, InsideStep::Console { target: "/data/console".to_owned(), into });
            let op = node.carry_out(id(1), &plan.encode(), fds).unwrap();
            match node.client.outcome(op) {
                Ok(outcome) => {
                    let LauncherOutcome::Started { .. } = outcome.message else { panic!("{:?}", outcome.message) };
                    let said = read_until(&outcome.fds[1], "end");
                    assert!(said.contains("end") && !said.contains("astray"), "{said}");
                    node.end_of(id(1));
                    started += 1;
                }
                Err(LauncherError::Failed(failure)) => {
                    assert!(failure.to_string().contains("`/data/console` is a symbolic link"), "{failure}");
                    node.sweep(id(1));
                    refused += 1;
                }
                Err(error) => panic!("{error}"),
            }
            node.assert_nothing_left(id(1));
        }
        goes_on.store(false, Ordering::Relaxed);
    });
    println!("{started} of {starts} starts found a file, {refused} a link");
    assert!(started > 0 && refused > 0, "{started} started, {refused} were refused");
    assert_eq!(std::fs::read_to_string(&trap).unwrap(), "the trap");
}
