// SPDX-License-Identifier: Apache-2.0
// A disk whose bytes are those of a file or block device.
#pragma once

#include <array>
#include <cstdlib>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "devices/disk/disk.h"
#include "devices/disk/disk_file.h"

namespace snapvm {

/// Executes each request as a series of calls: further ones complete a short one, or replace one
/// that the file system does not support.
class RawDisk final : public Disk {
public:
    RawDisk(DiskFile file, DiskOptions options);
    ~RawDisk() override;

    [[nodiscard]] std::uint64_t size() const override { return file_.size; }
    [[nodiscard]] std::uint32_t block_size() const override;
    [[nodiscard]] bool read_only() const override { return options_.read_only; }
    [[nodiscard]] const std::string& name() const override { return file_.name; }
    Status start() override;
    [[nodiscard]] int event() const override { return event_.get(); }
    void add(DiskRequest& request) override;
    void submit() override;
    void reap(const Ended& ended) override;

private:
    /// The ways to clear bytes, best first.
    enum class Way : std::uint8_t { punch, zero_range, discard, write_zeros, nothing };
    static constexpr std::size_t kWays = 5;
    struct Free {
        void operator()(void* memory) const { std::free(memory); }
    };
    struct Op : io::Request {
        DiskRequest* request = nullptr;
        std::uint64_t done = 0;   ///< bytes transferred so far
        Way way = Way::punch;
        bool buffered = false;    ///< O_DIRECT was refused for this request
        bool bounced = false;  // `bounce` holds the bytes of the call
        bool flushing = false;    ///< the last call, a flush that makes the request durable
        std::unique_ptr<std::byte, Free> bounce;
    };

    void begin(Op& op);
    void begin_transfer(Op& op);
    void begin_clearing(Op& op);
    void advance(Op& op, std::int64_t result);
    void advance_transfer(Op& op, std::int64_t result);
    void advance_clearing(Op& op, std::int64_t result);
    void end(Op& op, int error);
    void send(Op& op);
    [[nodiscard]] Way next_way(const DiskRequest& request, Way after) const;
    [[nodiscard]] bool offset_aligned(const Op& op) const;
    [[nodiscard]] bool buffers_aligned(const Op& op) const;
    [[nodiscard]] bool behind_the_end(const Op& op) const;
    bool make_bounce(Op& op);

    DiskFile file_;
    DiskOptions options_;
    std::array<bool, kWays> lacking_{};  ///< ways that this file turned out not to support
    UniqueFd event_;                     ///< eventfd
    std::vector<Op> ops_;
    std::vector<Op*> free_;
    std::vector<std::pair<Op*, int>> ended_;  ///< with their errno, until reap() reports them
    bool reaping_ = false;                    ///< reap() is about to report what ends now
    std::unique_ptr<io::Engine> engine_;  // last: its requests are in ops_, so it is destroyed first
};

}  // namespace snapvm
