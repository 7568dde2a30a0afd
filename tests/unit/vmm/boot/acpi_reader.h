// SPDX-License-Identifier: Apache-2.0
// Reads ACPI tables as a guest does, from the RSDP on, and the DSDT's devices with their resources.
// It knows the AML that our DSDTs use, and fails the test at any other.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "vmm/platform/platform.h"

namespace snapvm::test {

template <class T>
T get(std::span<const std::byte> from, std::size_t at) {
    T value{};
    EXPECT_LE(at + sizeof value, from.size());
    if (at + sizeof value <= from.size()) {
        std::memcpy(&value, from.data() + at, sizeof value);
    }
    return value;
}
inline std::string text(std::span<const std::byte> from, std::size_t at, std::size_t size) {
    return {reinterpret_cast<const char*>(from.data()) + at, size};
}

/// Returns the sum of all bytes modulo 256, which is zero if a table's checksum is right.
inline unsigned sum(std::span<const std::byte> bytes) {
    return std::accumulate(bytes.begin(), bytes.end(), 0U,
                           [](unsigned total, std::byte b) { return total + std::to_integer<unsigned>(b); }) &
           0xFF;
}

/// Returns the table at a guest address in the firmware block.
inline std::span<const std::byte> table_at(std::span<const std::byte> block, std::uint64_t address) {
    const std::uint64_t at = address - platform::kFirmwareBase.value;
    EXPECT_GE(address, platform::kFirmwareBase.value);
    EXPECT_LE(at + 36, block.size());
    const auto length = get<std::uint32_t>(block, at + 4);
    EXPECT_GE(length, 36U);
    EXPECT_LE(at + length, block.size());
    return block.subspan(at, length);
}

/// Returns all tables by signature, the XSDT and the DSDT included.
inline std::map<std::string, std::span<const std::byte>> all_tables(std::span<const std::byte> block) {
    std::map<std::string, std::span<const std::byte>> tables;
    const auto add = [&](std::uint64_t address) {
        const auto table = table_at(block, address);
        EXPECT_TRUE(tables.emplace(text(table, 0, 4), table).second) << text(table, 0, 4) << " twice";
        return table;
    };
    const auto xsdt = add(get<std::uint64_t>(block, 24));
    for (std::size_t at = 36; at < xsdt.size(); at += 8) {
        const auto table = add(get<std::uint64_t>(xsdt, at));
        if (text(table, 0, 4) == "FACP") {
            add(get<std::uint64_t>(table, 140));
        }
    }
    return tables;
}

/// The contents of a device's _CRS and names. Interrupts have a GSI and a trigger.
struct AcpiDevice {
    std::map<std::string, std::string> strings;  ///< _HID, _CID, _DDN
    std::map<std::string, std::uint64_t> integers;  ///< _UID, _HID of an EISA id
    std::map<std::string, std::vector<std::uint64_t>> packages;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> ports, memory, regions;
    enum class Trigger : std::uint8_t { level, edge };
    std::vector<std::pair<std::uint32_t, Trigger>> interrupts;
};

/// Reads the terms of one definition block.
class AmlReader {
public:
    explicit AmlReader(std::span<const std::byte> terms) { read_terms(terms, root); }

    std::map<std::string, AcpiDevice> devices;
    AcpiDevice root;  ///< names outside of all devices

private:
    static std::uint8_t byte(std::span<const std::byte> from, std::size_t at = 0) {
        return get<std::uint8_t>(from, at);
    }
    static std::span<const std::byte> take(std::span<const std::byte>& from, std::size_t size) {
        EXPECT_LE(size, from.size());
        const auto part = from.first(std::min(size, from.size()));
        from = from.subspan(part.size());
        return part;
    }
    // Takes the bytes that a PkgLength spans, and returns them without the PkgLength.
    static std::span<const std::byte> take_package(std::span<const std::byte>& from) {
        const std::size_t more = byte(from) >> 6;
        std::size_t length = byte(from) & (more == 0 ? 0x3F : 0x0F);
        for (std::size_t i = 0; i < more; ++i) {
            length |= std::size_t{byte(from, i + 1)} << (4 + 8 * i);
        }
        return take(from, length).subspan(1 + more);
    }
    static std::uint64_t take_integer(std::span<const std::byte>& from) {
        const std::uint8_t op = byte(take(from, 1));
        const std::size_t size = op == 0x0A ? 1 : op == 0x0B ? 2 : op == 0x0C ? 4 : op == 0x0E ? 8 : 0;
        EXPECT_TRUE(op <= 1 || size > 0) << int{op};
        std::uint64_t value = size == 0 ? op : 0;
        const auto bytes = take(from, size);
        for (std::size_t i = 0; i < bytes.size(); ++i) {
            value |= std::uint64_t{byte(bytes, i)} << (8 * i);
        }
        return value;
    }
    static std::string take_segment(std::span<const std::byte>& from) { return text(take(from, 4), 0, 4); }

