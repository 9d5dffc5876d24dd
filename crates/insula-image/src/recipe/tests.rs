//! Recipes built into a store.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use insula_model::{ImageId, PlaceContent};

use super::run::{mount_image, mount_overlay, overlay_over_attached};
use super::{
    BuildCause, BuildError, BuildRequest, Built, CommandRunner, Recipe, RunStep, RunStepError, UnfinishedRoot,
};
use crate::attributes::Attributes;
use crate::convert::InProcess;
use crate::draft::TreeLimits;
use crate::manifest::Manifest;
use crate::path::ImagePath;
use crate::progress::Watch;
use crate::store::tests::{TestStore, at, id};
use crate::tree::{Inode, InodeKind};

fn build_in(store: &TestStore, recipe: &str, directory: &Path) -> Result<Built, BuildError> {
    let recipe = Recipe::parse(recipe).unwrap();
    let request =
        BuildRequest { recipe: &recipe, directory, limits: TreeLimits::standard(), converter: &InProcess, lock: None };
    store.build(&request, None, at(100), Watch::nobody())
}

fn build(store: &TestStore, recipe: &str) -> Built {
    build_in(store, recipe, Path::new("/")).unwrap()
}

/// A recipe over busybox; needs the package `busybox-static`.
fn busybox(version: &str, more: &str) -> String {
    format!("name = \"small\"\nversion = \"{version}\"\n[base]\nscratch = \"busybox\"\n{more}")
}

fn inode<'manifest>(manifest: &'manifest Manifest, path: &str) -> Option<&'manifest Inode> {
    manifest.tree.find(&ImagePath::parse(path).unwrap())
}

fn text(store: &TestStore, image: &ImageId, path: &str) -> String {
    let manifest = store.manifest(image).unwrap();
    let InodeKind::File(content) = &inode(&manifest, path).unwrap().kind else { panic!("{path} is no file") };
    let file = store.open_for_mount(image, at(1), Watch::nobody()).unwrap().fd.into();
    std::io::read_to_string(crate::erofs::ContentReader::new(&file, content)).unwrap()
}

#[test]
fn the_recipe_of_the_documentation_is_one() {
    let page = include_str!("../../../../docs/recipes.md");
    let example = page.split("```").nth(1).unwrap().strip_prefix("toml").unwrap();
    let recipe = Recipe::parse(example).unwrap();
    assert_eq!(recipe.id, id("web@1"));
    assert_eq!(recipe.config.checks, [["nginx", "-t"]]);
}

#[test]
fn the_recipes_of_the_tour_are_recipes() {
    let [first, second] = [
        include_str!("../../../../demo/images/debian-12.1.toml"),
        include_str!("../../../../demo/images/debian-12.2.toml"),
    ]
    .map(|text| Recipe::parse(text).unwrap());
    assert_eq!((first.id, second.base), (id("debian@12.1"), super::Base::Image(id("debian@12.1"))));
}

