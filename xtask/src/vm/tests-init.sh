#!/bin/sh
# Sets the machine up as a user's would be (cgroup version 2 alone), runs every live test program one after the
# other, and says how it went on the last line of the console.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
depmod
modprobe brd rd_nr=1 rd_size=2097152
modprobe -a erofs overlay veth loop nf_tables nft_fib_inet nft_fib_ipv4 nft_fib_ipv6 nft_masq nft_nat nft_ct
# Tests keep their files where users do: on a disk's file system, which can be idmapped and mounted from on each kernel.
mkfs.ext4 -q -O ^has_journal /dev/ram0
mount /dev/ram0 /mnt
cp -a /tmp/. /mnt/
mount --move /mnt /tmp
chmod 1777 /tmp
mount --make-rshared /
ip link set lo up
filter=$(sed -n 's/.*insula.filter=\([^ ]*\).*/\1/p' /proc/cmdline)
export INSULA_PROGRAM_DIR=/insula INSULA_VM=1 RUST_BACKTRACE=1
failed=0
for test in /insula/tests/*; do
	# Names that begin so need a mirror or another engine, which the machine has not.
	chosen="$filter --skip live_debian_ --skip live_peer_"
	# shellcheck disable=SC2086
	"$test" --list --format terse $chosen 2>/dev/null | grep -q ': test$' || continue
	echo "== $(basename "$test")"
	# shellcheck disable=SC2086
	timeout 1200 "$test" --test-threads=1 $chosen </dev/null || failed=$((failed + 1))
done
echo "insula-vm-result: $failed"
sync
echo o >/proc/sysrq-trigger
read -r _
