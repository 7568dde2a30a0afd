#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Unpacks what an AMD-V host boots, from Debian's packages, into build/hosts/amd-v/KERNEL; nothing is installed.
# Usage: image.sh 6.1|backports     Exits with 3 if Debian's backports are not to be had here.
#   vmlinuz, initramfs.cpio    the stock kernel; busybox-static, the modules that the host needs, and `init`
#   release                    the kernel's release
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$(cd ../../.. && pwd)
kernel=$1
out=$root/build/hosts/amd-v/$kernel
# In the order of loading; what each depends on comes before it.
modules=(virtio_pci 9pnet_virtio 9p overlay virtio_blk crc32c_generic ext4 tun loop virtio_console virtio_net kvm-amd)

die() {
    printf 'amd-v host: %s\n' "$*" >&2
    exit 1
}

mkdir -p "$out"
exec 9>"$out.lock"
flock 9 # one at a time
mark=$(sha256sum image.sh init | sha256sum | cut -d' ' -f1)
[ "$(cat "$out/inputs" 2>/dev/null)" = "$mark" ] && exit
rm -rf "$out"
mkdir -p "$out/packages"

# The backports are looked up with lists of our own, so that the machine's choice of packages stays as it is. Its own mirror serves them.
apt_options=()
if [ "$kernel" = backports ]; then
    mirror=$(apt-get indextargets --format "\$(SITE) \$(CODENAME)" 'Created-By: Packages' 'Origin: Debian' | awk '$2 == "bookworm" {print $1; exit}')
    [ -n "$mirror" ] || { echo "amd-v host: this machine's apt knows no mirror of Debian 12" >&2; exit 3; }
    mkdir -p "$out/apt/lists/partial" "$out/apt/cache/archives/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm-backports main" >"$out/apt/sources.list"
    apt_options=(-o "Dir::Etc::sourcelist=$out/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$out/apt/lists"
        -o "Dir::Cache=$out/apt/cache")
    apt-get -qq "${apt_options[@]}" -o Acquire::Retries=2 -o Acquire::http::Timeout=30 update || { echo "amd-v host: no backports here" >&2; exit 3; }
    [ -n "$(apt-cache "${apt_options[@]}" depends linux-image-amd64 2>/dev/null)" ] || { echo "amd-v host: no backports here" >&2; exit 3; }
fi

# unpack PACKAGE [APT-OPTION…]
unpack() {
    (cd "$out/packages" && apt-get -qq "${@:2}" download "$1" 2>/dev/null) || die "cannot download $1 (apt-get update, as root, may help)"
    dpkg-deb -x "$out"/packages/"$1"_*.deb "$out/root"
    rm "$out"/packages/"$1"_*.deb
}

image=$({ apt-cache "${apt_options[@]}" depends linux-image-amd64 || true; } 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[^ ]*\)/\1/p' | head -1)
[ -n "$image" ] || die "apt knows no linux-image-amd64 (apt-get update, as root, may help)"
unpack "$image" "${apt_options[@]}"
unpack busybox-static
release=${image#linux-image-}
tree=$out/root/lib/modules/$release
[ -d "$tree" ] || tree=$out/root/usr/lib/modules/$release
busybox=$out/root/bin/busybox

# ordered NAME…: the modules' files, each after what it depends on.
ordered() {
    local name file
    for name in "$@"; do
        file=$(find "$tree" -name "$name.ko*" -o -name "${name//_/-}.ko*")
        if [ -z "$file" ]; then
            grep -qE "/(${name}|${name//_/-})\.ko" "$tree/modules.builtin" || die "$image has no module $name"
            continue
        fi
        [ -z "${listed[$file]:-}" ] || continue
        listed[$file]=1
        # shellcheck disable=SC2046 # a list of words
        ordered $(unpacked "$file" | tr '\0' '\n' | sed -n 's/^depends=//p' | tr , ' ')
        files+=("$file")
    done
}
unpacked() {
    case $1 in
        *.xz) xz -dc "$1" ;;
        *.zst) zstd -dc "$1" ;;
        *) cat "$1" ;;
    esac
}

files=()
declare -A listed=()
ordered "${modules[@]}"
ram=$out/ram
mkdir -p "$ram"/{bin,dev,proc,sys,lower,disk,root,modules}
cp "$busybox" "$ram/bin/busybox"
install -m 755 init "$ram/init"
number=10
for file in "${files[@]}"; do
    name=$(basename "$file" | sed 's/\.ko.*/.ko/')
    if [ "$name" = kvm-amd.ko ]; then
        unpacked "$file" >"$ram/kvm-amd.ko" # init gives it options
    else
        unpacked "$file" >"$ram/modules/$number-$name"
    fi
    number=$((number + 1))
done
(cd "$ram" && find . | sort | "$busybox" cpio -o -H newc 2>/dev/null) >"$out/initramfs.cpio"
cp "$out"/root/boot/vmlinuz-* "$out/vmlinuz"
echo "$release" >"$out/release"
rm -rf "$out/root" "$out/ram" "$out/packages" "$out/apt"
echo "$mark" >"$out/inputs"
