// SPDX-License-Identifier: Apache-2.0
// Threads for code that throws nothing.
#pragma once

#include <concepts>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "vmm/base/error.h"

namespace snapvm {

/// A std::thread that runs `work`; an error that names `what` where the system starts no more.
template <std::invocable Work>
Result<std::thread> start_thread(std::string_view what, Work work) {
    try {
        return std::thread(std::move(work));
    } catch (const std::system_error& error) {
        return fail(
            Error::system("pthread_create", std::string(what), error.code().value(), "raise the process limit (ulimit -u)"));
    }
}

}  // namespace snapvm
