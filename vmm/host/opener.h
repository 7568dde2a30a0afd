// SPDX-License-Identifier: Apache-2.0
// The opener of a machine's process.
#pragma once

#include <memory>
#include <string>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/base/opener.h"

namespace snapvm {

/// Opens every path from one of two folders that it takes at the start: the root for an absolute
/// path, the current directory for a relative one. So a later chdir(2) does not change what a
/// relative path means.
///
/// It is the process's opener as long as it exists. One exists at a time; it is made before threads
/// are started.
class HostOpener final : public Opener {
public:
    /// Fails with system if the root cannot be opened. If the current directory cannot be (its user
    /// may not search it), relative paths fail with that error.
    static Result<std::unique_ptr<HostOpener>> take();
    ~HostOpener() override { set_opener(nullptr); }

    [[nodiscard]] Result<UniqueFd> open(int folder, const std::string& path, int flags, unsigned mode) const override;

private:
    HostOpener(UniqueFd root, Result<UniqueFd> current) : root_(std::move(root)), current_(std::move(current)) {}
    UniqueFd root_;
    Result<UniqueFd> current_;
};

}  // namespace snapvm
