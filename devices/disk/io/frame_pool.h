// SPDX-License-Identifier: Apache-2.0
// Memory for the frames of coroutines. A request needs a few frames, of the same sizes as the one
// before, so each thread keeps those that have ended for the next ones.
#pragma once

#include <array>
#include <cstddef>
#include <new>

namespace snapvm::disk {

/// The free frames of one thread. A frame may end on another thread than it has begun on.
class FramePool {
public:
    constexpr FramePool() = default;
    FramePool(const FramePool&) = delete;
    FramePool& operator=(const FramePool&) = delete;
    ~FramePool() {
        for (List& list : lists_) {
            while (list.first != nullptr) {
                ::operator delete(list.pop());
            }
        }
    }

    static void* take(std::size_t size) {
        const std::size_t index = index_of(size);
        if (index < kLists && mine().lists_[index].first != nullptr) {
            return mine().lists_[index].pop();
        }
        return ::operator new((index + 1) * kStep);
    }
    static void give_back(void* memory, std::size_t size) noexcept {
        const std::size_t index = index_of(size);
        if (index < kLists && mine().lists_[index].count < kMostFrames) {
            mine().lists_[index].push(memory);
        } else {
            ::operator delete(memory);
        }
    }

private:
    static constexpr std::size_t kStep = 64;  // sizes are multiples of it
#ifdef __has_feature  // of clang, with which sanitizers are built
    static constexpr bool kKeeps = !__has_feature(address_sanitizer);  // it is to see a frame's use after its end
#else
    static constexpr bool kKeeps = true;
#endif
    static constexpr std::size_t kLists = kKeeps ? 16 : 0;
    static constexpr std::size_t kMostFrames = 256;  // of one size

    struct Free {
        Free* next;
    };
    struct List {
        Free* first = nullptr;
        std::size_t count = 0;

        void push(void* memory) {
            first = ::new (memory) Free{first};
            ++count;
        }
        void* pop() {
            Free* free = first;
            first = free->next;
            --count;
            return free;
        }
    };
    static constexpr std::size_t index_of(std::size_t size) { return (size - 1) / kStep; }
    static FramePool& mine() {
        static thread_local FramePool pool;
        return pool;
    }

    std::array<List, kLists> lists_{};
};

/// The base of a promise whose frame comes from the pool.
struct PooledFrame {
    static void* operator new(std::size_t size) { return FramePool::take(size); }
    static void operator delete(void* memory, std::size_t size) noexcept { FramePool::give_back(memory, size); }
};

}  // namespace snapvm::disk
