// SPDX-License-Identifier: Apache-2.0
#include "vmm/config/machine_config.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "vmm/base/bytes.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

constexpr std::uint16_t kVersion = 3;
constexpr std::uint16_t kWithoutFormats = 2;  // version 2 has no formats and write errors of disks
constexpr std::size_t kMaxText = 4096;
constexpr std::uint32_t kMaxInitrds = 16;
constexpr std::size_t kMaxEncoded = 92ULL << 10;  // bytes that a snapshot has for it, beside its list of blocks

}  // namespace

Result<Uuid> Uuid::random() {
    Uuid uuid;
    if (::getrandom(uuid.bytes.data(), uuid.bytes.size(), 0) != static_cast<ssize_t>(uuid.bytes.size())) {
        return fail(Error::system("getrandom", "", errno));
    }
    uuid.bytes[6] = static_cast<std::uint8_t>((uuid.bytes[6] & 0x0F) | 0x40);  // RFC 4122, version 4
    uuid.bytes[8] = static_cast<std::uint8_t>((uuid.bytes[8] & 0x3F) | 0x80);  // and its variant
    return uuid;
}

std::string Uuid::text() const {
    std::string out;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        std::array<char, 4> hex;
        std::snprintf(hex.data(), hex.size(), "%02x", bytes[i]);
        out += hex.data();
        if (i == 3 || i == 5 || i == 7 || i == 9) {
            out += '-';
        }
    }
    return out;
}

Status MachineConfig::validate() const {
    if (memory_bytes < platform::kMinMemory || memory_bytes > platform::kMaxMemory ||
        memory_bytes % kHugePageSize != 0) {
        return fail(ErrorKind::usage, "a machine cannot have " + std::to_string(memory_bytes) + " bytes of memory",
                    "give a multiple of 2M from 2M to 1024G");
    }
    if (cpus < 1 || cpus > platform::kMaxCpus) {
        return fail(ErrorKind::usage, "a machine cannot have " + count_text(cpus, "vCPU"),
                    "give a number from 1 to " + std::to_string(platform::kMaxCpus));
    }
    if (cmdline.size() + 1 > platform::kCommandLineLimit || cmdline.find('\0') != std::string::npos) {
        return fail(ErrorKind::usage, "the guest's command line is too long or has a NUL byte in it",
                    "give at most " + std::to_string(platform::kCommandLineLimit - 1) + " bytes");
    }
    const auto is_bad = [](const std::string& path) {
        return path.size() > kMaxText || path.find('\0') != std::string::npos;
    };
    if (initrds.size() > kMaxInitrds || is_bad(kernel) || std::ranges::any_of(initrds, is_bad)) {
        return fail(ErrorKind::usage, "the initrds are too many, or a path is too long or has a NUL byte in it",
                    "give at most 16 initrds, and 4096 bytes a path");
    }
    if (devices.balloon && (devices.balloon->bytes % kPageSize != 0 || devices.balloon->bytes > memory_bytes)) {
        return fail(ErrorKind::usage, "a balloon cannot have " + std::to_string(devices.balloon->bytes) + " bytes",
                    "give a multiple of 4K, at most the machine's memory");
    }
    TRY(devices.validate());
    if (encode().size() > kMaxEncoded) {
        return fail(ErrorKind::usage, "the paths and texts of this machine are too long together",
                    "shorten some of them");
    }
    return {};
}

std::vector<BlockSpec> MachineConfig::blocks() const {
    std::vector<BlockSpec> list;
    const std::uint64_t low = std::min(memory_bytes, platform::kHoleStart.value);
    list.push_back({BlockId::ram_low, Gpa{0}, low});
    if (memory_bytes > low) {
        list.push_back({BlockId::ram_high, platform::kHoleEnd, memory_bytes - low});
    }
    list.push_back({BlockId::firmware, platform::kFirmwareBase, platform::kFirmwareSize});
    list.push_back({BlockId::vmgenid, platform::kVmGenIdBase, platform::kVmGenIdSize});
    return list;
}

std::vector<std::byte> MachineConfig::encode() const {
    Encoder out;
    out.u16(kVersion);
    out.u64(memory_bytes);
    out.u32(cpus);
    out.u8(static_cast<std::uint8_t>(pages));
    out.u8(static_cast<std::uint8_t>(boot));
    out.raw(std::as_bytes(std::span(machine_id.bytes)));
    out.text(kernel);
    out.u32(static_cast<std::uint32_t>(initrds.size()));
    for (const std::string& path : initrds) {
        out.text(path);
    }
    out.text(cmdline);
    devices.encode(out);
    return out.take();
}

Result<MachineConfig> MachineConfig::decode(std::span<const std::byte> bytes) {
    Decoder in(bytes);
    const std::uint16_t version = in.u16();
    if (!in.bad() && version != kVersion && version != kWithoutFormats) {
        return fail(ErrorKind::unsupported,
                    "machine configuration has version " + std::to_string(version) +
                        ", and this program reads versions 2 and 3",
                    "use the version of snapvm that wrote it");
    }
    MachineConfig config;
    config.memory_bytes = in.u64();
    config.cpus = in.u32();
    const std::uint8_t pages = in.u8();
    const std::uint8_t boot = in.u8();
    if (auto id = in.take(config.machine_id.bytes.size()); !id.empty()) {
        std::memcpy(config.machine_id.bytes.data(), id.data(), id.size());
    }
    config.kernel = in.text(kMaxText);
    const std::uint32_t initrds = in.u32();
    if (initrds > kMaxInitrds) {
        return fail(ErrorKind::invalid, "machine configuration has " + std::to_string(initrds) + " initrds");
    }
    for (std::uint32_t i = 0; i < initrds && !in.bad(); ++i) {
        config.initrds.push_back(in.text(kMaxText));
    }
    config.cmdline = in.text(kMaxText);
    config.devices = DeviceConfig::decode(in, version != kWithoutFormats);
    TRY(in.finish("machine configuration"));
    if (pages > static_cast<std::uint8_t>(PagePolicy::huge_pages) ||
        boot > static_cast<std::uint8_t>(BootProtocol::linux64)) {
        return fail(ErrorKind::invalid, "machine configuration has an unknown page policy or boot protocol");
    }
    for (const DiskConfig& disk : config.devices.disks) {
        if (disk.format != DiskFormat::raw && disk.format != DiskFormat::qcow2) {
            return fail(ErrorKind::invalid, "machine configuration has a disk of unknown format");
        }
    }
    config.pages = static_cast<PagePolicy>(pages);
    config.boot = static_cast<BootProtocol>(boot);
    if (Status valid = config.validate(); !valid) {
        return fail(ErrorKind::invalid, "machine configuration: " + valid.error().what());
    }
    return config;
}

}  // namespace snapvm
