// SPDX-License-Identifier: Apache-2.0
#include "tests/support/loop_device.h"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <utility>

namespace snapvm::test {
namespace {

std::string output_of(const std::string& command) {
    std::string out;
    std::FILE* pipe = ::popen((command + " 2>/dev/null").c_str(), "r");
    if (pipe != nullptr) {
        std::array<char, 256> line;
        while (std::fgets(line.data(), line.size(), pipe) != nullptr) {
            out += line.data();
        }
        ::pclose(pipe);
    }
    while (!out.empty() && out.back() == '\n') {
        out.pop_back();
    }
    return out;
}

}  // namespace

LoopDevice::LoopDevice(const std::string& file, unsigned sector) {
    if (::geteuid() != 0) {
        reason_ = "loop devices need root";
        return;
    }
    const std::string command = "losetup --find --show --sector-size " + std::to_string(sector) + " ";
    path_ = output_of(command + "--direct-io=on " + file);
    if (path_.empty()) {
        path_ = output_of(command + file);
    }
    if (path_.empty()) {
        reason_ = "losetup has no loop device to give";
    }
}

LoopDevice::~LoopDevice() {
    if (!path_.empty()) {
        output_of("losetup -d " + path_);
    }
}

LoopDevice::LoopDevice(LoopDevice&& other) noexcept
    : path_(std::exchange(other.path_, {})), reason_(std::move(other.reason_)) {}

LoopDevice& LoopDevice::operator=(LoopDevice&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(reason_, other.reason_);
    return *this;
}

}  // namespace snapvm::test
