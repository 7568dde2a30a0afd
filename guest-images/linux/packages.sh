#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Packages of Debian's, downloaded and unpacked, never installed; no root is needed. build.sh and
# tests/hosts/amd_v/image.sh source this.

# Where downloads are kept; several scripts may use it at once.
packages=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/build/packages
# What every apt command here is given: a caller that wants other lists than the machine's says so
# in it.
apt_options=()

# debian_lists FORMAT: a line for each list of Debian's that this machine's apt has; apt-get
# indextargets describes FORMAT.
debian_lists() { apt-get indextargets --format "$1" 'Created-By: Packages' 'Origin: Debian' | sort -u; }

# newest PACKAGE…: the versions that apt would fetch.
newest() { apt-cache "${apt_options[@]}" policy "$@" | sed -n 's/^  Candidate: \([^(]\)/\1/p'; }

# fetch PACKAGE FOLDER: unpacks the newest version there. Fails if that cannot be downloaded.
fetch() {
    local version file new
    version=$(newest "$1")
    [ -n "$version" ] || return 1
    file=$packages/$1-${version//[!a-zA-Z0-9.+]/_}.deb
    if [ ! -e "$file" ]; then
        mkdir -p "$packages"
        new=$(mktemp -d "$packages/new.XXXXXX")
        if ! (cd "$new" && apt-get -qq "${apt_options[@]}" -o APT::Sandbox::User=root download "$1" &&
            mv ./*.deb "$file"); then
            rm -rf "$new"
            return 1
        fi
        rmdir "$new"
    fi
    rm -rf "$2"
    dpkg-deb -x "$file" "$2"
}

# fetch_kernel PACKAGE FOLDER: the same of the kernel that a package without a version
# (linux-image-amd64) stands for.
fetch_kernel() {
    local package
    package=$(apt-cache "${apt_options[@]}" depends "$1" 2>/dev/null |
        sed -n 's/.*Depends: \(linux-image-[^ ]*\)/\1/p' | head -1)
    [ -n "$package" ] && fetch "$package" "$2"
}

# module FILE >FILE.ko: a kernel's module, whichever way it is compressed.
module() {
    case $1 in
        *.xz) xz -dc "$1" ;;
        *.zst) zstd -dc "$1" ;;
        *) cat "$1" ;;
    esac
}

# module_files FOLDER NAME…: the files of modules of an unpacked kernel, each after those that it
# depends on. What is built in has none.
module_files() {
    local folder=$1
    local -A seen=()
    shift
    module_files_of "$@"
}
module_files_of() {
    local name file needed
    for name in "$@"; do
        name=${name//[-_]/[-_]} # files have either, dependencies the second
        [ -z "${seen[$name]:-}" ] || continue
        seen[$name]=1
        file=$(find "$folder" -name "$name.ko*")
        if [ -n "$file" ]; then
            needed=$(module "$file" | tr '\0' '\n' | sed -n 's/^depends=//p' | tr , ' ')
            # shellcheck disable=SC2086 # a list of words
            module_files_of $needed || return 1
            echo "$file"
        elif ! grep -rqs --include=modules.builtin "/$name\.ko" "$folder"; then
            echo "the kernel in $folder has no module ${name//\[-_]/_}" >&2
            return 1
        fi
    done
}
