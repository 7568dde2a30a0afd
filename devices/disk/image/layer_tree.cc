// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/image/layer_tree.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "devices/disk/image/chain.h"
#include "devices/disk/image/info.h"
#include "devices/disk/image_format.h"
#include "devices/disk/layer_mark.h"
#include "vmm/base/absolute_path.h"
#include "vmm/base/fd.h"
#include "vmm/base/opener.h"
#include "vmm/base/printable.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm::disk {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxFiles = 10'000;  // of a folder that are looked at

// Fills in what a frozen layer's mark says.
Status read_mark_of(LayerNode& node) {
    const UniqueFd file = TRY(open_file(node.path, O_RDONLY | O_NONBLOCK));
    if (const auto mark = TRY(read_mark(file.get(), node.path, node.path))) {
        const std::string folder = mark->active.front() == '/' ? "" : node.path.substr(0, node.path.rfind('/') + 1);
        node.tag = mark->tag;
        node.active = canonical_path(folder + mark->active).value_or(folder + mark->active);
    }
    return {};
}

bool is_file(const std::string& path) {
    struct stat info{};
    const auto file = open_file(path, O_PATH);
    return file && ::fstat(file->get(), &info) == 0 && S_ISREG(info.st_mode);
}

// Looks at an image, and at what it names behind it.
Result<std::pair<LayerNode, std::optional<ImagePlace>>> look_at(const ImagePlace& place) {
    const ImageInfo info = TRY(image_info(place.path, name_of(place.format)));
    LayerNode node{.path = place.path, .format = place.format, .size = info.size, .host_bytes = info.host_bytes};
    TRY(read_mark_of(node));
    std::optional<ImagePlace> behind;
    if (info.header && info.header->has_backing) {
        behind = TRY(image_behind(*info.header, place.path, place.path));
        behind->path = canonical_path(behind->path).value_or(behind->path);
        node.behind = behind->path;
    }
    return std::pair(std::move(node), std::move(behind));
}

using Images = std::map<std::string, LayerNode>;  // by canonical path

// Adds an image and those behind it.
Status add_chain(Images& images, ImagePlace place) {
    while (true) {
        if (images.size() >= kMaxImages) {
            return fail(ErrorKind::invalid, place.path + " is in a chain of more than " + std::to_string(kMaxImages) +
                                                " images, or in a loop");
        }
        auto [node, behind] = TRY(look_at(place));
        node.in_chain = true;
        const bool seen = !images.emplace(place.path, std::move(node)).second;
        if (seen || !behind) {
            return {};
        }
        place = *std::move(behind);
        if (!is_file(place.path)) {
            // Opening a device may have effects, and a header is no reason for them.
            images.emplace(place.path, LayerNode{.path = place.path, .format = place.format, .in_chain = true});
            return {};
        }
    }
}

