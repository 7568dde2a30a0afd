// SPDX-License-Identifier: Apache-2.0
// A guest's disk whose bytes are in an image, or in a chain of images.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "devices/disk/disk.h"
#include "devices/disk/image/image.h"
#include "devices/disk/io/disk_io.h"

namespace snapvm::disk {

/// Executes each request as a task on the image. A request that the image cannot carry out ends
/// with the errno of the call that failed, or with EIO.
class ImageDisk final : public Disk {
public:
    /// `loop` has the calls of all files of the image.
    ImageDisk(std::unique_ptr<IoLoop> loop, std::unique_ptr<Image> image, std::uint32_t block_size = 512);
    /// Waits for the requests in flight, and closes the image. What the image fails to make durable
    /// is lost without a word: a caller who must know flushes first.
    ~ImageDisk() override;

    [[nodiscard]] std::uint64_t size() const override { return image_->size(); }
    [[nodiscard]] std::uint32_t block_size() const override { return block_size_; }
    [[nodiscard]] bool read_only() const override { return image_->read_only(); }
    [[nodiscard]] const std::string& name() const override { return image_->name(); }
    [[nodiscard]] bool has_tables() const override { return true; }
    Status resize(std::optional<std::uint64_t> bytes) override;
    Status start() override { return {}; }
    [[nodiscard]] int event() const override { return loop_->event(); }
    void add(DiskRequest& request) override;
    void submit() override { loop_->submit(); }
    void reap(const Ended& ended) override;

    [[nodiscard]] const DiskFile* file() const override { return &image_->file(); }
    Result<int> prepare_overlay(Overlay overlay) override;
    void drop_overlay() override { next_.reset(); }
    Result<std::unique_ptr<Disk>> freeze(const std::string& path) override;

    [[nodiscard]] Image& image() { return *image_; }
    [[nodiscard]] IoLoop& loop() { return *loop_; }

private:
    void end(DiskRequest& request, const Status& status);
    void wake_for_ended();
    Status wait_for_requests();

    std::unique_ptr<IoLoop> loop_;
    std::unique_ptr<Image> image_;  // after loop_: its files must go first
    std::unique_ptr<Image> next_;   ///< the overlay that was prepared, or null
    std::uint32_t block_size_;
    unsigned in_flight_ = 0;
    bool reaping_ = false;  ///< reap() is about to report what ends now
    std::vector<std::pair<DiskRequest*, int>> ended_;  ///< with their errno, until reap() reports them
    std::vector<std::pair<DiskRequest*, int>> over_;   ///< of reap(), which leaves it empty
};

}  // namespace snapvm::disk
