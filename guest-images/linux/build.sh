#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the Linux guest image into build/linux, from Debian's packages alone; `./dev linux` calls it. What is built from the same inputs is
# not built again. Usage: build.sh [--cloud | --debian]
#   vmlinux, bzImage    the kernel of Debian's linux-source-6.1 with kernel.config
#   initramfs.cpio      the guest tool as /init, and Debian's busybox-static
#   cloud-vmlinuz, cloud-initramfs.cpio    with --cloud: Debian's stock cloud kernel, and an initramfs that has its virtio modules too
#   debian.ext4, debian-initramfs.cpio    with --debian (debian.sh): a disk with Debian, and an initramfs that hands over to it; for cloud-vmlinuz
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
here=$PWD
root=$(cd ../.. && pwd)
out=$root/build/linux
tarball=/usr/src/linux-source-6.1.tar.xz
jobs=$(nproc)
mkdir -p "$out/packages"

# The same bytes on every machine, at every time.
export LC_ALL=C TZ=UTC SOURCE_DATE_EPOCH=1704067200
export KBUILD_BUILD_TIMESTAMP='Mon Jan  1 00:00:00 UTC 2024' KBUILD_BUILD_USER=snapvm KBUILD_BUILD_HOST=snapvm KBUILD_BUILD_VERSION=1
export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1

die() {
    printf 'linux: %s\n' "$*" >&2
    exit 1
}

# as_root COMMAND…
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        command -v sudo >/dev/null || die "as root, once: $*"
        sudo "$@"
    fi
}

# newest PACKAGE…: the versions that apt would fetch.
newest() { apt-cache policy "$@" | sed -n 's/^  Candidate: //p'; }

