// SPDX-License-Identifier: Apache-2.0
// The serial line's other end: keeps what the guest wrote, lets several readers follow it, and feeds the guest input.
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

#include "devices/device.h"

namespace snapvm {

/// A ring of the newest output. Positions count bytes since the machine was built, so a reader keeps one number. Any thread.
class Console final : public OutputSink {
public:
    static constexpr std::size_t kCapacity = 256 << 10;

    Console() : ring_(std::make_unique_for_overwrite<char[]>(kCapacity)) {}

    /// From the serial port, on vCPU threads. False only when the one reader that must not lose anything is a whole ring behind.
    bool put(std::uint8_t byte) override;

    struct Chunk {
        std::string bytes;
        std::uint64_t next = 0;  ///< position after them
    };
    /// What was written from `position` on (older output than the ring holds is skipped), waiting until there is some. Empty when
    /// the deadline passes or the console is closed and all has been read.
    Chunk read(std::uint64_t position, std::chrono::steady_clock::time_point deadline) const;
    /// The position of the oldest byte still there.
    [[nodiscard]] std::uint64_t oldest() const;
    /// The position after the newest byte.
    [[nodiscard]] std::uint64_t end() const;

    /// One reader (the process' stdout, a log file) may ask that output waits for it. It says how far it is with `consumed`.
    void hold_for_reader(std::function<void()> room_again);
    void consumed(std::uint64_t position);
    void release_reader();

    /// Nothing more will be written: wakes readers.
    void close();
    [[nodiscard]] bool closed() const;

private:
    [[nodiscard]] std::uint64_t oldest_locked() const { return written_ > kCapacity ? written_ - kCapacity : 0; }

    mutable std::mutex mutex_;  // innermost
    mutable std::condition_variable changed_;
    std::unique_ptr<char[]> ring_;  ///< not cleared: most guests write little, and each page costs its first touch
    std::uint64_t written_ = 0;
    std::optional<std::uint64_t> held_;  // the held reader's position
    std::function<void()> room_again_;
    bool refused_ = false;
    bool closed_ = false;
};

}  // namespace snapvm
