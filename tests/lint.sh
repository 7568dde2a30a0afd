#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What `./dev lint` and CI check: format, the house rules that grep can see, shell scripts, clang-tidy, which takes minutes and is left out
# with --quick. Usage: lint.sh [--quick] [JOBS]
set -uo pipefail
shopt -s lastpipe # report counts in this shell
cd "$(dirname "$0")/.." || exit 1
quick=0
[ "${1:-}" != --quick ] || { quick=1; shift; }
jobs=${1:-$(nproc)}
began=$SECONDS
folders=()
for folder in vmm devices snapshot guest-images tests bench; do
    [ -d "$folder" ] && folders+=("$folder")
done
mapfile -t sources < <(find "${folders[@]}" \( -name '*.cc' -o -name '*.h' \) -type f | sort)
mapfile -t all < <(find "${folders[@]}" .cmake CMakeLists.txt dev .ci/run \
    \( -name '*.cc' -o -name '*.h' -o -name '*.S' -o -name '*.sh' -o -name '*.py' -o -name 'CMakeLists.txt' -o -name '*.cmake' -o -path dev -o -path .ci/run \) \
    -type f | sort)
mapfile -t scripts < <(find "${folders[@]}" dev .ci/run -type f \( -name '*.sh' -o -path dev -o -path .ci/run \) | sort)
[ ${#sources[@]} -gt 0 ] || { echo "lint: there are no sources here"; exit 1; }
faults=0
names=$(mktemp)
log=$(mktemp)
trap 'rm -f "$names" "$log"' EXIT

# report TITLE: each line of the input is a fault.
report() {
    local lines
    lines=$(cat)
    [ -z "$lines" ] && return
    printf '%s:\n' "$1"
    printf '%s\n' "$lines" | sed 's/^/    /'
    faults=$((faults + $(printf '%s\n' "$lines" | wc -l)))
}

for file in "${all[@]}"; do
    head -3 "$file" | grep -q 'SPDX-License-Identifier: Apache-2.0' || echo "$file"
done | report "no SPDX licence line"

for file in "${sources[@]}"; do
    [[ $file != *.h ]] || grep -q '^#pragma once' "$file" || echo "$file"
done | report "header without #pragma once"

for file in "${sources[@]}"; do
    lines=$(wc -l <"$file")
    [ "$lines" -le 500 ] || echo "$file: $lines lines"
done | report "files over 500 lines"

grep -n '#include <linux/kvm.h>' "${sources[@]}" | grep -vE '^(vmm/kvm/abi.h|bench/floors/[a-z_.]+):' | report "include vmm/kvm/abi.h instead of <linux/kvm.h>"
grep -nE '#include [<"](linux/kvm|asm/kvm|vmm/kvm/)' "${sources[@]}" | grep -E '^(devices|snapshot)/' | report "devices/ and snapshot/ know no KVM"
grep -nE '#include "(\.\./|[^/"]+")' "${sources[@]}" | report "includes are by full path from the repository root"
# Tests that documentation names must be there: `Suite.Name`, or a suite alone.
grep -rhoE '^(TEST|TEST_F|TEST_P)\([A-Za-z]+, [A-Za-z0-9]+' tests | sed -E 's/^TEST(_F|_P)?\(//; s/, /./; p; s/\..*//' | sort -u >"$names"
# shellcheck disable=SC2016 # the dollar is sed's
sed -n '/^## Traps/,$p' tests/README.md | grep -oE '`[A-Z][A-Za-z]+(\.[A-Za-z0-9]+)?`' | tr -d '\140' | sort -u | comm -23 - "$names" |
    report "tests/README.md names a test that does not exist"
shellcheck "${scripts[@]}" | grep -v '^$' | report "shellcheck"
printf '%s\0' "${sources[@]}" | xargs -0 -n 16 -P "$jobs" clang-format-19 --dry-run --Werror 2>&1 | grep 'error:' | report "clang-format-19 -i mends these"
printf '   house rules, shellcheck and clang-format: %s files, %s faults, %s s\n' "${#all[@]}" "$faults" "$((SECONDS - began))"

[ $quick = 0 ] || { echo "   clang-tidy: left out"; [ "$faults" = 0 ]; exit; }
began=$SECONDS
cmake --preset tidy >"$log" 2>&1 || { cat "$log"; exit 1; }
# Files that the build makes for others to include or embed (the ledger guest) must be there; nothing else is built.
cmake --build build/tidy --target ledger_guest >"$log" 2>&1 || { cat "$log"; exit 1; }
run-clang-tidy-19 -quiet -j "$jobs" -p build/tidy "^$PWD/(vmm|devices|snapshot)/" >"$log" 2>/dev/null || faults=$((faults + 1))
grep -E '(warning|error):' "$log" | sort -u
printf '   clang-tidy: %s s\n' "$((SECONDS - began))"
[ "$faults" = 0 ]
