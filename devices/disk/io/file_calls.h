// SPDX-License-Identifier: Apache-2.0
// Requests on one disk file as series of system calls: further calls complete a short one, or
// replace one that the file system does not support.
#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>

#include "devices/disk/disk.h"
#include "devices/disk/disk_file.h"
#include "vmm/io/engine.h"

namespace snapvm::disk {

/// Executes requests on one file. Several files may share an engine. One thread at a time.
class FileCalls {
public:
    /// What happens at the end of a file. A device always ends where it ends.
    enum class AtEnd : std::uint8_t {
        fails,    ///< requests fail with EIO
        extends,  ///< writes extend the file, and reads give zeros
    };
    /// A request under way, and its present system call. It must stay where it is until it has
    /// ended, and may then be used again.
    class Call : public io::Request {
    public:
        [[nodiscard]] DiskRequest& request() const { return *request_; }

    private:
        friend class FileCalls;
        /// The ways to clear bytes, best first.
        enum class Way : std::uint8_t { punch, zero_range, discard, write_zeros, nothing };
        struct Free {
            void operator()(void* memory) const { std::free(memory); }
        };
        FileCalls* file_ = nullptr;
        DiskRequest* request_ = nullptr;
        std::uint64_t done_ = 0;  ///< bytes transferred so far
        Way way_ = Way::punch;
        bool buffered_ = false;  ///< O_DIRECT was refused for this request
        bool bounced_ = false;   ///< `bounce_` holds the bytes of the call
        bool flushing_ = false;  ///< the last call, a flush that makes the request durable
        std::unique_ptr<std::byte, Free> bounce_;
    };
    /// Gets a call whose request has ended, and the errno, 0 for success.
    using Ended = std::function<void(Call& call, int error)>;

    /// The file and the engine must outlive the object.
    FileCalls(const DiskFile& file, io::Engine& engine, AtEnd at_end, Ended ended);
    FileCalls(const FileCalls&) = delete;
    FileCalls& operator=(const FileCalls&) = delete;
    ~FileCalls() = default;

    /// Begins a request. It may end before this returns.
    void begin(Call& call, DiskRequest& request);
    /// Continues the request of a system call that has ended, on whichever file it is.
    static void advance(const io::Completion& completion);

private:
    using Way = Call::Way;
    static constexpr std::size_t kWays = 5;

    void begin(Call& call);
    void begin_transfer(Call& call);
    void begin_clearing(Call& call);
    void advance(Call& call, std::int64_t result);
    void advance_transfer(Call& call, std::int64_t result);
    void advance_clearing(Call& call, std::int64_t result);
    void end_transfer(Call& call, std::int64_t result);
    void end(Call& call, int error);
    void end_flush(Call& call, int error);
    void send(Call& call);
    [[nodiscard]] Way next_way(const DiskRequest& request, Way after) const;
    [[nodiscard]] bool offset_aligned(const Call& call) const;
    [[nodiscard]] bool buffers_aligned(const Call& call) const;
    [[nodiscard]] bool behind_the_end(const Call& call) const;
    bool make_bounce(Call& call) const;

    const DiskFile& file_;
    io::Engine& engine_;
    AtEnd at_end_;
    Ended ended_;
    std::array<bool, kWays> lacking_{};  ///< ways that this file turned out not to support
    bool wrote_through_cache_ = false;
    int flush_error_ = 0;  ///< errno of the first flush that failed
};

}  // namespace snapvm::disk
