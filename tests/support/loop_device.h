// SPDX-License-Identifier: Apache-2.0
// A block device to write over: a file behind a loop device, with direct I/O where the file system has that.
#pragma once

#include <string>

namespace snapvm::test {

/// Gone with the object; its file is whoever's made it.
class LoopDevice {
public:
    LoopDevice() = default;
    /// Sets up a device over `file`. Needs root.
    explicit LoopDevice(const std::string& file, unsigned sector = 512);
    ~LoopDevice();
    LoopDevice(LoopDevice&& other) noexcept;
    LoopDevice& operator=(LoopDevice&& other) noexcept;

    /// Empty: none was to be had, for `reason`.
    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] const std::string& reason() const { return reason_; }

private:
    std::string path_;
    std::string reason_;
};

}  // namespace snapvm::test
