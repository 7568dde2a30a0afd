// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/output.h"

#include <array>
#include <cstdarg>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "vmm/base/printable.h"

namespace snapvm::cli {
namespace {

void put(std::FILE* to, const std::string& text) { (void)std::fwrite(text.data(), 1, text.size(), to); }

}  // namespace

void print(std::FILE* to, const char* format, ...) {  // NOLINT(cert-dcl50-cpp): checked like printf
    std::array<char, 512> usual;
    va_list arguments;
    va_start(arguments, format);
    va_list again;
    va_copy(again, arguments);
    const int size = std::vsnprintf(usual.data(), usual.size(), format, arguments);
    va_end(arguments);
    std::vector<char> large;
    if (size >= static_cast<int>(usual.size())) {
        large.resize(static_cast<std::size_t>(size) + 1);
        (void)std::vsnprintf(large.data(), large.size(), format, again);
    }
    va_end(again);
    if (size > 0) {
        put(to, printable_lines({large.empty() ? usual.data() : large.data(), static_cast<std::size_t>(size)}));
    }
}

void print_line(std::string_view text) { put(stdout, printable(text) + "\n"); }

void print_error(std::string_view message) { put(stderr, "snapvm: " + printable(message) + "\n"); }

void print_failure(const Error& error, bool json) {
    if (json) {
        put(stderr, json_text(nlohmann::ordered_json{{"error", error.message()}}) + "\n");
    } else {
        print_error(error.message());
    }
}

void show_progress(std::string_view text) { put(stderr, "\r\033[K" + printable(text)); }

}  // namespace snapvm::cli
