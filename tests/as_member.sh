#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command as an ordinary user who is a member of group kvm, whatever this system's /dev/kvm
# looks like, and changes nothing outside: the device node, the user's folders and the way to this
# checkout exist in a mount namespace of the command's own.
# Usage (as root): as_member.sh COMMAND ARGUMENT...
# The command starts in the current folder; TMPDIR, HOME, XDG_RUNTIME_DIR are its own.
set -euo pipefail

member=65534 # nobody: owns nothing here
if [ "${1:-}" != --inside ]; then
    [ "$(id -u)" = 0 ] || { echo "as_member.sh: must be started as root" >&2; exit 1; }
    [ -c /dev/kvm ] || { echo "as_member.sh: there is no /dev/kvm" >&2; exit 1; }
    home=$(mktemp -d /tmp/snapvm-member.XXXXXX)
    trap 'rm -rf "$home"' EXIT
    chmod 755 "$home" # the mount point of everything below
    unshare --mount --propagation private "$0" --inside "$home" "$PWD" "$@"
    exit
fi
home=$2 start=$3
shift 3

group=$(getent group kvm | cut -d: -f3 || true)
group=${group:-108}
mkdir "$home/dev" "$home/user"
# A tmpfs of our own may hold device nodes even where /tmp may not.
mount -t tmpfs -o mode=755,size=1m none "$home/dev"
mknod "$home/dev/kvm" c "$((0x$(stat -c %t /dev/kvm)))" "$((0x$(stat -c %T /dev/kvm)))"
chgrp "$group" "$home/dev/kvm"
chmod 660 "$home/dev/kvm"
mount --bind "$home/dev/kvm" /dev/kvm

mkdir -m 700 "$home/user/run" "$home/user/tmp" "$home/user/home"
chown -R "$member:$member" "$home/user"

# The checkout may lie in a folder that is closed to others (/root, a mktemp -d). Then that folder
# is covered by an empty one, with nothing in it but the way down to the checkout.
root=$(cd "$(dirname "$0")/.." && pwd -P)
closed=
path=$root
while [ "$path" != / ]; do
    if [ "$(($(stat -c 0%a "$path") & 1))" = 0 ]; then
        closed=$path
    fi
    path=$(dirname "$path")
done
if [ -n "$closed" ]; then
    mkdir "$home/checkout"
    mount --rbind "$root" "$home/checkout"
    mount -t tmpfs -o mode=755 none "$closed"
    mkdir -p "$root"
    # Entry by entry, since the checkout's own folder may be the closed one.
    for entry in "$home/checkout"/* "$home/checkout"/.[!.]*; do
        if [ -d "$entry" ]; then
            mkdir "$root/${entry##*/}"
        elif [ -f "$entry" ]; then
            touch "$root/${entry##*/}"
        else
            continue
        fi
        mount --rbind "$entry" "$root/${entry##*/}"
    done
fi

cd "$start"
exec setpriv --reuid "$member" --regid "$member" --groups "$group" --inh-caps=-all --bounding-set=-all --no-new-privs \
    env HOME="$home/user/home" TMPDIR="$home/user/tmp" XDG_RUNTIME_DIR="$home/user/run" USER=nobody LOGNAME=nobody "$@"
