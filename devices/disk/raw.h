// SPDX-License-Identifier: Apache-2.0
// A disk whose bytes are those of a file or block device.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "devices/disk/disk.h"
#include "devices/disk/disk_file.h"
#include "devices/disk/image/image.h"
#include "devices/disk/io/disk_io.h"
#include "devices/disk/io/file_calls.h"

namespace snapvm {

/// Executes each request on the file as it is.
class RawDisk final : public Disk {
public:
    RawDisk(DiskFile file, DiskOptions options);
    ~RawDisk() override;

    [[nodiscard]] std::uint64_t size() const override { return file_.size; }
    [[nodiscard]] std::uint32_t block_size() const override;
    [[nodiscard]] bool read_only() const override { return options_.read_only; }
    [[nodiscard]] const std::string& name() const override { return file_.name; }
    Status resize(std::optional<std::uint64_t> bytes) override;
    Status start() override;
    [[nodiscard]] int event() const override { return event_.get(); }
    void add(DiskRequest& request) override;
    void submit() override;
    void reap(const Ended& ended) override;

    [[nodiscard]] const DiskFile* file() const override { return &file_; }
    Result<int> prepare_overlay(disk::Overlay overlay) override;
    void drop_overlay() override;
    /// The disk that goes on is another one, which has this one's file.
    Result<std::unique_ptr<Disk>> freeze(const std::string& path) override;

private:
    using Call = disk::FileCalls::Call;
    Status extend_file(std::uint64_t bytes);
    void end(Call& call, int error);

    DiskFile file_;
    DiskOptions options_;
    UniqueFd event_;  ///< eventfd
    std::vector<Call> pool_;
    std::vector<Call*> free_;
    std::vector<std::pair<Call*, int>> ended_;  ///< with their errno, until reap() reports them
    bool reaping_ = false;                      ///< reap() is about to report what ends now
    std::optional<disk::FileCalls> calls_;
    std::unique_ptr<disk::IoLoop> next_loop_;  ///< of the disk that goes on
    std::unique_ptr<disk::Image> next_;        ///< the overlay that was prepared, or null
    std::unique_ptr<io::Engine> engine_;  // last: its requests are in pool_, so it is destroyed first
};

}  // namespace snapvm
