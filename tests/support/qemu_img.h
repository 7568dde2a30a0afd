// SPDX-License-Identifier: Apache-2.0
// qemu-img and qemu-io, the independent judges of disk images (package qemu-utils).
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

/// Skips the test if qemu-img or qemu-io is not installed. It works in the test's body only.
#define SNAPVM_REQUIRE_QEMU_IMG()                                            \
    if (!::snapvm::test::have_qemu_img()) {                                  \
        GTEST_SKIP() << "qemu-img is not installed: apt install qemu-utils"; \
    }                                                                        \
    static_assert(true)

namespace snapvm::test {

[[nodiscard]] bool have_qemu_img();

/// Runs `qemu-img WORDS…` and returns its output. The calling test ends if it fails (need.h).
std::string qemu_img(const std::vector<std::string>& words);

/// Runs `qemu-img WORDS… --output=json` in the same way, and returns what it prints.
nlohmann::json qemu_img_json(const std::vector<std::string>& words);

/// Makes an image: `qemu-img create -f FORMAT [-o OPTIONS] PATH [SIZE]`. `options` is empty, or as
/// -o takes it ("cluster_size=4096,refcount_bits=1"). Size 0 is left out: an overlay has its
/// backing image's.
void make_image(const std::string& path, std::uint64_t size, const std::string& options = {},
                const std::string& format = "qcow2");

/// What `qemu-img check` finds.
struct ImageCheck {
    std::uint64_t errors = 0;  ///< corruptions, and errors of the check itself
    std::uint64_t leaks = 0;   ///< clusters that are counted and not used
    std::string text;          ///< what was printed, for messages
};

/// Checks an image that nothing has open. Changes nothing.
ImageCheck check_image(const std::string& path, const std::string& format = "qcow2");

/// EXPECT_TRUE(is_clean(path)) fails for an image with an error, and for one with a leak unless
/// `leaks_allowed`.
::testing::AssertionResult is_clean(const std::string& path, bool leaks_allowed = false);

/// EXPECT_TRUE(same_contents(a, "qcow2", b, "raw")) compares what guests see (`qemu-img compare`,
/// which takes a longer image for equal if the rest is zeros).
::testing::AssertionResult same_contents(const std::string& a, const std::string& a_format, const std::string& b,
                                         const std::string& b_format);

/// Runs commands such as "write -P 0x41 64k 4k" on an image with qemu-io, one after the other, and
/// returns the output. The calling test ends if one fails.
std::string qemu_io(const std::string& path, const std::vector<std::string>& commands,
                    const std::string& format = "qcow2");

}  // namespace snapvm::test