# fetch PACKAGE FOLDER: unpacks a package there; nothing of it is installed (busybox-static would push busybox off this machine).
fetch() {
    local file
    [ -n "$(newest "$1")" ] || as_root apt-get -qq update
    file=$out/packages/$1-$(newest "$1" | tr -c 'a-zA-Z0-9.+\n' _).deb
    if [ ! -e "$file" ]; then
        rm -rf "$out/packages/new"
        mkdir "$out/packages/new"
        (cd "$out/packages/new" && apt-get -qq download "$1" 2>/dev/null) || {
            as_root apt-get -qq update
            (cd "$out/packages/new" && apt-get -qq download "$1")
        }
        mv "$out"/packages/new/*.deb "$file"
    fi
    rm -rf "$2"
    dpkg-deb -x "$file" "$2"
}

# Everything that decides about a part's bytes, as one word. PART FILE…
inputs() {
    {
        cat "$here/build.sh" "${@:2}"
        dpkg-query -W linux-source-6.1 gcc binutils lz4
        gcc --version
        case $1 in
            initramfs) newest busybox-static && dpkg-query -W libc6-dev zlib1g-dev ;;
            cloud) newest busybox-static linux-image-cloud-amd64 && dpkg-query -W libc6-dev zlib1g-dev ;;
            # Each point release has a base-files of its own.
            debian)
                newest busybox-static linux-image-cloud-amd64 base-files systemd-sysv && dpkg-query -W mmdebstrap e2fsprogs
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

# The kernel's source, less what neither its configuration nor its build looks at: unpacking it is a good part of the time.
unpack() {
    local version folder unused=()
    version=$(dpkg-query -W linux-source-6.1)
    [ "$(cat "$out/source.version" 2>/dev/null)" = "$version" ] && return
    rm -rf "$out/source" "$out/source.version"
    mkdir -p "$out/source"
    for folder in drivers/gpu/drm drivers/infiniband drivers/media drivers/net/ethernet drivers/net/wireless drivers/scsi drivers/staging sound; do
        unused+=(--exclude="linux-source-6.1/$folder/*.[ch]")
    done
    tar -xf "$tarball" -C "$out/source" --strip-components=1 --exclude=linux-source-6.1/tools/testing "${unused[@]}"
    echo "$version" >"$out/source.version"
}

# All that kernel.config does not say is off, and all that it says must hold: Kconfig drops without a word what depends on something else.
configure() {
    local line lost=0
    kernel_make KCONFIG_ALLCONFIG="$here/kernel.config" allnoconfig
    while read -r line; do
        grep -qxF "$line" "$out/source/.config" && continue
        printf 'linux: kernel.config says %s, and the kernel %s\n' "$line" "$(grep -w "${line%%=*}" "$out/source/.config" || echo 'has no such option')" >&2
        lost=1
    done < <(grep '^CONFIG_' "$here/kernel.config")
    [ $lost = 0 ] || die "mend guest-images/linux/kernel.config"
}

# An emulated instruction takes 0.7 us, an iteration of rep stosq or movsq 0.15, and so does one of stosb, which GCC takes for memset in code
# that runs once.
kernel_make() {
    make -s -C "$out/source" -j "$jobs" CC='ccache gcc' HOSTCC='ccache gcc' KCFLAGS='-mstringop-strategy=rep_8byte -mno-align-stringops' "$@"
}

build_kernel() {
    local mark
    mark=$(inputs kernel kernel.config)
    fresh kernel "$mark" vmlinux bzImage && return
    rm -f "$out/kernel.inputs"
    unpack
    configure
    kernel_make vmlinux bzImage
    # Symbols stay, for whoever reads a crash.
    objcopy --strip-debug "$out/source/vmlinux" "$out/vmlinux"
    cp "$out/source/arch/x86/boot/bzImage" "$out/bzImage"
    echo "$mark" >"$out/kernel.inputs"
}

build_tool() {
    gcc -x c++ -std=c++23 -O2 -Wall -Wextra -Wconversion -Werror -fno-exceptions -fno-rtti -ffunction-sections -static -I"$root" \
        -ffile-prefix-map="$root=." tool/*.cc -Wl,--gc-sections -Wl,--build-id=none -Wl,-s -o "$out/guest-tool" -lz
}

# archive LIST… >CPIO
archive() {
    local files=("$out/busybox/bin/busybox" "$out/guest-tool" "$out/debian-init")
    gcc -O1 -o "$out/gen_init_cpio" "$out/source/usr/gen_init_cpio.c"
    touch -c -d "@$SOURCE_DATE_EPOCH" "${files[@]}"
    cat "$@" | BUSYBOX=${files[0]} GUEST_TOOL=${files[1]} DEBIAN_INIT=${files[2]} "$out/gen_init_cpio" -t "$SOURCE_DATE_EPOCH" -
}

build_initramfs() {
    local mark
    mark=$(inputs initramfs initramfs.list tool/*)
    fresh initramfs "$mark" initramfs.cpio && return
    rm -f "$out/initramfs.inputs"
    unpack
    fetch busybox-static "$out/busybox"
    build_tool
    archive initramfs.list >"$out/initramfs.cpio"
    echo "$mark" >"$out/initramfs.inputs"
}

# In the stock kernel these are modules; serial port, HVC consoles, ext4 and ACPI are built in. It has no driver for the generation ID.
cloud_modules=(virtio_mmio virtio_blk virtio_net virtio_console virtio-rng virtio_balloon vmw_vsock_virtio_transport pvpanic-mmio button evdev)

# module_lines NAME: the initramfs' lines of a module, after those of what it depends on, numbered in this order.
module_lines() {
    local file needed
    [ -z "${listed[$1]:-}" ] || return 0
    listed[$1]=1
    file=$(find "$out/cloud/lib/modules" -name "$1.ko")
    [ -n "$file" ] || die "the stock kernel has no module $1"
    for needed in $(readelf -p .modinfo "$file" | sed -n 's/.* depends=//p' | tr , ' '); do
        # Names with a dash have an underscore there.
        [ -n "$(find "$out/cloud/lib/modules" -name "$needed.ko")" ] || needed=${needed//_/-}
        module_lines "$needed"
    done
    printf 'file /modules/%02d-%s.ko %s 0644 0 0\n' ${#ordered[@]} "$1" "$file"
    ordered+=("$1")
}

# module_list NAME…: those lines of modules, and of what they depend on.
module_list() {
    local module ordered=()
    local -A listed=()
    echo 'dir /modules 0755 0 0'
    for module in "$@"; do module_lines "$module"; done
}

fetch_cloud() {
    fetch "$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\)/\1/p' | head -1)" "$out/cloud"
    fetch busybox-static "$out/busybox"
}

build_cloud() {
    local mark
    mark=$(inputs cloud initramfs.list tool/*)
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
    *) die "what is $1? ([--cloud | --debian])" ;;
esac
