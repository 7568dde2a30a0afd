// SPDX-License-Identifier: Apache-2.0
// The driver's side of virtio without a guest: a split queue in plain memory, and the registers of
// the MMIO transport. Tests and fuzzers of all devices use it. Source: virtio 1.2, 2.7 and 3.1.1.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vmm/bus/bus.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm::test {

/// A queue at `base`. Its three parts follow one another, each on pages of its own.
class DriverQueue {
public:
    static constexpr std::uint16_t kNext = 1;
    static constexpr std::uint16_t kWrite = 2;
    static constexpr std::uint16_t kIndirect = 4;
    struct Buffer {
        Gpa at;
        std::uint32_t size = 0;
        bool device_writes = false;
    };
    struct Used {
        std::uint32_t head = 0;
        std::uint32_t written = 0;
    };

    DriverQueue(GuestMemory& memory, Gpa base, std::uint16_t size) : memory_(&memory), base_(base), size_(size) {}

    /// Returns the same queue in other memory with the same contents.
    [[nodiscard]] DriverQueue on(GuestMemory& memory) const {
        DriverQueue other = *this;
        other.memory_ = &memory;
        return other;
    }
    [[nodiscard]] std::uint16_t size() const { return size_; }
    [[nodiscard]] Gpa descriptors() const { return base_; }
    [[nodiscard]] Gpa available() const { return base_ + align_up(16ULL * size_, kPageSize); }
    [[nodiscard]] Gpa used() const { return available() + align_up(6 + 2ULL * size_, kPageSize); }
    /// Returns the first address after the queue.
    [[nodiscard]] Gpa end() const { return used() + align_up(6 + 8ULL * size_, kPageSize); }

    void write_descriptor(std::uint16_t index, Gpa at, std::uint32_t size, std::uint16_t flags, std::uint16_t next) {
        write_descriptor_at(descriptors() + 16ULL * index, at, size, flags, next);
    }
    void write_descriptor_at(Gpa place, Gpa at, std::uint32_t size, std::uint16_t flags, std::uint16_t next) {
        store(place, at.value);
        store(place + 8, size);
        store(place + 12, flags);
        store(place + 14, next);
    }
    /// Writes a chain into free descriptors and makes it available. Returns its head.
    std::uint16_t add(std::span<const Buffer> buffers) {
        const std::uint16_t head = next_descriptor_;
        for (std::size_t i = 0; i < buffers.size(); ++i) {
            const auto index = static_cast<std::uint16_t>((head + i) % size_);
            const bool last = i + 1 == buffers.size();
            write_descriptor(index, buffers[i].at, buffers[i].size,
                             static_cast<std::uint16_t>((buffers[i].device_writes ? kWrite : 0) | (last ? 0 : kNext)),
                             static_cast<std::uint16_t>((index + 1) % size_));
        }
        next_descriptor_ = static_cast<std::uint16_t>((head + buffers.size()) % size_);
        offer(head);
        return head;
    }
    std::uint16_t add(std::initializer_list<Buffer> buffers) { return add(std::span(buffers.begin(), buffers.size())); }
    /// Does the same through an indirect table at `table`.
    std::uint16_t add_indirect(Gpa table, std::span<const Buffer> buffers) {
        for (std::size_t i = 0; i < buffers.size(); ++i) {
            write_descriptor_at(table + 16 * i, buffers[i].at, buffers[i].size,
                                static_cast<std::uint16_t>((buffers[i].device_writes ? kWrite : 0) |
                                                           (i + 1 == buffers.size() ? 0 : kNext)),
                                static_cast<std::uint16_t>(i + 1));
        }
        const std::uint16_t head = next_descriptor_;
        write_descriptor(head, table, static_cast<std::uint32_t>(16 * buffers.size()), kIndirect, 0);
        next_descriptor_ = static_cast<std::uint16_t>((head + 1) % size_);
        offer(head);
        return head;
    }
    /// Puts any number into the available ring as a head.
    void offer(std::uint16_t head) {
        store(available() + 4 + 2ULL * (next_available_ % size_), head);
        set_available_index(++next_available_);
    }
    void set_available_index(std::uint16_t index) { store(available() + 2, index); }
    void set_no_interrupt(bool no) { store(available(), static_cast<std::uint16_t>(no ? 1 : 0)); }
    /// Requests an interrupt once the used index passes this one (event index).
    void set_used_event(std::uint16_t index) { store(available() + 4 + 2ULL * size_, index); }
    [[nodiscard]] std::uint16_t used_flags() const { return load<std::uint16_t>(used()); }
    [[nodiscard]] std::uint16_t used_index() const { return load<std::uint16_t>(used() + 2); }
    [[nodiscard]] std::uint16_t available_event() const { return load<std::uint16_t>(used() + 4 + 8ULL * size_); }
    /// Returns the next chain that the device gave back.
    std::optional<Used> take() {
        if (used_index() == next_used_) {
            return std::nullopt;
        }
        const Gpa entry = used() + 4 + 8ULL * (next_used_++ % size_);
        return Used{load<std::uint32_t>(entry), load<std::uint32_t>(entry + 4)};
    }

