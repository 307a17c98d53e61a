#!/usr/bin/env bash
# Two servers of a distribution with systemd, Docker Engine and firewalls, as boxes (box.sh), set up as docs/tutorial.md has
# it: unit, journal, ufw, firewalld with what `raftup doctor` prints, restarts, and the order in which a shutdown stops things.
#
#     boxes.sh [SUITE]    bookworm (the default) or trixie
#
# The root is kept in the lab's cache. Needs root, debootstrap, iproute2, busybox-static and curl; takes three minutes, and two more
# the first time. Programs are those of $CARGO_TARGET_DIR/debug.
set -euo pipefail
suite=${1:-bookworm}
here=$(cd "$(dirname "$0")" && pwd)
root=${RAFTUP_LAB_CACHE:-/var/cache/raftup-lab}/box-$suite-1
programs=${CARGO_TARGET_DIR:-$here/../../target}/debug
dir=$(mktemp -d /var/tmp/raftup-boxes.XXXXXX)
begin=$(date +%s)
failed=0

say() { printf '[%4d s] %s\n' $(($(date +%s) - begin)) "$*"; }
box() { "$here/box.sh" "$dir" "$@"; }
both() { for n in 1 2; do box in $n "$@"; done; }
clean() {
    for n in 1 2; do box drop $n; done
    box net down
    rm -rf "$dir"
}

# systemd lets a service be started three times a minute.
restart() { box in "$1" sh -c 'systemctl reset-failed docker && systemctl restart docker'; }

# until_ok SECONDS WHAT COMMAND..: the command succeeds within that time.
until_ok() {
    local limit=$1 what=$2 from=$SECONDS
    shift 2
    until "$@" >"$dir/said" 2>&1; do
        if ((SECONDS - from > limit)); then
            say "FAILED: $what"
            sed 's/^/    /' "$dir/said"
            failed=1
            return
        fi
        sleep 0.5
    done
    say "ok: $what"
}

# A name, a connection between containers of both boxes, and a published port through each.
works() {
    box in 1 sh -ec '
        asker=$(docker ps -q -f name=rig_asker)
        docker exec "$asker" nslookup web
        printf "GET / HTTP/1.0\r\n\r\n" | docker exec -i "$asker" nc -w 3 web 8080 | grep hello' &&
        for n in 1 2; do ip netns exec raftup-boxes curl -sf -m 3 "http://192.168.77.$n:8080/" || return 1; done
}
works_not() { ! works; }
content() { box in 1 raftup doctor; }
unhappy() { ! content; }

if [ ! -d "$root" ]; then
    say "making the root of $suite (once)"
    mkdir -p "$(dirname "$root")"
    awk '/^# \/etc\/systemd\/system\/raftupd.service/ {on=1; next} /^```/ {on=0} on' "$here/../../docs/tutorial.md" >"$dir/unit"
    "$here/root.sh" "$suite" "$root" "$dir/unit" >"$dir/root.log" 2>&1 || { tail -5 "$dir/root.log"; exit 1; }
fi
trap clean EXIT
mkdir -p "$dir/bin" "$dir/image/bin" "$dir/image/www"
for program in raftup raftupd; do strip -o "$dir/bin/$program" "$programs/$program"; done
cp "$(command -v busybox)" "$dir/image/bin/busybox"
for name in sh sleep nc nslookup httpd; do ln -s busybox "$dir/image/bin/$name"; done
echo hello >"$dir/image/www/index.html"

box net up
for n in 1 2; do
    box start "$root" $n
    tar -C "$dir/image" -c . | box in $n docker import - rig/busybox:1 >/dev/null
    box in $n sh -c 'echo "{\"live-restore\": true}" >/etc/docker/daemon.json && systemctl reload docker'
    box in $n systemctl enable --quiet --now raftupd
done
until_ok 20 "raftup doctor before init" content
box in 1 raftup init >/dev/null
box in 2 raftup join "$(box in 1 raftup token --quiet)" >/dev/null
box in 1 sh -c 'cat >/root/rig.yaml' <<'IN'
services:
  web:
    image: rig/busybox:1
    command: [httpd, -f, -p, "8080", -h, /www]
    ports: ['8080:8080']
    deploy: {placement: {constraints: [node.hostname == vm2]}}
  asker:
    image: rig/busybox:1
    command: [sleep, "10000"]
    stop_grace_period: 3s
    deploy: {placement: {constraints: [node.hostname == vm1]}}
IN
box in 1 raftup stack deploy -c /root/rig.yaml rig >/dev/null 2>&1
until_ok 20 "names, connections between servers and published ports" works
until_ok 20 "raftup doctor" content

both sh -c 'ufw allow 7238/udp && ufw allow 7239/udp && ufw --force enable' >/dev/null
until_ok 10 "the same behind ufw" works
both ufw reload >/dev/null
until_ok 10 "the same after ufw reload" works
until_ok 20 "raftup doctor behind ufw" content
both ufw --force disable >/dev/null

both systemctl start firewalld
until_ok 20 "firewalld is in the way" works_not
until_ok 20 "raftup doctor says so" unhappy
# Its advice, as it is printed.
box in 1 raftup doctor >"$dir/doctor" || true
for n in 1 2; do
    # The commands stand below the line that says what for.
    awk -v line="^vm$n, firewall: " '/^    / { if (on) print; next } { on = $0 ~ line }' "$dir/doctor" | box in $n sh -e >/dev/null
done
for n in 1 2; do restart $n; done
until_ok 30 "names, connections and ports with what raftup doctor said" works
both firewall-cmd --reload >/dev/null
until_ok 20 "the same after firewall-cmd --reload" works
until_ok 20 "raftup doctor behind firewalld" content
both systemctl stop firewalld
for n in 1 2; do restart $n; done
until_ok 30 "the same without firewalld" works

both systemctl restart raftupd
until_ok 20 "the same after a restart of raftupd" works
warned() { box in 1 journalctl -u raftupd -p warning -o cat --no-pager | grep -q 'the engine does not answer'; }
until_ok 10 "warnings have the journal's priority" warned
one_time() { ! box in 1 journalctl -u raftupd -o cat --no-pager | grep -E '^ *20[0-9]{2}-[0-9]{2}-[0-9]{2}T'; }
until_ok 1 "lines have no time beside the journal's" one_time

box in 1 sh -c 'echo "{}" >/etc/docker/daemon.json'
restart 1
until_ok 30 "the same without live-restore" works
box in 1 systemctl poweroff
gone() { ! kill -0 "$(cat "$dir/box1.pid")"; }
until_ok 60 "shutdown" gone
# Resolver and tunnel are stopped after the engine, which has stopped its containers by then.
mkdir -p "$dir/journal"
cp -r "$dir"/box1/upper/var/log/journal/. "$dir/journal/"
box in 2 mkdir -p /root/journal
tar -C "$dir/journal" -c . | box in 2 tar -C /root/journal -x
order() {
    box in 2 journalctl -D /root/journal -o cat --no-pager | grep -E 'Stopped docker.service|Stopping run-.*raftup (names|fabric)' | tail -3 >"$dir/order"
    cat "$dir/order"
    [ "$(head -1 "$dir/order" | cut -c1-22)" = 'Stopped docker.service' ] && [ "$(wc -l <"$dir/order")" = 3 ]
}
until_ok 1 "at shutdown resolver and tunnel stop after Docker" order
exit $failed
