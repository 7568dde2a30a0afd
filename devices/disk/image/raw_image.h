// SPDX-License-Identifier: Apache-2.0
// A raw file or block device as an image: it has all bytes of its disk itself.
#pragma once

#include "devices/disk/image/image.h"
#include "devices/disk/io/disk_io.h"

namespace snapvm::disk {

/// The bytes are those of the file. Its holes are told as zeros.
class RawImage final : public Image {
public:
    RawImage(DiskFile file, IoLoop& loop, bool read_only);

    [[nodiscard]] const std::string& name() const override { return file_.name(); }
    [[nodiscard]] std::uint64_t size() const override { return size_; }
    [[nodiscard]] bool read_only() const override { return read_only_; }
    [[nodiscard]] Image* backing() const override { return nullptr; }

    Task<Result<ExtentRange>> look(std::uint64_t offset, std::uint64_t size) override;
    Task<Status> read(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) override;
    Task<Status> write(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) override;
    Task<Status> write_zeroes(std::uint64_t offset, std::uint64_t size, bool unmap) override;
    Task<Status> discard(std::uint64_t offset, std::uint64_t size) override;
    Task<Status> resize(std::uint64_t size) override;
    Task<Status> fill_absent(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) override;
    Task<Status> zero_absent(std::uint64_t offset, std::uint64_t size) override;
    Task<Status> rebase(std::string file, std::string format) override;
    Task<Status> flush() override;
    Task<Status> close() override;
    Task<Status> freeze(std::string path) override;
    [[nodiscard]] const DiskFile& file() const override { return file_.file(); }
    std::shared_ptr<Image> exchange_backing(std::shared_ptr<Image> backing) override { return backing; }

private:
    DiskIo file_;
    std::uint64_t size_;
    bool read_only_;
};

}  // namespace snapvm::disk
