// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/image/ephemeral.h"

#include <utility>

#include "devices/disk/image/overlay.h"
#include "devices/disk/io/unnamed_file.h"
#include "vmm/base/absolute_path.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm::disk {
namespace {

// Memory has no seeks, and the largest size counts whole clusters: with small ones a guest that
// writes here and there reaches it later. The tables of a very large disk would be large, too.
constexpr std::uint32_t kMemoryClusterBits = 14;
constexpr std::uint64_t kLargeDisk = 4ULL << 40;

// Calls on the file use the page cache: what is short-lived need never be written to a disk.
Result<DiskFile> make_file(const std::string& id, const std::string& path, const DiskOptions& options) {
    const bool memory = options.ephemeral == Ephemeral::memory;
    DiskFile file;
    file.name = "disk " + id + " (" + path + ", ephemeral";
    if (options.ephemeral_max != 0 || memory) {
        file.max_size = options.ephemeral_max != 0 ? options.ephemeral_max : kEphemeralMemory;
        file.name += ", at most " + size_text(file.max_size);
    }
    file.name += ")";
    file.transient = true;
    file.fd = TRY(memory ? make_memory_file("snapvm-disk-" + id) : make_temporary_file());
    return file;
}

}  // namespace

Result<Chain> open_ephemeral(const std::string& id, const std::string& path, DiskOptions options) {
    options.read_only = true;
    Chain chain = TRY(open_chain(id, path, options));
    qcow2::CreateOptions how;
    how.size = chain.top->size();
    how.backing_file = TRY(absolute_path(path));  // nothing reads it
    how.backing_format = name_of(options.format);
    how.durable = false;
    if (options.ephemeral == Ephemeral::memory && how.size <= kLargeDisk) {
        how.cluster_bits = kMemoryClusterBits;
    }
    Overlay overlay = TRY(make_overlay(TRY(make_file(id, path, options)), how));
    chain.top = TRY(open_overlay(std::move(overlay), std::move(chain.top), *chain.loop));
    return chain;
}

}  // namespace snapvm::disk
