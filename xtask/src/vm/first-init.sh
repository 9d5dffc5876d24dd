#!/bin/busybox sh
# The kernel's first file system cannot be pivoted away from, so containers could not start on it: unpack the root
# into a file system in memory and go there.
set -e
/bin/busybox mkdir -p /proc /new
/bin/busybox mount -t tmpfs -o size=90%,mode=755 tmpfs /new
/bin/busybox tar xf /root.tar -C /new
/bin/busybox cp -a /guest/. /new/
/bin/busybox rm -rf /root.tar /guest
exec /bin/busybox switch_root /new /guest-init
