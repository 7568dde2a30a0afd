// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/console.h"

#include <algorithm>

namespace snapvm {

bool Console::put(std::uint8_t byte) {
    {
        const std::lock_guard lock(mutex_);
        if (held_ && written_ - *held_ >= kCapacity) {
            refused_ = true;
            return false;
        }
        ring_[written_ % kCapacity] = static_cast<char>(byte);
        ++written_;
    }
    changed_.notify_all();
    return true;
}

Console::Chunk Console::read(std::uint64_t position, std::chrono::steady_clock::time_point deadline) const {
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, deadline, [&] { return written_ > position || closed_; });
    position = std::max(position, oldest_locked());
    Chunk chunk;
    while (position < written_) {
        const std::size_t at = position % kCapacity;
        const std::size_t count = std::min<std::uint64_t>(written_ - position, kCapacity - at);
        chunk.bytes.append(ring_.get() + at, count);
        position += count;
    }
    chunk.next = position;
    return chunk;
}

std::uint64_t Console::oldest() const {
    const std::lock_guard lock(mutex_);
    return oldest_locked();
}

std::uint64_t Console::end() const {
    const std::lock_guard lock(mutex_);
    return written_;
}

void Console::hold_for_reader(std::function<void()> room_again) {
    const std::lock_guard lock(mutex_);
    held_ = oldest_locked();
    room_again_ = std::move(room_again);
}

void Console::consumed(std::uint64_t position) {
    std::function<void()> call;
    {
        const std::lock_guard lock(mutex_);
        if (held_) {
            held_ = position;
        }
        if (refused_) {
            refused_ = false;
            call = room_again_;
        }
    }
    // Called without the lock: the device takes its own lock, and then this one in `put`.
    if (call) {
        call();
    }
}

void Console::release_reader() {
    std::function<void()> call;
    {
        const std::lock_guard lock(mutex_);
        held_.reset();
        call = std::exchange(room_again_, nullptr);
        if (!std::exchange(refused_, false)) {
            call = nullptr;
        }
    }
    if (call) {
        call();
    }
}

void Console::close() {
    {
        const std::lock_guard lock(mutex_);
        closed_ = true;
    }
    changed_.notify_all();
}

bool Console::closed() const {
    const std::lock_guard lock(mutex_);
    return closed_;
}

}  // namespace snapvm
