// SPDX-License-Identifier: Apache-2.0
// Checkpoints: the disk as it was at some times, kept inside its own qcow2 image. QEMU calls them
// internal snapshots, and each program reads the other's. Source: QEMU, docs/interop/qcow2.rst,
// "Snapshots".
//
// An image is one that open_image() has returned. Calls on it must not be under way, and none may
// begin until these have ended: the disk's user holds them. What was written before belongs to the
// checkpoint, flushed or not.
//
// The time is that of reading and writing the image's L2 tables once or twice. The memory is an L1
// table, an L2 table, and the caches that the image has anyway.
//
// While counts and flags change, the image has the dirty bit (not in version 2). After a power loss
// then, it is repaired when it is opened: the change has happened as a whole, or not at all. An
// image of version 2 is as safe, but clusters may have leaked, and flags may say that a cluster is
// shared which no longer is; "qemu-img check" shows both.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "devices/disk/image/image.h"

namespace snapvm::disk::qcow2 {

/// A checkpoint of an image. Its texts are untrusted.
struct Checkpoint {
    std::string id;  ///< unique in its image
    std::string name;
    std::uint32_t seconds = 0;  ///< since the Epoch, when it was saved
    std::uint32_t nanoseconds = 0;
    std::uint64_t guest_nanoseconds = 0;  ///< that the guest had run by then
    std::uint64_t vm_state_size = 0;      ///< in bytes, of what QEMU has saved of the machine
    std::uint64_t disk_size = 0;          ///< in bytes
    bool operator==(const Checkpoint&) const = default;
};

/// What a checkpoint to be saved has.
struct NewCheckpoint {
    std::string name;  ///< 1 to 255 bytes, no zero byte, not a name or an id that the image has
    std::uint32_t seconds = 0;
    std::uint32_t nanoseconds = 0;
    std::uint64_t guest_nanoseconds = 0;
};

enum class SizeChange : std::uint8_t { refuse, allow };

/// Returns the checkpoints of an image, in their order in the file. The image may be read-only.
/// Fails with unsupported if it is not a qcow2 image, with invalid if the table is damaged, and
/// with system.
Task<Result<std::vector<Checkpoint>>> list_checkpoints(Image& image);

// These need a writable image. All fail as list_checkpoints(), and with usage if the image is
// read-only, if a call is under way, or for a name that is not possible. If one fails, the disk and
// its checkpoints are as before. If not even that can be written, the image keeps the dirty bit.
// The references must outlive the task.

/// Saves the disk as it is now as a checkpoint, and returns that. Fails with unsupported if the
/// image's reference counts are too small for one more use of its clusters.
Task<Result<Checkpoint>> save_checkpoint(Image& image, const NewCheckpoint& what);

/// Makes the disk what it was when the checkpoint with this id, or else name, was saved. The
/// checkpoint stays. What the disk was before is lost. A size that the disk had then, and has no
/// more, is refused (usage), or becomes the disk's size: then Image::size() changes. If the header
/// cannot be written, nor the old one again, the image takes no more writes until it is opened
/// again.
Task<Status> revert_to_checkpoint(Image& image, const std::string& id_or_name, SizeChange size);

/// Removes the checkpoint with this id, or else name. Clusters that nothing else uses become free.
Task<Status> remove_checkpoint(Image& image, const std::string& id_or_name);

}  // namespace snapvm::disk::qcow2
