#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What `./dev lint` and CI check: format, the house rules that grep can see, shell scripts,
# clang-tidy, which takes minutes and is left out with --quick. Usage: lint.sh [--quick] [JOBS]
set -uo pipefail
shopt -s lastpipe # report counts in this shell
cd "$(dirname "$0")/.." || exit 1
quick=0
[ "${1:-}" != --quick ] || { quick=1; shift; }
jobs=${1:-$(nproc)}
for tool in shellcheck clang-format-19; do
    command -v "$tool" >/dev/null || { echo "lint: $tool is missing; ./dev lint installs it"; exit 1; }
done
began=$SECONDS
folders=()
for folder in vmm devices snapshot guest-images tests bench; do
    [ -d "$folder" ] && folders+=("$folder")
done
mapfile -t sources < <(find "${folders[@]}" \( -name '*.cc' -o -name '*.h' \) -type f | sort)
mapfile -t scripts < <(find "${folders[@]}" dev .ci/run \
    \( -name '*.sh' -o -name init -o -path dev -o -path .ci/run \) -type f | sort)
mapfile -t others < <(find "${folders[@]}" .cmake CMakeLists.txt \
    \( -name '*.S' -o -name '*.py' -o -name 'CMakeLists.txt' -o -name '*.cmake' \) -type f | sort)
all=("${sources[@]}" "${scripts[@]}" "${others[@]}")
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

grep -n '#include <linux/kvm.h>' "${sources[@]}" | grep -vE '^(vmm/kvm/abi.h|bench/floors/[a-z_.]+):' |
    report "include vmm/kvm/abi.h instead of <linux/kvm.h>"
grep -nE '#include [<"](linux/kvm|asm/kvm|vmm/kvm/)' "${sources[@]}" | grep -E '^(devices|snapshot)/' |
    report "devices/ or snapshot/ includes KVM"
grep -nE '#include "(\.\./|[^/"]+")' "${sources[@]}" | report "an include is not by full path from the repository root"
grep -nE 'std::j?thread[ a-z_]*[({]|std::jthread|pthread_create' "${sources[@]}" |
    grep -E '^(devices|snapshot|vmm)/' | grep -v '^vmm/base/thread.cc:' |
    report "a thread that start_thread (vmm/base/thread.h) does not start"
# Text leaves for a terminal and for JSON in one place each, where names from outside lose their
# escape sequences. The scripts of the benchmarks and tests have no such names.
grep -nE 'std::(v?f?printf|fputs|puts|cout|cerr)\b|\.dump\(' "${sources[@]}" | grep -E '^(devices|snapshot|vmm)/' |
    grep -vE '^vmm/(cli/output.cc|base/printable.h|include/example/)' |
    report "text that does not go through vmm/cli/output.h or json_text (vmm/base/printable.h)"
# What is opened by path goes through the process's opener, which others can replace. Beside it:
# where open_file() and the host's opener say "current directory"; absolute_path(), which opens
# nothing; the connect of the API's client; the folders that a process makes; the handler of fatal
# signals, which may call little; and commands, which have no machine.
by_path='open|openat|openat2|creat|opendir|stat|lstat|access|readlink|unlink|rename|link|symlink|mkdir|rmdir|chdir'
by_path+='|truncate|chmod|chown|bind|connect'
grep -nE "[^a-zA-Z_>]::($by_path)\(|AT_FDCWD|fopen\(|fstream|std::filesystem" "${sources[@]}" |
    grep -E '^(devices|snapshot|vmm)/' |
    grep -vE '^vmm/base/(absolute_path.cc|fd.cc|opener.cc|opener.h|unix_socket.cc):' |
    grep -vE '^vmm/(host/(opener|run_dir|fatal_signals).cc|cli/[a-z_.]+):' |
    report "a path that does not go through the opener (vmm/base/opener.h)"
