#!/usr/bin/env bash
# Three hosts on this machine form a cluster and serve a stack of compose-examples/. `make demo` calls it; it can be
# run again at any time, also after it was killed.
set -euo pipefail
cd "$(dirname "$0")/.."

tool=("${CARGO_TARGET_DIR:-target}/debug/raftup-lab" --id demo)
# Without the lock below: engines and daemons of the demo outlive this script.
lab() { "${tool[@]}" "$@" 9>&-; }
on() {
    local host=$1
    shift
    lab exec "$host" -- "$@"
}
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
if [ ! -t 1 ]; then say() { printf '\n%s\n' "$*"; }; fi

if [ "$(id -u)" -ne 0 ]; then
    echo "demo: needs root, for namespaces and mounts (try: sudo make demo)" >&2
    exit 1
fi

# A script whose `make` was killed runs on, and would work on the hosts of the next one.
exec 9>"${TMPDIR:-/tmp}/raftup-demo.lock"
if ! flock --nonblock 9; then
    echo "demo: an earlier one still runs; waiting for its end"
    flock 9
fi

say "Three hosts, each with its own Docker Engine and raftupd"
lab up --hosts 3

say "h1 makes a cluster, the others join it"
on h1 raftup init
token=$(on h1 raftup token --quiet)
on h2 raftup join "$token"
on h3 raftup join "$token"
on h1 raftup node ls

say "A compose file, deployed"
on h1 raftup stack deploy -c compose-examples/guestbook/compose.yaml
on h1 raftup stack ps guestbook

say "Every host answers"
for host in h1 h2 h3; do
    addr=$(lab addr "$host")
    echo "http://$addr:8081/"
    curl -sS --max-time 5 "http://$addr:8081/" | sed -n 's/<h1>.*<p>\(.*\)<\/p>.*/    \1/p'
done

me="${tool[*]}"
cat <<END

It is yours to try:
    $me exec h1 -- raftup ps
    $me exec h1 -- raftup service scale guestbook_web=6
    $me exec h2 -- docker ps                    what runs on h2
    $me fault power-off h3                      and look at 'raftup ps' again
    $me fault power-on h3
    $me exec h1 -- raftup stack deploy -c compose-examples/vote/compose.yaml
    make demo-down                              takes everything away
END
