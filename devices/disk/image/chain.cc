// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/image/chain.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <vector>

#include "devices/disk/disk_file.h"
#include "devices/disk/image/raw_image.h"
#include "devices/disk/qcow2/header.h"
#include "devices/disk/qcow2/qcow2_image.h"
#include "vmm/base/fd.h"
#include "vmm/base/opener.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm::disk {
namespace {

constexpr std::uint64_t kSector = 512;
// Of the tables in memory: as much for all backing images together as for the top one, and for each
// enough to work with.
constexpr std::uint64_t kMetadataBytes = 16ULL << 20;
constexpr std::uint64_t kLeastMetadataBytes = 512ULL << 10;
constexpr std::uint64_t kMaxAllL1Bytes = 64ULL << 20;  // an image of 8 PiB with clusters of 128 KiB

/// One that is open, and its identity.
struct Link {
    DiskFile file;
    DiskFormat format = DiskFormat::qcow2;
    struct stat info{};
    std::optional<qcow2::Header> header;  ///< of a qcow2 image
};

/// A path's file before it is opened: opening a device may have effects. Nothing else gets its
/// identity as long as it is held.
struct Held {
    UniqueFd fd;
    struct stat info{};
};

Result<Held> hold(const std::string& path) {
    Held held;
    held.fd = TRY(open_file(path, O_PATH));
    if (::fstat(held.fd.get(), &held.info) != 0) {
        return fail(Error::system("fstat", path, errno));
    }
    return held;
}

bool is_device(const struct stat& info) { return S_ISBLK(info.st_mode) || S_ISCHR(info.st_mode); }

// Returns whether both are one file, or nodes of one device.
bool is_same(const struct stat& a, const struct stat& b) {
    return is_device(a) ? is_device(b) && (a.st_mode & S_IFMT) == (b.st_mode & S_IFMT) && a.st_rdev == b.st_rdev
                        : is_same_file(a, b);
}

// Returns whether a file is in the folder of an image, and no link leads to either.
bool is_beside(const std::string& path, const struct stat& file, const std::string& image,
               const struct stat& image_file) {
    const auto entry = FolderEntry::of(path);
    const auto beside = FolderEntry::of(image);
    struct stat its{};
    struct stat images{};
    return entry && beside && entry->is(file) && beside->is(image_file) && ::fstat(entry->folder(), &its) == 0 &&
           ::fstat(beside->folder(), &images) == 0 && is_same_file(its, images);
}

// The advice for a header whose backing file is the wrong one.
std::string rebase_advice(const std::string& path) {
    return "name another one: qemu-img rebase -u -b FILE -F FORMAT " + path;
}

Result<DiskFormat> backing_format(const qcow2::Header& header, const std::string& name, const std::string& path) {
    if (header.backing_format.empty()) {
        return fail(ErrorKind::invalid,
                    name + " does not say which format its backing file " + header.backing_file + " has",
                    "say it: qemu-img rebase -u -b " + header.backing_file + " -F raw|qcow2 " + path);
    }
    for (const auto& [word, format] : {std::pair("raw", DiskFormat::raw), std::pair("qcow2", DiskFormat::qcow2)}) {
        if (header.backing_format == word) {
            return format;
        }
    }
    return fail(ErrorKind::unsupported,
                name + " has a backing file of format " + header.backing_format + ", and snapvm reads raw and qcow2",
                "convert that one, and name the result: qemu-img rebase -u -b FILE -F qcow2 " + path);
}

Result<Link> open_link(const std::string& id, const ImagePlace& place, const DiskOptions& options) {
    Link link;
    link.file = TRY(DiskFile::open(id, place.path, options));
    link.format = place.format;
    if (::fstat(link.file.fd.get(), &link.info) != 0) {
        return fail(Error::system("fstat", link.file.name, errno));
    }
    return link;
}

Result<qcow2::Header> read_header(const Link& link) {
    const std::uint64_t bytes = link.file.device ? link.file.size : static_cast<std::uint64_t>(link.info.st_size);
    return qcow2::read_header(link.file.fd.get(), bytes, link.file.name);
}

/// The walk along a chain, from its top to its last image.
class Walk {
public:
    Walk(std::string id, const DiskOptions& options) : id_(std::move(id)), options_(options) {}

