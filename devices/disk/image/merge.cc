// SPDX-License-Identifier: Apache-2.0
// Walks along a child and its parent, and copies from one to the other.
#include "devices/disk/image/merge.h"

#include <algorithm>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "devices/disk/qcow2/concurrency.h"

namespace snapvm::disk {
namespace {

constexpr std::size_t kAlignment = 4096;  // of the memory, for O_DIRECT

/// Who has a range's bytes, seen from the child.
enum class Owner : std::uint8_t {
    child,
    child_zero,
    parent,
    parent_zero,
    beyond,  ///< nobody: the parent ends before
    behind,  ///< the images behind the parent; or the parent, if the walk does not look at it
};
struct Stretch {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    Owner owner = Owner::behind;
};

/// Goes through the ranges of a child, in order. The parent is looked at if it is given.
class Walk {
public:
    Walk(Image& child, Image* parent) : child_(child), parent_(parent) {}
    [[nodiscard]] bool ended() const { return at_ == child_.size(); }
    Task<Result<Stretch>> next() {
        if (left_ == 0) {
            Result<ExtentRange> found = co_await child_.look(at_, child_.size() - at_);
            CO_TRY(found);
            extent_ = found->extent;
            left_ = found->size;
        }
        Stretch stretch{.offset = at_, .size = left_, .owner = Owner::behind};
        if (extent_ != Extent::backing) {
            stretch.owner = extent_ == Extent::data ? Owner::child : Owner::child_zero;
        } else if (parent_ != nullptr && at_ >= parent_->size()) {
            stretch.owner = Owner::beyond;
        } else if (parent_ != nullptr) {
            Result<ExtentRange> found = co_await parent_->look(at_, std::min(left_, parent_->size() - at_));
            CO_TRY(found);
            stretch.size = found->size;
            stretch.owner = found->extent == Extent::data   ? Owner::parent
                            : found->extent == Extent::zero ? Owner::parent_zero
                                                            : Owner::behind;
        }
        at_ += stretch.size;
        left_ -= stretch.size;
        co_return stretch;
    }

private:
    Image& child_;
    Image* parent_;
    std::uint64_t at_ = 0;
    Extent extent_ = Extent::backing;  ///< of the child's range that the walk is in
    std::uint64_t left_ = 0;           ///< of it, in bytes
};

/// Copies ranges from one image to another, several at a time. Ranges in a row are copied as one,
/// up to the size of a piece.
class Copier {
public:
    using Store = Task<Status> (Image::*)(std::uint64_t, std::uint64_t, std::span<const iovec>);
    Copier(Image& from, Image& to, Store store, const MergeOptions& options, std::uint64_t total)
        : from_(from), to_(to), store_(store), options_(options), total_(total), group_(options.in_flight) {}

    [[nodiscard]] bool failed() const { return group_.failed(); }
    [[nodiscard]] Status check_cancelled() const {
        return options_.cancelled && options_.cancelled() ? fail(ErrorKind::cancelled, "the merge was cancelled")
                                                          : Status();
    }
    /// Copies a range. It waits while enough others are under way.
    Task<Status> add(std::uint64_t offset, std::uint64_t size) {
        while (size > 0) {
            if (offset != offset_ + size_) {
                Status begun = co_await begin();
                CO_TRY(begun);
                offset_ = offset;
            }
            const std::uint64_t some = std::min(size, options_.piece - (offset_ + size_) % options_.piece);
            size_ += some;
            offset += some;
            size -= some;
            if (offset % options_.piece == 0) {
                Status begun = co_await begin();
                CO_TRY(begun);
            }
        }
        co_return Status{};
    }
    /// Begins what was added and waits for more.
    Task<Status> begin() {
        const std::uint64_t offset = offset_;
        const std::uint64_t size = std::exchange(size_, 0);
        offset_ += size;
        Status wanted = check_cancelled();
        CO_TRY(wanted);
        if (size > 0) {
            co_await group_.add(copy(offset, size));
        }
        co_return Status{};
    }
    /// Does something else beside the copies.
    Task<> beside(Task<Status> task) { return group_.add(std::move(task)); }
    /// Waits for all that has begun. Must be the last call.
    Task<Status> end() { return group_.wait(); }

private:
    struct Free {
        void operator()(std::byte* memory) const { ::operator delete(memory, std::align_val_t{kAlignment}); }
    };
    using Buffer = std::unique_ptr<std::byte, Free>;

