// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/engine.h"

#include <cerrno>
#include <cstdlib>

namespace snapvm {

Result<std::unique_ptr<DiskEngine>> make_disk_engine(DiskEngineKind kind, int event, unsigned depth) {
    constexpr unsigned kThreads = 4;
    const char* wish = std::getenv("SNAPVM_IO");  // NOLINT(concurrency-mt-unsafe): nobody here sets one
    if (kind == DiskEngineKind::automatic && wish != nullptr && std::string_view(wish) == "threads") {
        kind = DiskEngineKind::threads;
    }
    if (kind == DiskEngineKind::threads) {
        return make_thread_engine(event, kThreads);
    }
    auto engine = make_uring_engine(event, depth);
    if (!engine && kind == DiskEngineKind::automatic) {
        // As for snapshots: forbidden by seccomp or sysctl, not built in, or no memory to lock for the rings.
        const int error = engine.error().code();
        if (error == ENOSYS || error == EPERM || error == EACCES || error == ENOMEM) {
            return make_thread_engine(event, kThreads);
        }
    }
    return engine;
}

}  // namespace snapvm
