// SPDX-License-Identifier: Apache-2.0
// Commands on disk images: disk create, disk info. Others have files of their own (disk_image.h).
// They do not need KVM.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "devices/disk/image/chain.h"
#include "devices/disk/image/info.h"
#include "devices/disk/qcow2/create.h"
#include "vmm/base/absolute_path.h"
#include "vmm/base/opener.h"
#include "vmm/base/printable.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/cli/commands.h"
#include "vmm/cli/disk_image.h"
#include "vmm/cli/output.h"

namespace snapvm::cli {
namespace {

using disk::ImageInfo;
using disk::qcow2::CreateOptions;

constexpr unsigned kMode = 0600;  // an image holds a guest's files

struct CreateCommand {
    std::string path;
    std::string size;
    std::string backing;
};

/// A backing image as the command line gives it.
struct Backing {
    std::string path;
    std::string format;
};

// Parses "F,format=FORMAT". A comma in F needs no sign before it.
Result<Backing> parse_backing(const std::string& text) {
    constexpr std::string_view kFormat = ",format=";
    const std::size_t at = text.rfind(kFormat);
    if (at == std::string::npos || at == 0 || text.ends_with(kFormat)) {
        return fail(ErrorKind::usage, "--backing " + text + " does not say the format of the image",
                    "write --backing FILE,format=raw or --backing FILE,format=qcow2");
    }
    return Backing{.path = text.substr(0, at), .format = text.substr(at + kFormat.size())};
}

Result<CreateOptions> options_of(const CreateCommand& command) {
    CreateOptions options;
    if (!command.size.empty()) {
        options.size = TRY(parse_size(command.size));
    }
    if (!command.backing.empty()) {
        const Backing backing = TRY(parse_backing(command.backing));
        const ImageInfo info = TRY(disk::image_info(backing.path, backing.format));
        options.backing_file = disk::name_in_image(TRY(absolute_path(command.path)), TRY(absolute_path(backing.path)));
        options.backing_format = backing.format;
        if (command.size.empty()) {
            options.size = info.size;
        }
    } else if (command.size.empty()) {
        return fail(ErrorKind::usage, "--size is missing", "give the disk's size, such as --size 20G, or --backing");
    }
    TRY(check_options(options));
    return options;
}

Result<UniqueFd> new_file(const FolderEntry& entry, const std::string& path) {
    auto fd = opener().open(entry.folder(), entry.name(), O_CREAT | O_EXCL | O_RDWR, kMode);
    if (!fd && fd.error().code() == EEXIST) {
        return fail(ErrorKind::usage, path + " exists, and snapvm disk create overwrites nothing",
                    "remove it first, or give another path");
    }
    return fd;
}

// Makes the file's name durable.
Status synchronise_folder(const FolderEntry& entry, const std::string& path) {
    const UniqueFd folder = TRY(opener().open(entry.folder(), ".", O_RDONLY | O_DIRECTORY, 0));
    if (::fsync(folder.get()) != 0) {
        return fail(Error::system("fsync", "the folder of " + path, errno));
    }
    return {};
}

Status write_image(const std::string& path, const CreateOptions& options) {
    const FolderEntry entry = TRY(FolderEntry::of(path));
    const UniqueFd fd = TRY(new_file(entry, path));
    Status written = create_image(fd.get(), options, path);
    if (written) {
        written = synchronise_folder(entry, path);
    }
    if (!written) {
        entry.remove();
    }
    return written;
}

// A raw file elsewhere can be any private one, so an image cannot give a guest that by itself.
void hint_at_backing(const CreateCommand& command, const CreateOptions& options) {
    if (options.backing_format == "raw" && options.backing_file.starts_with('/')) {
        print_error(command.path +
                    ": its backing image is a raw file in another folder, so run wants it named: --disk id=ID,path=" +
                    command.path + ",format=qcow2,backing=" + options.backing_file);
    }
}

Result<int> create(const CreateCommand& command, const Globals& globals) {
    const CreateOptions options = TRY(options_of(command));
    TRY(write_image(command.path, options));
    hint_at_backing(command, options);
    if (globals.json) {
        print_line(to_json(TRY(disk::image_info(command.path, "qcow2"))));
        return 0;
    }
    const std::string behind = options.backing_file.empty() ? "" : ", over " + options.backing_file;
    print(stdout, "%s: qcow2, %s%s\n", printable(command.path).c_str(), size_text(options.size).c_str(),
          printable(behind).c_str());
    return 0;
}

Result<int> info(const std::string& path, const Globals& globals) {
    const ImageInfo found = TRY(disk::image_info(path));
    print(stdout, "%s\n", globals.json ? to_json(found).c_str() : to_text(found).c_str());
    return 0;
}

void add_create(Command disk, Globals& globals) {
    auto options = std::make_shared<CreateCommand>();
    Command command = disk.subcommand("create", "make a new disk image, of format qcow2");
    command.example("snapvm disk create vm.qcow2 --size 20G");
    command.required("FILE", options->path, "the image; it must not exist");
    command.option("--size SIZE", options->size, "the guest's disk, such as 20G (default: the backing image's)");
    command.option("--backing FILE,format=raw|qcow2", options->backing,
                   "the image behind it, whose data it has until the guest writes");
    command.action([=, &globals] { return create(*options, globals); });
}

void add_info(Command disk, Globals& globals) {
    auto path = std::make_shared<std::string>();
    Command command = disk.subcommand("info", "show what a disk image is");
    command.example("snapvm disk info vm.qcow2");
    command.required("IMAGE", *path, "a file or a block device");
    command.action([=, &globals] { return info(*path, globals); });
}

}  // namespace

Result<ImageArgument> parse_image(const std::string& text) {
    constexpr std::string_view kFormat = ",format=";
    const std::size_t at = text.rfind(kFormat);
    if (at == std::string::npos) {
        return ImageArgument{.path = text, .format = {}};
    }
    ImageArgument image{.path = text.substr(0, at), .format = text.substr(at + kFormat.size())};
    if (image.format != "raw" && image.format != "qcow2") {
        return fail(ErrorKind::usage, "snapvm has no disks of format " + image.format,
                    "give format=raw or format=qcow2");
    }
    return image;
}

Error image_error(Error error) {
    switch (error.kind()) {
        case ErrorKind::busy: return std::move(error).advise("stop that machine, or unmount it, first");
        case ErrorKind::system: return std::move(error).advise("");
        default: return error;
    }
}

void add_disk(Command program, Globals& globals) {
    Command disk = program.group("disk", "make disk images, and look into them");
    add_create(disk, globals);
    add_info(disk, globals);
    add_disk_check(disk, globals);
    add_disk_layers(disk, globals);
    add_disk_resize(disk, globals);
}

}  // namespace snapvm::cli
