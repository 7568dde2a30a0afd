// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/output_writer.h"

#include <limits.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace snapvm {

bool OutputWriter::write(std::string_view bytes) {
    while (!bytes.empty()) {
        if (!wait_for_room()) {
            return false;
        }
        // A pipe with room takes this much without a wait (pipe(7)), even if it is blocking.
        const ssize_t written = ::write(fd_, bytes.data(), std::min<std::size_t>(bytes.size(), PIPE_BUF));
        if (written > 0) {
            bytes.remove_prefix(static_cast<std::size_t>(written));
        } else if (errno != EINTR && errno != EAGAIN) {
            return false;
        }
    }
    return true;
}

// Waits in slices, so that it sees a deadline that is set meanwhile.
bool OutputWriter::wait_for_room() const {
    constexpr int kSliceMs = 50;
    pollfd entry{fd_, POLLOUT, 0};
    while (Clock::now().time_since_epoch().count() < deadline_) {
        if (::poll(&entry, 1, kSliceMs) > 0) {
            return true;
        }
    }
    return false;
}

}  // namespace snapvm
