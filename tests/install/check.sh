#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs a build into a temporary prefix and builds an embedder against it, once by CMake and once by pkg-config.
# Also: every installed header compiles on its own, so that no embedder needs to know an order or a folder of ours.
# Usage: check.sh BUILD-FOLDER C++-COMPILER CMAKE
set -euo pipefail
build=$1 compiler=$2 cmake=$3
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix

"$cmake" --install "$build" --prefix "$prefix" >"$work/install.log"
test -s "$(find "$prefix" -name libsnapvm.a)" || { echo "libsnapvm.a is not installed"; exit 1; }
if [ -e "$build/snapvm" ]; then
    "$prefix/bin/snapvm" --help >/dev/null
fi

"$cmake" -S "$here/embedder" -B "$work/by-cmake" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_CXX_COMPILER="$compiler" >"$work/configure.log"
"$cmake" --build "$work/by-cmake" >"$work/build.log" || { cat "$work/build.log"; exit 1; }
"$work/by-cmake/embedder"

PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name snapvm.pc)")
export PKG_CONFIG_PATH
# shellcheck disable=SC2046  # the flags are words
"$compiler" "$here/embedder/main.cc" $(pkg-config --cflags --libs snapvm) -o "$work/by-pkg-config"
"$work/by-pkg-config"

# shellcheck disable=SC2016  # the inner shell expands
find "$prefix/include/snapvm" -name '*.h' -printf '%P\n' | sort | xargs -P "$(nproc)" -I{} bash -c \
    'echo "#include \"$1\"" | ${2} -x c++ ${3} -fsyntax-only - || { echo "not usable alone: $1"; exit 1; }' \
    check {} "$compiler" "$(pkg-config --cflags snapvm)"
