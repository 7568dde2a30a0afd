// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/device_options.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "vmm/base/absolute_path.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/control/host_resources.h"

namespace snapvm::cli {
namespace {

using Fields = std::map<std::string_view, std::string, std::less<>>;

// Takes the next field off the text. Two commas stand for one in it, as in QEMU's options. Returns
// false in `more` if it was the last one.
std::string take_field(std::string_view& rest, bool& more) {
    std::string field;
    std::size_t at = 0;
    while (at < rest.size() && (rest[at] != ',' || rest.substr(at).starts_with(",,"))) {
        field += rest[at];
        at += rest[at] == ',' ? 2 : 1;
    }
    more = at < rest.size();
    rest.remove_prefix(more ? at + 1 : at);
    return field;
}

// Splits the text of `option` into fields. Each key is one of `known`, occurs once, and has a
// value.
Result<Fields> parse_fields(std::string_view option, std::string_view text,
                            std::initializer_list<std::string_view> known, const std::string& advice) {
    Fields fields;
    std::string_view rest = text;
    for (bool more = true; more;) {
        const std::string field = take_field(rest, more);
        const std::size_t equals = field.find('=');
        const auto key = std::ranges::find(known, std::string_view(field).substr(0, equals));
        if (equals == std::string::npos || equals + 1 == field.size() || key == known.end()) {
            return fail(ErrorKind::usage,
                        std::string(option) + " " + std::string(text) + ": \"" + field + "\" is not one of its fields",
                        advice + "; a comma in a value is written ,,");
        }
        if (!fields.emplace(*key, field.substr(equals + 1)).second) {
            return fail(ErrorKind::usage,
                        std::string(option) + " " + std::string(text) + " gives " + std::string(*key) + " twice",
                        advice);
        }
    }
    return fields;
}

Result<std::uint32_t> parse_cid(const std::string& text) {
    std::uint32_t cid = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), cid);
    if (error != std::errc() || rest != text.data() + text.size()) {
        return fail(ErrorKind::usage, "\"" + text + "\" is not a vsock cid", "give a number, 3 or more");
    }
    return cid;
}

constexpr std::string_view kClone = "{i}";
constexpr std::string_view kDisk = "disk.";
constexpr std::string_view kNet = "net.";

// Returns the name, for a message, of a resource that only one machine can have, and an example of
// a clone's own.
std::pair<std::string, std::string> names_of(const HostResource& resource) {
    switch (resource.kind) {
        case HostResource::Kind::disk:
        case HostResource::Kind::image: return {"disk " + resource.id + ", which they write", "COPY{i}"};
        case HostResource::Kind::tap: return {"a tap", "TAP{i}"};
        case HostResource::Kind::vsock: break;
    }
    return {"a vsock's socket", "PATH{i}"};
}

Status parse_setting(const std::string& text, unsigned clone, DeviceOverrides& overrides) {
    const std::size_t equals = std::min(text.find('='), text.size());
    const std::string key = text.substr(0, equals);
    std::string value = for_clone(text.substr(std::min(equals + 1, text.size())), clone);
    const std::size_t dot = std::min(key.rfind('.'), key.size());  // an id may have dots itself
    const std::string device = key.substr(0, dot);
    const std::string what = key.substr(std::min(dot + 1, key.size()));
    if (!value.empty() && device.starts_with(kDisk) && what == "path") {
        overrides.disks[device.substr(kDisk.size())] = std::move(value);
    } else if (!value.empty() && device.starts_with(kDisk) && what == "backing") {
        overrides.backing[device.substr(kDisk.size())] = std::move(value);
    } else if (!value.empty() && device.starts_with(kNet) && what == "tap") {
        overrides.taps[device.substr(kNet.size())] = std::move(value);
    } else if (!value.empty() && key == "vsock.socket") {
        overrides.vsock_socket = std::move(value);
    } else if (!value.empty() && key == "vsock.cid") {
        overrides.vsock_cid = TRY(parse_cid(value));
    } else {
        return fail(ErrorKind::usage, "--set " + text + " is not a setting of a device",
                    "write disk.ID.path=FILE, disk.ID.backing=FILE, net.ID.tap=TAP, vsock.socket=PATH or vsock.cid=N");
    }
    return {};
}

Status parse_ephemeral(Fields& fields, const std::string& text, const std::string& advice, DiskConfig& disk) {
    if (fields.contains("ephemeral")) {
        const auto how = ephemeral(fields["ephemeral"]);
        if (!how) {
            return fail(ErrorKind::usage, "--disk " + text + ": ephemeral is neither on, off nor file", advice);
        }
        disk.ephemeral = *how;
    }
    if (fields.contains("ephemeral-max")) {
        disk.ephemeral_max = TRY(parse_size(fields["ephemeral-max"]));
        if (disk.ephemeral_max == 0) {
            return fail(ErrorKind::usage, "--disk " + text + ": ephemeral-max is 0", "give a size, such as 4G");
        }
    }
    return {};
}

}  // namespace

