// SPDX-License-Identifier: Apache-2.0
#include <blkid/blkid.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "snapshot/area/area.h"
#include "vmm/base/crc32c.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kZeroStep = 256ULL << 20;

struct FreeProbe {
    void operator()(blkid_probe probe) const { ::blkid_free_probe(probe); }
};

// Returns the type of the file system or partition table that libblkid finds in a range; empty if
// it finds none.
Result<std::string> foreign_signature(const AreaFile& file, std::uint64_t offset, std::uint64_t size) {
    const std::unique_ptr<std::remove_pointer_t<blkid_probe>, FreeProbe> probe(::blkid_new_probe());
    if (!probe || ::blkid_probe_set_device(probe.get(), file.fd.get(), static_cast<off_t>(offset),
                                           static_cast<off_t>(size)) != 0) {
        return fail(ErrorKind::system, "cannot probe " + file.name + " for a file system");
    }
    ::blkid_probe_enable_superblocks(probe.get(), 1);
    ::blkid_probe_set_superblocks_flags(probe.get(), BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE);
    ::blkid_probe_enable_partitions(probe.get(), 1);
    const int found = ::blkid_do_safeprobe(probe.get());
    if (found == 1) {
        return std::string();
    }
    if (found == -2) {
        return std::string("ambiguous");
    }
    if (found != 0) {
        return fail(ErrorKind::system, "cannot probe " + file.name + " for a file system");
    }
    for (const char* key : {"TYPE", "PTTYPE"}) {
        const char* value = nullptr;
        if (::blkid_probe_lookup_value(probe.get(), key, &value, nullptr) == 0 && value != nullptr) {
            return std::string(value);
        }
    }
    return std::string("unknown");
}

std::unexpected<Error> refuse(const AreaFile& file, const std::string& what) {
    return fail(ErrorKind::usage, file.name + " " + what, "add --force to overwrite it");
}

Status check_device(const AreaFile& file, std::uint64_t size) {
    // Probes the whole device first: an area at an offset must not lie within another system's
    // partition.
    for (const auto& [offset, length] : {std::pair{std::uint64_t{0}, file.end}, std::pair{file.base, size}}) {
        const std::string type = TRY(foreign_signature(file, offset, length));
        if (!type.empty()) {
            return refuse(file, "has the signature of a file system or a partition table (" + type + ")");
        }
    }
    return {};
}

Status check_file(const AreaFile& file, std::uint64_t size) {
    const off_t data = ::lseek(file.fd.get(), static_cast<off_t>(file.base), SEEK_DATA);
    if (data >= 0 && static_cast<std::uint64_t>(data) < file.base + size) {
        return refuse(file, "holds data already");
    }
    if (data < 0 && errno != ENXIO) {
        return fail(Error::system("lseek SEEK_DATA", file.name, errno));
    }
    return {};
}

Status write_empty_superblocks(AreaIo& io, const AreaLayout& layout) {
    const std::vector<std::byte> no_table(kSectionTableSize);
    for (std::uint32_t i = 0; i < kSuperblockCopies; ++i) {
        Superblock sb;
        sb.area_size = layout.size;
        sb.slots = static_cast<std::uint32_t>(layout.slots.size());
        sb.slot = sb.slots == 2 ? i : 0;
        sb.cpus = layout.cpus;
        sb.slot_offset = layout.slots[sb.slot].offset;
        sb.slot_size = layout.slots[sb.slot].size;
        sb.memory_bytes = layout.memory_bytes;
        sb.table_crc = crc32c(no_table);
        TRY(io.write(IoStep::superblock, sb.encode_header(), i * kSuperblockSize));
    }
    return io.flush();
}

}  // namespace

Result<std::uint64_t> create_area(const AreaPath& path, const AreaShape& shape, const CreateOptions& options) {
    const AreaLayout layout = TRY(AreaLayout::of(shape.blocks, shape.cpus, options.slots));
    std::optional<FolderEntry> created;
    AreaFile file = TRY(AreaFile::open_or_create(path, created));
    if (file.device) {
        // O_EXCL without O_CREAT claims a block device as a whole. The open fails while the device
        // is mounted or claimed by another program.
        file = TRY(AreaFile::open(path, O_RDWR | O_EXCL));
        if (!file.device) {
            return fail(ErrorKind::busy, file.name + " was replaced meanwhile", "try again");
        }
    }
    TRY(lock_unpinned(file.lock_descriptor(), file, 0, layout.size,
                      "a machine maps a snapshot in it, or one is being written", options.names));
    if (file.device && file.room() < layout.size) {
        return fail(ErrorKind::usage, file.name + " has room for " + std::to_string(file.room()) +
                                          " bytes, and the area needs " + std::to_string(layout.size));
    }
    if (!options.force) {
        const SuperblockPair pair = TRY(SuperblockPair::read(file));
        if (pair.has_magic()) {
            return refuse(file, "is a snapshot area already");
        }
        TRY(file.device ? check_device(file, layout.size) : check_file(file, layout.size));
    }
    if (!file.device && file.room() < layout.size &&
        ::ftruncate(file.fd.get(), static_cast<off_t>(file.base + layout.size)) != 0) {
        return fail(Error::system("ftruncate", file.name, errno));
    }
    AreaIo io(file.fd.get(), file.name, file.base, file.device, {});
    // The old superblocks are zeroed first, so that they never describe data that is zeroed
    // already.
    TRY(io.zero(0, kSlotsStart));
    TRY(io.flush());
    for (std::uint64_t at = kSlotsStart; at < layout.size; at += kZeroStep) {
        const std::uint64_t part = std::min(kZeroStep, layout.size - at);
        TRY(io.zero(at, part));
        if (options.progress) {
            options.progress(at + part, layout.size);
        }
    }
    TRY(io.flush());
    TRY(write_empty_superblocks(io, layout));
    return layout.size;
}

}  // namespace snapvm
