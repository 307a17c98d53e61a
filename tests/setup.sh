#!/usr/bin/env bash
# Installs what the lab, the tests and the demo need, by the system's package manager. Can be run twice.
#
# With --all also what `make check` needs beyond the Rust toolchain.
#
# Starts no service: while packages are installed, a policy forbids it; it is taken back afterwards, whatever happens.
set -euo pipefail

# program to look for, package on Debian and Ubuntu, what it is for
needs=(
    "dockerd     docker.io       the engine of each lab host"
    "ip          iproute2        links and addresses"
    "nft         nftables        the data plane's rules"
    "iptables    iptables        the engine's own rules"
    "mkfs.ext4   e2fsprogs       the disks of lab hosts"
    "losetup     mount           the disks of lab hosts"
    "nsenter     util-linux      entering lab hosts"
    "debootstrap debootstrap     newer engines (Debian 13 and sid, Ubuntu)"
    "busybox     busybox-static  an image for tests"
    "curl        curl            asking the demo"
    "tcpdump     tcpdump         looking at the wire in tests"
    "conntrack   conntrack       looking at connections in tests"
    "ufw         ufw             a firewall, inside of lab hosts alone"
    "strace      strace          a slow disk in tests"
    "faketime    faketime        a wrong clock in tests"
    "make        make            make test, make demo"
    "cc          gcc             linking Rust programs"
)

# Daemons' programs are not on every user's path.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

missing=()
for need in "${needs[@]}"; do
    read -r program package purpose <<<"$need"
    if ! command -v "$program" >/dev/null; then
        echo "setup: $program is missing: $purpose (package $package)"
        missing+=("$package")
    fi
done
if ! compgen -G "/usr/lib/*/libc.a" >/dev/null; then
    echo "setup: libc.a is missing: a static program for test images (package libc6-dev)"
    missing+=(libc6-dev)
fi
if ! command -v cargo >/dev/null; then
    echo "setup: no cargo: install a Rust toolchain (1.95 or newer, with rustfmt and clippy) first" >&2
    exit 1
fi
# Newer Debians have the engine's command line in a package of its own.
if ! command -v docker >/dev/null && apt-cache show docker-cli >/dev/null 2>&1; then
    echo "setup: docker is missing: asking engines in tests (package docker-cli)"
    missing+=(docker-cli)
fi
# Into cargo's own directory, which needs no root.
if [ "${1:-}" = --all ] && ! command -v cargo-deny >/dev/null; then
    echo "setup: cargo-deny is missing: checks of licences and sources; compiling it takes some minutes"
    cargo install --locked --quiet cargo-deny
fi
if [ ${#missing[@]} -eq 0 ]; then
    echo "setup: everything is there"
    exit 0
fi

explain() {
    echo "setup: $1; install these by hand, by whatever name your system has for them:" >&2
    printf '    %s\n' "${missing[@]}" >&2
    exit 1
}
command -v apt-get >/dev/null || explain "this system has no apt-get"
[ "$(id -u)" -eq 0 ] || explain "installing needs root (try: sudo $0)"

# Packages start their daemons when they are installed, unless this file says no (101: forbidden).
policy=/usr/sbin/policy-rc.d
restore() {
    rm -f "$policy"
    if [ -e "$policy.raftup-setup" ]; then mv "$policy.raftup-setup" "$policy"; fi
}
trap restore EXIT
# A policy with our mark was left by a run that was killed; it is not worth keeping.
if [ -e "$policy" ] && ! grep -q raftup-setup "$policy"; then mv "$policy" "$policy.raftup-setup"; fi
printf '#!/bin/sh\n# raftup-setup\nexit 101\n' >"$policy"
chmod 755 "$policy"

echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq -y -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}" >/dev/null
# The policy holds for now; without this an engine that nobody asked for would start at the next boot.
if [[ " ${missing[*]} " == *" ufw "* ]] && [ -d /run/systemd/system ]; then
    systemctl disable --quiet ufw.service
fi
if [[ " ${missing[*]} " == *" docker.io "* ]] && [ -d /run/systemd/system ]; then
    systemctl disable --quiet docker.service docker.socket containerd.service
    echo "setup: the engine is not started at boot; for that: systemctl enable --now docker"
fi
echo "setup: done"
