// SPDX-License-Identifier: Apache-2.0
// An owner for memory mappings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "vmm/base/error.h"

namespace snapvm {

/// Owns one range of address space and unmaps it on destruction. Parts of the range may be mapped
/// anew meanwhile.
class Mapping {
public:
    Mapping() = default;
    Mapping(Mapping&& other) noexcept
        : address_(std::exchange(other.address_, nullptr)), size_(std::exchange(other.size_, 0)) {}
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

    /// Reserves addresses without access rights. `alignment` is that of the host address: a power
    /// of two, at least 4,096; huge pages need 2 MiB.
    static Result<Mapping> reserve(std::uint64_t size, std::uint64_t alignment);
    /// Maps zeroed private memory, without reserving swap for it.
    static Result<Mapping> anonymous(std::uint64_t size, std::uint64_t alignment);
    /// Maps `size` bytes of `fd` from `offset`, private (copy-on-write) or shared.
    static Result<Mapping> of_file(int fd, std::uint64_t offset, std::uint64_t size, std::uint64_t alignment,
                                   bool shared, bool writable = true);
    /// Maps `fd` from `offset` over this range, in place of what is mapped there. After a failure
    /// nothing may be mapped in the range.
    Status map_file(int fd, std::uint64_t offset, bool shared, bool writable = true);

    [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(address_); }
    [[nodiscard]] std::uint64_t size() const { return size_; }
    [[nodiscard]] bool valid() const { return address_ != nullptr; }
    [[nodiscard]] std::span<std::byte> bytes() const { return {data(), size_}; }
    void reset();

private:
    Mapping(void* address, std::uint64_t size) : address_(address), size_(size) {}
    Status map_over(int protection, int flags, int fd, std::uint64_t offset);

    void* address_ = nullptr;
    std::uint64_t size_ = 0;
};

}  // namespace snapvm
