// SPDX-License-Identifier: Apache-2.0
// What commands print goes through here, so that no name in it reaches a terminal as an escape
// sequence (vmm/base/printable.h). A guest's console is the one exception.
#pragma once

#include <cstdio>
#include <string_view>

#include "vmm/base/error.h"

namespace snapvm::cli {

/// Prints as printf(3) does. Line ends are printed as they are, so an argument of one line goes
/// through printable() first if it may have some.
[[gnu::format(printf, 2, 3)]] void print(std::FILE* to, const char* format, ...);
/// Prints `text` and a line end on stdout.
void print_line(std::string_view text);
/// Prints "snapvm: ", the message and a line end on stderr. A line end within it is escaped.
void print_error(std::string_view message);
/// Prints an error as print_error() does, or with --json as {"error": MESSAGE}, on stderr.
void print_failure(const Error& error, bool json);
/// Shows `text` on stderr in place of what was shown there before, without a line end. An empty
/// text clears the line.
void show_progress(std::string_view text);

}  // namespace snapvm::cli