#[test]
fn the_same_recipe_gives_the_same_image() {
    let digests = [(), ()].map(|()| {
        let store = TestStore::new();
        let built = build(&store, &busybox("1", "[[files]]\npath = \"/etc/motd\"\ncontent = \"hello\""));
        assert_eq!(text(&store, &id("small@1"), "etc/motd"), "hello");
        built.published.info.digest
    });
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn a_busybox_image_has_its_applets_and_every_mount_target() {
    let store = TestStore::new();
    build(&store, &busybox("1", ""));
    let manifest = store.manifest(&id("small@1")).unwrap();
    let InodeKind::Symlink(target) = &inode(&manifest, "bin/sh").unwrap().kind else { panic!("no link") };
    assert_eq!(&**target, b"/bin/busybox");
    for directory in ["data", "sw", "etc", "var", "root", "tmp"] {
        assert_eq!(inode(&manifest, directory).unwrap().kind, InodeKind::Directory, "{directory}");
    }
    let recipe = Recipe::parse(&busybox("1", "")).unwrap();
    assert_eq!(manifest.provenance.recipe, Some(recipe.digest()));
    assert_eq!(manifest.provenance.source_date_epoch, Some(recipe.source_date_epoch));
}

#[test]
fn files_users_and_places_are_as_the_recipe_says() {
    let store = TestStore::new();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("app"), "#!/bin/sh\n").unwrap();
    let more = r#"
        [[files]]
        path = "/srv/app"
        source = "app"
        mode = 0o4755
        uid = 7
        [[files]]
        path = "/etc/nsswitch.conf"
        content = "replaced"
        [[files]]
        path = "/srv/link"
        link = "app"
        [[users]]
        name = "app"
        [[places]]
        path = "/srv/state"
        size = "8MiB"
        content = "empty"
        [config]
        cmd = ["/srv/app"]
        user = "app"
    "#;
    build_in(&store, &busybox("1", more), directory.path()).unwrap();
    let manifest = store.manifest(&id("small@1")).unwrap();
    let Attributes { mode, uid, mtime, .. } = inode(&manifest, "srv/app").unwrap().attributes;
    assert_eq!((mode, uid, mtime.seconds), (0o4755, 7, 1_704_067_200));
    assert_eq!(text(&store, &id("small@1"), "etc/nsswitch.conf"), "replaced");
    assert!(text(&store, &id("small@1"), "etc/passwd").contains("app:x:1000:1000::/home/app:/bin/sh\n"));
    assert_eq!(inode(&manifest, "home/app").unwrap().attributes.uid, 1000);
    assert_eq!(manifest.config.user.as_deref(), Some("app"));
    assert_eq!(manifest.mount_plan.places.len(), 1);
    assert_eq!(manifest.mount_plan.places[0].content, PlaceContent::Empty);
    assert!(inode(&manifest, "srv/state").is_some());
}

#[test]
fn directories_and_archives_are_normalised() {
    let store = TestStore::new();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    for sub in ["etc/ssh", "var/lib/dpkg", "lib/systemd", "usr/sbin"] {
        std::fs::create_dir_all(root.join(sub)).unwrap();
    }
    std::fs::write(root.join("etc/resolv.conf"), "nameserver 192.0.2.1\n").unwrap();
    std::fs::write(root.join("etc/machine-id"), "0123\n").unwrap();
    std::fs::write(root.join("lib/systemd/systemd"), "").unwrap();
    std::fs::write(root.join("usr/sbin/sshd"), "").unwrap();
    std::fs::write(root.join("etc/ssh/ssh_host_rsa_key"), "everybody's").unwrap();
    let status = "Package: curl\nStatus: install ok installed\nArchitecture: amd64\nVersion: 7.88\n\n";
    std::fs::write(root.join("var/lib/dpkg/status"), status).unwrap();
    let mut archive = tar::Builder::new(std::fs::File::create(directory.path().join("root.tar")).unwrap());
    archive.append_dir_all(".", &root).unwrap();
    archive.into_inner().unwrap();
    for (version, base) in [("1", "directory = \"root\""), ("2", "tar = \"root.tar\"")] {
        let recipe = format!("name = \"x\"\nversion = \"{version}\"\n[base]\n{base}\n[[users]]\nname = \"app\"");
        let built = build_in(&store, &recipe, directory.path()).unwrap();
        assert_eq!(built.packages, 1, "{base}");
        let image = id(&format!("x@{version}"));
        let manifest = store.manifest(&image).unwrap();
        assert_eq!(manifest.provenance.packages[0].name, "curl");
        assert!(inode(&manifest, "etc/resolv.conf").is_none());
        assert_eq!(text(&store, &image, "etc/machine-id"), "");
        assert!(text(&store, &image, "etc/passwd").contains("app:x:1000"));
        let masked = inode(&manifest, "etc/systemd/system/sys-kernel-debug.mount").unwrap();
        assert!(matches!(&masked.kind, InodeKind::Symlink(target) if &**target == b"/dev/null"));
        assert!(inode(&manifest, "etc/ssh/ssh_host_rsa_key").is_none());
        assert!(
            text(&store, &image, "etc/systemd/system/ssh.service.d/insula.conf").contains("insula-ssh-keys.service")
        );
        let newest = manifest.tree.inodes().iter().map(|inode| inode.attributes.mtime.seconds).max();
        assert!(newest <= Some(1_704_067_200), "{newest:?}");
    }
}

