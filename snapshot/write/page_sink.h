// SPDX-License-Identifier: Apache-2.0
// Writes page data to a file, many writes at a time.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "snapshot/area/area_io.h"
#include "vmm/base/error.h"
#include "vmm/io/engine.h"

namespace snapvm {

inline constexpr std::size_t kMaxPageWrite = 1U << 20;  ///< bytes in one write

/// The file that a sink writes to. `fd` must outlive the sink.
struct SinkTarget {
    int fd = -1;
    std::string name;  ///< for messages
    IoHook hook;
};

/// Writes of page data to one file, carried out by an engine. After the first error every later
/// call fails with it. One thread.
class PageSink {
public:
    static constexpr unsigned kMaxInFlight = 16;

    /// Creates a sink. Fails as io::make_engine.
    static Result<std::unique_ptr<PageSink>> open(SinkTarget target, io::EngineKind kind);
    PageSink(const PageSink&) = delete;
    PageSink& operator=(const PageSink&) = delete;
    /// Waits for the writes that have begun: the kernel may read the data until then.
    ~PageSink() = default;

    /// Begins a write of at most kMaxPageWrite bytes at `offset` in the file. Waits if kMaxInFlight
    /// are in flight. `data` is read until drain(): if it changes meanwhile, either version may be
    /// written. Two writes between drains must not overlap, because their order is undefined.
    Status write(std::span<const std::byte> data, std::uint64_t offset);
    /// Waits until all writes are complete. Short writes are continued.
    Status drain();
    [[nodiscard]] std::string_view name() const { return engine_->name(); }

private:
    struct Write : io::Request {
        std::span<const std::byte> left;
    };

    PageSink(SinkTarget target, std::unique_ptr<io::Engine> engine);
    void begin(Write& write);
    void reap();
    void wait();
    [[nodiscard]] Status status() const { return error_ ? fail(*error_) : Status{}; }
    void keep_error(Error error);

    SinkTarget target_;
    std::array<Write, kMaxInFlight> writes_;
    std::vector<Write*> free_;
    std::optional<Error> error_;
    bool lost_ = false;  ///< the results of the writes in flight are lost
    std::unique_ptr<io::Engine> engine_;  // last: its requests are in writes_, so it is destroyed first
};

}  // namespace snapvm