Result<DiskConfig> parse_disk(const std::string& text) {
    const std::string advice =
        "write --disk id=ID,path=FILE[,format=raw|qcow2][,readonly=on][,backing=FILE][,werror=stop]"
        "[,ephemeral=on|file][,ephemeral-max=SIZE]";
    Fields fields = TRY(
        parse_fields("--disk", text,
                     {"id", "path", "format", "readonly", "backing", "werror", "ephemeral", "ephemeral-max"}, advice));
    if (!fields.contains("id") || !fields.contains("path")) {
        return fail(ErrorKind::usage, "--disk " + text + " lacks " + (fields.contains("id") ? "a path" : "an id"),
                    advice);
    }
    const std::string read_only = fields.contains("readonly") ? fields["readonly"] : "off";
    if (read_only != "on" && read_only != "off") {
        return fail(ErrorKind::usage, "--disk " + text + ": readonly is neither on nor off", advice);
    }
    DiskConfig disk{.id = fields["id"],
                    .path = TRY(absolute_path(fields["path"])),
                    .read_only = read_only == "on",
                    .format = DiskFormat::unstated};
    if (fields.contains("format")) {
        const auto format = disk_format(fields["format"]);
        if (!format) {
            return fail(ErrorKind::usage, "--disk " + text + ": snapvm has no disks of format " + fields["format"],
                        "convert it (qemu-img convert -O qcow2), and give the result with format=qcow2");
        }
        disk.format = *format;
    }
    if (const std::string word = fields.contains("werror") ? fields["werror"] : "report"; word == "stop") {
        disk.write_errors = WriteErrors::stop;
    } else if (word != "report") {
        return fail(ErrorKind::usage, "--disk " + text + ": werror is neither stop nor report", advice);
    }
    if (fields.contains("backing")) {
        disk.backing = {TRY(absolute_path(fields["backing"]))};
    }
    TRY(parse_ephemeral(fields, text, advice, disk));
    return disk;
}

Result<VsockConfig> parse_vsock(const std::string& text) {
    const std::string advice = "write --vsock cid=3,socket=PATH";
    Fields fields = TRY(parse_fields("--vsock", text, {"cid", "socket"}, advice));
    if (!fields.contains("cid") || !fields.contains("socket")) {
        return fail(ErrorKind::usage, "--vsock " + text + " lacks " + (fields.contains("cid") ? "a socket" : "a cid"),
                    advice);
    }
    return VsockConfig{TRY(parse_cid(fields["cid"])), fields["socket"]};
}

Result<NetConfig> parse_net(const std::string& text) {
    const std::string advice = "write --net id=ID,tap=TAP[,mac=02:00:00:00:00:0a]";
    Fields fields = TRY(parse_fields("--net", text, {"id", "tap", "mac"}, advice));
    if (!fields.contains("id") || !fields.contains("tap")) {
        return fail(ErrorKind::usage, "--net " + text + " lacks " + (fields.contains("id") ? "a tap" : "an id"),
                    advice);
    }
    return NetConfig{.id = fields["id"],
                     .tap = fields["tap"],
                     .mac = fields.contains("mac") ? TRY(parse_mac(fields["mac"])) : TRY(random_mac())};
}

std::string for_clone(std::string text, unsigned clone) {
    const std::string number = std::to_string(clone);
    for (std::size_t at = text.find(kClone); at != std::string::npos; at = text.find(kClone, at + number.size())) {
        text.replace(at, kClone.size(), number);
    }
    return text;
}

Result<DeviceOverrides> parse_settings(std::span<const std::string> settings, unsigned clone) {
    DeviceOverrides overrides;
    for (const std::string& text : settings) {
        TRY(parse_setting(text, clone, overrides));
    }
    return overrides;
}

Status check_clones(const DeviceConfig& devices, std::span<const std::string> settings, unsigned count) {
    std::set<std::string> taken;
    for (unsigned clone = 0; clone < count; ++clone) {
        DeviceConfig own = devices;
        TRY(TRY(parse_settings(settings, clone)).apply(own));
        for (const HostResource& resource : host_resources(own)) {
            if (!resource.read_only && !taken.insert(resource.place).second) {
                const auto [name, example] = names_of(resource);
                return fail(
                    ErrorKind::usage,
                    std::to_string(count) + " machines cannot share " + name + " (" + resource.place + ")",
                    "give each its own, with {i} for its number: --set '" + setting_of(resource) + "=" + example + "'");
            }
        }
    }
    return {};
}

}  // namespace snapvm::cli
