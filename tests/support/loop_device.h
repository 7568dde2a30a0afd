// SPDX-License-Identifier: Apache-2.0
// A block device that a test may overwrite: a file behind a loop device, with direct I/O if the
// file system supports it.
#pragma once

#include <string>

namespace snapvm::test {

/// The destructor detaches the device. The file stays, and its maker removes it.
class LoopDevice {
public:
    LoopDevice() = default;
    /// Attaches a device to `file`. Needs root.
    explicit LoopDevice(const std::string& file, unsigned sector = 512);
    ~LoopDevice();
    LoopDevice(LoopDevice&& other) noexcept;
    LoopDevice& operator=(LoopDevice&& other) noexcept;

    /// Returns the device's path, or an empty text if none could be attached; reason() says why.
    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] const std::string& reason() const { return reason_; }

private:
    std::string path_;
    std::string reason_;
};

}  // namespace snapvm::test
