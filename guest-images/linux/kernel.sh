#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The part of build.sh for the kernel, which sources this: Debian's linux-source-6.1 with
# kernel.config. A change here builds the kernel anew.
# shellcheck disable=SC2154 # $out and $root are build.sh's

tarball=/usr/src/linux-source-6.1.tar.xz

# The same bytes on every machine, at every time; build.sh's other parts need it, too.
export LC_ALL=C TZ=UTC SOURCE_DATE_EPOCH=1704067200
export KBUILD_BUILD_TIMESTAMP='Mon Jan  1 00:00:00 UTC 2024' KBUILD_BUILD_VERSION=1
export KBUILD_BUILD_USER=snapvm KBUILD_BUILD_HOST=snapvm
export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1

# The kernel's source, less what neither its configuration nor its build looks at: unpacking it is a
# good part of the time.
unpack() {
    local version folder unused=()
    version=$(dpkg-query -W linux-source-6.1)
    [ "$(cat "$out/source.version" 2>/dev/null)" = "$version" ] && return
    rm -rf "$out/source" "$out/source.version"
    mkdir -p "$out/source"
    for folder in drivers/gpu/drm drivers/infiniband drivers/media drivers/net/ethernet drivers/net/wireless \
        drivers/scsi drivers/staging sound; do
        unused+=(--exclude="linux-source-6.1/$folder/*.[ch]")
    done
    tar -xf "$tarball" -C "$out/source" --strip-components=1 --exclude=linux-source-6.1/tools/testing "${unused[@]}"
    echo "$version" >"$out/source.version"
}

# All that kernel.config does not say is off, and all that it says must hold: Kconfig drops without
# a word what depends on something else.
configure() {
    local line lost=0
    kernel_make KCONFIG_ALLCONFIG="$PWD/kernel.config" allnoconfig
    while read -r line; do
        grep -qxF "$line" "$out/source/.config" && continue
        printf 'linux: kernel.config says %s, and the kernel %s\n' "$line" \
            "$(grep -w "${line%%=*}" "$out/source/.config" || echo 'has no such option')" >&2
        lost=1
    done < <(grep '^CONFIG_' "$PWD/kernel.config")
    [ $lost = 0 ] || die "the kernel refuses lines of guest-images/linux/kernel.config; correct them"
}

# An emulated instruction takes 0.7 us, an iteration of rep stosq or movsq 0.15, and so does one of
# stosb, which GCC takes for memset in code that runs once.
kernel_make() {
    make -s -C "$out/source" -j "$(nproc)" CC='ccache gcc' HOSTCC='ccache gcc' \
        KCFLAGS='-mstringop-strategy=rep_8byte -mno-align-stringops' "$@"
}

build_kernel() {
    local mark
    mark=$(inputs kernel kernel.sh kernel.config)
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
