// SPDX-License-Identifier: Apache-2.0
// The devices of a machine, beside those that every machine has. Part of its configuration, and so
// of its snapshots.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "devices/config/mac_address.h"
#include "vmm/base/bytes.h"
#include "vmm/base/error.h"

namespace snapvm {

/// How a disk's file is read. `unstated`: as raw, if it does not look like an image of another
/// format. `raw`: its bytes as they are. `qcow2`: as an image, with the images behind it. A
/// snapshot says `raw` for `unstated`, so that what a guest writes into its disk does not keep its
/// machine from coming back.
enum class DiskFormat : std::uint8_t { unstated = 0, raw = 1, qcow2 = 2 };

/// Returns the word that users give for a format: "raw" (for `unstated`, too) or "qcow2".
[[nodiscard]] std::string_view name_of(DiskFormat format);
/// Returns the format of such a word, or none.
[[nodiscard]] std::optional<DiskFormat> disk_format(std::string_view word);

/// What happens to a guest's write, discard or flush that fails on the host. `report`: the guest
/// gets the error. `stop`: the guest does not see it; the request is kept, the machine is paused,
/// and its resume tries the request again.
enum class WriteErrors : std::uint8_t { report = 0, stop = 1 };

/// Returns the word that users give: "report" or "stop".
[[nodiscard]] std::string_view name_of(WriteErrors write_errors);

/// Where the guest's writes to a disk go. `off`: into the disk. Otherwise the disk's file is only
/// read, and the writes are gone when the machine ends: `memory`: they are in the host's memory.
/// `file`: they are in an unnamed file, in $TMPDIR or /var/tmp.
enum class Ephemeral : std::uint8_t { off, memory, file };

/// Returns the word that users give: "off", "memory" or "file".
[[nodiscard]] std::string_view name_of(Ephemeral ephemeral);
/// Returns what such a word, or "on" for `memory`, stands for, or none.
[[nodiscard]] std::optional<Ephemeral> ephemeral(std::string_view word);

/// The most memory for the writes to an ephemeral disk, unless the user says another size.
inline constexpr std::uint64_t kEphemeralMemory = 1ULL << 30;

/// A virtio disk.
struct DiskConfig {
    std::string id;  ///< names the disk in messages, and is its serial number in the guest; unique among all devices
    std::string path;  ///< a file or block device
    bool read_only = false;
    DiskFormat format = DiskFormat::raw;
    /// Backing files that the user names himself, since an image may not (disk/image/chain.h). They
    /// are the user's word, so no snapshot has them.
    std::vector<std::string> backing = {};
    WriteErrors write_errors = WriteErrors::report;
    /// No snapshot has it: a machine with an ephemeral disk takes none (MachineService).
    Ephemeral ephemeral = Ephemeral::off;
    /// The most bytes for what the guest writes, and its tables. 0: kEphemeralMemory in memory, and
    /// no limit in a file.
    std::uint64_t ephemeral_max = 0;
    friend bool operator==(const DiskConfig&, const DiskConfig&) = default;
};

/// A virtio network interface.
struct NetConfig {
    std::string id;  // names the interface in messages; unique among all devices
    std::string tap;  ///< name of the tap interface
    MacAddress mac{};
    friend bool operator==(const NetConfig&, const NetConfig&) = default;
};

/// A virtio socket device.
struct VsockConfig {
    std::uint32_t cid = 3;  // the guest's context id
    /// unix socket that host programs connect to; a guest's connection to a port goes to PATH_PORT
    std::string socket;
    friend bool operator==(const VsockConfig&, const VsockConfig&) = default;
};

/// A virtio balloon.
struct BalloonConfig {
    std::uint64_t bytes = 0;  ///< bytes that it takes from the guest at first
    friend bool operator==(const BalloonConfig&, const BalloonConfig&) = default;
};

/// The devices in the order of their places on the bus: disks, network interfaces, vsock, balloon,
/// random numbers, console.
struct DeviceConfig {
    std::vector<DiskConfig> disks;
    std::vector<NetConfig> nets;
    std::optional<VsockConfig> vsock;
    std::optional<BalloonConfig> balloon;
    bool rng = false;
    bool console = false;
    friend bool operator==(const DeviceConfig&, const DeviceConfig&) = default;

    /// Returns the number of virtio devices.
    [[nodiscard]] std::size_t virtio_devices() const;
    /// Fails with usage if there are too many devices, if an id is used twice, or if a value is not
    /// allowed.
    [[nodiscard]] Status validate() const;

    /// Writes the configuration in the format of the start section (FORMAT.md).
    void encode(Encoder& out) const;
    /// Decodes untrusted bytes. `formats` says whether they have the disks' formats and what is
    /// done on their write errors (FORMAT.md). The caller checks in.bad() and the formats, and
    /// calls validate().
    static DeviceConfig decode(Decoder& in, bool formats);
};

}  // namespace snapvm