#[test]
fn an_image_over_an_image_keeps_what_it_does_not_change() {
    let store = TestStore::new();
    let config =
        "[config]\ncmd = [\"/bin/sh\"]\nuser = \"7\"\n[env]\nA = \"1\"\n[[places]]\npath = \"/etc\"\nsize = \"5MiB\"";
    build(&store, &busybox("1", config));
    let recipe = "name = \"over\"\nversion = \"1\"\n[base]\nimage = \"small@1\"\n[env]\nB = \"2\"\n[config]\nuser = \"8\"\n\
        [[files]]\npath = \"/etc/motd\"\ncontent = \"over\"";
    build(&store, recipe);
    let manifest = store.manifest(&id("over@1")).unwrap();
    assert_eq!(manifest.config.cmd, ["/bin/sh"]);
    assert_eq!(manifest.config.user.as_deref(), Some("8"));
    assert_eq!(manifest.config.env.len(), 2);
    assert_eq!(manifest.mount_plan.places.len(), 1);
    let base = store.manifest(&id("small@1")).unwrap();
    let changes: Vec<_> = crate::diff::diff(&base, &manifest).paths.into_iter().map(|c| c.path.to_string()).collect();
    assert_eq!(changes, ["/etc/motd"]);
}

#[test]
fn builds_that_cannot_be_are_refused_and_leave_nothing() {
    let store = TestStore::new();
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc/passwd", directory.path().join("link")).unwrap();
    let refusal = |recipe: &str| *build_in(&store, recipe, directory.path()).unwrap_err().cause;
    let base = |base: &str| format!("name = \"x\"\nversion = \"1\"\n[base]\n{base}\n");
    assert!(matches!(refusal(&base("directory = \"none\"")), BuildCause::Source { .. }));
    assert!(matches!(refusal(&base("image = \"none@1\"")), BuildCause::BaseManifest(_)));
    assert!(matches!(refusal(&base("scratch = \"/nonexistent\"")), BuildCause::Busybox(_)));
    let source = |name: &str| busybox("1", &format!("[[files]]\npath = \"/a\"\nsource = \"{name}\""));
    assert!(matches!(refusal(&source("none")), BuildCause::Source { .. }));
    assert!(matches!(refusal(&source("link")), BuildCause::Source { .. }), "it leads out of the recipe's directory");
    assert!(matches!(refusal(&busybox("1", "[[users]]\nname = \"root\"")), BuildCause::Account(_)));
    assert!(matches!(refusal(&busybox("1", "[[run]]\nshell = \"true\"")), BuildCause::NoRunner));
    let blocked = "[[files]]\npath = \"/srv\"\nlink = \"/etc\"\n[[places]]\npath = \"/srv\"\nsize = \"5MiB\"";
    assert!(matches!(refusal(&busybox("1", blocked)), BuildCause::MountTarget(_)));
    assert!(store.list().is_empty());
    store.assert_clean();
    build(&store, &busybox("1", ""));
    let again = *build_in(&store, &busybox("1", ""), Path::new("/")).unwrap_err().cause;
    assert!(matches!(again, BuildCause::Begin(_)), "{again:?}");
}

/// Runs commands by chroot: what the node does in containers, as little as a test of the build needs.
struct Chroot;

impl CommandRunner for Chroot {
    fn run(&mut self, root: &UnfinishedRoot<'_>, step: &RunStep) -> Result<(), RunStepError> {
        let mounted: OwnedFd = mount_overlay(root, rustix::mount::MountAttrFlags::empty())
            .map_err(|e| RunStepError::Container(e.into()))?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), mounted.as_raw_fd());
        let output = Command::new("/usr/sbin/chroot").arg(path).args(&step.command).env_clear().envs(root.env).output();
        let output = output.map_err(|error| RunStepError::Container(error.into()))?;
        if output.status.success() {
            return Ok(());
        }
        let code = output.status.code().unwrap_or(128);
        let output = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(RunStepError::Failed { command: step.command.clone(), code, output })
    }

    /// As on a kernel that needs it; on those the other way was tried and refused.
    fn open_merged(&mut self, root: &UnfinishedRoot<'_>) -> Result<OwnedFd, RunStepError> {
        let image = mount_image(root.image).map_err(|e| RunStepError::Container(e.into()))?;
        let attributes = rustix::mount::MountAttrFlags::MOUNT_ATTR_RDONLY;
        let merged = overlay_over_attached(root, attributes, &image);
        merged.map_err(|e| RunStepError::Container(e.into()))
    }
}

