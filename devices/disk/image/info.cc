// SPDX-License-Identifier: Apache-2.0
// Reads the first cluster of an image, and says what is in it.
#include "devices/disk/image/info.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "devices/disk/image_format.h"
#include "vmm/base/fd.h"
#include "vmm/base/file_lock.h"
#include "vmm/base/printable.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm::disk {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint64_t kSector = 512;

// Fills in what the file system says.
Status measure(int fd, ImageInfo& info) {
    struct stat file{};
    if (::fstat(fd, &file) != 0) {
        return fail(Error::system("fstat", info.path, errno));
    }
    if (S_ISBLK(file.st_mode)) {
        info.device = true;
        info.file_bytes = info.host_bytes = TRY(device_size(fd, info.path));
        return {};
    }
    if (!S_ISREG(file.st_mode)) {
        return fail(ErrorKind::invalid, info.path + " is neither a file nor a block device",
                    "give the path of a disk image");
    }
    info.file_bytes = static_cast<std::uint64_t>(file.st_size);
    info.host_bytes = static_cast<std::uint64_t>(file.st_blocks) * kSector;  // st_blocks counts these
    return {};
}

Result<std::string> recognise(int fd, const ImageInfo& info) {
    const std::string_view format = TRY(image_format(fd, info.file_bytes, info.path));
    if (format.empty()) {
        return std::string("raw");
    }
    if (format != "qcow2") {
        return fail(ErrorKind::unsupported, info.path + " looks like a " + std::string(format),
                    "convert it with \"qemu-img convert -O qcow2\"");
    }
    return std::string(format);
}

std::string exact_size(std::uint64_t bytes) {
    const std::string text = size_text(bytes);
    const std::string number = std::to_string(bytes);
    return text == number ? count_text(bytes, "byte") : text + " (" + count_text(bytes, "byte") + ")";
}

const char* name_of(qcow2::Compression compression) {
    return compression == qcow2::Compression::zstd ? "zstd" : "zlib";
}

/// Lines of a name and a value, the values below each other.
class Lines {
public:
    void add(std::string name, const std::string& value) {
        name.resize(kNameWidth, ' ');
        text_ += (text_.empty() ? "" : "\n") + name + printable(value);
    }
    std::string take() { return std::move(text_); }

private:
    static constexpr std::size_t kNameWidth = 20;
    std::string text_;
};

void add_qcow2(Lines& lines, const qcow2::Header& header) {
    lines.add("clusters", size_text(header.cluster_size()) + (header.extended_l2() ? ", of 32 subclusters" : ""));
    lines.add("reference counts", count_text(header.refcount_bits(), "bit"));
    lines.add("compression", name_of(header.compression));
    if (header.has_backing) {
        lines.add("backing image", header.backing_file);
        lines.add("backing format", header.backing_format.empty() ? "not declared" : header.backing_format);
    }
    if ((header.compatible & qcow2::kLazyRefcounts) != 0) {
        lines.add("lazy refcounts", "yes");
    }
    if (header.snapshots != 0) {
        lines.add("internal snapshots", std::to_string(header.snapshots));
    }
    if ((header.incompatible & qcow2::kDirty) != 0) {
        lines.add("dirty", "yes: it was not closed, and is repaired when it is opened for writing");
    }
    if ((header.incompatible & qcow2::kCorrupt) != 0) {
        lines.add("corrupt", "yes: it can be read only; try \"qemu-img check -r all\" on a copy");
    }
}

Json qcow2_json(const qcow2::Header& header) {
    Json out = {{"version", header.version},
                {"cluster_bytes", header.cluster_size()},
                {"extended_l2", header.extended_l2()},
                {"refcount_bits", header.refcount_bits()},
                {"compression", name_of(header.compression)},
                {"lazy_refcounts", (header.compatible & qcow2::kLazyRefcounts) != 0},
                {"dirty", (header.incompatible & qcow2::kDirty) != 0},
                {"corrupt", (header.incompatible & qcow2::kCorrupt) != 0},
                {"internal_snapshots", header.snapshots}};
    if (header.has_backing) {
        out["backing_file"] = header.backing_file;
        out["backing_format"] = header.backing_format.empty() ? Json() : Json(header.backing_format);
    }
    return out;
}

}  // namespace

Result<ImageInfo> image_info(const std::string& path, std::string_view format) {
    ImageInfo info{.path = path, .format = std::string(format)};
    if (!format.empty() && format != "raw" && format != "qcow2") {
        return fail(ErrorKind::usage, "snapvm has no disks of format " + info.format,
                    "give format=raw or format=qcow2");
    }
    // With O_NONBLOCK the open does not wait for the other end of a FIFO, which is refused below.
    const UniqueFd fd = TRY(open_file(path, O_RDONLY | O_NONBLOCK));
    TRY(measure(fd.get(), info));
    if (info.format.empty()) {
        info.format = TRY(recognise(fd.get(), info));
    }
    if (info.format == "qcow2") {
        info.header = TRY(qcow2::read_header(fd.get(), info.file_bytes, info.path));
    }
    info.size = info.header ? info.header->size : info.file_bytes / kSector * kSector;
    return info;
}

std::string to_text(const ImageInfo& info) {
    Lines lines;
    lines.add("image", info.path + (info.device ? " (a block device)" : ""));
    lines.add("format", info.format + (info.header ? ", version " + std::to_string(info.header->version) : ""));
    lines.add("size", exact_size(info.size));
    lines.add("takes on the host", exact_size(info.host_bytes));
    if (info.header) {
        add_qcow2(lines, *info.header);
    }
    return lines.take();
}

std::string to_json(const ImageInfo& info) {
    Json out = {{"image", info.path}, {"format", info.format},         {"device", info.device},
                {"size", info.size},  {"file_bytes", info.file_bytes}, {"host_bytes", info.host_bytes}};
    if (info.header) {
        out["qcow2"] = qcow2_json(*info.header);
    }
    return json_text(out);
}

}  // namespace snapvm::disk