    Result<std::vector<Link>> along(const std::string& path) {
        ImagePlace place{path, options_.format};
        links_.push_back(TRY(open_link(id_, place, options_)));
        while (place.format == DiskFormat::qcow2) {
            const qcow2::Header& header = links_.back().header.emplace(TRY(read_header(links_.back())));
            TRY(count_l1(header));
            if (!header.has_backing) {
                break;
            }
            if (links_.size() == kMaxImages) {
                return fail(
                    ErrorKind::invalid,
                    links_.front().file.name + " has a chain of more than " + std::to_string(kMaxImages) + " images",
                    "merge some of them: qemu-img convert, or qemu-img commit");
            }
            ImagePlace next = TRY(image_behind(header, links_.back().file.name, place.path));
            links_.push_back(TRY(open_backing(next, place.path)));
            place = std::move(next);
        }
        return std::move(links_);
    }

private:
    // L1 tables are in memory as a whole.
    [[nodiscard]] Status count_l1(const qcow2::Header& header) {
        l1_bytes_ += std::uint64_t{header.l1_entries} * 8;
        if (l1_bytes_ > kMaxAllL1Bytes) {
            return fail(ErrorKind::unsupported, links_.front().file.name + " has a chain whose tables are too large",
                        "merge some of its images: qemu-img convert, or qemu-img commit");
        }
        return {};
    }

    // Opens the backing file of the image at `path`, the last one so far.
    Result<Link> open_backing(const ImagePlace& place, const std::string& path) {
        const std::string what = links_.back().file.name + ": its backing file " + place.path;
        auto held = hold(place.path);
        if (!held) {
            const bool missing = held.error().code() == ENOENT || held.error().code() == ENOTDIR;
            return missing
                       ? fail(ErrorKind::not_found, what + " is missing", "bring it back, or " + rebase_advice(path))
                       : fail(std::move(held).error().within(links_.back().file.name));
        }
        TRY(check_kind(held->info, what, path));
        TRY(check_owner(held->info, place, what, path));
        DiskOptions options = options_;
        options.read_only = true;
        options.format = place.format;
        auto link = open_link(id_, place, options);
        if (!link) {
            return fail(on_backing(std::move(link).error(), path));
        }
        // The path may name another file by now.
        if (!is_same(link->info, held->info)) {
            return fail(ErrorKind::busy, what + " was replaced while it was opened", "try again");
        }
        return link;
    }

    // Refuses what cannot be the next image.
    [[nodiscard]] Status check_kind(const struct stat& info, const std::string& what, const std::string& path) const {
        if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
            const char* const kind =
                S_ISDIR(info.st_mode) ? " is a directory" : " is neither a file nor a block device";
            return fail(ErrorKind::invalid, what + kind, rebase_advice(path));
        }
        if (std::ranges::any_of(links_, [&](const Link& link) { return is_same(link.info, info); })) {
            return fail(ErrorKind::invalid, what + " has that image behind itself: the chain is a loop",
                        rebase_advice(path));
        }
        if (S_ISREG(info.st_mode) && info.st_size == 0) {
            return fail(ErrorKind::invalid, what + " is empty", "bring its contents back, or " + rebase_advice(path));
        }
        return {};
    }

    // Refuses what a header must not give a guest by itself. Any file can be read as a raw disk, so
    // a header that comes from elsewhere could name a private one of this user's; an image's folder
    // has images.
    [[nodiscard]] Status check_owner(const struct stat& info, const ImagePlace& place, const std::string& what,
                                     const std::string& image) const {
        const std::string& path = place.path;
        const bool device = is_device(info);
        const bool elsewhere = place.format == DiskFormat::raw && !is_beside(path, info, image, links_.back().info);
        if (!device && info.st_uid == ::geteuid() && !elsewhere) {
            return {};
        }
        for (const std::string& named : options_.backing) {
            const auto allowed = hold(named);
            if (allowed && is_same(allowed->info, info)) {
                return {};
            }
        }
        return fail(ErrorKind::usage,
                    what +
                        (device                       ? " is a device"
                         : info.st_uid != ::geteuid() ? " belongs to another user"
                                                      : " is a raw file in another folder") +
                        ", and an image cannot give a guest that by itself",
                    "if the guest may read it, name it: " +
                        (options_.restored ? "--set disk." + id_ + ".backing="
                         : id_.empty()     ? "--backing "
                                           : "--disk id=" + id_ + ",…,backing=") +
                        path);
    }

