#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash
# /init of debian-initramfs.cpio: loads the modules in the order of their numbers, and hands over to
# the systemd on the first disk. As in Debian's own initramfs the root is read-only until systemd
# has read fstab. There is no /proc, where the shell would find busybox' commands.
busybox mount -t devtmpfs dev /dev
for module in /modules/*; do busybox insmod "$module"; done
tries=0
until busybox mount -t ext4 -o ro /dev/vda /root; do
    tries=$((tries + 1))
    if [ $tries = 50 ]; then
        echo 'init: /dev/vda has no ext4 file system: give the machine debian.ext4 as its first disk'
        busybox poweroff -f
    fi
    busybox sleep 0.1
done
busybox mount -o move /dev /root/dev
exec busybox switch_root /root /sbin/init
