//! What people type by mistake: refused by the name that they typed, with a way out, or done all the same.

use insula_testkit::Node;

#[test]
fn live_who_is_named_twice_is_asked_once() {
    let node = Node::start();
    node.import_busybox();
    node.ok(["create", "--name", "web", "busybox", "sleep", "1000"]);
    for verb in ["start", "restart", "stop", "delete"] {
        assert_eq!(node.ok([verb, "web", "web"]).text(), "web", "{verb}");
    }
}

#[test]
fn live_files_that_hold_no_image_are_refused_by_name() {
    let node = Node::start();
    let recipe = node.directory().join("web.toml");
    std::fs::write(&recipe, "nam = \"web\"\n").unwrap();
    let recipe = recipe.to_str().unwrap();
    assert!(node.fails(2, ["image", "build", recipe]).contains(&format!("recipe {recipe}: line 1")));
    for device in ["/dev/zero", "/dev/null"] {
        assert!(node.fails(2, ["image", "import", "box@1", device]).contains(device));
    }
    assert!(node.fails(2, ["image", "build", "/dev/zero"]).contains("/dev/zero: it has more than"));
    node.import_busybox();
    let target = node.directory().join("busybox.zip");
    let refused = node.fails(2, ["image", "export", "busybox@1", target.to_str().unwrap()]);
    assert!(refused.contains("busybox.zip") && refused.contains("--as"), "{refused}");
    assert!(!target.exists());
    let refused = node.fails(2, ["image", "export", "--as", "oci-directory", "busybox@1", "/usr"]);
    assert!(refused.contains("/usr: the directory is not empty"), "{refused}");
    let archive = node.directory().join("busybox.tar");
    node.ok(["image", "export", "busybox@1", archive.to_str().unwrap()]);
    let refused = node.fails(2, ["image", "import", "--reference", "x", "box@1", archive.to_str().unwrap()]);
    assert!(refused.contains("no OCI layout") && refused.contains("--reference"), "{refused}");
}

#[test]
fn live_an_archive_of_a_root_that_says_nothing_of_itself_is_tested_by_its_shell() {
    let node = Node::start();
    node.import_busybox();
    let plain = node.directory().join("plain.tar");
    let plain = plain.to_str().unwrap();
    node.ok(["image", "export", "--as", "tar", "busybox@1", plain]);
    node.ok(["image", "import", "plain@1", plain]);
    assert!(node.ok(["image", "test", "plain@1"]).text().contains("/bin/sh -c :"));
    node.ok(["image", "promote", "plain@1"]);
}

#[test]
fn live_what_is_copied_in_has_to_be_an_archive() {
    let node = Node::start();
    node.import_busybox();
    node.ok(["run", "-d", "--name", "web", "busybox", "sleep", "1000"]);
    let refused = node.run_with_input(["cp", "-", "web:/data"], b"no archive").with_code(2).stderr;
    assert!(refused.contains("container web: archive") && refused.contains("tar archive"), "{refused}");
    let refused = node.fails(4, ["cp", "/etc/hostname", "web:/bin/name"]);
    assert!(refused.contains("/bin/name: Read-only file system"), "{refused}");
    node.ok(["delete", "--force", "web"]);
}

#[test]
fn live_a_time_zone_that_the_image_lacks_is_refused_and_the_nearest_named() {
    let node = Node::start();
    let recipe = node.directory().join("zones.toml");
    let text = "name = 'zones'\nversion = '1'\n[base]\nscratch = 'busybox'\n\
                [[files]]\npath = '/usr/share/zoneinfo/Europe/Rome'\ncontent = 'TZif'\n";
    std::fs::write(&recipe, text).unwrap();
    node.ok(["image", "build", recipe.to_str().unwrap()]);
    let nearest = "image zones@1: time zone `Europe/Roma` is none of those";
    let refused = node.fails(2, ["create", "--timezone", "Europe/Roma", "zones"]);
    assert!(refused.contains(nearest) && refused.contains("did you mean `Europe/Rome`?"), "{refused}");
    node.ok(["create", "--name", "clock", "--timezone", "Europe/Rome", "zones"]);
    assert!(node.fails(2, ["set", "clock", "timezone=Europe/Roma"]).contains(nearest));
    let text = text.replace("'1'", "'2'\ntimezone = 'Europe/Roma'");
    std::fs::write(&recipe, text).unwrap();
    let refused = node.fails(2, ["image", "build", recipe.to_str().unwrap()]);
    assert!(refused.contains("build image zones@2: time zone `Europe/Roma`"), "{refused}");
    node.import_busybox();
    node.ok(["run", "--rm", "--timezone", "Europe/Roma", "busybox", "true"]);
}

#[test]
fn live_a_bare_name_is_the_default_version_for_who_looks_and_too_little_for_who_changes() {
    let node = Node::start();
    node.import_busybox();
    let archive = node.directory().join("root.tar");
    let archive = archive.to_str().unwrap();
    node.ok(["image", "export", "busybox", archive]);
    node.ok(["image", "import", "busybox@2", archive]);
    assert_eq!(node.json(["image", "show", "busybox"])["image"], "busybox@1");
    assert_eq!(node.json(["image", "verify", "busybox"])["image"], "busybox@1");
    node.ok(["image", "default", "busybox", "2"]);
    assert_eq!(node.json(["image", "show", "busybox"])["image"], "busybox@2");
    assert_eq!(node.json(["image", "test", "busybox"])["passed"], true);
    assert!(node.json(["image", "show", "busybox@1"])["test"].is_null());
    node.ok(["image", "promote", "busybox@2"]);
    for verb in ["show", "verify", "test", "lock"] {
        let refused = node.fails(3, ["image", verb, "busibox"]);
        assert!(refused.contains("image busibox does not exist"), "{refused}");
        assert!(refused.contains("did you mean `busybox`?") && refused.contains("insula image list"), "{refused}");
    }
    for verb in ["remove", "promote", "sign"] {
        let refused = node.fails(2, ["image", verb, "busybox"]);
        assert!(refused.contains("image `busybox` names no version; write busybox@VERSION"), "{refused}");
    }
}

#[test]
fn live_a_socket_group_that_is_missing_is_refused_before_anything_is_made() {
    let node = Node::start();
    let (file, place) = (node.directory().join("other.toml"), node.directory().join("other"));
    std::fs::write(&file, "socket_group = 'nosuchgroup'\n").unwrap();
    let (file, directory) = (file.to_str().unwrap(), place.to_str().unwrap());
    let words =
        ["node", "run", "--config", file, "--name", "insulaother", "--state-dir", directory, "--run-dir", directory];
    let refused = node.fails(1, words);
    assert!(refused.contains(file) && refused.contains("group `nosuchgroup`"), "{refused}");
    assert!(refused.contains("socket_group") && refused.contains("groupadd"), "{refused}");
    assert!(!place.exists());
    let doctor = node.ok(["doctor"]).stdout;
    assert!(doctor.lines().any(|line| line.split_whitespace().nth(1) == Some("socket")), "{doctor}");
}