// Returns whether a file begins as a qcow2 image does. Devices and pipes are not opened.
bool looks_like_qcow2(const UniqueFd& folder, const std::string& name) {
    struct stat info{};
    if (::fstatat(folder.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(info.st_mode)) {
        return false;
    }
    const auto file = opener().open(folder.get(), name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    const auto format = file ? image_format(file->get(), static_cast<std::uint64_t>(info.st_size), name)
                             : Result<std::string_view>(std::string_view());
    return format && *format == "qcow2";
}

// Returns the images of a folder that stand on another one.
std::vector<LayerNode> images_in(const std::string& folder) {
    std::vector<LayerNode> found;
    const auto opened = open_file(folder, O_RDONLY | O_DIRECTORY);
    auto names = opened ? names_in(*opened) : Result<std::vector<std::string>>();
    if (!names || names->size() > kMaxFiles) {
        return found;
    }
    std::ranges::sort(*names);
    for (const std::string& name : *names) {
        if (!looks_like_qcow2(*opened, name)) {
            continue;
        }
        std::string path = folder.ends_with('/') ? folder : folder + '/';
        path += name;
        auto image = look_at({.path = std::move(path), .format = DiskFormat::qcow2});
        if (image && !image->first.behind.empty()) {
            found.push_back(std::move(image->first));
        }
    }
    return found;
}

// Adds the images that stand on one that is there, until there are no more.
void add_others(Images& images) {
    std::vector<std::string> folders;
    for (const auto& [path, node] : images) {
        folders.push_back(path.substr(0, std::max<std::size_t>(path.rfind('/'), 1)));
    }
    std::ranges::sort(folders);
    folders.erase(std::ranges::unique(folders).begin(), folders.end());
    std::vector<LayerNode> others;
    for (const std::string& folder : folders) {
        std::ranges::move(images_in(folder), std::back_inserter(others));
    }
    for (bool more = true; std::exchange(more, false);) {
        for (const LayerNode& other : others) {
            more |= images.contains(other.behind) && images.emplace(other.path, other).second;
        }
    }
}

void put_in_order(Images& images, const std::string& path, std::size_t depth, std::vector<LayerNode>& into) {
    LayerNode node = images.at(path);
    node.depth = depth;
    into.push_back(std::move(node));
    for (const auto& [other, found] : images) {
        if (found.behind == path) {
            put_in_order(images, other, depth + 1, into);
        }
    }
}

std::string name_of_node(const LayerNode& node, const std::string& folder) {
    const bool beside = node.path.starts_with(folder) && node.path.find('/', folder.size()) == std::string::npos;
    return beside ? node.path.substr(folder.size()) : node.path;
}

}  // namespace

Result<std::vector<LayerNode>> layer_tree(const std::string& path, DiskFormat format) {
    Images images;
    const std::string asked = TRY(canonical_path(path));
    TRY(add_chain(images, {.path = asked, .format = format == DiskFormat::qcow2 ? format : DiskFormat::raw}));
    add_others(images);
    std::vector<LayerNode> tree;
    for (const auto& [root, found] : images) {
        if (found.behind.empty()) {
            put_in_order(images, root, 0, tree);
        }
    }
    for (LayerNode& node : tree) {
        node.asked_for = node.path == asked;
    }
    return tree;
}

Result<LayerNode> find_layer(const std::vector<LayerNode>& tree, const std::string& tag) {
    const auto asked = std::ranges::find(tree, true, &LayerNode::asked_for);
    std::string tags;
    for (const LayerNode& node : tree) {
        // Others in the folder may have layers with the same tag on the same base.
        if (node.tag.empty() || (!node.in_chain && node.active != asked->path)) {
            continue;
        }
        if (node.tag == tag) {
            return node;
        }
        tags += (tags.empty() ? "" : ", ") + node.tag;
    }
    return fail(ErrorKind::not_found, "there is no layer " + tag,
                tags.empty() ? "no layer was taken of this disk: snapvm disk snapshot" : "give one of these: " + tags);
}

std::string to_text(const std::vector<LayerNode>& tree) {
    const std::string folder = tree.empty() ? "" : tree.front().path.substr(0, tree.front().path.rfind('/') + 1);
    std::size_t width = 0;
    for (const LayerNode& node : tree) {
        width = std::max(width, 2 * node.depth + printable(name_of_node(node, folder)).size());
    }
    std::string text;
    for (const LayerNode& node : tree) {
        std::string line = std::string(2 * node.depth, ' ') + printable(name_of_node(node, folder));
        line.resize(width + 2, ' ');
        line += node.tag.empty() ? (node.asked_for ? "active" : "-") : "layer " + node.tag;
        line += ", " + std::string(name_of(node.format)) + ", a disk of " + size_text(node.size) + ", takes " +
                size_text(node.host_bytes);
        text += (text.empty() ? "" : "\n") + line;
    }
    return text;
}

std::string to_json(const std::vector<LayerNode>& tree) {
    Json list = Json::array();
    for (const LayerNode& node : tree) {
        list.push_back({{"image", node.path},
                        {"format", name_of(node.format)},
                        {"tag", node.tag.empty() ? Json() : Json(node.tag)},
                        {"depth", node.depth},
                        {"size", node.size},
                        {"host_bytes", node.host_bytes},
                        {"asked_for", node.asked_for}});
    }
    return json_text(list);
}

}  // namespace snapvm::disk
