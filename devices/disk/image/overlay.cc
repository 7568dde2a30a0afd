// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/image/overlay.h"

#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "devices/disk/qcow2/qcow2_image.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm::disk {

Result<Overlay> make_overlay(DiskFile file, const qcow2::CreateOptions& options) {
    TRY(qcow2::create_image(file.fd.get(), options, file.name));
    struct stat info{};
    if (::fstat(file.fd.get(), &info) != 0) {
        return fail(Error::system("fstat", file.name, errno));
    }
    file.size = static_cast<std::uint64_t>(info.st_size);
    if (file.size > file.max_size) {
        return fail(ErrorKind::usage, file.name + ": the tables of an overlay take " + size_text(file.size) + " alone",
                    "allow it more space than that");
    }
    qcow2::Header header = TRY(qcow2::read_header(file.fd.get(), file.size, file.name));
    return Overlay{.file = std::move(file), .header = std::move(header)};
}

Status check_overlay(const Image& overlay, const Disk& disk) {
    return overlay.size() == disk.size() ? Status{}
                                         : fail(ErrorKind::busy, disk.name() + " was resized meanwhile", "try again");
}

Result<std::unique_ptr<Image>> open_overlay(Overlay overlay, std::unique_ptr<Image> backing, IoLoop& loop) {
    auto file = std::make_unique<DiskIo>(std::move(overlay.file), loop);
    qcow2::OpenOptions options;
    options.backing_follows = backing == nullptr;
    return loop.run(qcow2::open_image(std::move(file), std::move(overlay.header), std::move(backing), options));
}

}  // namespace snapvm::disk
