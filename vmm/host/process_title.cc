// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/process_title.h"

#include <algorithm>
#include <cstring>
#include <span>

namespace snapvm {
namespace {

std::span<char> command_line;

}  // namespace

void remember_arguments(int argc, char** argv) {
    if (argc > 0) {
        char* const last = argv[argc - 1];  // the kernel puts them one behind the other
        command_line = {argv[0], last + std::strlen(last)};
    }
}

void set_process_title(const std::string& title) {
    std::ranges::fill(command_line, '\0');
    std::copy_n(title.begin(), std::min(title.size(), command_line.size()), command_line.begin());
}

}  // namespace snapvm
