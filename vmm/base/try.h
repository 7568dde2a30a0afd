// SPDX-License-Identifier: Apache-2.0
// TRY, for .cc files only: macros do not belong into the headers that embedders include.
#pragma once

#include "vmm/base/error.h"

namespace snapvm::detail {

template <class T>
T take_value(Result<T>&& result) {
    return *std::move(result);
}
inline void take_value(Result<void>&& /*result*/) {}

}  // namespace snapvm::detail

/// The value of a Result, or a return of its error from the enclosing function. Works for Status too (as a statement), and nests.
#define TRY(expression) SNAPVM_TRY_NUMBERED(expression, __COUNTER__)
#define SNAPVM_TRY_NUMBERED(expression, number) SNAPVM_TRY_NAMED(expression, number)
#define SNAPVM_TRY_NAMED(expression, number) SNAPVM_TRY_IMPL(expression, try_result_##number)
#define SNAPVM_TRY_IMPL(expression, result)                   \
    __extension__({                                           \
        auto result = (expression);                           \
        if (!result.has_value()) [[unlikely]] {               \
            return ::snapvm::fail(std::move(result).error()); \
        }                                                     \
        ::snapvm::detail::take_value(std::move(result));      \
    })
