//! What an image with systemd gets, where nobody else decided about it.
//!
//! | file beneath `/etc/systemd/system` | why |
//! |---|---|
//! | mounts of debugfs and tracefs, masked | a container may not make them, and the boot would end "degraded" |
//! | `insula-ssh-keys.service`, for `ssh.service` and `ssh@.service` | host keys are taken out of images |
//!
//! A container's own host keys are made at its first start and kept in `/data/service/ssh`, because its `/etc` is reset.
//! Keys that are in `/etc/ssh` already, of the recipe or of a writable root, stay.

/// Where systemd's own program is, with and without a merged `/usr`.
const PROGRAMS: [&[u8]; 2] = [b"usr/lib/systemd/systemd", b"lib/systemd/systemd"];

/// A server that needs host keys.
const SSH_SERVER: &str = "usr/sbin/sshd";

const SSH_KEYS: &str = "\
[Unit]
Description=Host keys of this container

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/mkdir -p /data/service/ssh/etc/ssh
ExecStart=/bin/chmod 700 /data/service/ssh
ExecStart=/usr/bin/ssh-keygen -q -A -f /data/service/ssh
ExecStart=/bin/sh -c 'cp -np /data/service/ssh/etc/ssh/ssh_host_* /etc/ssh/'
";

const NEEDS_SSH_KEYS: &str = "\
[Unit]
Wants=insula-ssh-keys.service
After=insula-ssh-keys.service
";

/// What is at a path.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    /// A link that makes systemd take the unit for absent.
    Masked,
    /// A file.
    Text(&'static str),
}

/// A file for systemd.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addition {
    pub(super) path: &'static str,
    pub(super) content: Content,
    /// What must be in the image for it.
    pub(super) needs: Option<&'static str>,
}

impl Addition {
    const fn masked(path: &'static str) -> Self {
        Self { path, content: Content::Masked, needs: None }
    }

    const fn for_ssh(path: &'static str, text: &'static str) -> Self {
        Self { path, content: Content::Text(text), needs: Some(SSH_SERVER) }
    }
}

pub(super) const ADDITIONS: [Addition; 5] = [
    Addition::masked("etc/systemd/system/sys-kernel-debug.mount"),
    Addition::masked("etc/systemd/system/sys-kernel-tracing.mount"),
    Addition::for_ssh("etc/systemd/system/insula-ssh-keys.service", SSH_KEYS),
    Addition::for_ssh("etc/systemd/system/ssh.service.d/insula.conf", NEEDS_SSH_KEYS),
    Addition::for_ssh("etc/systemd/system/ssh@.service.d/insula.conf", NEEDS_SSH_KEYS),
];

/// Whether this is systemd's program.
pub(super) fn is_program(path: &[u8]) -> bool {
    PROGRAMS.contains(&path)
}
