// SPDX-License-Identifier: Apache-2.0
// Checkpoints inside a qcow2 image: ours and QEMU's, saved, reverted to and removed, with qemu-img
// as the judge of bytes, counts and flags.
#include "devices/disk/qcow2/checkpoint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "devices/disk/qcow2/big_endian.h"
#include "tests/disk/checkpoint_rig.h"

namespace snapvm::disk {
namespace {

using namespace test_rig;
using test::fails;
using test::is_clean;
using test::qemu_img_json;
using test::qemu_io;

using Names = std::vector<std::string>;

std::vector<Case> checkpoint_cases() {
    std::vector<Case> chosen;
    for (const Case& one : cases()) {
        // The counts of these are too small for two checkpoints and a revert.
        if (one.name != "clusters_4096_counts_1" && one.name != "counts_2") {
            chosen.push_back(one);
        }
    }
    chosen.push_back({"subclusters_128K", "extended_l2=on,cluster_size=128k", 8ULL << 20});
    return chosen;
}

class Checkpoints : public ::testing::TestWithParam<Case> {};

TEST_P(Checkpoints, OursAreQemusToo) {
    SNAPVM_REQUIRE_QEMU_IMG();
    std::mt19937_64 random(11);
    const auto disk = make_disk(GetParam(), random);
    const std::string& path = disk->chain.front().path;
    Bytes model = disk->model;
    std::map<std::string, Bytes> saved;
    {
        Opened opened(disk->chain, {.metadata_bytes = 32768});
        ASSERT_TRUE(ok(opened.status()));
        for (const char* const name : {"one", "two"}) {
            change(opened, model, 12, random);
            ASSERT_TRUE(ok(save(opened, name)));
            saved[name] = model;
        }
        change(opened, model, 12, random);
        EXPECT_EQ(opened.read(0, opened->size()), Bytes(model.begin(), model.begin() + opened->size()));
        close(opened);
    }
    ASSERT_TRUE(is_clean(path));
    EXPECT_EQ(qemu_reads(*disk), model);
    for (const auto& [name, bytes] : saved) {
        EXPECT_EQ(qemu_reads(*disk, name), bytes) << name;
    }
    const auto list = qemu_img_json({"info", path}).at("snapshots");
    ASSERT_EQ(list.size(), 2U);
    EXPECT_EQ(list[0].at("id"), "1");
    EXPECT_EQ(list[0].at("name"), "one");
    EXPECT_EQ(list[0].at("date-sec"), 1'600'000'000);
    EXPECT_EQ(list[0].at("date-nsec"), 5);
    EXPECT_EQ(list[0].at("vm-clock-sec"), 7);
    EXPECT_EQ(list[0].at("vm-state-size"), 0);
    EXPECT_FALSE(list[0].contains("icount"));
    EXPECT_EQ(list[1].at("id"), "2");

    qemu_img({"snapshot", "-a", "one", path});
    EXPECT_TRUE(is_clean(path));
    EXPECT_EQ(qemu_reads(*disk), saved["one"]);
    qemu_img({"snapshot", "-d", "two", path});
    qemu_img({"snapshot", "-d", "one", path});
    EXPECT_TRUE(is_clean(path));
    EXPECT_EQ(qemu_reads(*disk), saved["one"]);
}

TEST_P(Checkpoints, QemusAreOursToo) {
    SNAPVM_REQUIRE_QEMU_IMG();
    std::mt19937_64 random(12);
    const auto disk = make_disk(GetParam(), random);
    const std::string& path = disk->chain.front().path;
    qemu_io(path, {"write -P 1 0 300k", "write -z 600k 100k"});
    qemu_img({"snapshot", "-c", "one", path});
    const Bytes one = qemu_reads(*disk);
    qemu_io(path, {"write -P 2 200k 200k", "write -P 3 620k 7k"});
    qemu_img({"snapshot", "-c", "two", path});
    const Bytes two = qemu_reads(*disk);
    qemu_io(path, {"write -P 4 100k 700k"});
    Bytes model = qemu_reads(*disk);

    {
        Opened opened(disk->chain, {.metadata_bytes = 32768});
        ASSERT_TRUE(ok(opened.status()));
        const std::uint64_t size = opened->size();
        EXPECT_EQ(names(opened), (Names{"one", "two"}));
        ASSERT_TRUE(ok(revert(opened, "one")));
        EXPECT_EQ(opened.read(0, size), Bytes(one.begin(), one.begin() + static_cast<std::ptrdiff_t>(size)));
        model = one;
        change(opened, model, 12, random);
        ASSERT_TRUE(ok(remove(opened, "one")));
        EXPECT_EQ(names(opened), Names{"two"});
        change(opened, model, 12, random);
        EXPECT_EQ(opened.read(0, size), Bytes(model.begin(), model.begin() + static_cast<std::ptrdiff_t>(size)));
        close(opened);
    }
    EXPECT_TRUE(is_clean(path));
    EXPECT_EQ(qemu_reads(*disk), model);
    EXPECT_EQ(qemu_reads(*disk, "two"), two);
}

TEST_P(Checkpoints, RandomOnesHoldTheirBytes) {
    SNAPVM_REQUIRE_QEMU_IMG();
    std::mt19937_64 random(13);
    const auto disk = make_disk(GetParam(), random);
    Bytes model = disk->model;
    std::map<std::string, Bytes> saved;
    for (unsigned round = 0; round < 4; ++round) {
        {
            Opened opened(disk->chain, {.metadata_bytes = 32768});
            ASSERT_TRUE(ok(opened.status()));
            for (unsigned i = 0; i < 6; ++i) {
                change(opened, model, random() % 8, random);
                const auto any = saved.empty() ? saved.end() : std::next(saved.begin(), random() % saved.size());
                const std::uint64_t dice = random() % 4;
                if (dice >= 2 && saved.size() < 3) {
                    const std::string name = "at " + std::to_string(round) + "." + std::to_string(i);
                    ASSERT_TRUE(ok(save(opened, name)));
                    saved[name] = model;
                } else if (dice == 1 && any != saved.end()) {
                    ASSERT_TRUE(ok(revert(opened, any->first)));
                    model = any->second;
                } else if (any != saved.end()) {
                    ASSERT_TRUE(ok(remove(opened, any->first)));
                    saved.erase(any);
                }
                const std::uint64_t size = opened->size();
                ASSERT_EQ(opened.read(0, size),
                          Bytes(model.begin(), model.begin() + static_cast<std::ptrdiff_t>(size)));
            }
            close(opened);
        }
        ASSERT_TRUE(is_clean(disk->chain.front().path));
        ASSERT_EQ(qemu_reads(*disk), model);
        for (const auto& [name, bytes] : saved) {
            ASSERT_EQ(qemu_reads(*disk, name), bytes) << name;
        }
    }
    {
        Opened opened(disk->chain);
        ASSERT_TRUE(ok(opened.status()));
        for (const auto& [name, bytes] : saved) {
            ASSERT_TRUE(ok(remove(opened, name)));
        }
        EXPECT_EQ(names(opened), Names{});
        close(opened);
    }
    EXPECT_TRUE(is_clean(disk->chain.front().path));
    EXPECT_EQ(qemu_reads(*disk), model);
}

INSTANTIATE_TEST_SUITE_P(Images, Checkpoints, ::testing::ValuesIn(checkpoint_cases()),
                         [](const auto& one) { return one.param.name; });

TEST(Checkpoint, OfCompressedClusters) {
    SNAPVM_REQUIRE_QEMU_IMG();
    std::mt19937_64 random(14);
    const Case one{"on_zlib", "", 2U << 20, Behind::zlib, 2U << 20};
    const auto disk = make_disk(one, random);
    disk->chain.erase(disk->chain.begin());  // the compressed image is the disk
    const std::string& path = disk->chain.front().path;
    Bytes model = disk->model;
    {
        Opened opened(disk->chain);
        ASSERT_TRUE(ok(save(opened, "one")));
        change(opened, model, 12, random);
        close(opened);
    }
    EXPECT_TRUE(is_clean(path));
    EXPECT_EQ(qemu_reads(*disk, "one"), disk->model);
    {
        Opened opened(disk->chain);
        EXPECT_EQ(opened.read(0, model.size()), model);
        ASSERT_TRUE(ok(revert(opened, "one")));
        EXPECT_EQ(opened.read(0, model.size()), disk->model);
        ASSERT_TRUE(ok(remove(opened, "one")));
        close(opened);
    }
    EXPECT_TRUE(is_clean(path));
    EXPECT_EQ(qemu_reads(*disk), disk->model);
}

TEST(Checkpoint, BringsItsSizeIfThatMayChange) {
    SNAPVM_REQUIRE_QEMU_IMG();
    for (const std::uint64_t later : {64U << 10, 5U << 20}) {
        std::mt19937_64 random(15);
        const auto disk = make_disk({"grows", "cluster_size=4096", 1U << 20}, random);
        const std::string& path = disk->chain.front().path;
        qemu_io(path, {"write -P 1 0 1M"});
        qemu_img({"snapshot", "-c", "one", path});
        const Bytes one = qemu_reads(*disk);
        qemu_img({"resize", "--shrink", path, std::to_string(later)});
        qemu_io(path, {"write -P 2 0 64k"});
        const Bytes now = qemu_reads(*disk);
        {
            Opened opened(disk->chain);
            EXPECT_TRUE(fails(revert(opened, "one"), ErrorKind::usage, "another size"));
            EXPECT_EQ(opened->size(), later);
            ASSERT_TRUE(ok(save(opened, "two")));
            ASSERT_TRUE(ok(revert(opened, "one", SizeChange::allow)));
            EXPECT_EQ(opened->size(), one.size());
            EXPECT_EQ(opened.read(0, one.size()), one);
            close(opened);
        }
        EXPECT_TRUE(is_clean(path));
        EXPECT_EQ(qemu_reads(*disk), one);
        {
            Opened again(disk->chain);
            ASSERT_TRUE(ok(revert(again, "two", SizeChange::allow)));
            EXPECT_EQ(again.read(0, later), now);
            close(again);
        }
        EXPECT_TRUE(is_clean(path));
    }
}

TEST(Checkpoint, OfADiskWithoutBytes) {
    SNAPVM_REQUIRE_QEMU_IMG();
    std::mt19937_64 random(16);
    const auto disk = make_disk({"empty", "", 1U << 20}, random);
    const std::string& path = disk->chain.front().path;
    qemu_img({"create", "-f", "qcow2", path, "0"});
    {
        Opened opened(disk->chain);
        ASSERT_TRUE(ok(opened.status()));
        ASSERT_TRUE(ok(save(opened, "one")));
        ASSERT_TRUE(ok(revert(opened, "one")));
        ASSERT_TRUE(ok(save(opened, "two")));
        ASSERT_TRUE(ok(remove(opened, "one")));
        EXPECT_EQ(names(opened), Names{"two"});
        close(opened);
    }
    EXPECT_TRUE(is_clean(path));
}

TEST(Checkpoint, IsRefusedIfItsClustersCannotBeCounted) {
    SNAPVM_REQUIRE_QEMU_IMG();
    std::mt19937_64 random(17);
    const auto one_bit = make_disk({"one", "refcount_bits=1", 1U << 20}, random);
    qemu_io(one_bit->chain.front().path, {"write -P 1 0 200k"});
    const Bytes before = read_file(one_bit->chain.front().path);
    {
        Opened opened(one_bit->chain);
        EXPECT_TRUE(fails(save(opened, "one"), ErrorKind::unsupported, "1 bit"));
        close(opened);
    }
    EXPECT_EQ(read_file(one_bit->chain.front().path), before);

    const auto two_bits = make_disk({"two", "refcount_bits=2", 1U << 20}, random);
    const std::string& path = two_bits->chain.front().path;
    qemu_io(path, {"write -P 1 0 200k"});
    {
        Opened opened(two_bits->chain);
        ASSERT_TRUE(ok(save(opened, "one")));
        ASSERT_TRUE(ok(save(opened, "two")));
        EXPECT_TRUE(fails(save(opened, "three"), ErrorKind::unsupported, "2 bits"));
        ASSERT_TRUE(ok(opened.write(0, Bytes(4096))));
        EXPECT_EQ(names(opened), (Names{"one", "two"}));
        ASSERT_TRUE(ok(remove(opened, "one")));
        ASSERT_TRUE(ok(save(opened, "three")));
        close(opened);
    }
    EXPECT_TRUE(is_clean(path));
    EXPECT_EQ(qemu_reads(*two_bits, "two")[0], std::byte{1});
    EXPECT_EQ(qemu_reads(*two_bits, "three")[0], std::byte{0});
}

TEST(Checkpoint, RefusesWhatIsWrong) {
    SNAPVM_REQUIRE_QEMU_IMG();
    std::mt19937_64 random(18);
    const auto disk = make_disk({"plain", "", 1U << 20}, random);
    const std::string& path = disk->chain.front().path;
    {
        Opened opened(disk->chain);
        ASSERT_TRUE(ok(save(opened, "one")));
        const Bytes before = read_file(path);
        for (const std::string& name : {std::string(), std::string(256, 'x'), std::string("a\0b", 3)}) {
            EXPECT_TRUE(fails(save(opened, name), ErrorKind::usage, "1 to 255 bytes"));
        }
        EXPECT_TRUE(fails(save(opened, "one"), ErrorKind::usage, "of this name or id"));
        EXPECT_TRUE(fails(save(opened, "1"), ErrorKind::usage, "of this name or id"));
        EXPECT_TRUE(fails(revert(opened, "two"), ErrorKind::usage, "no such checkpoint"));
        EXPECT_TRUE(fails(remove(opened, "two"), ErrorKind::usage, "no such checkpoint"));
        EXPECT_EQ(read_file(path), before);
        EXPECT_TRUE(ok(save(opened, std::string(255, 'x'))));
        EXPECT_TRUE(ok(remove(opened, "2")));  // by its id
        EXPECT_EQ(names(opened), Names{"one"});
        close(opened);
    }
    EXPECT_TRUE(is_clean(path));
    Opened reader(disk->chain, {.read_only = true});
    EXPECT_EQ(names(reader), Names{"one"});
    EXPECT_TRUE(fails(save(reader, "two"), ErrorKind::usage, "read-only"));
    EXPECT_TRUE(fails(revert(reader, "one"), ErrorKind::usage, "read-only"));
    EXPECT_TRUE(fails(remove(reader, "one"), ErrorKind::usage, "read-only"));
    const std::string raw = disk->folder.file("raw");
    write_file(raw, Bytes(4096));
    Opened other({{raw, "raw"}});
    EXPECT_TRUE(fails(save(other, "one"), ErrorKind::unsupported, "only a qcow2 image"));
}

TEST(Checkpoint, IsRefusedWhileACallIsUnderWay) {
    SNAPVM_REQUIRE_QEMU_IMG();
    std::mt19937_64 random(19);
    const auto disk = make_disk({"plain", "", 1U << 20}, random);
    {
        Opened opened(disk->chain);
        Bytes bytes(4096, std::byte{1});
        const Parts parts{{bytes.data(), bytes.size()}};
        bool written = false;
        start(opened->write(0, bytes.size(), parts), [&written](const Status& status) {
            EXPECT_TRUE(ok(status));
            written = true;
        });
        ASSERT_FALSE(written);
        EXPECT_TRUE(fails(save(opened, "one"), ErrorKind::usage, "in use"));
        ASSERT_TRUE(ok(opened.run(opened->flush())));
        while (!written) {
            (void)opened.read(0, 512);
        }
        EXPECT_TRUE(ok(save(opened, "one")));
        close(opened);
    }
    EXPECT_TRUE(is_clean(disk->chain.front().path));
}

// Each of these words is put into the first entry of the checkpoint's L1 table, or of its L2 table.
TEST(Checkpoint, ThatIsDamagedIsRefusedAndTheDiskGoesOn) {
    SNAPVM_REQUIRE_QEMU_IMG();
    constexpr std::uint64_t kFar = 1ULL << 50;
    for (const bool in_l2 : {false, true}) {
        for (const std::uint64_t word : {kFar, std::uint64_t{0x10200}, std::uint64_t{0x10000}, std::uint64_t{2}}) {
            SCOPED_TRACE((in_l2 ? "L2 " : "L1 ") + std::to_string(word));
            std::mt19937_64 random(20);
            const auto disk = make_disk({"plain", "", 1U << 20}, random);
            const std::string& path = disk->chain.front().path;
            {
                Opened opened(disk->chain);
                ASSERT_TRUE(ok(opened.write(0, Bytes(65536, std::byte{1}))));
                ASSERT_TRUE(ok(save(opened, "one")));
                ASSERT_TRUE(ok(opened.write(0, Bytes(65536, std::byte{2}))));
                close(opened);
            }
            Bytes file = read_file(path);
            const std::uint64_t table =
                qcow2::load_be64(file, qcow2::load_be64(file, 64));  // the header's, the entry's
            const std::uint64_t place = in_l2 ? qcow2::load_be64(file, table) & ~(1ULL << 63) : table;
            qcow2::store_be64(file, place, word);
            write_file(path, file);
            Opened opened(disk->chain);
            ASSERT_TRUE(ok(opened.status()));
            EXPECT_TRUE(fails(revert(opened, "one"), ErrorKind::invalid, "a checkpoint is damaged"));
            EXPECT_TRUE(fails(remove(opened, "one"), ErrorKind::invalid, "a checkpoint is damaged"));
            EXPECT_EQ(opened.read(0, 512)[0], std::byte{2});
            ASSERT_TRUE(ok(opened.write(0, Bytes(65536, std::byte{3}))));
            EXPECT_EQ(opened.read(0, 512)[0], std::byte{3});
            ASSERT_TRUE(ok(save(opened, "two")));
            close(opened);
        }
    }
}

}  // namespace
}  // namespace snapvm::disk
