// SPDX-License-Identifier: Apache-2.0
// The host's end of a line: keeps the newest output of the guest and lets several readers follow
// it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "devices/base/device.h"

namespace snapvm {

/// A ring of the newest output. A position is the number of bytes since the machine was built, so a
/// reader keeps one number. Any thread may call it.
class Console final : public OutputSink {
public:
    static constexpr std::size_t kCapacity = 256 << 10;

    Console() : ring_(std::make_unique_for_overwrite<char[]>(kCapacity)) {}

    /// Appends a byte. Returns false if the ring is full of bytes that the held reader has not
    /// consumed. The devices call it, with their lock held.
    bool put(std::uint8_t byte) override;

    struct Chunk {
        std::string bytes;
        std::uint64_t next = 0;  ///< position after the last byte of `bytes`
    };
    /// Returns what was written from `position` on, and skips output that the ring no longer holds.
    /// Waits until there is some. Returns nothing if the deadline passes, or if the console is
    /// closed and all was read.
    Chunk read(std::uint64_t position, std::chrono::steady_clock::time_point deadline) const;
    /// Returns the position of the oldest byte in the ring.
    [[nodiscard]] std::uint64_t oldest() const;
    /// Returns the position after the newest byte.
    [[nodiscard]] std::uint64_t end() const;

    /// Makes output wait for one reader (the process' stdout, or a log file), which reports its
    /// position with `consumed`. Calls `room_again`, without a lock, when there is room after a put
    /// that failed.
    void hold_for_reader(std::function<void()> room_again);
    void consumed(std::uint64_t position);
    void release_reader();

    /// Declares that nothing more will be written, which wakes the readers.
    void close();
    [[nodiscard]] bool closed() const;

private:
    [[nodiscard]] std::uint64_t oldest_locked() const { return written_ > kCapacity ? written_ - kCapacity : 0; }

    mutable std::mutex mutex_;  // guards all below; no other lock is taken under it
    mutable std::condition_variable changed_;
    std::unique_ptr<char[]> ring_;  ///< not cleared: the first touch of each page costs, and most guests write little
    std::uint64_t written_ = 0;
    std::optional<std::uint64_t> held_;  // the held reader's position
    std::function<void()> room_again_;
    bool refused_ = false;
    bool closed_ = false;
};

}  // namespace snapvm