#[test]
fn live_commands_change_the_root_and_their_traces_are_normalised() {
    assert!(rustix::process::geteuid().is_root(), "run as root: sudo cargo test -p insula-image live_");
    let commands = r#"
        [env]
        PATH = "/bin:/usr/bin"
        GREETING = "hello"
        [[files]]
        path = "/etc/before"
        content = "before"
        [[run]]
        shell = "echo $GREETING > /etc/motd; rm /etc/nsswitch.conf; mkdir -p /var/log; echo x > /var/log/x"
        [[run]]
        command = ["/bin/cp", "/etc/motd", "/etc/copy"]
        [[run]]
        shell = "rm -r /usr/sbin; mkdir /usr/sbin; echo 1 > /etc/before; chown 5:6 /etc/copy; ln /etc/copy /etc/link"
    "#;
    let digests = [(), ()].map(|()| {
        let store = TestStore::new();
        let recipe = Recipe::parse(&busybox("1", commands)).unwrap();
        let request = BuildRequest {
            recipe: &recipe,
            directory: Path::new("/"),
            limits: TreeLimits::standard(),
            converter: &InProcess,
            lock: None,
        };
        let built = store.build(&request, Some(&mut Chroot), at(1), Watch::nobody()).unwrap();
        let image = id("small@1");
        assert_eq!(text(&store, &image, "etc/motd"), "hello\n");
        assert_eq!(text(&store, &image, "etc/link"), "hello\n");
        assert_eq!(text(&store, &image, "etc/before"), "1\n");
        let manifest = store.manifest(&image).unwrap();
        assert!(inode(&manifest, "etc/nsswitch.conf").is_none() && inode(&manifest, "var/log/x").is_none());
        assert!(inode(&manifest, "usr/sbin/chroot").is_none() && inode(&manifest, "usr/bin/env").is_some());
        let copy = &inode(&manifest, "etc/copy").unwrap().attributes;
        assert_eq!((copy.uid, copy.gid, copy.mtime.seconds), (5, 6, 1_704_067_200));
        assert_eq!(inode(&manifest, "").unwrap().attributes.mode, 0o755);
        store.assert_clean();
        built.published.info.digest
    });
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn live_a_failing_command_ends_the_build_with_its_words() {
    assert!(rustix::process::geteuid().is_root(), "run as root: sudo cargo test -p insula-image live_");
    let store = TestStore::new();
    let recipe = Recipe::parse(&busybox("1", "[[run]]\nshell = \"echo broken >&2; exit 7\"")).unwrap();
    let request = BuildRequest {
        recipe: &recipe,
        directory: Path::new("/"),
        limits: TreeLimits::standard(),
        converter: &InProcess,
        lock: None,
    };
    let error = store.build(&request, Some(&mut Chroot), at(1), Watch::nobody()).unwrap_err();
    match *error.cause {
        BuildCause::Run { number: 1, steps: 1, source: RunStepError::Failed { code, output, .. } } => {
            assert_eq!((code, output.as_str()), (7, "broken\n"))
        }
        other => panic!("{other:?}"),
    }
    assert!(store.list().is_empty());
    store.assert_clean();
}

/// Downloads from the host's mirror, twice: half a minute.
#[test]
fn live_debian_is_the_same_when_built_twice() {
    let recipe = "name = \"debian\"\nversion = \"12\"\npackages = [\"busybox-static\"]\nremove_packages = [\"busybox-static\"]\n\
        [base]\nsuite = \"bookworm\"\n[config]\ninit = \"systemd\"\n[[users]]\nname = \"app\"\n";
    let digests = [(), ()].map(|()| {
        let store = TestStore::new();
        let built = build(&store, recipe);
        assert!(built.packages > 80, "{}", built.packages);
        let manifest = store.manifest(&id("debian@12")).unwrap();
        let packages: Vec<_> = manifest.provenance.packages.iter().map(|package| package.name.as_str()).collect();
        assert!(packages.contains(&"systemd-sysv") && !packages.contains(&"busybox-static"));
        assert!(inode(&manifest, "etc/resolv.conf").is_none() && inode(&manifest, "dev/null").is_none());
        assert!(inode(&manifest, "etc/systemd/system/sys-kernel-tracing.mount").is_some());
        assert!(text(&store, &id("debian@12"), "etc/shadow").contains("app:!:19723:"));
        store.assert_clean();
        built.published.info.digest
    });
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn live_debian_a_cancelled_or_failed_bootstrap_leaves_nothing() {
    let store = TestStore::new();
    let parse =
        |suite: &str| Recipe::parse(&format!("name = \"d\"\nversion = \"1\"\n[base]\nsuite = \"{suite}\"")).unwrap();
    let unknown = parse("no-such-suite");
    let request = BuildRequest {
        recipe: &unknown,
        directory: Path::new("/"),
        limits: TreeLimits::standard(),
        converter: &InProcess,
        lock: None,
    };
    let error = store.build(&request, None, at(1), Watch::nobody()).unwrap_err();
    match *error.cause {
        BuildCause::Bootstrap(super::BootstrapError::Failed { output, .. }) => assert!(!output.is_empty()),
        other => panic!("{other:?}"),
    }
    let looks = std::cell::Cell::new(0);
    let cancelled = || {
        looks.set(looks.get() + 1);
        looks.get() > 4
    };
    let recipe = parse("bookworm");
    let request = BuildRequest { recipe: &recipe, ..request };
    let watch = Watch { progress: &|_| {}, cancelled: &cancelled };
    let error = store.build(&request, None, at(1), watch).unwrap_err();
    assert!(matches!(*error.cause, BuildCause::Cancelled(_)), "{error:?}");
    store.assert_clean();
}

#[test]
fn a_lock_holds_a_build_to_the_packages_and_files_of_another() {
    let directory = tempfile::tempdir().unwrap();
    let root = |version: &str, digest: char| {
        let status = format!("Package: own\nStatus: install ok installed\nArchitecture: all\nVersion: {version}\n");
        let list =
            format!("Package: own\nVersion: {version}\nArchitecture: all\nSHA256: {}\n", digest.to_string().repeat(64));
        let mut archive = tar::Builder::new(std::fs::File::create(directory.path().join("root.tar")).unwrap());
        for (path, text) in [("var/lib/dpkg/status", &status), ("var/lib/apt/lists/mirror_Packages", &list)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        archive.finish().unwrap();
    };
    let recipe = Recipe::parse("name = \"small\"\nversion = \"1\"\n[base]\ntar = \"root.tar\"\n").unwrap();
    let build = |lock: Option<&super::PackageLock>| {
        let store = TestStore::new();
        let directory = directory.path();
        let limits = TreeLimits::standard();
        let request = BuildRequest { recipe: &recipe, directory, limits, converter: &InProcess, lock };
        store.build(&request, None, at(1), Watch::nobody())?;
        Ok(store.manifest(&id("small@1")).unwrap())
    };
    let refusal = |lock| match build(Some(lock)).map_err(|error: BuildError| *error.cause) {
        Err(BuildCause::Lock(mismatch)) => mismatch.to_string(),
        other => panic!("{other:?}"),
    };
    root("1.0", 'a');
    let first = build(None).unwrap();
    assert!(inode(&first, "var/lib/apt/lists/mirror_Packages").is_none());
    let lock = super::PackageLock::of(&first).unwrap();
    assert!(lock.to_text(&id("small@1")).contains(&format!("own 1.0 all sha256:{}", "a".repeat(64))));
    assert_eq!(build(Some(&lock)).unwrap(), first);
    root("1.0", 'b');
    assert!(refusal(&lock).contains("own 1.0 comes from another file"), "{}", refusal(&lock));
    root("1.1", 'a');
    assert!(refusal(&lock).contains("the mirror has no own 1.0 (it has 1.1)"), "{}", refusal(&lock));
}
