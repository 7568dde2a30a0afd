#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Unpacks what an AMD-V host boots, from Debian's packages, into build/hosts/amd-v/KERNEL; nothing
# is installed, and no root is needed. Usage: image.sh 6.1|backports
#   vmlinuz           the stock kernel
#   initramfs.cpio    busybox-static, the modules that the host needs, and `init`
# Exits with 3 if Debian's backports are not to be had here. Where nothing can be downloaded an
# older image stays, and one line says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$(cd ../../.. && pwd)
kernel=$1
out=$root/build/hosts/amd-v/$kernel
work=$out.new
common=$root/guest-images/linux/packages.sh
# In the order of loading; what each depends on comes before it.
modules=(virtio_pci 9pnet_virtio 9p overlay virtio_blk crc32c_generic ext4 tun loop virtio_console virtio_net kvm-amd)
# shellcheck disable=SC1090 # it is checked by itself
. "$common"

# unavailable WHAT: ends with the image of an earlier run, if there is one.
unavailable() {
    if [ -e "$out/inputs" ]; then
        printf 'amd-v host: %s; the image that an earlier image.sh has made is used\n' "$*" >&2
        exit 0
    fi
    printf 'amd-v host: %s\n' "$*" >&2
    [ "$kernel" != backports ] || exit 3
    exit 1
}

# The backports are looked up with lists of our own, so that the machine's choice of packages stays
# as it is. Its own mirror serves them.
use_backports() {
    local mirror apt=$work/apt keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    mirror=$(debian_lists "\$(CODENAME) \$(REPO_URI)" | sed -n 's/^bookworm //p' | head -1)
    [ -n "$mirror" ] || unavailable "this machine's apt knows no mirror of Debian 12"
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    echo "deb [signed-by=$keyring] $mirror bookworm-backports main" >"$apt/sources.list"
    apt_options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache"
        -o Acquire::Retries=2 -o Acquire::http::Timeout=30)
    apt-get -qq "${apt_options[@]}" -o APT::Sandbox::User=root update 2>/dev/null || true # the download says it
    advice="no backports at $mirror"
}

# archive: busybox, the modules by number, and `init` as an initramfs.
archive() {
    local ram=$work/ram files file name number=10
    mkdir -p "$ram"/{bin,dev,proc,sys,lower,disk,root,modules}
    cp "$work/busybox/bin/busybox" "$ram/bin/busybox"
    install -m 755 init "$ram/init"
    files=$(module_files "$work/kernel" "${modules[@]}")
    for file in $files; do
        name=${file##*/}
        name=${name%%.ko*}.ko
        [ "$name" = kvm-amd.ko ] || name=modules/$number-$name # init gives that one options
        module "$file" >"$ram/$name"
        number=$((number + 1))
    done
    (cd "$ram" && find . | sort | "$work/busybox/bin/busybox" cpio -o -H newc 2>/dev/null)
}

mkdir -p "${out%/*}"
exec 9>"$out.lock"
flock 9 # one at a time
mark=$(cat image.sh init "$common" | sha256sum | cut -d' ' -f1)
[ "$(cat "$out/inputs" 2>/dev/null)" != "$mark" ] || exit 0
rm -rf "$work"
mkdir "$work"
trap 'rm -rf "$work"' EXIT
advice='apt-get update, as root, may help'
fetch busybox-static "$work/busybox" 2>/dev/null || unavailable "cannot download busybox-static ($advice)"
[ "$kernel" != backports ] || use_backports
fetch_kernel linux-image-amd64 "$work/kernel" 2>/dev/null || unavailable "cannot download linux-image-amd64 ($advice)"
mkdir "$work/image"
archive >"$work/image/initramfs.cpio"
cp "$work"/kernel/boot/vmlinuz-* "$work/image/vmlinuz"
echo "$mark" >"$work/image/inputs"
rm -rf "$out"
mv "$work/image" "$out"
