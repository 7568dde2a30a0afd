// SPDX-License-Identifier: Apache-2.0
// The check of an image has the same verdict as qemu-img's, on good and on damaged images.
#include "devices/disk/qcow2/check.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <random>

#include "devices/disk/qcow2/snapshot_table.h"
#include "tests/disk/qcow2_rig.h"
#include "tests/support/result_matchers.h"
#include "vmm/base/fd.h"

namespace snapvm::disk {
namespace {

using namespace qcow2;
using namespace test_rig;
using test::need;
using test::ok;

CheckReport check(const std::string& path, bool repair = false) {
    OpenFile file(path, {}, !repair);
    return need(file.run(check_image(file.file(), file.header(), repair)));
}

std::string text_of(const CheckReport& report) {
    std::string text;
    for (const std::string& line : report.lines) {
        text += line + "\n";
    }
    return text;
}

/// Makes an image that has been written, with an internal snapshot and a bitmap if it may have
/// them.
void make_image(const std::string& path, const std::string& options) {
    qemu({"qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "64M"});
    qemu({"qemu-io", "-f", "qcow2", "-c", "write -P 1 0 3M", "-c", "write -P 2 20M 100k", "-c", "write -z 40M 1M", "-c",
          "write -c -P 3 50M 1M", path});
    qemu({"qemu-img", "snapshot", "-c", "first", path});
    qemu({"qemu-io", "-f", "qcow2", "-c", "write -P 4 1M 1M", "-c", "discard 2M 512k", path});
}

std::vector<std::string> all_options() {
    return {"compat=0.10",       "compat=1.1",
            "cluster_size=4096", "cluster_size=512",
            "refcount_bits=8",   "refcount_bits=64,cluster_size=1024",
            "extended_l2=on",    "compression_type=zstd",
            "lazy_refcounts=on"};
}

class Checks : public ::testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        SNAPVM_REQUIRE_QEMU_IMG();
        make_image(path_, GetParam());
    }
    test::ScratchFolder folder_;
    std::string path_ = folder_.file("image");
};

TEST_P(Checks, AgreesWithQemuOnAGoodImage) {
    const std::string judge = qemu_check(path_);
    const CheckReport report = check(path_);
    EXPECT_EQ(report.errors, 0U) << text_of(report);
    EXPECT_EQ(report.leaks, number_of(judge, "leaks")) << judge;
    EXPECT_EQ(report.clusters, number_of(judge, "total-clusters")) << judge;
    EXPECT_EQ(report.allocated, number_of(judge, "allocated-clusters")) << judge;
    EXPECT_EQ(report.compressed, number_of(judge, "compressed-clusters")) << judge;
    EXPECT_EQ(report.fragmented, number_of(judge, "fragmented-clusters")) << judge;
    EXPECT_EQ(report.end, number_of(judge, "image-end-offset")) << judge;
}

// Bytes of tables are changed at random. What qemu-img calls corrupt must be an error here, and
// what is repaired here must be good for qemu-img.
TEST_P(Checks, FindsDamageAndRepairsIt) {
    std::mt19937 random(1);
    std::uint64_t metadata = 0;
    {
        OpenFile file(path_, {}, true);
        metadata = std::max(file.header().get().refcount_table_offset, file.header().get().l1_offset);
        metadata += 4 * file.header().get().cluster_size();
    }
    unsigned found = 0;
    unsigned repaired = 0;
    for (unsigned round = 0; round < 12; ++round) {
        const std::string damaged = folder_.file("damaged");
        std::filesystem::copy_file(path_, damaged, std::filesystem::copy_options::overwrite_existing);
        OpenFile original(path_, {}, true);
        const std::uint64_t begin = original.header().get().cluster_size();
        const UniqueFd fd(::open(damaged.c_str(), O_RDWR | O_CLOEXEC));
        for (unsigned i = 0; i < 1 + round % 3; ++i) {
            const std::uint64_t offset = begin + random() % (metadata - begin);
            const auto value = static_cast<unsigned char>(random());
            ASSERT_EQ(::pwrite(fd.get(), &value, 1, static_cast<off_t>(offset)), 1);
        }
        const std::string judge = qemu_check(damaged);
        const CheckReport report = check(damaged);
        if (number_of(judge, "corruptions") > 0) {
            EXPECT_GT(report.errors, 0U) << round << judge;
            ++found;
        } else {
            EXPECT_EQ(report.leaks, number_of(judge, "leaks")) << round << judge << text_of(report);
        }
        const CheckReport after = check(damaged, true);
        EXPECT_LE(after.errors, report.errors) << text_of(after);
        if (after.errors == 0) {
            EXPECT_EQ(after.leaks, 0U);
            const std::string second = qemu_check(damaged);
            EXPECT_EQ(number_of(second, "corruptions"), 0U) << second << text_of(report);
            EXPECT_EQ(number_of(second, "leaks"), 0U) << second << text_of(report);
            ++repaired;
        }
    }
    EXPECT_GT(repaired, 0U);
    RecordProperty("found", static_cast<int>(found));
}

TEST_P(Checks, ReadsTheSnapshotTable) {
    OpenFile file(path_, {}, true);
    const SnapshotTable table = need(file.run(read_snapshots(file.file(), file.header().get())));
    ASSERT_EQ(table.snapshots.size(), 1U);
    EXPECT_EQ(table.snapshots[0].name, "first");
    EXPECT_EQ(table.snapshots[0].id, "1");
    EXPECT_EQ(table.snapshots[0].disk_size, 64U << 20);
    std::vector<std::byte> stored(table.bytes);
    ASSERT_TRUE(ok(file.run(file.file().read(file.header().get().snapshots_offset, std::span<std::byte>(stored)))));
    EXPECT_EQ(need(encode_snapshots(table.snapshots)), stored);
}

INSTANTIATE_TEST_SUITE_P(All, Checks, ::testing::ValuesIn(all_options()), [](const auto& one) {
    std::string name = one.param;
    std::erase_if(name, [](char letter) { return std::isalnum(static_cast<unsigned char>(letter)) == 0; });
    return name;
});

}  // namespace
}  // namespace snapvm::disk
