// SPDX-License-Identifier: Apache-2.0
#include "snapshot/page_sink.h"

#include <cerrno>
#include <cstdlib>

namespace snapvm {

Result<std::unique_ptr<PageSink>> make_page_sink(SinkTarget target, SinkBackend backend) {
    const char* wish = std::getenv("SNAPVM_IO");  // NOLINT(concurrency-mt-unsafe): nobody here sets one
    if (backend == SinkBackend::automatic && wish != nullptr && std::string_view(wish) == "threads") {
        backend = SinkBackend::threads;
    }
    if (backend == SinkBackend::threads) {
        return make_thread_sink(std::move(target));
    }
    auto sink = make_uring_sink(target);
    if (!sink && backend == SinkBackend::automatic) {
        // Forbidden by seccomp or sysctl, not built in, or no memory to lock for the rings: threads do the same.
        const int error = sink.error().code();
        if (error == ENOSYS || error == EPERM || error == EACCES || error == ENOMEM) {
            return make_thread_sink(std::move(target));
        }
    }
    return sink;
}

}  // namespace snapvm
