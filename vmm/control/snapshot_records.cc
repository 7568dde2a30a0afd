// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/snapshot_records.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "vmm/base/absolute_path.h"
#include "vmm/base/bytes.h"
#include "vmm/base/opener.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::uint32_t kMagic = 0x53565352;  // "RSVS"
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kMaxText = 4096;
constexpr std::uint32_t kMaxResources = 64;
constexpr std::uint64_t kMaxRecord = 1ULL << 20;
constexpr std::size_t kManyRecords = 256;
constexpr std::array kFolders = {"snapvm", "snapshots"};

struct Record {
    Uuid id;
    std::string path;
    std::vector<HostResource> resources;
};

std::vector<std::byte> encode(const Record& record) {
    Encoder out;
    out.u32(kMagic);
    out.u32(kVersion);
    out.raw(std::as_bytes(std::span(record.id.bytes)));
    out.text(record.path);
    out.u32(static_cast<std::uint32_t>(record.resources.size()));
    for (const HostResource& resource : record.resources) {
        out.u8(static_cast<std::uint8_t>(resource.kind));
        out.text(resource.id);
        out.text(resource.place);
        out.boolean(resource.read_only);
    }
    return out.take();
}

Result<Record> decode(std::span<const std::byte> bytes, const std::string& name) {
    Decoder in(bytes);
    const bool known = in.u32() == kMagic && in.u32() == kVersion;
    Record record;
    if (const auto id = in.take(record.id.bytes.size()); !id.empty()) {
        std::memcpy(record.id.bytes.data(), id.data(), id.size());
    }
    record.path = in.text(kMaxText);
    const std::uint32_t count = in.u32();
    for (std::uint32_t i = 0; i < count && i < kMaxResources && !in.bad(); ++i) {
        HostResource resource;
        resource.kind = static_cast<HostResource::Kind>(in.u8());
        resource.id = in.text(kMaxText);
        resource.place = in.text(kMaxText);
        resource.read_only = in.boolean();
        record.resources.push_back(std::move(resource));
    }
    if (!known) {
        return fail(ErrorKind::invalid, name + " is no record of a snapshot");
    }
    TRY(in.finish(name));
    return record;
}

/// The folder that has the user's state, and how much of its path must be there already.
struct StateHome {
    std::string path;
    std::size_t given = 0;
};

Result<StateHome> state_home() {
    const auto variable = [](const char* name) -> std::string {
        const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nothing here sets it
        return value != nullptr && *value == '/' ? value : "";
    };
    if (std::string path = variable("XDG_STATE_HOME"); !path.empty()) {
        return StateHome{.path = std::move(path)};
    }
    const std::string home = variable("HOME");
    if (home.empty()) {
        return fail(ErrorKind::not_found, "neither XDG_STATE_HOME nor HOME names a folder");
    }
    return StateHome{.path = home + "/.local/state", .given = home.size()};
}

// Makes a folder, unless there is something of its name. Only the owner of the one above makes one:
// root's in another user's home (sudo) would shut that user out.
Status make_in(int parent, const std::string& name, const std::string& path) {
    struct stat above{};
    if (::fstat(parent, &above) != 0) {
        return fail(Error::system("fstat", path, errno));
    }
    if (above.st_uid != ::geteuid()) {
        return fail(ErrorKind::invalid, path.substr(0, path.rfind('/')) + " is another user's");
    }
    if (::mkdirat(parent, name.c_str(), 0700) != 0 && errno != EEXIST) {
        return fail(Error::system("mkdir", path, errno));
    }
    return {};
}

// Opens a folder; makes it if it is missing, with those above it behind the first `given` bytes of
// the path.
Result<UniqueFd> make_path(const std::string& path, std::size_t given) {
    auto opened = open_file(path, O_PATH | O_DIRECTORY);
    const std::size_t end = path.find_last_not_of('/') + 1;  // 0 if there are slashes only
    const std::size_t slash = end == 0 ? std::string::npos : path.rfind('/', end - 1);
    if (opened || opened.error().code() != ENOENT || slash == std::string::npos || slash < given) {
        return opened;
    }
    const UniqueFd above = TRY(make_path(path.substr(0, std::max<std::size_t>(slash, 1)), given));
    const std::string name = path.substr(slash + 1, end - slash - 1);
    TRY(make_in(above.get(), name, path));
    return opener().open(above.get(), name, O_PATH | O_DIRECTORY, 0);
}

// Fails unless this user owns the file and others cannot write it.
Status check_own(const struct stat& info, const std::string& name) {
    if (info.st_uid != ::geteuid()) {
        return fail(ErrorKind::invalid, name + " is another user's");
    }
    if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return fail(ErrorKind::invalid, name + " can be written by others", "remove it, or set its owner and mode");
    }
    return {};
}

/// The folder of the records.
struct Folder {
    UniqueFd fd;
    std::string name;

