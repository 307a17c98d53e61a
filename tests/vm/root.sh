#!/usr/bin/env bash
# Makes a root directory of Debian that boots as a box: systemd, Docker Engine, nftables, ufw and firewalld, which are off.
#
#     root.sh SUITE ROOT UNIT    SUITE is bookworm or trixie, UNIT the file of raftupd's unit
#
# Takes about two minutes. Needs root and debootstrap.
set -euo pipefail
suite=$1 root=$2 unit=$3
new=$root.new
rm -rf "$new"
packages=systemd-sysv,dbus,libpam-systemd,docker.io,nftables,iptables,iproute2,procps,ca-certificates,kmod,python3
case $suite in bookworm) ;; *) packages+=,docker-cli ;; esac
debootstrap --variant=minbase --include="$packages" "$suite" "$new"
# Not by debootstrap, which takes the first of two packages that would do and so breaks what firewalld needs.
cp /etc/resolv.conf "$new/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' >"$new/usr/sbin/policy-rc.d"
chmod 755 "$new/usr/sbin/policy-rc.d"
DEBIAN_FRONTEND=noninteractive chroot "$new" apt-get -qq -y --no-install-recommends install firewalld ufw >/dev/null
rm -f "$new/usr/sbin/policy-rc.d" "$new"/var/cache/apt/archives/*.deb
for service in firewalld ufw nftables; do chroot "$new" systemctl disable --quiet "$service" 2>/dev/null || true; done
chroot "$new" systemctl enable --quiet systemd-networkd
chroot "$new" systemctl mask --quiet systemd-udevd systemd-networkd-wait-online getty@tty1 2>/dev/null
mkdir -p "$new/etc/systemd/journald.conf.d" "$new/etc/docker" "$new/var/lib/docker" "$new/var/lib/raftup"
printf '[Journal]\nStorage=persistent\n' >"$new/etc/systemd/journald.conf.d/box.conf"
cp "$unit" "$new/etc/systemd/system/raftupd.service"
: >"$new/etc/machine-id"
mv "$new" "$root"
