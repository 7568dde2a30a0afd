// SPDX-License-Identifier: Apache-2.0
// The macro TRY, included by .cc files only, so that embedders' headers get no macros.
#pragma once

#include "vmm/base/error.h"

namespace snapvm::detail {

template <class T>
T take_value(Result<T>&& result) {
    return *std::move(result);
}
inline void take_value(Result<void>&& /*result*/) {}

}  // namespace snapvm::detail

/// Yields the value of a Result, or returns its error from the enclosing function. A Status works
/// too, as a statement. Uses may nest.
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