    static Result<Folder> open(bool make) {
        const StateHome home = TRY(state_home());
        Folder folder{TRY(make ? make_path(home.path, home.given) : open_file(home.path, O_PATH | O_DIRECTORY)),
                      home.path};
        for (const char* below : kFolders) {
            TRY(folder.enter(below, make));
        }
        return folder;
    }
    [[nodiscard]] std::string name_of(const std::string& file) const { return name + "/" + file; }

private:
    Status enter(const char* below, bool make) {
        name += std::string("/") + below;
        const auto open = [&] { return opener().open(fd.get(), below, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0); };
        auto opened = open();
        if (make && !opened && opened.error().code() == ENOENT) {
            TRY(make_in(fd.get(), below, name));
            opened = open();
        }
        if (!opened) {
            return fail(Error::system("open", name, opened.error().code()));
        }
        fd = *std::move(opened);
        struct stat info{};
        if (::fstat(fd.get(), &info) != 0) {
            return fail(Error::system("fstat", name, errno));
        }
        return check_own(info, name);
    }
};

std::string file_name(const SnapshotPlace& place) {
    const AreaIdentity& area = place.area;
    std::array<char, 128> text;
    std::snprintf(text.data(), text.size(), "%s-%llx-%llx-%llx-%u", area.device ? "device" : "file",
                  static_cast<unsigned long long>(area.volume), static_cast<unsigned long long>(area.number),
                  static_cast<unsigned long long>(area.offset), place.slot);
    return text.data();
}

Result<Record> read_record(const Folder& folder, const std::string& file) {
    const std::string name = folder.name_of(file);
    auto opened = opener().open(folder.fd.get(), file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    if (!opened) {
        return fail(opened.error().code() == ENOENT ? Error(ErrorKind::not_found, "there is no record")
                                                    : Error::system("open", name, opened.error().code()));
    }
    struct stat info{};
    if (::fstat(opened->get(), &info) != 0) {
        return fail(Error::system("fstat", name, errno));
    }
    TRY(check_own(info, name));
    if (!S_ISREG(info.st_mode) || static_cast<std::uint64_t>(info.st_size) > kMaxRecord) {
        return fail(ErrorKind::invalid, name + " is no record of a snapshot");
    }
    std::vector<std::byte> bytes(static_cast<std::size_t>(info.st_size));
    TRY(read_exactly_at(opened->get(), bytes, 0, name));
    return decode(bytes, name);
}

// Whether the area of a record is still at its path. A file name is made of the identity.
bool area_is_there(const std::string& path, const std::string& file) {
    const auto opened = open_file(path, O_PATH);
    if (!opened) {
        // Without its folder, its volume may just not be mounted.
        return opened.error().code() != ENOENT || !open_file(path.substr(0, path.rfind('/') + 1), O_PATH | O_DIRECTORY);
    }
    const auto identity = AreaIdentity::of(opened->get(), 0, path);
    if (!identity) {
        return true;
    }
    const std::string same = file_name({.id = {}, .area = *identity, .slot = 0, .path = {}});
    const std::size_t numbers = same.rfind('-', same.rfind('-') - 1) + 1;  // without offset and slot
    return file.compare(0, numbers, same, 0, numbers) == 0;
}

void prune(const Folder& folder) {
    const auto files = names_in(folder.fd);
    if (!files || files->size() <= kManyRecords) {
        return;
    }
    for (const std::string& file : *files) {
        // What cannot be read may be under way, or be readable later.
        if (const auto record = read_record(folder, file); record && !area_is_there(record->path, file)) {
            (void)::unlinkat(folder.fd.get(), file.c_str(), 0);
        }
    }
}

}  // namespace

Status record_snapshot(const SnapshotPlace& place, std::span<const HostResource> resources) {
    const Folder folder = TRY(Folder::open(/*make=*/true));
    const std::string file = file_name(place);
    const std::string fresh = file + "." + std::to_string(::getpid());
    const Record record{place.id, TRY(absolute_path(place.path)), {resources.begin(), resources.end()}};
    const auto write_fresh = [&]() -> Status {
        const UniqueFd out =
            TRY(opener().open(folder.fd.get(), fresh, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600));
        TRY(write_all_at(out.get(), encode(record), 0, folder.name_of(fresh)));
        // A reader gets the old record or the new one, and never a part of one.
        if (::renameat(folder.fd.get(), fresh.c_str(), folder.fd.get(), file.c_str()) != 0) {
            return fail(Error::system("rename", folder.name_of(fresh), errno));
        }
        return {};
    };
    Status written = write_fresh();
    if (!written) {
        (void)::unlinkat(folder.fd.get(), fresh.c_str(), 0);
        return written;
    }
    prune(folder);
    return {};
}

Result<std::vector<HostResource>> recorded_resources(const SnapshotPlace& place) {
    if (!place.area.own) {
        // Another user who can write it could put another guest under the snapshot's id.
        return fail(ErrorKind::invalid, "the area is another user's, or others may write it");
    }
    const auto folder = Folder::open(/*make=*/false);
    if (!folder) {
        const bool missing = folder.error().code() == ENOENT || folder.error().kind() == ErrorKind::not_found;
        return fail(missing ? Error(ErrorKind::not_found, "there is no record") : folder.error());
    }
    Record record = TRY(read_record(*folder, file_name(place)));
    if (record.id != place.id) {
        return fail(ErrorKind::not_found, "there is no record");
    }
    return std::move(record.resources);
}

}  // namespace snapvm
