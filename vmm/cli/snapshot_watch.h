// SPDX-License-Identifier: Apache-2.0
// Watches a snapshot or a detach: shows progress on a terminal, and cancels it on Ctrl-C.
#pragma once

#include <string>
#include <thread>

#include "vmm/base/fd.h"
#include "vmm/cli/commands.h"

namespace snapvm::cli {

/// Returns one line for an answer of GET /snapshot/status.
[[nodiscard]] std::string progress_text(const std::string& status);

/// Blocks SIGINT and SIGTERM in the calling thread, and takes them on a thread of its own, which
/// makes its own connections to the machine. Constructed before the request that waits is sent. The
/// first Ctrl-C cancels the snapshot; a second one ends this process.
class SnapshotWatch {
public:
    SnapshotWatch(const Globals& globals, std::string name);
    SnapshotWatch(const SnapshotWatch&) = delete;
    SnapshotWatch& operator=(const SnapshotWatch&) = delete;
    ~SnapshotWatch() { end(); }
    /// Ends the watch, after the request was answered.
    void end();

private:
    void run();
    void cancel();
    void show();

    const Globals& globals_;
    std::string name_;
    bool terminal_;
    bool shown_ = false;
    UniqueFd signals_;
    UniqueFd over_;
    std::thread thread_;
};

}  // namespace snapvm::cli
