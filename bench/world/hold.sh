#!/bin/sh
# Process 1 of the world of the peers: makes its mounts, says "ready", ends when its input ends.
#   hold.sh ROOT LAYOUT GROUP STORE [FROM:TO]…
# LAYOUT: `v2`, or the control group hierarchies of version 1 that it shall see. GROUP: its own version 2 group.
# STORE: where the engines keep images. TO: below /tmp.
set -e
root=$1 layout=$2 group=$3 store=$4
shift 4
mkdir "$group/in"
echo 0 > "$group/in/cgroup.procs"
for controller in $(cat "$group/cgroup.controllers"); do echo "+$controller" > "$group/cgroup.subtree_control"; done

mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs sysfs sys
if [ "$layout" = v2 ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs tmpfs sys/fs/cgroup
    for hierarchy in $layout; do
        mkdir "sys/fs/cgroup/$hierarchy"
        mount -t cgroup -o "$hierarchy" cgroup "sys/fs/cgroup/$hierarchy"
    done
fi
mount --rbind /dev dev
for memory in dev/shm run tmp; do mount -t tmpfs tmpfs "$memory"; done
for engine in containers docker; do
    mkdir -p "$store/$engine" "var/lib/$engine"
    mount --bind "$store/$engine" "var/lib/$engine"
done
for bind; do
    mkdir "$root${bind#*:}"
    mount --rbind "${bind%%:*}" "$root${bind#*:}"
done
cd "$root"
pivot_root . .
umount -l .
cd /
ip link set lo up
exec tini-static -g -- sh -c 'echo ready; read -r end'
