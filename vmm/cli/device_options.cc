// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/device_options.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <string_view>
#include <system_error>

#include "vmm/base/try.h"

namespace snapvm::cli {
namespace {

using Fields = std::map<std::string_view, std::string, std::less<>>;

// Takes `option`'s text apart. Each key is one of `known`, once, with a value.
Result<Fields> parse_fields(std::string_view option, std::string_view text, std::initializer_list<std::string_view> known,
                            const std::string& advice) {
    Fields fields;
    std::string_view rest = text;
    while (true) {
        const std::string_view field = rest.substr(0, rest.find(','));
        const std::size_t equals = field.find('=');
        const auto key = std::ranges::find(known, field.substr(0, equals));
        if (equals == std::string_view::npos || equals + 1 == field.size() || key == known.end()) {
            return fail(ErrorKind::usage,
                        std::string(option) + " " + std::string(text) + ": \"" + std::string(field) + "\" is not for it", advice);
        }
        if (!fields.emplace(*key, field.substr(equals + 1)).second) {
            return fail(ErrorKind::usage, std::string(option) + " " + std::string(text) + " says " + std::string(*key) + " twice",
                        advice);
        }
        if (field.size() == rest.size()) {
            return fields;
        }
        rest.remove_prefix(field.size() + 1);
    }
}

Result<std::uint32_t> parse_cid(const std::string& text) {
    std::uint32_t cid = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), cid);
    if (error != std::errc() || rest != text.data() + text.size()) {
        return fail(ErrorKind::usage, "\"" + text + "\" is no vsock cid", "give a number, 3 or more");
    }
    return cid;
}

Status set_tap(DeviceConfig& devices, std::string_view id, const std::string& tap, const std::string& setting) {
    const auto net = std::ranges::find(devices.nets, id, &NetConfig::id);
    if (net == devices.nets.end()) {
        return fail(ErrorKind::usage,
                    "--set " + setting + ": the machine in the snapshot has no network interface " + std::string(id));
    }
    net->tap = tap;
    return devices.validate();
}

}  // namespace

Result<DiskConfig> parse_disk(const std::string& text) {
    const std::string advice = "write --disk id=ID,path=FILE[,readonly=on]";
    Fields fields = TRY(parse_fields("--disk", text, {"id", "path", "readonly"}, advice));
    if (!fields.contains("id") || !fields.contains("path")) {
        return fail(ErrorKind::usage, "--disk " + text + " lacks " + (fields.contains("id") ? "a path" : "an id"), advice);
    }
    const std::string read_only = fields.contains("readonly") ? fields["readonly"] : "off";
    if (read_only != "on" && read_only != "off") {
        return fail(ErrorKind::usage, "--disk " + text + ": readonly is on or off", advice);
    }
    std::error_code error;
    const std::filesystem::path path = std::filesystem::absolute(fields["path"], error);
    if (error) {
        return fail(Error::system("getcwd", fields["path"], error.value()));
    }
    return DiskConfig{.id = fields["id"], .path = path.string(), .read_only = read_only == "on"};
}

Result<VsockConfig> parse_vsock(const std::string& text) {
    const std::string advice = "write --vsock cid=3,socket=PATH";
    Fields fields = TRY(parse_fields("--vsock", text, {"cid", "socket"}, advice));
    if (!fields.contains("cid") || !fields.contains("socket")) {
        return fail(ErrorKind::usage, "--vsock needs both the guest's cid and a socket", advice);
    }
    return VsockConfig{TRY(parse_cid(fields["cid"])), fields["socket"]};
}

Result<NetConfig> parse_net(const std::string& text) {
    const std::string advice = "write --net id=ID,tap=TAP[,mac=02:00:00:00:00:0a]";
    Fields fields = TRY(parse_fields("--net", text, {"id", "tap", "mac"}, advice));
    if (!fields.contains("id") || !fields.contains("tap")) {
        return fail(ErrorKind::usage, "--net " + text + " lacks " + (fields.contains("id") ? "a tap" : "an id"), advice);
    }
    return NetConfig{.id = fields["id"],
                     .tap = fields["tap"],
                     .mac = fields.contains("mac") ? TRY(parse_mac(fields["mac"])) : TRY(random_mac())};
}

Status set_device(DeviceConfig& devices, const std::string& text) {
    const std::size_t equals = text.find('=');
    const std::string key = text.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : text.substr(equals + 1);
    constexpr std::string_view kNet = "net.";
    constexpr std::string_view kTap = ".tap";
    if (key.starts_with(kNet) && key.ends_with(kTap) && key.size() > kNet.size() + kTap.size() && !value.empty()) {
        return set_tap(devices, key.substr(kNet.size(), key.size() - kNet.size() - kTap.size()), value, text);
    }
    if ((key != "vsock.socket" && key != "vsock.cid") || value.empty()) {
        return fail(ErrorKind::usage, "--set " + text + " makes no sense",
                    "it takes net.ID.tap=TAP, vsock.socket=PATH and vsock.cid=N");
    }
    if (!devices.vsock) {
        return fail(ErrorKind::usage, "--set " + text + ": the machine in the snapshot has no vsock");
    }
    if (key == "vsock.cid") {
        devices.vsock->cid = TRY(parse_cid(value));
    } else {
        devices.vsock->socket = value;
    }
    return devices.validate();
}

}  // namespace snapvm::cli
