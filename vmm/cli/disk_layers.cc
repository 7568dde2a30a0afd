// SPDX-License-Identifier: Apache-2.0
// snapvm disk snapshot, list and revert: layers of a disk, of a running machine or in an image that
// is not in use.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "devices/disk/image/info.h"
#include "devices/disk/image/layer_tree.h"
#include "devices/disk/image/unused_image.h"
#include "vmm/base/absolute_path.h"
#include "vmm/base/printable.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/cli/control.h"
#include "vmm/cli/disk_image.h"
#include "vmm/machine/machine.h"

namespace snapvm::cli {
namespace {

using Json = nlohmann::ordered_json;

// The machine may wait for its disks.
constexpr auto kLayerAnswer = kDrainLimit + 3 * kQuickAnswer;

struct SnapshotCommand {
    std::vector<std::string> words;
    std::string into;
};

DiskFormat format_of(const ImageArgument& image) { return disk_format(image.format).value_or(DiskFormat::unstated); }

void print_layer(const Globals& globals, const std::string& tag, const disk::LayerPlaces& places, Json json) {
    if (globals.json) {
        json.update({{"tag", tag}, {"layer", places.frozen}, {"active", places.active}});
        print_line(json_text(json));
        return;
    }
    print_line(printable("layer " + tag + ": " + places.frozen));
    print_line(printable("continues in: " + places.active + " (format=qcow2)"));
}

Result<int> snapshot_image(const SnapshotCommand& command, const Globals& globals) {
    const ImageArgument image = TRY(parse_image(command.words[0]));
    auto places = disk::take_layer(image.path, format_of(image), command.words[1], command.into);
    if (!places) {
        return fail(image_error(std::move(places).error()));
    }
    print_layer(globals, command.words[1], *places, {{"image", image.path}});
    return 0;
}

Result<int> snapshot_machine(const SnapshotCommand& command, const Globals& globals) {
    const std::string& name = command.words[0];
    const std::string& tag = command.words[2];
    Json body = {{"drive_id", command.words[1]}, {"tag", tag}};
    if (!command.into.empty()) {
        body["overlay_path"] = TRY(absolute_path(command.into));
    }
    api::ApiClient client = TRY(connect_machine(globals, name));
    const std::string answer = TRY(ask(client, "PUT", "/drives/layers", json_text(body), kLayerAnswer));
    const Json fields = Json::parse(answer, nullptr, /*allow_exceptions=*/false);
    const auto text_of = [&](const char* key) { return fields.is_object() ? fields.value(key, "") : std::string(); };
    print_layer(globals, tag, {.frozen = text_of("layer_path"), .active = text_of("overlay_path")},
                {{"name", name}, {"disk", command.words[1]}, {"held_us", fields.value("held_us", 0)}});
    return 0;
}

Result<int> take_snapshot(const SnapshotCommand& command, const Globals& globals) {
    switch (command.words.size()) {
        case 2: return snapshot_image(command, globals);
        case 3: return snapshot_machine(command, globals);
        default:
            return fail(ErrorKind::usage, "snapvm disk snapshot takes IMAGE TAG, or NAME DISK TAG",
                        "name the image, or the running machine and its disk, and the tag of the layer");
    }
}

// Returns the image that a running machine's disk writes to.
Result<ImageArgument> image_of_machine(const Globals& globals, const std::string& name, const std::string& id) {
    api::ApiClient client = TRY(connect_machine(globals, name));
    const std::string body = TRY(ask(client, "GET", "/vm/config", {}, kQuickAnswer));
    const Json config = Json::parse(body, nullptr, /*allow_exceptions=*/false);
    const Json drives = config.is_object() ? config.value("drives", Json::array()) : Json::array();
    for (const Json& drive : drives) {
        if (drive.value("drive_id", "") == id) {
            return ImageArgument{.path = drive.value("path_on_host", ""), .format = drive.value("format", "raw")};
        }
    }
    return fail(ErrorKind::usage, name + " has no disk " + id);
}

Result<int> list(const std::vector<std::string>& words, const Globals& globals) {
    if (words.size() > 2) {
        return fail(ErrorKind::usage, "snapvm disk list takes IMAGE, or NAME DISK",
                    "name the image, or the running machine and its disk");
    }
    ImageArgument image =
        words.size() == 2 ? TRY(image_of_machine(globals, words[0], words[1])) : TRY(parse_image(words[0]));
    if (image.format.empty()) {
        // The contents may tell: a list is for people to read, and opens no disk.
        image.format = TRY(disk::image_info(image.path)).format;
    }
    const auto tree = TRY(disk::layer_tree(image.path, format_of(image)));
    print(stdout, "%s\n", globals.json ? to_json(tree).c_str() : to_text(tree).c_str());
    return 0;
}

Result<int> revert(const std::string& path, const std::string& tag, const Globals& globals) {
    const ImageArgument image = TRY(parse_image(path));
    auto places = disk::revert_to_layer(image.path, tag);
    if (!places) {
        return fail(image_error(std::move(places).error()));
    }
    print_layer(globals, tag, *places, {{"image", image.path}});
    return 0;
}

}  // namespace

void add_disk_layers(Command disk, Globals& globals) {
    Command snapshot = disk.subcommand("snapshot", "freeze a disk as it is, and continue in an overlay above it");
    auto options = std::make_shared<SnapshotCommand>();
    snapshot.example("snapvm disk snapshot vm root before-upgrade");
    snapshot.arguments("DISK", options->words,
                       "NAME DISK TAG of a running machine, or IMAGE TAG; an image is F[,format=raw|qcow2]");
    snapshot.option("--into FILE|DEVICE", options->into,
                    "where the disk continues (default: a qcow2 image keeps its path; of another, beside it)");
    snapshot.action([=, &globals] { return take_snapshot(*options, globals); });

    Command layers = disk.subcommand("list", "draw the tree of a disk's layers");
    auto words = std::make_shared<std::vector<std::string>>();
    layers.example("snapvm disk list vm root");
    layers.arguments("DISK", *words, "NAME DISK of a running machine, or IMAGE");
    layers.action([=, &globals] { return list(*words, globals); });

    Command back = disk.subcommand("revert", "put an image back to one of its layers; later writes are lost");
    auto image = std::make_shared<std::string>();
    auto tag = std::make_shared<std::string>();
    back.example("snapvm disk revert vm.qcow2 before-upgrade");
    back.required("IMAGE", *image, "the active image, which is not in use");
    back.required("TAG", *tag, "the layer");
    back.action([=, &globals] { return revert(*image, *tag, globals); });
}

}  // namespace snapvm::cli
