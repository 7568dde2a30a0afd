// SPDX-License-Identifier: Apache-2.0
// qcow2 images against a model in memory, with qemu-img as the judge: random requests and chains.
#include "devices/disk/qcow2/qcow2_image.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <random>

#include "devices/disk/qcow2/concurrency.h"
#include "tests/disk/qcow2_disk.h"

namespace snapvm::disk {
namespace {

using namespace test_rig;
using qcow2::TaskGroup;
using test::fails;
using test::is_clean;
using test::qemu_io;
using test::same_contents;

// Says where two disks differ first, for messages.
::testing::AssertionResult equal(const Bytes& is, const Bytes& expected) {
    if (is.size() == expected.size() && std::memcmp(is.data(), expected.data(), is.size()) == 0) {
        return ::testing::AssertionSuccess();  // quick where the tests are not optimised
    }
    const auto [a, b] = std::ranges::mismatch(is, expected);
    if (a == is.end() && b == expected.end()) {
        return ::testing::AssertionSuccess();
    }
    return ::testing::AssertionFailure() << "they differ at byte " << a - is.begin();
}

Task<Status> execute_all(Image& image, std::vector<Request>& requests, bool flush) {
    TaskGroup group(64);
    for (Request& request : requests) {
        co_await group.add(execute(image, request));
    }
    if (flush) {
        co_await group.add(image.flush());
    }
    co_return co_await group.wait();
}

// Makes requests of disjoint ranges.
std::vector<Request> random_requests(std::uint64_t size, std::mt19937_64& random) {
    std::vector<Request> requests;
    std::uint64_t begin = 0;
    const std::uint64_t together = random() % 4 == 0 ? 1 : 12;
    while (requests.size() < together && begin < size) {
        const std::uint64_t room = std::min(size - begin, (1 + random() % (size / kSector / 6)) * kSector);
        if (random() % 2 == 0) {
            requests.push_back(random_request(begin, begin + room, random));
        }
        begin += room;
    }
    return requests;
}

void check_discarded(const Bytes& is, Bytes& model, const Request& request) {
    for (std::uint64_t at = request.offset; at < request.offset + request.size; at += kSector) {
        static const Bytes zeros(kSector);
        if (std::memcmp(&is[at], &model[at], kSector) != 0) {
            ASSERT_EQ(std::memcmp(&is[at], zeros.data(), kSector), 0) << at;
            std::memset(&model[at], 0, kSector);
        }
    }
}

void apply(const Request& request, Bytes& model) {
    std::byte* const at = model.data() + request.offset;
    if (request.kind == Request::Kind::write) {
        std::memcpy(at, request.bytes.data(), request.size);
    } else if (request.kind == Request::Kind::write_zeroes) {
        std::memset(at, 0, request.size);
    } else if (request.kind == Request::Kind::read) {
        ASSERT_EQ(std::memcmp(at, request.bytes.data(), request.size), 0) << "read at " << request.offset;
    }
}

// Executes a round of requests, and checks all of the disk.
void play_round(Opened& opened, Bytes& model, std::mt19937_64& random) {
    std::vector<Request> requests = random_requests(model.size(), random);
    const bool flush = random() % 4 == 0;
    ASSERT_TRUE(ok(opened.run(execute_all(opened.image(), requests, flush))));
    for (const Request& request : requests) {
        ASSERT_NO_FATAL_FAILURE(apply(request, model));
    }
    const Bytes is = opened.read(0, model.size());
    for (const Request& request : requests) {
        if (request.kind == Request::Kind::discard) {
            ASSERT_NO_FATAL_FAILURE(check_discarded(is, model, request));
        }
    }
    ASSERT_TRUE(equal(is, model));
}

void expect_sound(const Disk& disk) {
    EXPECT_TRUE(is_clean(disk.chain.front().path));
    const std::string raw = disk.folder.file("model.raw");
    write_file(raw, disk.model);
    EXPECT_TRUE(same_contents(disk.chain.front().path, "qcow2", raw, "raw"));
}

class Qcow2Model : public ::testing::TestWithParam<Case> {};

TEST_P(Qcow2Model, RandomRequestsReadAsTheModel) {
    SNAPVM_REQUIRE_QEMU_IMG();
    for (unsigned seed = 1; seed <= 3; ++seed) {
        SCOPED_TRACE(seed);
        std::mt19937_64 random(seed);
        const auto disk = make_disk(GetParam(), random);
        for (unsigned opening = 0; opening < 3; ++opening) {
            // Small tables in memory, so that they are crowded, and large ones.
            OpenOptions options;
            options.metadata_bytes = seed == 1 ? 32768 : 16U << 20;
            options.discard = seed != 2;
            Opened opened(disk->chain, options);
            ASSERT_TRUE(ok(opened.status()));
            for (unsigned round = 0; round < 8; ++round) {
                ASSERT_NO_FATAL_FAILURE(play_round(opened, disk->model, random)) << "round " << round;
            }
            ASSERT_TRUE(ok(opened.run(opened->close())));
        }
        expect_sound(*disk);
    }
}

INSTANTIATE_TEST_SUITE_P(Images, Qcow2Model, ::testing::ValuesIn(cases()),
                         [](const auto& one) { return one.param.name; });

TEST(Qcow2Image, ReadsWhatQemuIoWrites) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    const std::string path = folder.file("a.qcow2");
    make_image(path, 4U << 20);
    qemu_io(path, {"write -P 0x41 64k 4k", "write -z 1M 128k", "write -c -P 0x42 2M 64k", "write -P 0x43 3M 300k"});
    Opened opened({{path}}, {.read_only = true});
    ASSERT_TRUE(ok(opened.status()));
    EXPECT_EQ(opened.read(64 << 10, 4096), Bytes(4096, std::byte{0x41}));
    EXPECT_EQ(opened.read(68 << 10, 4096), Bytes(4096));
    EXPECT_EQ(opened.read(1 << 20, 128 << 10), Bytes(128 << 10));
    EXPECT_EQ(opened.read(2 << 20, 64 << 10), Bytes(64 << 10, std::byte{0x42}));
    EXPECT_EQ(opened.read(3 << 20, 300 << 10), Bytes(300 << 10, std::byte{0x43}));
    const auto look = opened.run(opened->look(2 << 20, 2 << 20));
    ASSERT_TRUE(ok(look));
    EXPECT_TRUE(look->compressed);
    EXPECT_EQ(look->size, 64U << 10);
    const auto zero = opened.run(opened->look(1 << 20, 2 << 20));
    ASSERT_TRUE(ok(zero));
    EXPECT_EQ(zero->extent, Extent::zero);
    EXPECT_EQ(zero->size, 128U << 10);
    const auto behind = opened.run(opened->look(0, 64 << 10));
    ASSERT_TRUE(ok(behind));
    EXPECT_EQ(behind->extent, Extent::backing);
}

// What a snapshot shares must be copied before a write, tables too.
TEST(Qcow2Image, WritesLeaveInternalSnapshotsAsTheyWere) {
    SNAPVM_REQUIRE_QEMU_IMG();
    for (const std::string& options : {std::string(), std::string("extended_l2=on"), std::string("cluster_size=512")}) {
        SCOPED_TRACE(options);
        std::mt19937_64 random(7);
        const auto disk = make_disk({"", options, 1U << 20}, random);
        const std::string& path = disk->chain.front().path;
        const auto rounds = [&] {
            Opened opened(disk->chain);
            ASSERT_TRUE(ok(opened.status()));
            for (unsigned round = 0; round < 8; ++round) {
                ASSERT_NO_FATAL_FAILURE(play_round(opened, disk->model, random));
            }
            ASSERT_TRUE(ok(opened.run(opened->close())));
        };
        ASSERT_NO_FATAL_FAILURE(rounds());
        qemu_img({"snapshot", "-c", "one", path});
        const Bytes then = disk->model;
        ASSERT_NO_FATAL_FAILURE(rounds());
        expect_sound(*disk);
        qemu_img({"snapshot", "-a", "one", path});
        disk->model = then;
        expect_sound(*disk);
    }
}

TEST(Qcow2Image, OverwritesCompressedClusters) {
    SNAPVM_REQUIRE_QEMU_IMG();
    for (const std::string& options : {std::string(), std::string("compression_type=zstd,extended_l2=on")}) {
        std::mt19937_64 random(3);
        Disk disk;
        disk.model = half_noise(4U << 20, random);
        const std::string raw = disk.folder.file("a.raw");
        const std::string path = disk.folder.file("a.qcow2");
        write_file(raw, disk.model);
        std::vector<std::string> words = {"convert", "-c", "-f", "raw", "-O", "qcow2", raw, path};
        if (!options.empty()) {
            words.insert(words.begin() + 1, {"-o", options});
        }
        qemu_img(words);
        disk.chain.push_back({path, "qcow2"});
        {
            Opened opened(disk.chain);
            ASSERT_TRUE(ok(opened.status()));
            for (unsigned round = 0; round < 10; ++round) {
                ASSERT_NO_FATAL_FAILURE(play_round(opened, disk.model, random)) << round;
            }
            ASSERT_TRUE(ok(opened.run(opened->close())));
        }
        expect_sound(disk);
    }
}

TEST(Qcow2Image, ASmallWriteIntoSubclustersCopiesNothing) {
    SNAPVM_REQUIRE_QEMU_IMG();
    std::mt19937_64 random(1);
    const auto disk = make_disk({"", "extended_l2=on", 4U << 20, Behind::raw, 4U << 20}, random);
    std::uint64_t written = 0;
    bool counting = false;
    Opened opened(disk->chain, {}, [&](const io::Request& request) {
        written += counting && request.kind == io::Request::Kind::write ? request.size : 0;
        return io::Fault{};
    });
    ASSERT_TRUE(ok(opened.status()));
    counting = true;
    ASSERT_TRUE(ok(opened.write(128 << 10, Bytes(4096, std::byte{1}))));
    EXPECT_EQ(written, 4096U);
}

// A table of the top that is not in memory must be read before anything can be told.
TEST(Qcow2Image, PassesOnWhatItKnowsToBeBehind) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    const std::string behind = folder.file("behind.qcow2");
    const std::string top = folder.file("top.qcow2");
    make_image(behind, 3U << 20);
    qemu_io(behind, {"write -P 0x41 0 3M"});
    qemu_img({"create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", behind, top, "4M"});
    qemu_io(top, {"write -P 0x42 64k 64k"});
    Opened opened({{top}, {behind}});
    ASSERT_TRUE(ok(opened.status()));
    EXPECT_EQ(opened->passes_on(0, 4096), nullptr) << "the table is not in memory";
    EXPECT_EQ(opened.read(0, 4096), Bytes(4096, std::byte{0x41}));
    Image* const backing = opened->backing();
    EXPECT_EQ(opened->passes_on(0, 4096), backing);
    EXPECT_EQ(opened->passes_on(0, 64 << 10), backing);
    EXPECT_EQ(&holder_of(opened.image(), 0, 4096), backing);
    EXPECT_EQ(opened->passes_on(64 << 10, 4096), nullptr) << "the top has it";
    EXPECT_EQ(opened->passes_on(60 << 10, 8192), nullptr) << "the top has a part of it";
    EXPECT_EQ(opened->passes_on((3 << 20) - 4096, 8192), nullptr) << "the image behind ends within it";
    EXPECT_EQ(opened->passes_on(4 << 20, 4096), nullptr) << "the disk ends before it";
    EXPECT_EQ(opened->passes_on(~std::uint64_t{511}, 4096), nullptr);
    EXPECT_EQ(opened->passes_on(0, 0), nullptr);
    EXPECT_EQ(backing->passes_on(0, 4096), nullptr) << "nothing is behind it";
    ASSERT_TRUE(ok(opened.write(0, Bytes(4096, std::byte{0x43}))));
    EXPECT_EQ(opened->passes_on(0, 4096), nullptr) << "the top has it now";
    EXPECT_EQ(opened.read(0, 4096), Bytes(4096, std::byte{0x43}));
}

