//! The newest crun with a bundle of the field: what it does and what not is said with the figures.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::rounds::Contender;
use crate::stage::{self, Stage};
use crate::world::{self, World};

/// The field's fourteen.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// How much of what ours does a bundle asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Features {
    /// The mounts of the standard, no limits.
    Plain,
    /// Also the writable places, as file systems in memory, and limits.
    Same,
}

/// Makes a bundle named `name` in the stage's folder.
pub(crate) fn bundle(
    stage: &Stage,
    world: &World,
    name: &'static str,
    features: Features,
) -> Result<(), Box<dyn std::error::Error>> {
    let folder = stage.path(name);
    std::fs::create_dir_all(&folder)?;
    stage::run(world.command("sh").args(["-c", &format!("cd {}/{name} && crun spec", world::STAGE)]))?;
    let file = folder.join("config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    let profile = std::fs::read_to_string(crate::peers::root()?.join("usr/share/containers/seccomp.json"))?;
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/bin/true"]);
    config["process"]["noNewPrivileges"] = json!(true);
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = json!(CAPABILITIES);
    }
    config["root"] = json!({ "path": format!("{}/image", world::STAGE), "readonly": true });
    config["linux"]["seccomp"] = seccomp(&serde_json::from_str(&profile)?);
    // Both were made by `floor net`, which runs crun with them as these descriptors.
    if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "user" && namespace["type"] != "network");
        namespaces.push(json!({ "type": "user", "path": "/proc/self/fd/100" }));
        namespaces.push(json!({ "type": "network", "path": "/proc/self/fd/101" }));
        if !namespaces.iter().any(|namespace| namespace["type"] == "cgroup") {
            namespaces.push(json!({ "type": "cgroup" }));
        }
    }
    if features == Features::Same {
        same_features(&mut config);
    }
    std::fs::write(&file, config.to_string())?;
    check(stage, world, name, &config)
}

/// A container of a bundle lacks what the comparison says of it.
#[derive(Debug, thiserror::Error)]
#[error("crun's container of {bundle} has no `{wanted}`; it shows:\n{shown}")]
struct LacksError {
    bundle: &'static str,
    wanted: &'static str,
    shown: String,
}

/// Runs the bundle once with a program that tells what it was given, so that nothing less is measured.
fn check(stage: &Stage, world: &World, name: &'static str, config: &Value) -> Result<(), Box<dyn std::error::Error>> {
    let mut config = config.clone();
    config["process"]["args"] = json!(["/bin/cat", "/proc/self/status", "/proc/net/dev", "/proc/self/uid_map"]);
    let told = format!("{name}-check");
    std::fs::create_dir_all(stage.path(&told))?;
    std::fs::write(stage.path(&told).join("config.json"), config.to_string())?;
    let output = command(world, &told).output()?;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    for wanted in ["CapBnd: 00000000a80425fb", "NoNewPrivs: 1", "Seccomp: 2", "eth0:", " 65536"] {
        if !words.contains(wanted) {
            return Err(LacksError { bundle: name, wanted, shown }.into());
        }
    }
    Ok(())
}

/// Writable places of the image's size and mode, a limit of processes, rules for devices.
fn same_features(config: &mut Value) {
    config["linux"]["resources"] = json!({
        "pids": { "limit": 512 },
        "devices": [{ "allow": false, "access": "rwm" }],
    });
    let places = [
        ("/etc", "20m", "tmpcopyup"),
        ("/var", "200m", "tmpcopyup"),
        ("/home", "50m", "tmpcopyup"),
        ("/root", "20m", "tmpcopyup"),
        ("/tmp", "200m", "nodev"),
        ("/run", "20m", "nodev"),
    ];
    let mounts = places.map(|(place, size, more)| {
        json!({ "destination": place, "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "nodev", format!("size={size}"), more] })
    });
    if let Some(all) = config["mounts"].as_array_mut() {
        all.extend(mounts);
    }
}

/// The profile narrowed to this architecture and the capabilities, in the form of the standard.
fn seccomp(profile: &Value) -> Value {
    let names = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let applies = |call: &Value| {
        let (wanted, spared) = (&call["includes"], &call["excludes"]);
        let arches = names(&wanted["arches"]);
        let holds = |capability: &String| CAPABILITIES.contains(&capability.as_str());
        (arches.is_empty() || arches.iter().any(|arch| arch == "amd64"))
            && names(&wanted["caps"]).iter().all(holds)
            && !names(&spared["caps"]).iter().any(holds)
    };
    let narrowed = |call: &Value| {
        let mut rule = json!({ "names": call["names"], "action": call["action"] });
        for key in ["args", "errnoRet"] {
            if !call[key].is_null() {
                rule[key] = call[key].clone();
            }
        }
        rule
    };
    let calls = profile["syscalls"].as_array().into_iter().flatten();
    json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": calls.filter(|call| applies(call)).map(narrowed).collect::<Vec<_>>(),
    })
}

/// `crun run` of a bundle in the world, in namespaces with a veth pair that a program of the floor's makes.
pub(crate) fn run<'a>(name: &'static str, world: &'a World, bundle: &'static str) -> Contender<'a> {
    Contender { name, command: Box::new(move |_| command(world, bundle)) }
}

fn command(world: &World, bundle: &str) -> Command {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut command = world.command(&format!("{}/floor", world::STAGE));
    command.args(["net", &(number % 10_000).to_string(), "crun", "--cgroup-manager=cgroupfs", "run", "--bundle"]);
    command.arg(Path::new(world::STAGE).join(bundle)).arg(format!("insula-bench-{number}"));
    command
}
