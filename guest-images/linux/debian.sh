#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The part of build.sh for --debian, which sources this: a disk with Debian as mmdebstrap makes it,
# and an initramfs that hands over to it.
# shellcheck disable=SC2154 # $out is build.sh's

debian_parts=(debian.sh debian-init.sh debian-initramfs.list)
# The root disk is the only device that the system needs. In this order: what a module needs comes
# before it.
debian_modules=(virtio_ring virtio virtio_mmio virtio_blk)
# The file system's own number, and the seed of its hashes. Fixed, so that the same bytes come out.
debian_uuid=5a9d0f5e-6e1c-4d3b-8f43-736e6170766d

# debian_tree TAR: the root file system. There is no udev in it to tell systemd of ttyS0, so the
# login is on /dev/console; root has no password.
debian_tree() {
    # What this machine's apt has from Debian, so from the same mirror.
    debian_lists "deb \$(REPO_URI) \$(RELEASE) \$(COMPONENT)" >"$1.sources"
    [ -s "$1.sources" ] || die "apt has no list of a Debian archive; run apt-get update"
    # shellcheck disable=SC2016 # the hooks' shell knows what $1 is: the tree
    mmdebstrap --variant=minbase --include=systemd-sysv \
        --customize-hook='echo debian >"$1/etc/hostname"; rm -f "$1/etc/resolv.conf"' \
        --customize-hook='echo "/dev/vda / ext4 errors=remount-ro 0 1" >"$1/etc/fstab"' \
        --customize-hook='chroot "$1" systemctl enable console-getty.service' \
        --customize-hook='chroot "$1" systemctl mask serial-getty@ttyS0.service' \
        --customize-hook='chroot "$1" passwd --delete root' \
        bookworm "$1" - <"$1.sources"
}

# debian_disk TAR TREE DISK: an ext4 file system of it; owners are those in the archive, for any
# user.
debian_disk() {
    local inode
    export E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH
    mkdir "$2"
    # shellcheck disable=SC2016 # the inner shell's
    fakeroot sh -euc '
        tar -xpf "$1" -C "$2"
        exec mke2fs -q -t ext4 -d "$2" -U "$4" -E "hash_seed=$4,lazy_itable_init=0,lazy_journal_init=0" "$3" 1G
    ' sh "$1" "$2" "$3" "$debian_uuid"
    # The times of today that are left in it: each file's access and change.
    for inode in 2 $(seq 11 $(($(find "$2" | wc -l) + 11))); do
        printf "sif <$inode> %s\n" "atime @$SOURCE_DATE_EPOCH" 'atime_extra 0' \
            "ctime @$SOURCE_DATE_EPOCH" 'ctime_extra 0'
    done | debugfs -w -f - "$3" >/dev/null
}

build_debian() {
    local mark work=$out/debian PATH=$PATH:/usr/sbin:/sbin
    mark=$(inputs debian "${recipe[@]}" "${debian_parts[@]}")
    fresh debian "$mark" debian.ext4 debian-initramfs.cpio && return
    rm -rf "$out/debian.inputs" "$work"
    mkdir "$work"
    fetch_cloud
    cp debian-init.sh "$out/debian-init"
    module_list "${debian_modules[@]}" >"$out/debian.list"
    archive debian-initramfs.list "$out/debian.list" >"$out/debian-initramfs.cpio"
    debian_tree "$work/root.tar"
    debian_disk "$work/root.tar" "$work/tree" "$work/disk"
    # Whole, or not at all.
    mv "$work/disk" "$out/debian.ext4"
    rm -rf "$work"
    echo "$mark" >"$out/debian.inputs"
}
