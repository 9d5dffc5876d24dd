#!/bin/sh
# What a user of the unit files relies on: containers outlive stops, restarts and crashes of the service, and what systemd
# does to its own units takes nothing from them.
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
failed=0
# One line for each promise: what holds, then the command that shows it.
holds() {
	what=$1
	shift
	if "$@"; then
		echo "holds: $what"
	else
		echo "FAILED: $what ($*)"
		failed=$((failed + 1))
	fi
}
is() { [ "$1" = "$2" ] || { echo "  got '$1', want '$2'" && return 1; }; }
has() { case " $1 " in *" $2 "*) return 0 ;; *) echo "  '$1' lacks '$2'" && return 1 ;; esac; }
field() { insula show "$1" --format json | sed -n "s/^ *\"$2\": *\"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}$/\1/p" | head -1; }
group_file() { cat "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$(field web pid)/cgroup")/$1"; }

mkdir -p /tmp/image/bin
cp /bin/busybox /tmp/image/bin/
for name in sh sleep true echo; do ln -s busybox "/tmp/image/bin/$name"; done

holds "the machine has cgroup version 2 alone" test -f /sys/fs/cgroup/cgroup.controllers
holds "the unit files are in order" systemd-analyze verify --man=no insula.service insula.slice
holds "the group of the socket exists" getent group insula
holds "the service starts and says that it is ready" systemctl enable --now insula
holds "the socket belongs to the group" is "$(stat -c %G:%a /run/insula/insula.sock)" insula:660
holds "an image is imported" insula -q image import busybox@1 /tmp/image
holds "a container starts" insula run -d --name web --memory 64MiB --cpus 0.5 busybox sleep 100000
pid=$(field web pid)
memory=$(group_file memory.max)
cpu=$(group_file cpu.max)
holds "its memory is bounded" is "$memory" 67108864
holds "its processor time is bounded" is "$cpu" "50000 100000"

holds "a restart of the service" systemctl restart insula
holds "leaves the container running" is "$(field web pid)" "$pid"
kill -9 "$(systemctl show -p MainPID --value insula)"
sleep 3
holds "a killed daemon is started again" systemctl is-active insula
holds "and finds the container running" is "$(field web pid)" "$pid"

# Such a unit makes systemd look anew at which controllers its tree needs.
cat >/run/systemd/system/passing.service <<'UNIT'
[Service]
Type=oneshot
ExecStart=/bin/true
CPUWeight=50
MemoryMax=100M
UNIT
systemctl daemon-reload
holds "a unit of systemd's with limits comes and goes" systemctl start passing
rm /run/systemd/system/passing.service
systemctl daemon-reload
systemctl daemon-reexec
holds "systemd's own units leave memory bounded" is "$(group_file memory.max)" "$memory"
holds "and processor time" is "$(group_file cpu.max)" "$cpu"
holds "one more container starts with limits" insula run --rm --memory 32MiB --cpus 0.25 busybox true

holds "the service stops alone while a container runs" systemctl stop insula
holds "which goes on" kill -0 "$pid"
systemctl daemon-reload
holds "with its limits" is "$(cat "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")/cpu.max")" "$cpu"
kill -9 "$pid"
holds "the service starts again" systemctl start insula
holds "and knows how the container ended meanwhile" is "$(field web exit_code)" 137
holds "a container starts after it" insula start web
holds "with its limits as before" is "$(group_file cpu.max)" "$cpu"
holds "containers are deleted" insula delete --force web
holds "the service stops" systemctl stop insula
sleep 1
holds "and nothing of it stays" is "$(pgrep -f insula- || true)" ""
holds "the slice holds no container" is "$(find /sys/fs/cgroup/insula.slice -mindepth 2 -type d 2>/dev/null)" ""
[ "$failed" = 0 ] || journalctl --no-pager --unit insula | tail -60
echo "insula-vm-result: $failed"
sync
echo o >/proc/sysrq-trigger
sleep 60
