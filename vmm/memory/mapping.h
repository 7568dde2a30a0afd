// SPDX-License-Identifier: Apache-2.0
// One owner per memory mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "vmm/base/error.h"

namespace snapvm {

/// Owns one range of address space, unmapped on destruction. What is mapped inside may be replaced piece by piece.
class Mapping {
public:
    Mapping() = default;
    Mapping(Mapping&& other) noexcept : address_(std::exchange(other.address_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    Mapping& operator=(Mapping&& other) noexcept {
        if (this != &other) {
            reset();
            address_ = std::exchange(other.address_, nullptr);
            size_ = std::exchange(other.size_, 0);
        }
        return *this;
    }
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping() { reset(); }

    /// Zeroed private memory, not accounted up front. `alignment` (a power of two, at least 4,096) is that of the host address:
    /// huge pages need 2 MiB.
    static Result<Mapping> anonymous(std::uint64_t size, std::uint64_t alignment);
    /// `size` bytes of `fd` from `offset`, private (copy-on-write) or shared.
    static Result<Mapping> of_file(int fd, std::uint64_t offset, std::uint64_t size, std::uint64_t alignment, bool shared,
                                   bool writable = true);

    [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(address_); }
    [[nodiscard]] std::uint64_t size() const { return size_; }
    [[nodiscard]] bool valid() const { return address_ != nullptr; }
    [[nodiscard]] std::span<std::byte> bytes() const { return {data(), size_}; }
    void reset();

private:
    Mapping(void* address, std::uint64_t size) : address_(address), size_(size) {}
    void* address_ = nullptr;
    std::uint64_t size_ = 0;
};

}  // namespace snapvm
