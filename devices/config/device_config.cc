// SPDX-License-Identifier: Apache-2.0
#include "devices/config/device_config.h"

#include <algorithm>

#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::size_t kMaxText = 4096;
constexpr std::size_t kMaxId = 20;  // length of a virtio block serial number (virtio 1.2, 5.2.6.1)
constexpr std::size_t kMaxVirtioDevices = 16;
constexpr std::uint8_t kStops = 0x80;  // in the byte of a disk's format: WriteErrors::stop

void put(Encoder& out, std::span<const std::uint8_t> bytes) { out.raw(std::as_bytes(bytes)); }

Status check_id(const std::string& id, std::vector<std::string_view>& seen) {
    if (id.empty() || id.size() > kMaxId) {
        return fail(ErrorKind::usage, "the device id \"" + id + "\" is empty or has more than 20 characters",
                    "give 1 to 20 characters");
    }
    if (!std::ranges::all_of(id, [](char c) { return c > ' ' && c <= '~'; })) {
        return fail(ErrorKind::usage, "the device id \"" + id + "\" has characters that an id cannot have",
                    "use letters, digits and signs of ASCII");
    }
    if (std::ranges::find(seen, id) != seen.end()) {
        return fail(ErrorKind::usage, "two devices have the id " + id, "give each its own");
    }
    seen.push_back(id);
    return {};
}

Status check_text(const std::string& text, std::string_view what) {
    if (text.empty() || text.size() > kMaxText || text.find('\0') != std::string::npos) {
        return fail(ErrorKind::usage, std::string(what) + " is missing or too long", "give 1 to 4096 bytes");
    }
    return {};
}

Status check_disk(const DiskConfig& disk) {
    TRY(check_text(disk.path, "the path of disk " + disk.id));
    if (!disk.backing.empty() && disk.format != DiskFormat::qcow2) {
        return fail(ErrorKind::usage, "disk " + disk.id + " has no format with backing files", "add format=qcow2");
    }
    const bool ephemeral = disk.ephemeral != Ephemeral::off;
    if (ephemeral && disk.read_only) {
        return fail(ErrorKind::usage, "disk " + disk.id + " is read-only, so there are no writes to throw away",
                    "give readonly=on or ephemeral=on, not both");
    }
    if (!ephemeral && disk.ephemeral_max != 0) {
        return fail(ErrorKind::usage, "disk " + disk.id + " has an ephemeral-max and is not ephemeral",
                    "add ephemeral=on or ephemeral=file");
    }
    return {};
}

// Decodes a count and then that number of elements. Ends early if the bytes do.
template <class T, class DecodeOne>
void decode_list(Decoder& in, std::vector<T>& list, DecodeOne decode_one) {
    const std::uint32_t count = in.u32();
    for (std::uint32_t i = 0; i < count && !in.bad(); ++i) {
        list.push_back(decode_one());
    }
}

}  // namespace

std::string_view name_of(DiskFormat format) { return format == DiskFormat::qcow2 ? "qcow2" : "raw"; }

std::optional<DiskFormat> disk_format(std::string_view word) {
    for (const DiskFormat format : {DiskFormat::raw, DiskFormat::qcow2}) {
        if (word == name_of(format)) {
            return format;
        }
    }
    return std::nullopt;
}

std::string_view name_of(WriteErrors write_errors) { return write_errors == WriteErrors::stop ? "stop" : "report"; }

std::string_view name_of(Ephemeral ephemeral) {
    switch (ephemeral) {
        case Ephemeral::off: break;
        case Ephemeral::memory: return "memory";
        case Ephemeral::file: return "file";
    }
    return "off";
}

std::optional<Ephemeral> ephemeral(std::string_view word) {
    for (const Ephemeral one : {Ephemeral::off, Ephemeral::memory, Ephemeral::file}) {
        if (word == name_of(one)) {
            return one;
        }
    }
    return word == "on" ? std::optional(Ephemeral::memory) : std::nullopt;
}

