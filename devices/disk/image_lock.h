// SPDX-License-Identifier: Apache-2.0
// Locks on disk images, with the bytes and the meaning of QEMU's: machines, QEMU and qemu-img
// exclude each other by them.
//
// A program uses an image with permissions, and can forbid permissions to all others. It says both
// with shared OFD locks on single bytes of the file: the lock on byte 100 + n means "I use
// permission n", the lock on byte 200 + n means "no other may use permission n". The contents of
// these bytes do not matter, nor whether the file is that long. A program first takes all of its
// locks. Then it tests (F_OFD_GETLK) that nobody forbids what it uses, and that nobody uses what it
// forbids; if a test fails it gives its locks back. Of two that come at the same time both may be
// refused, and never both let in.
//
// Source: QEMU's block/file-posix.c (RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE), and the permissions
// in include/block/block-common.h (BLK_PERM_*).
#pragma once

#include <string>
#include <string_view>

#include "vmm/base/error.h"

namespace snapvm {

/// QEMU's permissions: bit n is permission n.
enum ImagePermission : unsigned {
    kConsistentRead = 1U << 0,  ///< read what no writer is in the middle of
    kWrite = 1U << 1,
    kWriteUnchanged = 1U << 2,  ///< write what is there already
    kResize = 1U << 3,          ///< change the size of the file
};

/// What one user of an image does, and what no other may do meanwhile: sets of ImagePermission.
struct ImageAccess {
    unsigned uses = 0;
    unsigned forbids = 0;
};

/// One of many that only read. There is no writer meanwhile.
inline constexpr ImageAccess kImageReader{kConsistentRead, kWrite | kResize};
/// The only one that writes, and that resizes: an image with tables grows. It does not forbid
/// reading, since QEMU's `--force-share` (-U) is for images that are written. Who wants an image
/// that does not change is kept out all the same, because it forbids writing.
inline constexpr ImageAccess kImageWriter{kConsistentRead | kWrite | kResize, kWrite | kWriteUnchanged | kResize};

/// Takes the locks of `access` on the file of `fd`, without waiting. `fd` is open for reading and
/// has none of these locks yet. They last until its open file description is closed. Fails with
/// busy, and with none of them taken, if the locks of another open file description forbid this;
/// `name`, `who` and `advice` are as in lock_range(). An exclusive lock on the whole file conflicts
/// with everything. So does a shared one, even with a reader's locks: a test sees only one of the
/// locks in its way, and a writer's may be behind that.
Status lock_image(int fd, ImageAccess access, const std::string& name, std::string_view who, std::string_view advice);

/// Makes the locks of a writer those of a reader; no writer gets in between. The caller has ended
/// its writes, and makes no more. Leaves a reader's locks as they are.
Status share_image(int fd, const std::string& name);

}  // namespace snapvm
