# shellcheck shell=bash
# Sourced by what needs machines where nothing is installed: chroots made by debootstrap, in
# build/bare. Needs root.
. "$(dirname "${BASH_SOURCE[0]}")/../../extension/setup/common.sh"

bare=$root/build/bare
path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# What this machine needs to reach its package sources goes along: proxies, and its certificates, in
# a file that no package of the new machine overwrites.
certificates=/etc/ssl/certs/ca-certificates.crt
passed=()
while read -r name; do
    value=${!name}
    [ "$value" != "$certificates" ] || value=/etc/certificates-of-the-host.crt
    passed+=("$name=$value")
done < <(compgen -e | grep -iE '^(https?|no)_proxy$|^pip_(cert|index_url|default_timeout)$|^(ssl_cert_file|requests_ca_bundle|node_extra_ca_certs)$')

# first_result: what README.md's first query gives
first_result() {
    awk '/^```text/ { here = 1; next } here && /^```/ { exit } here' "$root/README.md"
}

# need_tools [PACKAGE COMMAND]...: debootstrap, and the commands that are named after their packages
need_tools() {
    [ "$(id -u)" = 0 ] || fail "machines are made by debootstrap and chroot, which need root" \
        "Run it as root."
    local missing=()
    set -- debootstrap debootstrap util-linux unshare "$@"
    while [ $# != 0 ]; do
        command -v "$2" > /dev/null || missing+=("$1")
        shift 2
    done
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}

# base_of SUITE: the machine as debootstrap leaves it, made once
base_of() {
    local suite=$1 base=$bare/$1 mirror
    mirror=$(debian_mirror)
    if [ ! -e "$base" ]; then
        say "bare: debootstrap of $suite"
        rm -rf "$base.new"
        mkdir -p "$bare"
        logged "debootstrap-$suite" debootstrap --variant=minbase "$suite" "$base.new" "$mirror"
        printf 'deb %s %s main\n' "$mirror" "$suite" "$mirror" "$suite-updates" \
            > "$base.new/etc/apt/sources.list"
        mv "$base.new" "$base"
    fi
}

# new_machine SUITE NAME: a copy of it in $machine
new_machine() {
    base_of "$1"
    machine=$bare/$1-$2
    rm -rf "$machine"
    cp -a "$bare/$1" "$machine"
    cp -L /etc/resolv.conf "$machine/etc/resolv.conf"
    printf '127.0.0.1 localhost %s\n' "$(hostname)" > "$machine/etc/hosts"
    [ ! -e "$certificates" ] || cp -L "$certificates" "$machine/etc/certificates-of-the-host.crt"
    chroot "$machine" sh -ec 'mkdir -p /dev/shm /dev/pts
        for device in "null 3" "zero 5" "full 7" "random 8" "urandom 9"; do
            set -- $device; [ -e /dev/$1 ] || mknod -m 666 /dev/$1 c 1 $2
        done'
}

# start_machine: process 1 of $machine is `sleep infinity`, which reaps nobody, as in a container
start_machine() {
    unshare --mount --pid --fork --kill-child sh -ec "
        mount -t proc proc '$machine/proc'
        mount -t tmpfs -o mode=1777 tmpfs '$machine/dev/shm'
        mount -t devpts -o newinstance,ptmxmode=666 devpts '$machine/dev/pts'
        ln -sf pts/ptmx '$machine/dev/ptmx'
        exec sleep infinity" &
    unshared=$!
    until first_process=$(pgrep -P "$unshared" sleep); do
        kill -0 "$unshared" || fail "the machine does not start"
        sleep 0.1
    done
}
unshared=
stop_machine() {
    [ "$unshared" ] || return 0
    kill -KILL "$unshared" 2> /dev/null || true
    wait "$unshared" 2> /dev/null || true
    unshared=
}

# in_machine COMMAND...: runs it in the processes' namespace of $machine, with nothing of this
# environment but what reaches the package sources
in_machine() {
    nsenter --target "$first_process" --mount --pid chroot "$machine" \
        env -i PATH="$path" TERM=dumb LANG=C.UTF-8 "${passed[@]}" "$@" < /dev/null
}
