#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the Linux guest image into build/linux, from Debian's packages alone; `./dev linux` calls
# it. What is built from the same inputs is not built again. Usage: build.sh [--cloud | --debian]
#   vmlinux, bzImage    the kernel of Debian's linux-source-6.1 with kernel.config
#   initramfs.cpio      the guest tool as /init, and Debian's busybox-static
#   cloud-vmlinuz, cloud-initramfs.cpio
#                       with --cloud: Debian's stock cloud kernel, and an initramfs that has its
#                       virtio modules too
#   debian.ext4, debian-initramfs.cpio
#                       with --debian (debian.sh): a disk with Debian, and an initramfs that hands
#                       over to it; for cloud-vmlinuz
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$(cd ../.. && pwd)
out=$root/build/linux
recipe=(build.sh kernel.sh packages.sh) # of all parts but the kernel, which is built from kernel.sh
mkdir -p "$out"

die() {
    printf 'linux: %s\n' "$*" >&2
    exit 1
}

# as_root COMMAND…
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        command -v sudo >/dev/null || die "this needs root; run once, as root: $*"
        sudo "$@"
    fi
}

# shellcheck disable=SC1091 # both are checked by themselves
. ./kernel.sh
# shellcheck disable=SC1091
. ./packages.sh

# obtain fetch|fetch_kernel PACKAGE FOLDER: once more with lists of today, where those that are here
# name what the mirror no longer has. Nothing is installed (busybox-static would push busybox off
# this machine).
obtain() {
    "$@" 2>/dev/null && return
    as_root apt-get -qq update
    "$@" || die "$2 cannot be downloaded; check the network"
}

# Everything that decides about a part's bytes, as one word. PART FILE…
inputs() {
    {
        cat "${@:2}"
        dpkg-query -W linux-source-6.1 gcc binutils lz4
        gcc --version
        case $1 in
            initramfs) newest busybox-static && dpkg-query -W libc6-dev zlib1g-dev ;;
            cloud) newest busybox-static linux-image-cloud-amd64 && dpkg-query -W libc6-dev zlib1g-dev ;;
            # Each point release has a base-files of its own.
            debian)
                newest busybox-static linux-image-cloud-amd64 base-files systemd-sysv &&
                    dpkg-query -W mmdebstrap e2fsprogs
                ;;
        esac
    } | sha256sum | cut -d' ' -f1
}

# fresh PART MARK FILE…: whether the files are there, built from these inputs.
fresh() {
    local file
    [ "$(cat "$out/$1.inputs" 2>/dev/null)" = "$2" ] || return 1
    for file in "${@:3}"; do
        [ -s "$out/$file" ] || return 1
    done
}

build_tool() {
    gcc -x c++ -std=c++23 -O2 -Wall -Wextra -Wconversion -Werror -fno-exceptions -fno-rtti -ffunction-sections \
        -static -I"$root" -ffile-prefix-map="$root=." tool/*.cc -Wl,--gc-sections -Wl,--build-id=none -Wl,-s \
        -o "$out/guest-tool" -lz
}

# archive LIST… >CPIO
archive() {
    local files=("$out/busybox/bin/busybox" "$out/guest-tool" "$out/debian-init")
    gcc -O1 -o "$out/gen_init_cpio" "$out/source/usr/gen_init_cpio.c"
    touch -c -d "@$SOURCE_DATE_EPOCH" "${files[@]}"
    cat "$@" | BUSYBOX=${files[0]} GUEST_TOOL=${files[1]} DEBIAN_INIT=${files[2]} \
        "$out/gen_init_cpio" -t "$SOURCE_DATE_EPOCH" -
}

build_initramfs() {
    local mark
    mark=$(inputs initramfs "${recipe[@]}" initramfs.list tool/*)
    fresh initramfs "$mark" initramfs.cpio && return
    rm -f "$out/initramfs.inputs"
    unpack
    obtain fetch busybox-static "$out/busybox"
    build_tool
    archive initramfs.list >"$out/initramfs.cpio"
    echo "$mark" >"$out/initramfs.inputs"
}

# In the stock kernel these are modules; serial port, HVC consoles, ext4 and ACPI are built in. It
# has no driver for the generation ID.
cloud_modules=(virtio_mmio virtio_blk virtio_net virtio_console virtio-rng virtio_balloon
               vmw_vsock_virtio_transport pvpanic-mmio button evdev)

# module_list NAME…: the initramfs' lines of modules, and of what they depend on, numbered in the
# order of loading.
module_list() {
    local files file number=0
    files=$(module_files "$out/cloud" "$@")
    echo 'dir /modules 0755 0 0'
    for file in $files; do
        printf 'file /modules/%02d-%s %s 0644 0 0\n' "$number" "${file##*/}" "$file"
        number=$((number + 1))
    done
}

fetch_cloud() {
    obtain fetch_kernel linux-image-cloud-amd64 "$out/cloud"
    obtain fetch busybox-static "$out/busybox"
}

build_cloud() {
    local mark
    mark=$(inputs cloud "${recipe[@]}" initramfs.list tool/*)
    fresh cloud "$mark" cloud-vmlinuz cloud-initramfs.cpio && return
    rm -f "$out/cloud.inputs"
    fetch_cloud
    build_tool
    module_list "${cloud_modules[@]}" >"$out/cloud.list"
    archive initramfs.list "$out/cloud.list" >"$out/cloud-initramfs.cpio"
    cp "$out"/cloud/boot/vmlinuz-* "$out/cloud-vmlinuz"
    echo "$mark" >"$out/cloud.inputs"
}

case ${1:-} in
    '')
        build_kernel
        build_initramfs
        ;;
    --cloud)
        unpack
        build_cloud
        ;;
    --debian)
        unpack
        build_cloud
        # shellcheck disable=SC1091 # it is checked by itself
        . ./debian.sh
        build_debian
        ;;
    *) die "there is no option $1; use --cloud or --debian" ;;
esac
