// SPDX-License-Identifier: Apache-2.0
// While a snapshot is being made, or let go of: progress on a terminal, and Ctrl-C calls it off.
#pragma once

#include <string>
#include <thread>

#include "vmm/base/fd.h"
#include "vmm/cli/commands.h"

namespace snapvm::cli {

/// One line of what GET /snapshot/status answered.
[[nodiscard]] std::string progress_text(const std::string& status);

/// Blocks SIGINT and SIGTERM in this thread, and takes them in one of its own, which asks the machine by connections of its own. Made
/// before the request that waits. A second Ctrl-C ends this process; the snapshot is called off all the same.
class SnapshotWatch {
public:
    SnapshotWatch(const Globals& globals, std::string name);
    SnapshotWatch(const SnapshotWatch&) = delete;
    SnapshotWatch& operator=(const SnapshotWatch&) = delete;
    ~SnapshotWatch() { end(); }
    /// The request has been answered.
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
