// SPDX-License-Identifier: Apache-2.0
// What an image's file may hold after a power loss. A recorder sees each call that a driver makes
// on the file, and builds the file as it may be if the power is lost then: all that a flush has
// made durable, and any part of the rest, torn at sectors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "devices/disk/io/disk_io.h"
#include "vmm/base/fd.h"
#include "vmm/io/engine.h"

namespace snapvm::disk::test {

/// The calls on one file. Its hook goes to IoLoop::make(); the tasks of that loop must be run by
/// run() or wait(), which know when a flush may have ended. One thread.
class PowerLoss {
public:
    /// Copies the file as it is now: so much is durable.
    explicit PowerLoss(const std::string& path);
    PowerLoss(const PowerLoss&) = delete;
    PowerLoss& operator=(const PowerLoss&) = delete;

    [[nodiscard]] io::FaultHook hook() {
        return [this](const io::Request& request) {
            add(request);
            return io::Fault{};
        };
    }
    /// Runs a task to its end.
    template <class T>
    T run(IoLoop& loop, Task<T> task);
    /// Lets tasks that were started run until done() returns true.
    template <class Done>
    void wait(IoLoop& loop, const Done& done);

    /// Returns the number of calls so far. State n is that of a loss before call n.
    [[nodiscard]] std::size_t calls() const { return calls_.size(); }
    /// Writes the file as it may be after a loss before call `point` into `path`.
    void build(std::size_t point, std::mt19937_64& random, const std::string& path) const;

private:
    enum class Kind : std::uint8_t { write, resize, flush };
    static constexpr std::size_t kNever = ~std::size_t{0};
    struct Call {
        Kind kind = Kind::write;
        std::uint64_t offset = 0;          ///< of a resize: the new size
        std::vector<std::byte> bytes;      ///< of a write, whole sectors but for the last one
        std::uint64_t step = 0;            ///< how often run() had waited before
        std::size_t covered_by = kNever;   ///< the first flush that makes it durable
    };
    void add(const io::Request& request);
    void note_size();
    void cover();
    [[nodiscard]] bool is_done(const Call& call, std::size_t at,
                               const std::map<std::uint64_t, std::vector<std::size_t>>& writes) const;
    [[nodiscard]] std::vector<std::byte> read(std::uint64_t offset, std::size_t size) const;

    UniqueFd file_;
    std::vector<std::byte> begin_;  ///< the file at the construction
    std::uint64_t size_ = 0;        ///< of the file, with all calls so far
    std::vector<Call> calls_;
    std::uint64_t step_ = 0;
};

/// Returns how many power losses, or moments, a case tries: SNAPVM_TEST_POINTS, or `usual`.
[[nodiscard]] std::size_t test_points(std::size_t usual);

template <class T>
T PowerLoss::run(IoLoop& loop, Task<T> task) {
    std::optional<T> result;
    start(std::move(task), [&result](T value) { result.emplace(std::move(value)); });
    wait(loop, [&result] { return result.has_value(); });
    return *std::move(result);
}

template <class Done>
void PowerLoss::wait(IoLoop& loop, const Done& done) {
    while (!done()) {
        ++step_;
        if (!loop.wait()) {
            std::abort();  // the tasks wait for nothing that could end
        }
    }
    ++step_;
}

}  // namespace snapvm::disk::test