// What a write copies from the image behind comes before it and after it.
TEST(Qcow2Image, TheTwoCopiesAroundAWriteRunTogether) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    const std::string behind = folder.file("behind.raw");
    const std::string top = folder.file("top.qcow2");
    write_file(behind, Bytes(1U << 20, std::byte{0x41}));
    qemu_img({"create", "-q", "-f", "qcow2", "-F", "raw", "-b", behind, top, "1M"});
    unsigned reads = 0;
    bool counting = false;
    Opened opened({{top}, {behind, "raw"}}, {}, [&](const io::Request& request) {
        reads += counting && request.kind == io::Request::Kind::read ? 1 : 0;
        return io::Fault{};
    });
    ASSERT_TRUE(ok(opened.status()));
    ASSERT_TRUE(ok(opened.write(512 << 10, Bytes(4096, std::byte{0x42}))));  // the tables are in memory now
    counting = true;
    Bytes bytes(4096, std::byte{0x43});
    const Parts parts{{bytes.data(), bytes.size()}};
    std::optional<Status> written;
    start(opened->write(8192, bytes.size(), parts), [&](Status status) { written = std::move(status); });
    EXPECT_EQ(reads, 2U) << "both, before one of them has ended";
    while (!written) {
        ASSERT_TRUE(ok(opened.loop().wait()));
    }
    ASSERT_TRUE(ok(*written));
    Bytes expected(64 << 10, std::byte{0x41});
    std::ranges::fill_n(expected.begin() + 8192, 4096, std::byte{0x43});
    EXPECT_EQ(opened.read(0, expected.size()), expected);
}