    // The advice of DiskFile::open() is for a disk that a user named.
    static Error on_backing(Error error, const std::string& path) {
        switch (error.kind()) {
            case ErrorKind::busy: return std::move(error).advise("stop that machine first: what it writes is no base");
            case ErrorKind::system: return std::move(error).advise("make it readable, or " + rebase_advice(path));
            default: return std::move(error).advise(rebase_advice(path));
        }
    }

    const std::string id_;
    const DiskOptions& options_;
    std::vector<Link> links_;
    std::uint64_t l1_bytes_ = 0;  ///< of all L1 tables so far
};

// A guest, or another program, would not see the end of such a file.
Status check_whole_sectors(const Link& link) {
    if (link.file.device || link.format != DiskFormat::raw || link.info.st_size % kSector == 0) {
        return {};
    }
    return fail(ErrorKind::invalid, link.file.name + " is a backing file that ends within a sector",
                "fill the sector up: truncate -s %512 FILE");
}

}  // namespace

Result<ImagePlace> image_behind(const qcow2::Header& header, const std::string& name, const std::string& path) {
    const std::string& named = header.backing_file;
    if (named.empty() || named.find('\0') != std::string::npos) {
        return fail(ErrorKind::invalid, name + " names a backing file that cannot exist", rebase_advice(path));
    }
    // As in other programs, what has a colon before its first slash is no path.
    if (const std::size_t colon = named.find(':'); colon < named.find('/')) {
        return fail(ErrorKind::unsupported,
                    name + " names its backing file by the protocol " + named.substr(0, colon) + ": " + named +
                        ", and snapvm opens paths only",
                    "name a file: qemu-img rebase -u -b FILE -F FORMAT " + path + " (./ before a name with a colon)");
    }
    ImagePlace place;
    place.format = TRY(backing_format(header, name, path));
    const std::size_t slash = path.rfind('/');
    const bool relative = named.front() != '/' && slash != std::string::npos;
    place.path = relative ? path.substr(0, slash + 1) + named : named;
    return place;
}

std::string name_in_image(const std::string& image, const std::string& backing) {
    const std::size_t slash = backing.rfind('/') + 1;
    if (image.rfind('/') + 1 != slash || image.compare(0, slash, backing, 0, slash) != 0) {
        return backing;
    }
    std::string name = backing.substr(slash);
    // QEMU takes what is before a colon for a protocol, unless there is a slash before it.
    return name.find(':') == std::string::npos ? name : "./" + name;
}

Result<Chain> open_chain(const std::string& id, const std::string& path, const DiskOptions& options) {
    std::vector<Link> links = TRY(Walk(id, options).along(path));
    Chain chain;
    chain.loop = TRY(IoLoop::make(options.engine, options.hook));
    if (links.front().format != DiskFormat::qcow2) {
        chain.block_size = std::clamp<std::uint32_t>(links.front().file.block_size, 512, 4096);
    }
    const std::uint64_t share = std::max(kMetadataBytes / links.size(), kLeastMetadataBytes);
    while (!links.empty()) {
        Link link = std::move(links.back());
        links.pop_back();
        const bool top = links.empty();
        if (!top) {
            TRY(check_whole_sectors(link));
        }
        const bool read_only = !top || options.read_only;
        if (link.format == DiskFormat::qcow2) {
            auto file = std::make_unique<DiskIo>(std::move(link.file), *chain.loop);
            qcow2::OpenOptions how;
            how.read_only = read_only;
            how.metadata_bytes = top ? kMetadataBytes : share;
            chain.top = TRY(chain.loop->run(
                qcow2::open_image(std::move(file), *std::move(link.header), std::move(chain.top), how)));
        } else {
            chain.top = std::make_unique<RawImage>(std::move(link.file), *chain.loop, read_only);
        }
    }
    return chain;
}

}  // namespace snapvm::disk
