// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/layer_mark.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <span>

#include "vmm/base/absolute_path.h"
#include "vmm/base/fd.h"
#include "vmm/base/opener.h"
#include "vmm/base/printable.h"
#include "vmm/base/try.h"

namespace snapvm::disk {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kAttribute = "user.snapvm.layer";
constexpr const char* kSuffix = ".layer";
constexpr std::size_t kMaxTag = 64;
constexpr std::size_t kMaxMark = 8192;  // a path of 4,096 bytes, some of them escaped
constexpr unsigned kMode = 0600;

bool is_alphanumeric(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

std::string encode(const LayerMark& mark) { return json_text(Json({{"tag", mark.tag}, {"active", mark.active}})); }

Result<std::optional<LayerMark>> decode(std::string_view text, const std::string& name) {
    const auto malformed = [&] {
        return fail(ErrorKind::invalid, name + " has a mark of a frozen layer that cannot be read",
                    "attach it with readonly=on, or take a good copy of the image");
    };
    if (text.size() > kMaxMark) {
        return malformed();
    }
    const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    const auto text_of = [&](const char* key) {
        const auto found = json.is_object() ? json.find(key) : json.end();
        return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
    };
    LayerMark mark{.tag = text_of("tag"), .active = text_of("active")};
    if (!check_tag(mark.tag) || mark.active.empty() || mark.active.find('\0') != std::string::npos) {
        return malformed();
    }
    return std::optional(std::move(mark));
}

bool has_no_attributes(int error) { return error == EOPNOTSUPP || error == ENOSYS || error == EPERM; }

// Returns an empty text if there is no such attribute.
Result<std::string> attribute_of(int fd, const std::string& name) {
    std::string text(kMaxMark + 1, '\0');
    const ssize_t size = ::fgetxattr(fd, kAttribute, text.data(), text.size());
    if (size >= 0) {
        text.resize(static_cast<std::size_t>(size));
        return text;
    }
    if (errno == ENODATA || has_no_attributes(errno)) {
        return std::string();
    }
    return fail(Error::system("fgetxattr", name, errno));
}

Result<std::string> text_beside(const std::string& path, const std::string& name) {
    auto file = open_file(path + kSuffix, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    if (!file) {
        return file.error().code() == ENOENT ? Result<std::string>(std::string())
                                             : fail(std::move(file).error().within(name));
    }
    struct stat info{};
    if (::fstat(file->get(), &info) != 0) {
        return fail(Error::system("fstat", path + kSuffix, errno));
    }
    const std::uint64_t size = S_ISREG(info.st_mode) ? static_cast<std::uint64_t>(info.st_size) : kMaxMark + 1;
    std::string text(std::min<std::uint64_t>(size, kMaxMark + 1), '\0');
    TRY(read_exactly_at(file->get(), std::as_writable_bytes(std::span(text)), 0, path + kSuffix));
    return text;
}

Status synchronise(int fd, const std::string& name) {
    return ::fsync(fd) == 0 ? Status{} : fail(Error::system("fsync", name, errno));
}

// A name is durable when its folder is. A mark that is half written is refused when it is read.
Status write_beside(const std::string& path, const std::string& text) {
    const FolderEntry entry = TRY(FolderEntry::of(path + kSuffix));
    if (text.empty()) {
        if (!entry.remove() && errno != ENOENT) {
            return fail(Error::system("unlink", path + kSuffix, errno));
        }
    } else {
        const UniqueFd file =
            TRY(opener().open(entry.folder(), entry.name(), O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW, kMode));
        Status written = write_all_at(file.get(), std::as_bytes(std::span(text)), 0, path + kSuffix);
        if (written) {
            written = synchronise(file.get(), path + kSuffix);
        }
        if (!written) {
            entry.remove();
            return written;
        }
    }
    const UniqueFd folder = TRY(opener().open(entry.folder(), ".", O_RDONLY | O_DIRECTORY, 0));
    return synchronise(folder.get(), "the folder of " + path);
}

Result<bool> is_device(int fd, const std::string& name) {
    struct stat info{};
    if (::fstat(fd, &info) != 0) {
        return fail(Error::system("fstat", name, errno));
    }
    return S_ISBLK(info.st_mode);
}

}  // namespace

Status check_tag(std::string_view tag) {
    const bool possible =
        !tag.empty() && tag.size() <= kMaxTag && is_alphanumeric(tag.front()) &&
        std::ranges::all_of(tag, [](char c) { return is_alphanumeric(c) || c == '.' || c == '-' || c == '_'; });
    if (!possible) {
        return fail(ErrorKind::usage, "a tag cannot be \"" + std::string(tag) + "\"",
                    "give 1 to 64 letters, digits, dots, dashes and underscores; the first is a letter or digit");
    }
    return {};
}

Result<std::optional<LayerMark>> read_mark(int fd, const std::string& path, const std::string& name) {
    if (TRY(is_device(fd, name))) {
        return std::optional<LayerMark>();
    }
    std::string text = TRY(attribute_of(fd, name));
    if (text.empty()) {
        text = TRY(text_beside(path, name));
    }
    return text.empty() ? Result<std::optional<LayerMark>>(std::nullopt) : decode(text, name);
}

Status write_mark(int fd, const std::string& path, const std::optional<LayerMark>& mark, const std::string& name) {
    if (TRY(is_device(fd, name))) {
        return {};
    }
    const std::string text = mark ? encode(*mark) : std::string();
    const int result = mark ? ::fsetxattr(fd, kAttribute, text.data(), text.size(), 0) : ::fremovexattr(fd, kAttribute);
    if (result == 0) {
        return synchronise(fd, name);
    }
    // An attribute may not have the room: some file systems allow less than a mark can take.
    if (has_no_attributes(errno) || errno == ENOSPC || errno == E2BIG || (!mark && errno == ENODATA)) {
        return write_beside(path, text);
    }
    return fail(Error::system(mark ? "fsetxattr" : "fremovexattr", name, errno));
}

Status refuse_frozen(int fd, const std::string& path, const std::string& name) {
    const auto mark = TRY(read_mark(fd, canonical_path(path).value_or(path), name));
    if (!mark) {
        return {};
    }
    const bool relative = mark->active.front() != '/';
    const std::string active = relative ? path.substr(0, path.rfind('/') + 1) + mark->active : mark->active;
    return fail(ErrorKind::usage, name + " is the frozen layer " + mark->tag + " of " + active,
                "use that image, of format qcow2, or this one with readonly=on");
}

}  // namespace snapvm::disk
