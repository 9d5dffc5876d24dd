//! The command line against its contract.

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use super::{Cli, Command};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::read(std::iter::once("insula").chain(line.split(' ')).map(Into::into))
}

#[test]
fn the_definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_contract_is_accepted() {
    for line in [
        "node run --config F --name n --state-dir D --run-dir D --socket P",
        "node doctor",
        "doctor",
        "version",
        "--socket /x list",
        "list --socket /x --format json",
        "image import debian@12 rootfs.tar.zst",
        "image build recipe.toml",
        "image list",
        "image show a@1 b",
        "image verify a",
        "image lock a",
        "image test a@1",
        "image test a",
        "image promote a@1",
        "image default a 2",
        "image diff a@1 a@2",
        "image usage a",
        "image remove a@1 a@2",
        "image gc",
        "image export a@1 out.tar",
        "image export a out.tar",
        "image export --as oci-archive a@1 -",
        "run --rm -it --name n -e K=V --env-file F -w / -u 0 --hostname h -v /a:/b:ro -p 80:80 alpine@3 sh -c true",
        "run -d --restart on-failure:5 --init image --root read-only --template t --set memory.limit=1MiB debian",
        "run --cap-add NET_ADMIN --cap-drop ALL --device /dev/fuse --privileged --network host --tmpfs /t debian",
        "run --ulimit nofile=1 --sysctl a.b=1 --label a=b --entrypoint /x --stop-timeout 3 --dns 1.1.1.1 debian",
        "run --add-host a:1.2.3.4 --memory 512m --cpus 1.5 --no-log --strict debian",
        "create --name n -it -e A=1 debian@12 sleep 1",
        "exec -it -e A=1 -u 0 -w / n ls -la --color",
        "shell n",
        "attach n",
        "start a b",
        "start -a -i a",
        "stop -t 3 a b",
        "restart a",
        "kill -s TERM a",
        "pause a",
        "resume a",
        "unpause a",
        "delete --force a b",
        "rm -f a",
        "rename a b",
        "logs -f --since 10m --tail 5 a",
        "wait a b",
        "wait --condition healthy --timeout 3 a",
        "events",
        "cp a:/etc/passwd .",
        "top a",
        "upgrade --image debian@13 --health true --deadline 5 a",
        "rollback a",
        "whois 4711",
        "whois --gid 5",
        "set a image=debian@13 memory.limit=256MiB",
        "show a",
        "inspect a",
        "list --filter state=running --filter label=a:b",
        "ps -a",
        "ls -q",
        "stats --no-stream",
        "port a",
        "prune",
        "completions bash",
        "man /tmp/man",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn what_is_outside_the_contract_is_refused() {
    for line in [
        "",
        "frobnicate",
        "run",
        "run --publish 0:80 debian",
        "run --memory much debian",
        "run debian:12",
        "run --name UPPER debian",
        "run --network bridge debian",
        "image import debian rootfs.tar",
        "image default debian@12",
        "image promote debian",
        "image sign debian",
        "image remove debian",
        "image diff debian debian@13",
        "exec n",
        "set a",
        "set a novalue",
        "whois",
        "whois --pid 1 --gid 2",
        "rename a B",
        "list --format xml",
        "kill -s NOPE a",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn options_after_the_image_belong_to_the_command() {
    let Command::Run(run) = parse("run --rm debian ls --rm -d -- -x").unwrap().command else { panic!("run") };
    assert_eq!(run.spec.command, ["ls", "--rm", "-d", "--", "-x"]);
    assert!(!run.detach);
    let Command::Exec(exec) = parse("exec n -i --flag").unwrap().command else { panic!("exec") };
    assert_eq!((exec.interactive, exec.command), (false, vec!["-i".to_owned(), "--flag".to_owned()]));
    let line = "--socket run --format json exec -ite A=1 -u 0 --workdir / -- n -t --help";
    let cli = parse(line).unwrap();
    let Command::Exec(exec) = cli.command else { panic!("exec") };
    assert_eq!((exec.name.as_str(), exec.tty, exec.command.join(" ").as_str()), ("n", true, "-t --help"));
    let Command::Create(create) = parse("create -e A=1 --name=n -l x debian --format json").unwrap().command else {
        panic!("create")
    };
    assert_eq!(create.spec.command, ["--format", "json"]);
}

#[test]
fn frequent_commands_are_read_as_by_the_whole_definition() {
    for line in [
        "run --rm debian true",
        "--socket /a run -it --name n -e A=1 --format json debian@12 sh -c true -- --rm",
        "run -d --socket /b -q --network host debian",
        "exec --format yaml -it -u 0 n ls -la",
        "exec n -- x",
    ] {
        let words: Vec<std::ffi::OsString> = std::iter::once("insula").chain(line.split(' ')).map(Into::into).collect();
        let quick = Cli::read_frequent(&words).unwrap_or_else(|| panic!("{line}"));
        let mut whole = Cli::command();
        let marked = super::operands::with_operands_marked(&whole, words);
        let whole = Cli::from_arg_matches(&whole.try_get_matches_from_mut(marked).unwrap()).unwrap();
        assert_eq!(format!("{quick:?}"), format!("{whole:?}"), "{line}");
    }
    for line in ["run", "run --help", "exec n", "list", "run --bad x", ""] {
        let words: Vec<std::ffi::OsString> = std::iter::once("insula").chain(line.split(' ')).map(Into::into).collect();
        assert!(Cli::read_frequent(&words).is_none(), "{line}");
    }
}

#[test]
fn a_misspelled_word_gets_a_suggestion() {
    for (line, suggestion) in [("exce n ls", "exec"), ("image promot a@1", "promote"), ("run --memroy 1 x", "--memory")]
    {
        let error = parse(line).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument), "{line}");
        assert!(error.to_string().contains(&format!("'{suggestion}'")), "{line}: {error}");
    }
}

#[test]
fn who_names_no_command_is_shown_those_of_the_last_one_named() {
    let help = |line: &str| Cli::help_of(line.split(' ').map(Into::into)).render_help().to_string();
    assert!(help("insula").contains("Usage: insula [OPTIONS] <COMMAND>"));
    assert!(help("insula --format json image").contains("Usage: insula image [OPTIONS] <COMMAND>"));
}