    Buffer take() {
        if (free_.empty()) {
            return Buffer(static_cast<std::byte*>(::operator new(options_.piece, std::align_val_t{kAlignment})));
        }
        Buffer buffer = std::move(free_.back());
        free_.pop_back();
        return buffer;
    }
    Task<Status> copy(std::uint64_t offset, std::uint64_t size) {
        Buffer buffer = take();
        const Parts parts{{buffer.get(), size}};
        Status status = co_await from_.read(offset, size, parts);
        if (status) {
            status = co_await (to_.*store_)(offset, size, parts);
        }
        free_.push_back(std::move(buffer));
        CO_TRY(status);
        done_ += size;
        if (options_.progress) {
            options_.progress(done_, total_);
        }
        co_return Status{};
    }

    Image& from_;
    Image& to_;
    Store store_;
    const MergeOptions& options_;
    std::uint64_t total_;
    std::uint64_t done_ = 0;
    std::uint64_t offset_ = 0;  ///< of the range that was not begun yet
    std::uint64_t size_ = 0;
    std::vector<Buffer> free_;
    qcow2::TaskGroup group_;
};

Task<Status> copy_down(Walk& walk, Copier& copier, Image& parent) {
    while (!walk.ended() && !copier.failed()) {
        Result<Stretch> stretch = co_await walk.next();
        CO_TRY(stretch);
        Status status = copier.check_cancelled();
        CO_TRY(status);
        if (stretch->owner == Owner::child) {
            status = co_await copier.add(stretch->offset, stretch->size);
            CO_TRY(status);
        } else if (stretch->owner == Owner::child_zero) {
            co_await copier.beside(parent.write_zeroes(stretch->offset, stretch->size, /*unmap=*/true));
        }
    }
    co_return co_await copier.begin();
}

Task<Status> copy_up(Walk& walk, Copier& copier, Image& child, const Image* behind) {
    // Where nothing is behind the parent, what nobody has reads as zeros anyway.
    const std::uint64_t end = behind != nullptr ? behind->size() : 0;
    while (!walk.ended() && !copier.failed()) {
        Result<Stretch> stretch = co_await walk.next();
        CO_TRY(stretch);
        Status status = copier.check_cancelled();
        CO_TRY(status);
        if (stretch->owner == Owner::parent) {
            status = co_await copier.add(stretch->offset, stretch->size);
            CO_TRY(status);
        } else if ((stretch->owner == Owner::parent_zero || stretch->owner == Owner::beyond) && stretch->offset < end) {
            const std::uint64_t size = std::min(stretch->size, end - stretch->offset);
            co_await copier.beside(child.zero_absent(stretch->offset, size));
        }
    }
    co_return co_await copier.begin();
}

}  // namespace

Task<Result<MergeCost>> estimate_merge(Image& child, Image& parent) {
    MergeCost cost;
    for (Walk walk(child, &parent); !walk.ended();) {
        Result<Stretch> stretch = co_await walk.next();
        CO_TRY(stretch);
        cost.down += stretch->owner == Owner::child ? stretch->size : 0;
        cost.up += stretch->owner == Owner::parent ? stretch->size : 0;
    }
    co_return cost;
}

Task<Status> fold_down(Image& child, Image& parent, MergeOptions options) {
    if (parent.read_only()) {
        co_return fail(ErrorKind::usage,
                       parent.name() + " is open for reading only, and nothing can be merged into it");
    }
    std::uint64_t total = 0;
    if (options.progress) {
        Result<MergeCost> cost = co_await estimate_merge(child, parent);
        CO_TRY(cost);
        total = cost->down;
    }
    if (parent.size() < child.size()) {
        Status grown = co_await parent.resize(child.size());
        CO_TRY(grown);
    }
    Copier copier(child, parent, &Image::write, options, total);
    Walk walk(child, nullptr);
    Status walked = co_await copy_down(walk, copier, parent);
    Status copied = co_await copier.end();
    CO_TRY(walked);
    CO_TRY(copied);
    co_return co_await parent.flush();
}

Task<Status> pull_up(Image& child, BackingName behind, MergeOptions options) {
    Image* const parent = child.backing();
    if (parent == nullptr || child.read_only()) {
        co_return fail(ErrorKind::usage, child.name() + (parent == nullptr ? " has no backing image to merge with"
                                                                           : " is open for reading only"));
    }
    std::uint64_t total = 0;
    if (options.progress) {
        Result<MergeCost> cost = co_await estimate_merge(child, *parent);
        CO_TRY(cost);
        total = cost->up;
    }
    Copier copier(*parent, child, &Image::fill_absent, options, total);
    Walk walk(child, parent);
    Status walked = co_await copy_up(walk, copier, child, parent->backing());
    Status copied = co_await copier.end();
    CO_TRY(walked);
    CO_TRY(copied);
    co_return co_await child.rebase(std::move(behind.file), std::move(behind.format));
}

}  // namespace snapvm::disk
