// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/error.h"

#include <system_error>

namespace snapvm {

struct Error::Texts {
    std::string call;
    std::string object;
    std::string what;
    std::string advice;
};

Error::Error(ErrorKind kind, std::string what, std::string advice)
    : kind_(kind),
      texts_(std::make_unique<Texts>(
          Texts{.call = {}, .object = {}, .what = std::move(what), .advice = std::move(advice)})) {}
Error::Error(const Error& other)
    : kind_(other.kind_), code_(other.code_), texts_(std::make_unique<Texts>(other.texts())) {}
Error::Error(Error&& other) noexcept = default;
Error& Error::operator=(const Error& other) {
    if (this != &other) {
        *this = Error(other);
    }
    return *this;
}
Error& Error::operator=(Error&& other) noexcept = default;
Error::~Error() = default;

const Error::Texts& Error::texts() const {
    static const Texts none;  // of an error that was moved from
    return texts_ ? *texts_ : none;
}

const std::string& Error::call() const { return texts().call; }
const std::string& Error::object() const { return texts().object; }
const std::string& Error::what() const { return texts().what; }
const std::string& Error::advice() const { return texts().advice; }

Error Error::system(std::string_view call, std::string_view object, int errno_value, std::string advice) {
    std::string what(call);
    if (!object.empty()) {
        what.append(" ").append(object);
    }
    // strerror is not thread-safe; generic_category is.
    what.append(": ").append(std::generic_category().message(errno_value));
    Error error(ErrorKind::system, std::move(what), std::move(advice));
    error.code_ = errno_value;
    error.texts_->call = call;
    error.texts_->object = object;
    return error;
}

Error&& Error::within(std::string_view context) && {
    texts_->what.insert(0, ": ").insert(0, context);
    return std::move(*this);
}

Error&& Error::advise(std::string advice) && {
    texts_->advice = std::move(advice);
    return std::move(*this);
}

std::string Error::message() const {
    std::string line = what();
    if (!advice().empty()) {
        line.append("; ").append(advice());
    }
    return line;
}

}  // namespace snapvm
