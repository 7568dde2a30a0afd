// SPDX-License-Identifier: Apache-2.0
// Kernels in a bzImage: unpacking returns the kernel, however it was packed, and refuses damaged
// images.
#include "vmm/boot/bzimage.h"

#include <functional>
#include <random>

#include "tests/support/bzimage_builder.h"
#include "tests/support/result_matchers.h"
#include "tests/unit/vmm/boot/elf_builder.h"
#include "vmm/boot/unpack.h"

namespace snapvm {
namespace {

using test::bzimage;
using test::fails;
using test::FileBytes;

// An ELF file by its first bytes, and nothing that packs well or badly as a whole.
FileBytes some_kernel(std::size_t size) {
    FileBytes kernel(size);
    std::mt19937 random(3);
    for (std::size_t i = 0; i < size; ++i) {
        kernel[i] = i / 4096 % 2 == 0 ? static_cast<std::byte>(random()) : std::byte{7};
    }
    std::memcpy(kernel.data(),
                "\x7f"
                "ELF",
                4);
    return kernel;
}

struct Packer {
    const char* name;
    FileBytes (*pack)(std::span<const std::byte>);
    bool appends_size;  ///< as Linux' build does, but for gzip, which has it already
};

class BzImage : public ::testing::TestWithParam<Packer> {
protected:
    static FileBytes payload(const FileBytes& kernel) {
        FileBytes packed = GetParam().pack(kernel);
        return GetParam().appends_size ? test::with_size(std::move(packed), kernel.size()) : packed;
    }
};

TEST_P(BzImage, GivesItsKernel) {
    for (const std::size_t size : {std::size_t{64}, std::size_t{100'000}, std::size_t{9'000'001}}) {
        const FileBytes kernel = some_kernel(size);
        const FileBytes file = bzimage(payload(kernel), size == 64 ? 0 : 27);
        ASSERT_TRUE(is_bzimage(file));
        const auto unpacked = unpack_bzimage(file);
        ASSERT_TRUE(test::ok(unpacked));
        EXPECT_TRUE(*unpacked == kernel) << size;
    }
}

TEST_P(BzImage, CutOffAnywhereIsRefused) {
    const FileBytes kernel = some_kernel(5000);
    const FileBytes packed = GetParam().pack(kernel);
    for (std::size_t size = 0; size < packed.size(); size += 7) {
        const FileBytes part(packed.begin(), packed.begin() + static_cast<std::ptrdiff_t>(size));
        const auto unpacked = unpack(part, kernel.size());
        // Nothing in lz4's format says how many blocks there are.
        if (unpacked) {
            ASSERT_STREQ(GetParam().name, "Lz4") << size;
            ASSERT_LT(unpacked->size(), kernel.size());
        } else {
            ASSERT_EQ(unpacked.error().kind(), ErrorKind::invalid);
        }
    }
}

TEST_P(BzImage, DamagedItIsRefusedOrSomethingElseAndNeverMore) {
    const FileBytes kernel = some_kernel(5000);
    const FileBytes packed = GetParam().pack(kernel);
    std::mt19937 random(4);
    for (int i = 0; i < 500; ++i) {
        FileBytes damaged = packed;
        for (unsigned changes = 1 + random() % 4; changes > 0; --changes) {
            damaged[random() % damaged.size()] = static_cast<std::byte>(random());
        }
        const auto unpacked = unpack(damaged, 100'000);
        if (unpacked) {
            ASSERT_LE(unpacked->size(), 100'000U);
        } else {
            ASSERT_EQ(unpacked.error().kind(), ErrorKind::invalid);
        }
    }
}

TEST_P(BzImage, MoreThanTheLimitIsRefused) {
    const FileBytes zeros(4 << 20);
    const FileBytes packed = GetParam().pack(zeros);
    EXPECT_TRUE(fails(unpack(packed, (4 << 20) - 1), ErrorKind::invalid, "unpacks to more than"));
    EXPECT_TRUE(test::ok(unpack(packed, 4 << 20)));
}

INSTANTIATE_TEST_SUITE_P(Packed, BzImage,
                         ::testing::Values(Packer{"Gzip", test::gzip, false}, Packer{"Xz", test::xz, true},
                                           Packer{"Zstd", test::zstd, true}, Packer{"Lz4", test::lz4, true}),
                         [](const auto& test) { return test.param.name; });

TEST(BzImageFile, AKernelThatIsNotPackedIsTakenAsItIs) {
    const FileBytes kernel = some_kernel(5000);
    const auto unpacked = unpack_bzimage(bzimage(kernel));
    ASSERT_TRUE(test::ok(unpacked));
    EXPECT_TRUE(*unpacked == kernel);
}

TEST(BzImageFile, OtherPackingsAreRefusedByName) {
    for (const auto& [magic, name] : {std::pair("BZh91AY", "bzip2"), {"\x5d\x01", "known"}, {"\x89LZO", "lzo"}}) {
        FileBytes payload(100);
        std::memcpy(payload.data(), magic, std::strlen(magic));
        EXPECT_TRUE(fails(unpack_bzimage(bzimage(payload)), ErrorKind::invalid, name));
    }
    FileBytes lzma(100);
    lzma[0] = std::byte{0x5D};
    EXPECT_TRUE(fails(unpack_bzimage(bzimage(lzma)), ErrorKind::invalid, "packed with lzma"));
}

TEST(BzImageFile, HeadersThatCannotBeAreRefused) {
    const FileBytes good = bzimage(test::gzip(some_kernel(5000)));
    const auto with = [&](const std::function<void(setup_header&)>& change) {
        FileBytes file = good;
        setup_header header{};
        std::memcpy(&header, file.data() + test::kSetupHeader, sizeof header);
        change(header);
        std::memcpy(file.data() + test::kSetupHeader, &header, sizeof header);
        return file;
    };
    EXPECT_TRUE(fails(unpack_bzimage(with([](setup_header& h) { h.version = 0x207; })), ErrorKind::invalid, "too old"));
    EXPECT_TRUE(fails(unpack_bzimage(with([](setup_header& h) { h.loadflags = 0; })), ErrorKind::invalid, "too old"));
    EXPECT_TRUE(
        fails(unpack_bzimage(with([](setup_header& h) { h.payload_offset = ~0U; })), ErrorKind::invalid, "truncated"));
    EXPECT_TRUE(
        fails(unpack_bzimage(with([](setup_header& h) { h.payload_length = ~0U; })), ErrorKind::invalid, "truncated"));
    EXPECT_TRUE(
        fails(unpack_bzimage(with([](setup_header& h) { h.setup_sects = 255; })), ErrorKind::invalid, "truncated"));
    EXPECT_TRUE(
        fails(unpack_bzimage(with([](setup_header& h) { h.payload_length = 0; })), ErrorKind::invalid, "unknown way"));
    EXPECT_FALSE(is_bzimage(with([](setup_header& h) { h.header = 0; })));
    EXPECT_FALSE(is_bzimage(with([](setup_header& h) { h.boot_flag = 0; })));
    for (std::size_t size = 0; size < good.size() - test::kUnpacker; size += 97) {
        const FileBytes part(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
        EXPECT_TRUE(fails(unpack_bzimage(part), ErrorKind::invalid, ""));
    }
}

}  // namespace
}  // namespace snapvm
