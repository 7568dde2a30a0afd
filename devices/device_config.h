// SPDX-License-Identifier: Apache-2.0
// Which devices a machine has beside those that every one has. Part of its configuration, and so of its snapshots.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "devices/mac_address.h"
#include "vmm/base/bytes.h"
#include "vmm/base/error.h"

namespace snapvm {

struct DiskConfig {
    std::string id;  ///< names it in messages, and as its serial number to the guest; unique
    std::string path;  ///< a file or block device
    bool read_only = false;
    friend bool operator==(const DiskConfig&, const DiskConfig&) = default;
};

struct NetConfig {
    std::string id;
    std::string tap;  ///< interface name
    MacAddress mac{};
    friend bool operator==(const NetConfig&, const NetConfig&) = default;
};

struct VsockConfig {
    std::uint32_t cid = 3;
    std::string socket;  ///< unix socket, through which the host connects; PATH_PORT is where the guest's connections go
    friend bool operator==(const VsockConfig&, const VsockConfig&) = default;
};

struct BalloonConfig {
    std::uint64_t bytes = 0;  ///< what it is to take from the guest at first
    friend bool operator==(const BalloonConfig&, const BalloonConfig&) = default;
};

/// In the order in which they sit on the bus: disks, network interfaces, vsock, balloon, random numbers, console.
struct DeviceConfig {
    std::vector<DiskConfig> disks;
    std::vector<NetConfig> nets;
    std::optional<VsockConfig> vsock;
    std::optional<BalloonConfig> balloon;
    bool rng = false;
    bool console = false;
    friend bool operator==(const DeviceConfig&, const DeviceConfig&) = default;

    /// How many virtio devices that is.
    [[nodiscard]] std::size_t virtio_devices() const;
    /// Usage errors: too many, an id twice, too long a text.
    [[nodiscard]] Status validate() const;

    void encode(Encoder& out) const;
    static DeviceConfig decode(Decoder& in);
};

}  // namespace snapvm