    void read_terms(std::span<const std::byte> from, AcpiDevice& device) {
        while (!from.empty() && !::testing::Test::HasFailure()) {
            const std::uint8_t op = byte(take(from, 1));
            const std::uint8_t extended = op == 0x5B ? byte(take(from, 1)) : 0;
            if (op == 0x08) {
                const std::string name = take_segment(from);
                read_object(from, name, device);
            } else if (op == 0x10) {
                auto body = take_package(from);
                EXPECT_EQ(take_segment(body), "_SB_");
                read_terms(body, device);
            } else if (op == 0x14 || extended == 0x81) {
                take_package(from);  // a method, or fields
            } else if (extended == 0x80) {
                take_segment(from);
                EXPECT_EQ(byte(take(from, 1)), 1) << "port space";
                const std::uint64_t base = take_integer(from);
                device.regions.emplace_back(base, take_integer(from));
            } else if (extended == 0x82) {
                auto body = take_package(from);
                const std::string name = take_segment(body);
                EXPECT_FALSE(devices.contains(name));
                read_terms(body, devices[name]);
            } else {
                ADD_FAILURE() << "opcode " << int{op} << ' ' << int{extended};
            }
        }
    }

    void read_object(std::span<const std::byte>& from, const std::string& name, AcpiDevice& device) {
        const std::uint8_t op = byte(from);
        if (op == 0x0D) {
            const std::string value(reinterpret_cast<const char*>(from.data()) + 1);
            device.strings[name] = value;
            take(from, value.size() + 2);
        } else if (op == 0x11) {
            take(from, 1);
            auto body = take_package(from);
            const std::uint64_t size = take_integer(body);
            EXPECT_EQ(size, body.size()) << "the buffer's size";
            EXPECT_EQ(name, "_CRS");
            read_resources(body, device);
        } else if (op == 0x12) {
            take(from, 1);
            auto body = take_package(from);
            std::vector<std::uint64_t>& values = device.packages[name];
            for (int left = byte(take(body, 1)); left > 0; --left) {
                values.push_back(take_integer(body));
            }
            EXPECT_TRUE(body.empty());
        } else {
            device.integers[name] = take_integer(from);
        }
    }

    static void read_resources(std::span<const std::byte> from, AcpiDevice& device) {
        while (byte(from) != 0x79) {
            const std::uint8_t tag = byte(from);
            const std::size_t size = (tag & 0x80) != 0 ? 3U + get<std::uint16_t>(from, 1) : 1U + (tag & 7U);
            const auto one = take(from, size);
            if (tag == 0x47) {
                EXPECT_EQ(get<std::uint16_t>(one, 2), get<std::uint16_t>(one, 4)) << "at one place only";
                device.ports.emplace_back(get<std::uint16_t>(one, 2), byte(one, 7));
            } else if (tag == 0x86) {
                device.memory.emplace_back(get<std::uint32_t>(one, 4), get<std::uint32_t>(one, 8));
            } else if (tag == 0x89) {
                EXPECT_EQ(byte(one, 3) & ~2, 1) << "consumer, active high, exclusive";
                EXPECT_EQ(byte(one, 4), 1);
                device.interrupts.emplace_back(get<std::uint32_t>(one, 5), (byte(one, 3) & 2) != 0
                                                                               ? AcpiDevice::Trigger::edge
                                                                               : AcpiDevice::Trigger::level);
            } else {
                ADD_FAILURE() << "descriptor " << int{tag};
                return;
            }
        }
        EXPECT_EQ(from.size(), 2U);
    }
};

}  // namespace snapvm::test
