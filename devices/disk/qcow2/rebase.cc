// SPDX-License-Identifier: Apache-2.0
// Puts another image behind a qcow2 image. A write of the first cluster may be torn at each sector
// of it. So the new name goes where the old header refers to nothing, and the first sector, which
// has the place of the name and the format, follows when the name is durable.
#include <algorithm>
#include <optional>
#include <utility>

#include "devices/disk/qcow2/big_endian.h"
#include "devices/disk/qcow2/header.h"
#include "devices/disk/qcow2/layer.h"
#include "vmm/base/try.h"

namespace snapvm::disk::qcow2 {
namespace {

constexpr std::uint64_t kSector = 512;
constexpr std::size_t kNameOffset = 8;  // the fields of the header
constexpr std::size_t kNameSize = 16;

// An old format stays if there is no new one. It means nothing then, and the extensions behind it
// need not move.
Header renamed(Header header, const std::string& file, const std::string& format) {
    header.has_backing = !file.empty();
    header.backing_file = file;
    header.backing_format = format.empty() ? header.backing_format : format;
    header.name_offset = 0;
    return header;
}

// Returns where the header's extensions end, and a name may begin.
Result<std::uint64_t> end_of_extensions(Header header) {
    header.has_backing = true;
    header.backing_file.clear();
    header.name_offset = 0;
    return load_be64(TRY(encode_header(header)), kNameOffset);
}

// Returns where a name of `size` bytes can be written that does not touch the old one. `now` is
// the first cluster.
std::optional<std::uint64_t> place_for(std::uint64_t size, std::uint64_t first, std::span<const std::byte> now) {
    const std::uint64_t old = load_be64(now, kNameOffset);
    const std::uint64_t old_end = old + load_be<std::uint32_t>(now, kNameSize);
    const bool atomic = first + size <= kSector;
    if (atomic || (first + size <= now.size() && (old == 0 || first + size <= old))) {
        return first;
    }
    const std::uint64_t behind = std::max(first, old_end);
    return behind + size <= now.size() ? std::optional(behind) : std::nullopt;
}

// Gives `next` the place of its name. `now` is the first cluster.
Status prepare(Header& next, std::span<const std::byte> now, const std::string& image) {
    TRY(encode_header(next));
    const std::uint64_t end = TRY(end_of_extensions(next));
    if (next.has_backing) {
        const std::optional<std::uint64_t> place = place_for(next.backing_file.size(), end, now);
        if (!place) {
            return fail(ErrorKind::usage,
                        image + ": the name of its backing image has no room beside the old one in its first cluster",
                        "use a shorter path, or a relative one");
        }
        next.name_offset = *place == end ? 0 : *place;
    }
    const std::vector<std::byte> bytes = TRY(encode_header(next));
    if (end > kSector &&
        !std::equal(bytes.begin() + kSector, bytes.begin() + static_cast<std::ptrdiff_t>(end), now.begin() + kSector)) {
        return fail(ErrorKind::unsupported, image + ": its header cannot name another backing image in one step",
                    "name one with \"qemu-img rebase -u -F FORMAT -b FILE\"");
    }
    return {};
}

}  // namespace

Task<Status> HeaderStore::rebase(std::string file, std::string format) {
    auto alone = co_await writing_.lock();
    std::vector<std::byte> now(header_.cluster_size());
    Status status = co_await file_.read(0, std::span<std::byte>(now));
    CO_TRY(status);
    Header next = renamed(header_, file, format);
    status = prepare(next, now, file_.name());
    CO_TRY(status);
    const auto whole = encode_header(next);
    CO_TRY(whole);
    const std::uint64_t place = load_be64(*whole, kNameOffset);
    if (place + file.size() > kSector) {
        const std::span<const std::byte> name = std::as_bytes(std::span(file));
        status = co_await file_.write(place, name);
        CO_TRY(status);
        status = co_await file_.flush();
        CO_TRY(status);
    }
    // Others may have changed fields meanwhile.
    const Header before = header_;
    header_ = renamed(header_, file, format);
    header_.name_offset = next.name_offset;
    const auto bytes = encode_header(header_);
    CO_TRY(bytes);
    const std::span<const std::byte> sector = std::span(*bytes).first(kSector);
    status = co_await file_.write(0, sector);
    if (status) {
        status = co_await file_.flush();
    }
    if (!status) {
        header_.has_backing = before.has_backing;
        header_.backing_file = before.backing_file;
        header_.backing_format = before.backing_format;
        header_.name_offset = before.name_offset;
    }
    co_return status;
}

Task<Status> Layer::rebase(std::string file, std::string format) {
    Image* const behind = backing_ ? backing_->backing() : nullptr;
    if (!backing_ || file.empty() != (behind == nullptr) || file.empty() != format.empty()) {
        co_return fail(ErrorKind::usage, name() + ": the name and the image behind its backing image do not match");
    }
    Status status = co_await begin_writing();
    CO_TRY(status);
    status = co_await commit();
    CO_TRY(status);
    status = co_await header_.rebase(std::move(file), std::move(format));
    CO_TRY(status);
    // Calls under way may still read what was behind; those that were passed on have no ticket.
    left_out_.push_back(
        std::exchange(backing_, behind != nullptr ? behind->shared_from_this() : std::shared_ptr<Image>()));
    co_await calls_.ended_before(calls_.next());
    co_return {};
}

}  // namespace snapvm::disk::qcow2
