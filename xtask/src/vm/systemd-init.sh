#!/bin/sh
# Hands the machine to systemd, with a disk for the node's state as users have, and with the check as its last unit.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
depmod
truncate -s 2G /disk
mkfs.ext4 -q -F -O ^has_journal /disk
mkdir -p /var/lib/insula
echo '/disk /var/lib/insula ext4 loop 0 0' >/etc/fstab
printf '%s\n' erofs overlay veth loop nf_tables nft_fib_inet nft_fib_ipv4 nft_fib_ipv6 nft_masq nft_nat nft_ct \
	>/etc/modules-load.d/insula-vm.conf
cat >/etc/systemd/system/insula-vm.service <<'UNIT'
[Unit]
Description=Check of an installed Insula
After=multi-user.target
FailureAction=poweroff-force
[Service]
Type=oneshot
TimeoutStartSec=600
ExecStart=/systemd-check
StandardOutput=tty
StandardError=inherit
TTYPath=/dev/console
UNIT
mkdir -p /etc/systemd/system/default.target.wants
ln -s ../insula-vm.service /etc/systemd/system/default.target.wants/
ln -s /dev/null /etc/systemd/system/serial-getty@ttyS0.service
ln -sf /lib/systemd/system/multi-user.target /etc/systemd/system/default.target
rm -f /etc/machine-id && touch /etc/machine-id
umount /proc /sys
exec /lib/systemd/systemd