// An entry that refers to the header, as a damaged image may have it.
TEST(Qcow2Image, ADamagedEntryFailsItsRequestAndEndsWrites) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    const std::string path = folder.file("a.qcow2");
    make_image(path, 4U << 20);
    qemu_io(path, {"write -P 0x41 0 128k"});
    Bytes file = read_file(path);
    const std::uint64_t l1 = 0x30000;  // where qemu-img puts it
    ASSERT_NE(file[l1 + 5], kZero);
    const std::uint64_t l2 = std::to_integer<std::uint64_t>(file[l1 + 5]) << 16;
    for (const std::uint8_t where : {0x03, 0x7F}) {  // the L1 table, and outside of the file
        file[l2 + 5] = std::byte{where};
        write_file(path, file);
        Opened opened({{path}});
        ASSERT_TRUE(ok(opened.status()));
        EXPECT_TRUE(fails(opened.write(0, Bytes(4096)), ErrorKind::invalid));
        EXPECT_TRUE(fails(opened.write(64 << 10, Bytes(4096)), ErrorKind::invalid, "takes no more writes"));
        EXPECT_EQ(opened.read(64 << 10, 4096), Bytes(4096, std::byte{0x41}));
        EXPECT_EQ(std::to_integer<unsigned>(read_file(path)[79]) & 2U, 2U) << "the corrupt bit";
    }
}

