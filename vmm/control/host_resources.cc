// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/host_resources.h"

#include <algorithm>
#include <string_view>

#include "vmm/base/try.h"

namespace snapvm {
namespace {

using Kind = HostResource::Kind;

std::string text_of(const HostResource& resource) {
    switch (resource.kind) {
        case Kind::disk:
        case Kind::image:
            return resource.place + " for disk " + resource.id + (resource.read_only ? " (read-only)" : " (written)");
        case Kind::tap: return "tap " + resource.place + " for network interface " + resource.id;
        case Kind::vsock: break;
    }
    return "socket " + resource.place + " for the vsock";
}

bool names(const DeviceOverrides& overrides, const HostResource& resource) {
    switch (resource.kind) {
        case Kind::disk:
        case Kind::image: return overrides.disks.contains(resource.id);
        case Kind::tap: return overrides.taps.contains(resource.id);
        case Kind::vsock: break;
    }
    return overrides.vsock_socket.has_value();
}

// Returns a word that a shell takes as it is.
std::string shell_word(const std::string& text) {
    const auto plain = [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
               std::string_view("_@%+=:,./-").find(c) != std::string_view::npos;
    };
    if (std::ranges::all_of(text, plain)) {
        return text;
    }
    std::string word = "'";
    for (const char c : text) {
        word += c == '\'' ? std::string("'\\''") : std::string(1, c);
    }
    return word + "'";
}

}  // namespace

std::string setting_of(const HostResource& resource) {
    switch (resource.kind) {
        case Kind::disk:
        case Kind::image: return "disk." + resource.id + ".path";
        case Kind::tap: return "net." + resource.id + ".tap";
        case Kind::vsock: break;
    }
    return "vsock.socket";
}

std::vector<HostResource> host_resources(const DeviceConfig& devices) {
    std::vector<HostResource> resources;
    resources.reserve(devices.disks.size() + devices.nets.size() + 1);
    for (const DiskConfig& disk : devices.disks) {
        const Kind kind = disk.format == DiskFormat::qcow2 ? Kind::image : Kind::disk;
        const bool read_only = disk.read_only || disk.ephemeral != Ephemeral::off;
        resources.push_back({kind, disk.id, disk.path, read_only});
    }
    for (const NetConfig& net : devices.nets) {
        resources.push_back({Kind::tap, net.id, net.tap});
    }
    if (devices.vsock) {
        resources.push_back({Kind::vsock, {}, devices.vsock->socket});
    }
    return resources;
}

Status check_resources(std::span<const HostResource> wanted, const ResourceTrust& trust, const SnapshotPlace& place) {
    if (wanted.empty()) {
        return {};
    }
    const auto record = recorded_resources(place);
    const std::vector<HostResource> own = record ? *record : std::vector<HostResource>();
    std::string list;
    std::string words;
    for (const HostResource& resource : wanted) {
        const bool was_read_only = std::ranges::any_of(
            own, [&](const HostResource& one) { return setting_of(one) == setting_of(resource) && one.read_only; });
        if (was_read_only && !resource.read_only) {
            return fail(ErrorKind::invalid,
                        place.path + " says that disk " + resource.id + " is written, but it was read-only",
                        "the area was changed since the snapshot was taken: do not restore it");
        }
        if (!names(trust.named, resource) && std::ranges::find(own, resource) == own.end()) {
            list += (list.empty() ? "" : ", ") + text_of(resource);
            words += (words.empty() ? "--set " : " --set ") + shell_word(setting_of(resource) + "=" + resource.place);
        }
    }
    if (list.empty() || trust.all) {
        return {};
    }
    const bool unreadable = !record && record.error().kind() != ErrorKind::not_found;
    return fail(ErrorKind::usage,
                place.path + " wants " + list + ", and " +
                    (unreadable ? "what you wrote down is not used: " + record.error().what()
                                : "it is not the file of a snapshot that you took with this"),
                "if it may have this, name it: " + words + "; or trust the whole snapshot: --trust-paths");
}

}  // namespace snapvm
