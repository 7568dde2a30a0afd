#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs a build into a temporary prefix, and checks what an embedder gets: the public headers and
# no others, each of which compiles on its own, and the example, built by CMake and by pkg-config.
# Without a usable /dev/kvm the example boots nothing; the script then ends with 77, once all else
# has passed. Usage: check.sh BUILD-FOLDER C++-COMPILER CMAKE
set -euo pipefail
build=$1 compiler=$2 cmake=$3
source=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix
fail() { printf '%s\n' "$1"; exit 1; }

# An install writes its list of files into the build folder. A list that is there is the user's.
manifest=$build/install_manifest.txt
[ ! -e "$manifest" ] || mv "$manifest" "$work/manifest"
"$cmake" --install "$build" --prefix "$prefix" >"$work/install.log"
rm -f "$manifest"
[ ! -e "$work/manifest" ] || mv "$work/manifest" "$manifest"
test -s "$(find "$prefix" -name libsnapvm.a)" || fail "libsnapvm.a is not installed"
if [ -e "$build/snapvm" ]; then
    "$prefix/bin/snapvm" --help >/dev/null
    grep -q '^\.SS restore' "$prefix/share/man/man1/snapvm.1" || fail "the manual page says nothing of restore"
    # shellcheck disable=SC2016  # $1 is the inner shell's
    bash -c '. "$1"; COMP_WORDS=(snapvm run --ker); COMP_CWORD=2; _snapvm; [ "${COMPREPLY[*]}" = --kernel ]' - \
        "$prefix/share/bash-completion/completions/snapvm" || fail "--ker is not completed"
fi
if grep -q '^CMAKE_BUILD_TYPE:STRING=Release' "$build/CMakeCache.txt" && command -v dpkg-deb >/dev/null; then
    cpack --config "$build/CPackConfig.cmake" -B "$work/package" >"$work/package.log" ||
        fail "$(cat "$work/package.log")"
    dpkg-deb --contents "$work"/package/*.deb >"$work/contents"
    for file in usr/bin/snapvm usr/share/man/man1/snapvm.1 usr/lib/systemd/system/snapvm@.service; do
        grep -q "$file" "$work/contents" || fail "the package has no $file"
    done
fi
diff <(cd "$source/vmm/include" && find snapvm -type f | sort) \
    <(cd "$prefix/include" && find . -type f -printf '%P\n' | sort) ||
    fail "the headers that are installed are not those of vmm/include"

PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name snapvm.pc)")
export PKG_CONFIG_PATH
read -ra flags < <(pkg-config --cflags snapvm)
for header in "$prefix"/include/snapvm/*.h; do
    name=snapvm/$(basename "$header")
    "$compiler" -x c++ "${flags[@]}" -Wall -Wextra -Werror -fsyntax-only - <<<"#include <$name>" ||
        fail "not usable alone: $name"
done

"$cmake" -S "$source/vmm/include/example" -B "$work/by-cmake" -DCMAKE_PREFIX_PATH="$prefix" \
    -DCMAKE_CXX_COMPILER="$compiler" >"$work/configure.log"
"$cmake" --build "$work/by-cmake" >"$work/build.log" || { cat "$work/build.log"; exit 1; }
# shellcheck disable=SC2046  # the flags are words
"$compiler" -Wall -Wextra -Werror "$source/vmm/include/example/main.cc" $(pkg-config --cflags --libs snapvm) \
    -o "$work/by-pkg-config"

skipped=0
for program in by-cmake/example by-pkg-config; do
    "$work/$program" "$work/area" >"$work/out" || { cat "$work/out"; fail "$program has failed"; }
    cat "$work/out"
    if ! { [ -r /dev/kvm ] && [ -w /dev/kvm ]; } && grep -q '^example: needs /dev/kvm: ' "$work/out"; then
        skipped=77
        continue
    fi
    for line in '^the guest says: LEDGER READY' '^snapshot: pause [1-9]' '^restore: [1-9]' \
        '^the guest ended: exit 0$'; do
        grep -q "$line" "$work/out" || fail "$program prints no line \"$line\""
    done
done
exit "$skipped"
