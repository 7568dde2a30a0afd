// SPDX-License-Identifier: Apache-2.0
// Makes every KVM ioctl: retries it on EINTR, and keeps its name in the error.
#pragma once

#include <sys/ioctl.h>

#include <cerrno>
#include <string_view>

#include "vmm/base/error.h"

namespace snapvm::kvm {

/// Returns the ioctl's non-negative result. Fails with system; the error names `call` and `object`.
template <class Argument>
Result<int> checked_ioctl(int fd, unsigned long request, Argument argument, std::string_view call,
                          std::string_view object) {
    int result = 0;
    do {
        result = ::ioctl(fd, request, argument);
    } while (result < 0 && errno == EINTR);
    if (result < 0) {
        return fail(Error::system(call, object, errno));
    }
    return result;
}

}  // namespace snapvm::kvm

/// Calls checked_ioctl, with the request's own name as the call.
#define KVM_IOCTL(fd, request, argument, object) \
    ::snapvm::kvm::checked_ioctl((fd), (request), (argument), #request, (object))
