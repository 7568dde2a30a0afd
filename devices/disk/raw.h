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

/// Each request is a row of calls: what a short one leaves, and other ways of what a file system does not have.
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
    /// Ways to be rid of bytes, the best first.
    enum class Way : std::uint8_t { punch, zero_range, discard, write_zeros, nothing };
    static constexpr std::size_t kWays = 5;
    struct Free {
        void operator()(void* memory) const { std::free(memory); }
    };
    struct Op : DiskCall {
        DiskRequest* request = nullptr;
        std::uint64_t done = 0;   ///< bytes
        Way way = Way::punch;
        bool buffered = false;    ///< the direct way was refused
        bool bounced = false;
        bool flushing = false;    ///< the last call, which makes it durable
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
    void wake();
    [[nodiscard]] Way next_way(const DiskRequest& request, Way after) const;
    [[nodiscard]] bool offset_aligned(const Op& op) const;
    [[nodiscard]] bool buffers_aligned(const Op& op) const;
    [[nodiscard]] bool behind_the_end(const Op& op) const;
    bool make_bounce(Op& op);

    DiskFile file_;
    DiskOptions options_;
    std::array<bool, kWays> lacking_{};  ///< ways that this file turned out not to have
    UniqueFd event_;                     ///< eventfd
    std::vector<Op> ops_;
    std::vector<Op*> free_;
    std::vector<std::pair<Op*, int>> ended_;  ///< with their errno, to be told of by `reap`
    std::vector<std::pair<Op*, int>> faults_;  ///< the hook's, as if a call had failed so
    // Their calls are in ops_: they go first.
    std::unique_ptr<DiskEngine> engine_;
    std::unique_ptr<DiskEngine> helper_;  ///< threads, for what io_uring has no operation for; from the first such call on
};

}  // namespace snapvm
