// SPDX-License-Identifier: Apache-2.0
// One image in a chain of disk images. An image knows which bytes it has itself; the others are
// those of the image behind it, its backing image, or zeros if there is none.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "devices/disk/io/task.h"
#include "vmm/base/error.h"

namespace snapvm {
struct DiskFile;  // disk_file.h
}  // namespace snapvm

namespace snapvm::disk {

/// A part of another buffer list: where bytes go, or come from.
using Parts = std::vector<iovec>;

/// Who has a range's bytes.
enum class Extent : std::uint8_t {
    data,     ///< this image
    zero,     ///< they read as zeros, whatever is behind
    backing,  ///< the image behind this one, or zeros
};
struct ExtentRange {
    Extent extent = Extent::backing;
    std::uint64_t size = 0;  ///< in bytes, at least 1 and at most what was asked for
    bool compressed = false;
    /// Where the data is in the file, or kNowhere if it is compressed or there is none.
    std::uint64_t host_offset = kNowhere;
    static constexpr std::uint64_t kNowhere = ~0ULL;
};

/// An image. One thread at a time; any number of calls may be under way. Ranges are in bytes of the
/// guest's disk, in multiples of 512, within size(). Memory of the caller stays until a call ends.
///
/// A write that has ended is seen by reads that begin later. flush() covers the writes that have
/// ended before it began. Overlapping calls that are under way together have no order.
class Image : public std::enable_shared_from_this<Image> {
public:
    Image() = default;
    Image(const Image&) = delete;
    Image& operator=(const Image&) = delete;
    /// No call may be under way. What was not flushed may be lost: close() first.
    virtual ~Image() = default;

    [[nodiscard]] virtual const std::string& name() const = 0;  ///< for messages: "disk root (/path)"
    [[nodiscard]] virtual std::uint64_t size() const = 0;
    [[nodiscard]] virtual bool read_only() const = 0;
    /// Returns the image behind this one, or null.
    [[nodiscard]] virtual Image* backing() const = 0;

    /// Tells who has the bytes from `offset` on, for at most `size` of them.
    virtual Task<Result<ExtentRange>> look(std::uint64_t offset, std::uint64_t size) = 0;
    /// Reads through the whole chain. Beyond the end of a backing image there are zeros.
    virtual Task<Status> read(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) = 0;
    /// Returns the image behind this one if the whole range is that one's, and this one can tell
    /// without a wait; else null. A read that begins at once may then go to that image.
    [[nodiscard]] virtual Image* passes_on(std::uint64_t /*offset*/, std::uint64_t /*size*/) { return nullptr; }
    virtual Task<Status> write(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) = 0;
    /// The range reads as zeros from now on, whatever is behind. With `unmap` its space may be
    /// freed.
    virtual Task<Status> write_zeroes(std::uint64_t offset, std::uint64_t size, bool unmap) = 0;
    /// Frees the range's space where that is possible. The range reads as zeros or as before.
    virtual Task<Status> discard(std::uint64_t offset, std::uint64_t size) = 0;
    /// Gives the disk another size, and makes that durable. What becomes part of the disk reads as
    /// zeros; what is behind a smaller size is lost. No other call may be under way. Fails with
    /// usage for a size that the image cannot have or if it is read-only, with unsupported if the
    /// image has to keep its size, and with system. After a failure it has its old size.
    virtual Task<Status> resize(std::uint64_t size) = 0;
    /// Writes the bytes where this image has none of its own (Extent::backing), and leaves the
    /// others. A write that is under way at the same time wins.
    virtual Task<Status> fill_absent(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) = 0;
    /// Makes the range read as zeros in the same places.
    virtual Task<Status> zero_absent(std::uint64_t offset, std::uint64_t size) = 0;
    /// Leaves out the image behind this one: from now on, the one behind that is behind this one,
    /// and has the name `file` and the format `format` in the header; both are empty if there is
    /// none. What ended before is durable first, and a crash leaves either chain. Other calls may
    /// be under way, and those that were passed on may use the image that was behind until this one
    /// is closed.
    virtual Task<Status> rebase(std::string file, std::string format) = 0;
    /// Makes data and mapping durable.
    virtual Task<Status> flush() = 0;
    /// Does so, and leaves the file as other programs expect a closed image. Must be the last call.
    virtual Task<Status> close() = 0;

    // For an image that becomes a frozen layer, or continues one (new_layer.h).

    /// Makes all durable, and leaves the file as close() does. The image can only be read
    /// afterwards. If it fails, the image is as before. No other call may be under way. The file's
    /// path is `path` now.
    virtual Task<Status> freeze(std::string path) = 0;
    /// Returns the image's file, of the top of a chain for instance.
    [[nodiscard]] virtual const DiskFile& file() const = 0;
    /// Puts another image behind this one, and returns the one that was there. The header names
    /// the new one. No call may be under way.
    virtual std::shared_ptr<Image> exchange_backing(std::shared_ptr<Image> backing) = 0;
};

/// Fails with usage if the image is read-only, or if no disk has this size.
Status check_new_size(const Image& image, std::uint64_t size);

/// Returns the image that a read of the range from `image` may go to, so that a long chain costs a
/// look at each image instead of a call. The read must begin at once.
inline Image& holder_of(Image& image, std::uint64_t offset, std::uint64_t size) {
    Image* holder = &image;
    while (Image* behind = holder->passes_on(offset, size)) {
        holder = behind;
    }
    return *holder;
}

}  // namespace snapvm::disk