std::size_t DeviceConfig::virtio_devices() const {
    return disks.size() + nets.size() + (vsock ? 1 : 0) + (balloon ? 1 : 0) + (rng ? 1 : 0) + (console ? 1 : 0);
}

Status DeviceConfig::validate() const {
    if (virtio_devices() > kMaxVirtioDevices) {
        return fail(ErrorKind::usage, "a machine cannot have " + std::to_string(virtio_devices()) + " virtio devices",
                    "give at most 16");
    }
    std::vector<std::string_view> ids;
    for (const DiskConfig& disk : disks) {
        TRY(check_id(disk.id, ids));
        TRY(check_disk(disk));
    }
    for (const NetConfig& net : nets) {
        TRY(check_id(net.id, ids));
        TRY(check_text(net.tap, "the tap of network interface " + net.id));
        if ((net.mac[0] & 1) != 0 || net.mac == MacAddress{}) {
            return fail(ErrorKind::usage,
                        "the MAC address " + mac_text(net.mac) + " of network interface " + net.id +
                            " is that of a group, or zero",
                        "give one with an even first byte, such as 02:00:00:00:00:01");
        }
    }
    if (vsock) {
        TRY(check_text(vsock->socket, "the vsock's socket"));
        if (vsock->cid < 3 || vsock->cid == 0xFFFFFFFF) {
            return fail(ErrorKind::usage, "vsock cid " + std::to_string(vsock->cid) + " is reserved", "give 3 or more");
        }
    }
    return {};
}

void DeviceConfig::encode(Encoder& out) const {
    out.u32(static_cast<std::uint32_t>(disks.size()));
    for (const DiskConfig& disk : disks) {
        out.text(disk.id);
        out.text(disk.path);
        out.boolean(disk.read_only);
        const bool unstated = disk.format == DiskFormat::unstated;  // it is used as raw by now
        const auto format = static_cast<std::uint8_t>(unstated ? DiskFormat::raw : disk.format);
        out.u8(disk.write_errors == WriteErrors::stop ? format | kStops : format);
    }
    out.u32(static_cast<std::uint32_t>(nets.size()));
    for (const NetConfig& net : nets) {
        out.text(net.id);
        out.text(net.tap);
        put(out, net.mac);
    }
    out.boolean(vsock.has_value());
    if (vsock) {
        out.u32(vsock->cid);
        out.text(vsock->socket);
    }
    out.boolean(balloon.has_value());
    if (balloon) {
        out.u64(balloon->bytes);
    }
    out.boolean(rng);
    out.boolean(console);
}

DeviceConfig DeviceConfig::decode(Decoder& in, bool formats) {
    DeviceConfig config;
    decode_list(in, config.disks, [&] {
        DiskConfig disk;
        disk.id = in.text(kMaxId);
        disk.path = in.text(kMaxText);
        disk.read_only = in.boolean();
        if (formats) {
            const std::uint8_t byte = in.u8();
            disk.format = static_cast<DiskFormat>(byte & ~kStops);
            disk.write_errors = (byte & kStops) != 0 ? WriteErrors::stop : WriteErrors::report;
        }
        return disk;
    });
    decode_list(in, config.nets, [&] {
        NetConfig net;
        net.id = in.text(kMaxId);
        net.tap = in.text(kMaxText);
        if (const auto mac = in.take(net.mac.size()); !mac.empty()) {
            std::memcpy(net.mac.data(), mac.data(), mac.size());
        }
        return net;
    });
    if (in.boolean()) {
        config.vsock.emplace();
        config.vsock->cid = in.u32();
        config.vsock->socket = in.text(kMaxText);
    }
    if (in.boolean()) {
        config.balloon.emplace();
        config.balloon->bytes = in.u64();
    }
    config.rng = in.boolean();
    config.console = in.boolean();
    return config;
}

}  // namespace snapvm
