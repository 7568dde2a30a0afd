// SPDX-License-Identifier: Apache-2.0
// snapvm disk resize: gives a disk another size, in an image that is not in use or in a running
// machine.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "devices/disk/image/chain.h"
#include "devices/disk/image/info.h"
#include "vmm/base/printable.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/cli/control.h"
#include "vmm/cli/disk_image.h"
#include "vmm/machine/machine.h"

namespace snapvm::cli {
namespace {

using Json = nlohmann::ordered_json;

struct ResizeCommand {
    std::vector<std::string> words;
    std::vector<std::string> backing;
    bool shrink = false;
};

// Refuses a smaller size that the user may not have meant.
Status check_shrink(const std::string& path, std::uint64_t before, std::uint64_t size, bool shrink) {
    if (size < before && !shrink) {
        return fail(ErrorKind::usage,
                    path + " has " + size_text(before) + ", and what is behind " + size_text(size) + " would be lost",
                    "make its file systems and partitions smaller first, then add --shrink");
    }
    return {};
}

// Closes the image in any case, so that what a failure has left is freed.
Status resize(disk::Chain& chain, std::uint64_t size) {
    const Status resized = chain.loop->run(chain.top->resize(size));
    Status closed = chain.loop->run(chain.top->close());
    TRY(resized);
    return closed;
}

// Without a stated format a file that looks like an image is refused, as by `run`: a guest can
// write the begin of an image into its raw disk, and name any file as a backing image there.
Result<int> resize_image(const ResizeCommand& command, const Globals& globals) {
    const ImageArgument image = TRY(parse_image(command.words[0]));
    const std::uint64_t size = TRY(parse_size(command.words[1]));
    DiskOptions options;
    options.format = image.format == "qcow2" ? DiskFormat::qcow2
                     : image.format == "raw" ? DiskFormat::raw
                                             : DiskFormat::unstated;
    options.backing = command.backing;
    auto chain = disk::open_chain({}, image.path, options);
    if (!chain) {
        return fail(image_error(std::move(chain).error()));
    }
    TRY(check_shrink(image.path, chain->top->size(), size, command.shrink));
    TRY(resize(*chain, size));
    if (globals.json) {
        print_line(json_text(Json{{"image", image.path}, {"size", size}}));
    } else {
        print_line(printable(image.path) + " has " + size_text(size) + " now");
    }
    return 0;
}

// The machine may wait for a freeze to end, and for its disk.
constexpr auto kResizeAnswer = kDrainLimit + 3 * kQuickAnswer;

Result<int> resize_machine(const ResizeCommand& command, const Globals& globals) {
    const std::string& name = command.words[0];
    const std::string& id = command.words[1];
    if (command.shrink || !command.backing.empty()) {
        return fail(ErrorKind::usage, "--shrink and --backing are for an image that is not in use",
                    "a running machine's disk can only grow");
    }
    Json body = {{"drive_id", id}};
    if (command.words[2] != "device") {
        body["size_bytes"] = TRY(parse_size(command.words[2]));
    }
    api::ApiClient client = TRY(connect_machine(globals, name));
    const std::string answer = TRY(ask(client, "PUT", "/drives/size", json_text(body), kResizeAnswer));
    const Json fields = Json::parse(answer, nullptr, /*allow_exceptions=*/false);
    const std::uint64_t size = fields.is_object() ? fields.value("size_bytes", std::uint64_t{0}) : 0;
    if (globals.json) {
        print_line(json_text(Json{{"name", name}, {"disk", id}, {"size", size}}));
    } else {
        print_line(printable(name + ": disk " + id + " has " + size_text(size) + " now"));
    }
    return 0;
}

Result<int> resize_disk(const ResizeCommand& command, const Globals& globals) {
    switch (command.words.size()) {
        case 2: return resize_image(command, globals);
        case 3: return resize_machine(command, globals);
        default:
            return fail(ErrorKind::usage, "snapvm disk resize takes IMAGE SIZE, or NAME DISK SIZE",
                        "name the image, or the running machine and its disk, and the new size");
    }
}

}  // namespace

void add_disk_resize(Command disk, Globals& globals) {
    auto options = std::make_shared<ResizeCommand>();
    Command command = disk.subcommand("resize", "give a disk another size");
    command.example("snapvm disk resize vm root 40G");
    command.arguments("DISK", options->words,
                      "NAME DISK SIZE of a running machine, or IMAGE SIZE; an image is F[,format=raw|qcow2]");
    command.list("--backing F", options->backing, "a file that may be read as a backing image of it");
    command.flag("--shrink", options->shrink, "the new size may be smaller; what is behind it is lost");
    command.action([=, &globals] { return resize_disk(*options, globals); });
}

}  // namespace snapvm::cli