    /// Store and load like a guest: they mark no page as written.
    template <class T>
    void store(Gpa at, T value) {
        const auto bytes = memory_->span(at, sizeof value);
        std::memcpy(bytes->data(), &value, sizeof value);
    }
    template <class T>
    [[nodiscard]] T load(Gpa at) const {
        return *memory_->load<T>(at);
    }

private:
    GuestMemory* memory_;
    Gpa base_;
    std::uint16_t size_;
    std::uint16_t next_descriptor_ = 0;
    std::uint16_t next_available_ = 0;
    std::uint16_t next_used_ = 0;
};

/// Drives the registers of one device.
class MmioDriver {
public:
    explicit MmioDriver(BusDevice& device) : device_(device) {}

    std::uint32_t read(std::uint64_t offset) {
        std::uint32_t value = 0;
        device_.read(offset, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }
    void write(std::uint64_t offset, std::uint32_t value) {
        device_.write(offset, std::as_bytes(std::span(&value, 1)));
    }
    template <class T>
    T config(std::uint64_t offset) {
        T value{};
        device_.read(0x100 + offset, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }

    std::uint64_t device_features() {
        write(0x14, 1);
        const std::uint64_t high = read(0x10);
        write(0x14, 0);
        return high << 32 | read(0x10);
    }
    /// Goes up to FEATURES_OK with VERSION_1 and those bits of `features` that the device offers.
    /// Returns whether the device has accepted them.
    bool negotiate(std::uint64_t features) {
        write(0x70, 0);
        write(0x70, 1);
        write(0x70, 3);
        const std::uint64_t chosen = (features | 1ULL << 32) & device_features();
        write(0x24, 0);
        write(0x20, static_cast<std::uint32_t>(chosen));
        write(0x24, 1);
        write(0x20, static_cast<std::uint32_t>(chosen >> 32));
        write(0x70, 11);
        return (read(0x70) & 8) != 0;
    }
    void set_queue(std::uint32_t index, const DriverQueue& queue) {
        write(0x30, index);
        write(0x38, queue.size());
        const auto place = [&](std::uint64_t offset, Gpa at) {
            write(offset, static_cast<std::uint32_t>(at.value));
            write(offset + 4, static_cast<std::uint32_t>(at.value >> 32));
        };
        place(0x80, queue.descriptors());
        place(0x90, queue.available());
        place(0xA0, queue.used());
        write(0x44, 1);
    }
    void start() { write(0x70, 15); }
    void notify(std::uint32_t queue) { write(0x50, queue); }
    [[nodiscard]] bool needs_reset() { return (read(0x70) & 64) != 0; }
    /// Returns the causes of interrupts since the last call, and acknowledges them.
    std::uint32_t acknowledge() {
        const std::uint32_t causes = read(0x60);
        write(0x64, causes);
        return causes;
    }

private:
    BusDevice& device_;
};

}  // namespace snapvm::test