// With lazy counts qemu-io leaves this bit and counts that are too low, if it is killed.
TEST(Qcow2Image, ADirtyImageIsRepairedWhenItMayBeWritten) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    const std::string path = folder.file("a.qcow2");
    make_image(path, 1U << 20, "lazy_refcounts=on");
    qemu_io(path, {"write -P 0x41 0 128k"});
    Bytes file = read_file(path);
    file[79] |= std::byte{1};       // dirty
    file[0x20000 + 11] = kZero;     // the count of the cluster at 0x50000
    write_file(path, file);
    {
        const Opened refused({{path}}, {.read_only = true});
        EXPECT_TRUE(fails(refused.status(), ErrorKind::invalid, "was not closed"));
    }
    {
        Opened opened({{path}});
        ASSERT_TRUE(ok(opened.status()));
        EXPECT_EQ(opened.read(0, 128 << 10), Bytes(128 << 10, std::byte{0x41}));
        ASSERT_TRUE(ok(opened.run(opened->close())));
    }
    EXPECT_TRUE(is_clean(path));
}

TEST(Qcow2Image, ReadOnlyImagesTakeNoWrites) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    const std::string path = folder.file("a.qcow2");
    make_image(path, 1U << 20);
    const Bytes before = read_file(path);
    Opened opened({{path}}, {.read_only = true});
    ASSERT_TRUE(ok(opened.status()));
    EXPECT_TRUE(fails(opened.write(0, Bytes(512)), ErrorKind::usage, "read-only"));
    EXPECT_TRUE(ok(opened.run(opened->flush())));
    EXPECT_TRUE(ok(opened.run(opened->close())));
    EXPECT_EQ(read_file(path), before);
}

}  // namespace
}  // namespace snapvm::disk
