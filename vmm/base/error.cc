// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/error.h"

#include <system_error>

namespace snapvm {

Error::Error(ErrorKind kind, std::string what, std::string advice)
    : kind_(kind), what_(std::move(what)), advice_(std::move(advice)) {}

Error Error::system(std::string_view call, std::string_view object, int errno_value, std::string advice) {
    std::string what(call);
    if (!object.empty()) {
        what.append(" ").append(object);
    }
    // strerror is not thread-safe; generic_category is.
    what.append(": ").append(std::generic_category().message(errno_value));
    Error error(ErrorKind::system, std::move(what), std::move(advice));
    error.code_ = errno_value;
    error.call_ = call;
    error.object_ = object;
    return error;
}

Error&& Error::within(std::string_view context) && {
    what_.insert(0, ": ").insert(0, context);
    return std::move(*this);
}

Error&& Error::advise(std::string advice) && {
    advice_ = std::move(advice);
    return std::move(*this);
}

std::string Error::message() const {
    std::string line = what_;
    if (!advice_.empty()) {
        line.append("; ").append(advice_);
    }
    return line;
}

}  // namespace snapvm
