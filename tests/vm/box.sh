#!/usr/bin/env bash
# A box: a distribution's root directory with its own systemd, in namespaces of this machine. The kernel is this machine's.
#
#     box.sh DIR start ROOT N    boots box N over the root; it is named vmN and has the address 192.168.77.N
#     box.sh DIR in N COMMAND..  runs a command in it
#     box.sh DIR drop N          ends it and removes what it has written
#     box.sh DIR net up|down     the link that boxes are on; 192.168.77.254 is this machine's side, in namespace raftup-boxes
#
# DIR/bin holds programs that are put into /usr/local/bin. Needs root and iproute2.
set -euo pipefail
dir=$1 what=$2
shift 2
net=raftup-boxes

# Directories below which each box has a cgroup of its own: one for version 2, one for each hierarchy of version 1.
tops() {
    if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
        echo /sys/fs/cgroup
    else
        for top in /sys/fs/cgroup/*/; do
            if [ -w "$top/cgroup.procs" ]; then echo "$top"; fi
        done
    fi
}

case $what in
net)
    if [ "$1" = down ]; then
        ip netns del "$net"
        exit
    fi
    ip netns add "$net"
    ip -n "$net" link set lo up
    ip -n "$net" link add br0 type bridge
    ip -n "$net" link set br0 up
    ip -n "$net" addr add 192.168.77.254/24 dev br0
    ;;
start)
    root=$1 n=$2
    w=$dir/box$n
    mkdir -p "$w"/{upper,work,root,docker,raftup}
    ip netns add "$net-$n"
    ip -n "$net" link add "vb$n" type veth peer name eth0 netns "$net-$n"
    ip -n "$net" link set "vb$n" master br0 up
    for top in $(tops); do
        mkdir -p "$top/$net/box$n"
        if [ -f "$top/cpuset.cpus" ]; then
            for at in "$top/$net" "$top/$net/box$n"; do
                for f in cpuset.cpus cpuset.mems; do cat "$top/$f" >"$at/$f"; done
            done
        fi
    done
    cat >"$w/init" <<'IN'
#!/usr/bin/env bash
set -euo pipefail
w=$1 lower=$2 n=$3 bin=$4
r=$w/root
mount --make-rprivate /
mount -t overlay -o "lowerdir=$lower,upperdir=$w/upper,workdir=$w/work" overlay "$r"
mkdir -p "$r"/var/lib/{docker,raftup} "$r/etc/systemd/network"
mount --bind "$w/docker" "$r/var/lib/docker"
mount --bind "$w/raftup" "$r/var/lib/raftup"
mount -t proc proc "$r/proc"
mount -t sysfs sysfs "$r/sys"
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 "$r/sys/fs/cgroup"
else
    mount -t tmpfs -o mode=755 tmpfs "$r/sys/fs/cgroup"
    for top in /sys/fs/cgroup/*/; do
        name=$(basename "$top")
        mkdir "$r/sys/fs/cgroup/$name"
        case $name in
        unified) rmdir "$r/sys/fs/cgroup/$name" ;;
        systemd) mount -t cgroup -o name=systemd cgroup "$r/sys/fs/cgroup/$name" ;;
        *) mount -t cgroup -o "$name" cgroup "$r/sys/fs/cgroup/$name" ;;
        esac
    done
fi
mount -o remount,bind,ro "$r/sys"
mount -t tmpfs -o mode=755 tmpfs "$r/dev"
mkdir -p "$r"/dev/{pts,shm,net,mqueue}
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$r/dev/pts"
mount -t tmpfs tmpfs "$r/dev/shm"
ln -s pts/ptmx "$r/dev/ptmx"
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 net/tun:10:200; do
    IFS=: read -r name major minor <<<"$node"
    mknod -m 666 "$r/dev/$name" c "$major" "$minor"
done
mount -t tmpfs -o mode=755 tmpfs "$r/run"
mount -t tmpfs tmpfs "$r/tmp"
printf '[Match]\nName=eth0\n[Network]\nAddress=192.168.77.%s/24\nGateway=192.168.77.254\nIPv6AcceptRA=no\n' "$n" \
    >"$r/etc/systemd/network/10-eth0.network"
echo "vm$n" >"$r/etc/hostname"
printf '127.0.0.1 localhost\n192.168.77.%s vm%s\n' "$n" "$n" >"$r/etc/hosts"
tr -d - </proc/sys/kernel/random/uuid >"$r/etc/machine-id"
cp "$bin"/* "$r/usr/local/bin/"
hostname "vm$n"
cd "$r"
mkdir -p run/old
pivot_root . run/old
umount -l /run/old
exec env -i container=box PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    SYSTEMD_PROC_CMDLINE="systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1" /sbin/init </dev/null
IN
    chmod +x "$w/init"
    # The only child of the next shell is to be the box.
    all=$(tops)
    (
        for top in $all; do echo $BASHPID >"$top/$net/box$n/cgroup.procs"; done
        exec setsid nsenter "--net=/run/netns/$net-$n" unshare --mount --uts --ipc --pid --cgroup --fork \
            "$w/init" "$w" "$root" "$n" "$dir/bin"
    ) >"$dir/box$n.log" 2>&1 &
    outer=$!
    for _ in $(seq 50); do
        inner=$(cat "/proc/$outer/task/$outer/children" 2>/dev/null || true)
        [ -z "$inner" ] || break
        sleep 0.1
    done
    echo "$inner" | tr -d ' ' >"$dir/box$n.pid"
    for _ in $(seq 120); do
        state=$("$0" "$dir" in "$n" systemctl is-system-running 2>/dev/null || true)
        case $state in running | degraded) exit 0 ;; esac
        sleep 0.5
    done
    echo "box $n did not start: $state; see $dir/box$n.log" >&2
    exit 1
    ;;
in)
    n=$1
    shift
    exec nsenter -t "$(cat "$dir/box$n.pid")" -m -u -i -p -n -C -- "$@"
    ;;
drop)
    n=$1
    pid=$(cat "$dir/box$n.pid" 2>/dev/null || true)
    # The first process of its own pid namespace: all in it ends with it.
    if [ -n "$pid" ] && [ "$(awk '/NSpid/ {print $3}' "/proc/$pid/status" 2>/dev/null)" = 1 ]; then kill -9 "$pid"; fi
    for _ in $(seq 100); do
        [ -n "$pid" ] && [ -d "/proc/$pid" ] || break
        sleep 0.1
    done
    ip netns del "$net-$n" 2>/dev/null || true
    ip -n "$net" link del "vb$n" 2>/dev/null || true
    for top in $(tops); do find "$top/$net/box$n" -depth -type d -exec rmdir {} + 2>/dev/null || true; done
    rm -rf "$dir/box$n" "$dir/box$n.pid" "$dir/box$n.log"
    ;;
esac
