// SPDX-License-Identifier: Apache-2.0
// What is behind a guest's disk: bytes by offset, many requests at a time. Raw files and block devices; formats with layers would be
// another implementation.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "devices/device_config.h"
#include "devices/disk/engine.h"
#include "vmm/base/error.h"

namespace snapvm {

/// One request. Its maker keeps it, and the memory behind `buffers`, until it has ended.
struct DiskRequest {
    enum class Kind : std::uint8_t { read, write, flush, discard, write_zeroes };
    Kind kind{};
    std::uint64_t offset = 0;  ///< bytes, as is `size`: within the disk
    std::uint64_t size = 0;
    std::vector<iovec> buffers;  ///< of a read or a write: `size` bytes in all
    bool unmap = false;  ///< write_zeroes: the space may be given back
    bool durable = false;  ///< write, write_zeroes: ends when the bytes would survive a power cut
};

/// Used by one thread at a time. Requests in flight have no order between them; a flush covers what has ended before it was added.
class Disk {
public:
    /// Requests in flight at most.
    static constexpr unsigned kMaxInFlight = 256;
    /// errno of a request that failed, else 0.
    using Ended = std::function<void(DiskRequest& request, int error)>;

    Disk() = default;
    Disk(const Disk&) = delete;
    Disk& operator=(const Disk&) = delete;
    /// Waits for what is in flight: until then the kernel reads and writes its memory.
    virtual ~Disk() = default;

    [[nodiscard]] virtual std::uint64_t size() const = 0;  ///< when it was opened, in bytes
    /// 512 to 4096: what partition tables and file systems in it count in. Requests may be of any sectors of 512.
    [[nodiscard]] virtual std::uint32_t block_size() const = 0;
    [[nodiscard]] virtual bool read_only() const = 0;
    [[nodiscard]] virtual const std::string& name() const = 0;  ///< for messages

    /// Before the first request.
    virtual Status start() = 0;
    /// Becomes readable when `reap` has something to say.
    [[nodiscard]] virtual int event() const = 0;
    /// Takes a request, which begins at the latest with `submit`: so many are begun by one system call.
    virtual void add(DiskRequest& request) = 0;
    virtual void submit() = 0;
    /// Calls ended(request, error) for each that has ended.
    virtual void reap(const Ended& ended) = 0;
};

struct DiskOptions {
    bool read_only = false;
    bool direct = true;  ///< past the page cache (O_DIRECT), where the file has that
    DiskEngineKind engine = DiskEngineKind::automatic;
    DiskHook hook = {};
};

/// Opens the file or block device at `path`, and locks it: against everybody who writes it, and to write it against everybody. `id` is for
/// messages.
Result<std::unique_ptr<Disk>> open_disk(const std::string& id, const std::string& path, DiskOptions options);

/// What opens a machine's disks instead: disks that are no files, and tests.
using DiskOpener = std::function<Result<std::unique_ptr<Disk>>(const DiskConfig& config)>;

}  // namespace snapvm
