// SPDX-License-Identifier: Apache-2.0
// The contents behind a guest's disk: bytes by offset, many requests at a time. Implemented for raw
// files and block devices, and for qcow2 images.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devices/config/device_config.h"
#include "vmm/base/error.h"
#include "vmm/io/engine.h"

namespace snapvm {

struct DiskFile;  // disk_file.h
namespace disk {
struct LayerMark;  // layer_mark.h
struct Overlay;    // image/overlay.h
}  // namespace disk

/// One request. It and the memory behind `buffers` must stay where they are until it has ended.
struct DiskRequest {
    enum class Kind : std::uint8_t { read, write, flush, discard, write_zeroes };
    Kind kind{};
    std::uint64_t offset = 0;  ///< in bytes, as `size`; both are within the disk
    std::uint64_t size = 0;
    std::vector<iovec> buffers;  ///< of a read or a write: `size` bytes in total
    bool unmap = false;  ///< write_zeroes: the space may be freed
    bool durable = false;  ///< write, write_zeroes: ends only when the bytes survive a power loss
};

/// A disk. One thread at a time. Requests in flight have no order between them; a flush covers the
/// requests that have ended before it was added.
class Disk {
public:
    /// The most requests in flight.
    static constexpr unsigned kMaxInFlight = 256;
    /// Gets a request that has ended, and its errno, 0 for success.
    using Ended = std::function<void(DiskRequest& request, int error)>;

    Disk() = default;
    Disk(const Disk&) = delete;
    Disk& operator=(const Disk&) = delete;
    /// Waits for the requests in flight: until then the kernel reads and writes their memory.
    virtual ~Disk() = default;

    /// Returns the size in bytes: as of the open, or of the last resize().
    [[nodiscard]] virtual std::uint64_t size() const = 0;
    /// Returns the block size that partition tables and file systems on the disk count in, 512 to
    /// 4096 bytes. Requests may cover any sectors of 512 bytes.
    [[nodiscard]] virtual std::uint32_t block_size() const = 0;
    [[nodiscard]] virtual bool read_only() const = 0;
    [[nodiscard]] virtual const std::string& name() const = 0;  ///< for messages
    /// Whether the file has tables of its own, which are behind the data until a flush: a copy of
    /// the file, or a power loss, would lack what was written since.
    [[nodiscard]] virtual bool has_tables() const { return false; }

    /// Makes the disk larger: the file is extended, or the image. Waits for what is in flight if it
    /// has to. A block device has the size that it has by now, and `bytes` may be left out. What is
    /// new reads as zeros, except on a device. Fails with usage for a size that is smaller or not
    /// possible, and with unsupported and system. The size is then as before.
    virtual Status resize(std::optional<std::uint64_t> bytes) = 0;

    /// Must be called before the first request.
    virtual Status start() = 0;
    /// Returns a descriptor that becomes readable when reap() has something to do.
    [[nodiscard]] virtual int event() const = 0;
    /// Takes a request. It begins with submit() at the latest, so one system call can begin many.
    virtual void add(DiskRequest& request) = 0;
    /// Begins the requests that were added.
    virtual void submit() = 0;
    /// Calls ended(request, error) for each request that has ended.
    virtual void reap(const Ended& ended) = 0;

    // A layer is taken of a disk (image/new_layer.h). Those that are no files have none.

    /// Returns the file of the image that takes the writes; null if there is none.
    [[nodiscard]] virtual const DiskFile* file() const { return nullptr; }
    /// Opens the overlay in which the disk is to continue. Returns the descriptor that is event()
    /// then. Requests may be in flight. Fails with unsupported, or as qcow2::open_image() does.
    virtual Result<int> prepare_overlay(disk::Overlay overlay);
    /// Forgets it.
    virtual void drop_overlay() {}
    /// Marks the image, whose path is `path` now, as a frozen layer, and calls freeze().
    Result<std::unique_ptr<Disk>> continue_in_overlay(const disk::LayerMark& mark, const std::string& path);
    /// Makes durable what was written, freezes the image, whose path is `path` now, and goes on in
    /// the overlay that was prepared. No request may be in flight. Returns the disk that is to be
    /// used from now on, or null if it is this one. If it fails, all is as before.
    virtual Result<std::unique_ptr<Disk>> freeze(const std::string& path);
};

/// Fails with usage if a disk cannot have this size, in bytes, or has a larger one.
Status check_larger(const Disk& disk, std::uint64_t bytes);

/// Options of open_disk().
struct DiskOptions {
    bool read_only = false;
    DiskFormat format = DiskFormat::raw;
    /// The backing files that the user names himself. A header may name them, too, whatever they
    /// are.
    std::vector<std::string> backing = {};
    Ephemeral ephemeral = Ephemeral::off;
    std::uint64_t ephemeral_max = 0;  ///< as in DiskConfig
    /// A guest knows what is on the disk, so advice offers no new file, and none of a new machine's
    /// options.
    bool restored = false;
    bool direct = true;  ///< bypass the page cache (O_DIRECT), if the file allows it
    io::EngineKind engine = io::EngineKind::automatic;
    io::FaultHook hook = {};  // for tests
};

/// Opens the file or block device at `path` and locks it (image_lock.h): as one of many readers if
/// it is read-only or ephemeral, as the one writer otherwise. `id` names it in messages. Fails as
/// DiskFile::open() does, and as disk::open_ephemeral().
Result<std::unique_ptr<Disk>> open_disk(const std::string& id, const std::string& path, DiskOptions options);

/// Opens a machine's disks in place of open_disk(), for disks that are no files, and for tests.
using DiskOpener = std::function<Result<std::unique_ptr<Disk>>(const DiskConfig& config)>;

}  // namespace snapvm
