// SPDX-License-Identifier: Apache-2.0
// Merges two neighbours of a chain: a child and its parent, the image behind it. One of them takes
// what the other one has, and the chain then needs that other one no more.
//
// Both ways may be stopped at any instant, also by a power loss, and begun again: the child reads
// the same all the time, and what was copied is copied once more or passed over.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "devices/disk/image/image.h"
#include "vmm/base/error.h"

namespace snapvm::disk {

struct MergeOptions {
    std::uint64_t piece = 1ULL << 20;  ///< the most bytes of one copy, a multiple of 4096
    std::size_t in_flight = 8;         ///< copies at a time; each has a piece in memory
    /// Is told of each copy that has ended: the bytes so far, and those that the merge began with.
    /// What a guest overwrites meanwhile is not copied, so the last ones may be missing.
    std::function<void(std::uint64_t done, std::uint64_t total)> progress = {};
    std::function<bool()> cancelled = {};  ///< is asked before each copy
};

/// The bytes that each way would copy.
struct MergeCost {
    std::uint64_t down = 0;  ///< fold_down()
    std::uint64_t up = 0;    ///< pull_up()
};

/// The name and the format of an image as a header has them; both empty for none.
struct BackingName {
    std::string file = {};
    std::string format = {};
};

/// Looks at all ranges of the child, and of the parent where the child has none. Compressed data
/// counts as what it expands to.
Task<Result<MergeCost>> estimate_merge(Image& child, Image& parent);

/// The parent takes all that the child has itself, and is durable then: it reads as the child does.
/// `parent` must be opened to be written, and is the child's backing image, or another opening of
/// it. A parent that is shorter grows (Image::resize). One that is longer stays longer.
///
/// While it runs, the parent is neither as before nor as the child: only this child may read it,
/// whose own ranges hide what changes. Nobody may write the child. The caller makes sure that the
/// parent is behind no other image. Fails with cancelled, and as the calls on the images do.
Task<Status> fold_down(Image& child, Image& parent, MergeOptions options);

/// The child takes all that its parent has and it has not, and then has the parent's backing image
/// for its own (Image::rebase), with the name `behind`. The parent does not change, so others may
/// use it, and a guest may use the child all the time. What the parent lacks because it is shorter
/// becomes zeros in the child. Fails with cancelled, and as the calls on the images do; if the last
/// step fails, the child's header may have either name.
Task<Status> pull_up(Image& child, BackingName behind, MergeOptions options);

}  // namespace snapvm::disk
