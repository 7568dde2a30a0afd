// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/image/overlay_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>
#include <vector>

#include "devices/disk/image_lock.h"
#include "vmm/base/file_lock.h"
#include "vmm/base/try.h"

namespace snapvm::disk {
namespace {

constexpr unsigned kMode = 0600;       // an image holds a guest's files
// Bytes of zeros at the begin of a device that is not in use: file systems have their marks there.
constexpr std::size_t kUnused = 1 << 20;

Result<struct stat> stat_of(int fd, const std::string& path) {
    struct stat info{};
    if (::fstat(fd, &info) != 0) {
        return fail(Error::system("fstat", path, errno));
    }
    return info;
}

// A device must have nothing on it.
Result<UniqueFd> open_device(const std::string& path) {
    UniqueFd device = TRY(open_file(path, O_RDWR | O_EXCL));
    TRY(lock_image(device.get(), kImageWriter, path, "another program has it", "stop that one first"));
    std::vector<std::byte> begin(kUnused);
    TRY(read_exactly_at(device.get(), begin, 0, path));
    if (std::ranges::any_of(begin, [](std::byte byte) { return byte != std::byte{0}; })) {
        return fail(ErrorKind::usage, path + " may be in use: its begin is not zeros",
                    "if it is not, clear it: blkdiscard -z " + path);
    }
    return device;
}

// The name belongs to an image that this process has locked, so no other one makes it now.
void remove_left_over(const FolderEntry& entry, const std::string& path) {
    const auto file = opener().open(entry.folder(), entry.name(), O_RDWR | O_NOFOLLOW | O_NONBLOCK, 0);
    if (file && lock_range(file->get(), true, 0, 0, path, "another process makes it")) {
        const auto held = entry.hold();
        (void)(held && entry.remove_if(*held));
    }
}

}  // namespace

std::string hidden_name(const std::string& path) {
    const std::size_t name = path.rfind('/') + 1;
    return path.substr(0, name) + "." + path.substr(name) + ".new";
}

Status synchronise_folder(const FolderEntry& entry, const std::string& path) {
    const UniqueFd folder = TRY(opener().open(entry.folder(), ".", O_RDONLY | O_DIRECTORY, 0));
    return ::fsync(folder.get()) == 0 ? Status{} : fail(Error::system("fsync", "the folder of " + path, errno));
}

Result<OverlayFile> OverlayFile::make(const std::string& path, const qcow2::CreateOptions& options, bool left_over) {
    OverlayFile overlay(TRY(FolderEntry::of(path)), path);
    if (left_over) {
        remove_left_over(overlay.entry_, path);
    }
    const UniqueFd file = TRY(overlay.make_file());
    Status made = create_image(file.get(), options, path);
    if (made && overlay.held_.valid()) {
        made = synchronise_folder(overlay.entry_, path);
    }
    if (!made) {
        overlay.remove();
        return fail(std::move(made).error());
    }
    return overlay;
}

Result<UniqueFd> OverlayFile::make_file() {
    const auto there = open_file(path_, O_PATH);
    if (there && S_ISBLK(TRY(stat_of(there->get(), path_)).st_mode)) {
        return open_device(path_);
    }
    auto file = opener().open(entry_.folder(), entry_.name(), O_CREAT | O_EXCL | O_RDWR, kMode);
    if (!file && file.error().code() == EEXIST) {
        return fail(ErrorKind::usage, path_ + " exists, and nothing is overwritten", "remove it, or give another path");
    }
    TRY(Status(file ? Status{} : fail(file.error())));
    held_ = TRY(entry_.hold());
    return file;
}

Result<Overlay> OverlayFile::open(const std::string& id, const std::string& shown) const {
    DiskOptions options;
    options.format = DiskFormat::qcow2;
    Overlay overlay;
    overlay.file = TRY(DiskFile::open(id, path_, options));
    const struct stat info = TRY(stat_of(overlay.file.fd.get(), path_));
    if (held_.valid() && !is_same_file(info, TRY(stat_of(held_.get(), path_)))) {
        return fail(ErrorKind::busy, path_ + " was replaced while it was made", "try again");
    }
    const std::uint64_t bytes = overlay.file.device ? overlay.file.size : static_cast<std::uint64_t>(info.st_size);
    overlay.header = TRY(qcow2::read_header(overlay.file.fd.get(), bytes, overlay.file.name));
    overlay.file.moved_to(shown);
    return overlay;
}

Status OverlayFile::replace(const FolderEntry& target, const struct stat& file) {
    if (!target.is(file)) {
        return fail(ErrorKind::busy, target.name() + " is another file by now", "put the image back to where it was");
    }
    if (::renameat(entry_.folder(), entry_.name().c_str(), target.folder(), target.name().c_str()) != 0) {
        return fail(Error::system("rename", path_, errno));
    }
    return synchronise_folder(target, path_);
}

bool OverlayFile::has_name(const FolderEntry& entry) const {
    const auto file = stat_of(held_.get(), path_);
    return file && entry.is(*file);
}

void OverlayFile::remove() const { (void)entry_.remove_if(held_); }

}  // namespace snapvm::disk