# A docstring is a comment, too. awk counts bytes here: those that continue a character of UTF-8 are
# taken out.
LC_ALL=C awk '
    FNR == 1 { python = FILENAME ~ /\.py$/; mark = FILENAME ~ /\.(cc|h|S)$/ ? "//" : "#"; quoted = 0 }
    {
        text = $0
        gsub(/[\200-\277]/, "", text)
        columns = length(text)
        sub(/^[ \t]+/, "", text)
        if (!quoted) docstring = python && text ~ /^r?"""/
        limit = docstring || index(text, mark) == 1 ? 100 : 120
        if (columns > limit) print FILENAME ":" FNR ": " columns " columns, " limit " at most"
        if (python && gsub(/"""/, "", text) % 2 == 1) quoted = !quoted
    }' "${all[@]}" | report "code beyond column 120, or a comment beyond 100"
# A document that a comment or a page names is in the repository; the one exception is LZ4's own.
find . -path ./build -prune -o -name '*.md' -printf '%f\n' | sort -u >"$names"
mapfile -t pages < <(find . -path ./build -prune -o -name '*.md' -print)
grep -noE '[A-Za-z0-9_./-]*[A-Za-z0-9_]\.md\b' "${all[@]}" "${pages[@]}" | grep -v 'lz4_Frame_format.md$' |
    awk -F: -v list="$names" '
        BEGIN { while ((getline name < list) > 0) known[name] }
        { page = $3; sub(".*/", "", page); if (!(page in known)) print }' |
    report "documents that are not in the repository"
git log --format='%h %s' -n 30 2>/dev/null | awk 'length(substr($0, index($0, " ") + 1)) > 72' |
    report "a commit subject beyond column 72"
# Tests that documentation names must be there: `Suite.Name`, or a suite alone.
grep -rhoE '^(TEST|TEST_F|TEST_P)\([A-Za-z]+, [A-Za-z0-9]+' tests |
    sed -E 's/^TEST(_F|_P)?\(//; s/, /./; p; s/\..*//' | sort -u >"$names"
# shellcheck disable=SC2016 # the dollar is sed's
sed -n '/^## Traps/,$p' tests/README.md | grep -oE '`[A-Z][A-Za-z]+(\.[A-Za-z0-9]+)?`' | tr -d '\140' | sort -u |
    comm -23 - "$names" | report "tests/README.md names a test that does not exist"
# A suppression of a function that has another name by now suppresses nothing.
sed -n 's/^race:snapvm:://p' tests/tsan.supp | while read -r name; do
    grep -qF "$name(" "${sources[@]}" || echo "$name"
done | report "tests/tsan.supp names a function that does not exist"
shellcheck "${scripts[@]}" | grep -v '^$' | report "shellcheck"
printf '%s\0' "${sources[@]}" | xargs -0 -n 16 -P "$jobs" clang-format-19 --dry-run --Werror 2>&1 | grep 'error:' |
    report "not formatted; run clang-format-19 -i"
printf '   house rules, shellcheck and clang-format: %s files, %s faults, %s s\n' \
    "${#all[@]}" "$faults" "$((SECONDS - began))"

[ $quick = 0 ] || { echo "   clang-tidy: left out"; [ "$faults" = 0 ]; exit; }
began=$SECONDS
cmake --preset tidy >"$log" 2>&1 || { cat "$log"; exit 1; }
# Files that the build makes for others to include or embed (the ledger guest) must be there;
# nothing else is built.
cmake --build build/tidy --target ledger_guest >"$log" 2>&1 || { cat "$log"; exit 1; }
run-clang-tidy-19 -quiet -j "$jobs" -p build/tidy "^$PWD/(vmm|devices|snapshot)/" >"$log" 2>/dev/null ||
    faults=$((faults + 1))
grep -E '(warning|error):' "$log" | sort -u
printf '   clang-tidy: %s s\n' "$((SECONDS - began))"
[ "$faults" = 0 ]
