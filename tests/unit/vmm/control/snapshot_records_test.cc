// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/snapshot_records.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tests/support/need.h"
#include "tests/support/result_matchers.h"
#include "tests/support/scoped_variable.h"
#include "tests/support/scratch_folder.h"

namespace snapvm::test {
namespace {

namespace fs = std::filesystem;
using Kind = HostResource::Kind;

class SnapshotRecords : public testing::Test {
protected:
    SnapshotPlace place_of(const std::string& file, std::uint8_t id = 1, std::uint32_t slot = 0) {
        const std::string path = scratch_.file(file);
        const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT, 0600));
        SnapshotPlace place{.id = {}, .area = need(AreaIdentity::of(fd.get(), 0, path)), .slot = slot, .path = path};
        place.id.bytes.fill(id);
        return place;
    }
    [[nodiscard]] fs::path folder() const { return scratch_.path() + "/state/snapvm/snapshots"; }
    [[nodiscard]] std::size_t records() const {
        return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder()), fs::directory_iterator()));
    }
    [[nodiscard]] fs::path only_record() const { return fs::directory_iterator(folder())->path(); }

    ScratchFolder scratch_;
    ScopedVariable state_{"XDG_STATE_HOME", scratch_.file("state").c_str()};
    std::vector<HostResource> resources_{
        {Kind::disk, "root", "/r", true}, {Kind::tap, "eth0", "tap0"}, {Kind::vsock, "", "/v"}};
};

// As with sudo, which may keep the user's HOME.
TEST_F(SnapshotRecords, NoFolderIsMadeInAnotherUsers) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "only root can give a folder to another user";
    }
    fs::create_directory(scratch_.file("state"));
    ASSERT_EQ(::chown(scratch_.file("state").c_str(), 12345, 12345), 0);
    EXPECT_TRUE(fails(record_snapshot(place_of("area"), resources_), ErrorKind::invalid, "is another user's"));
    EXPECT_TRUE(fs::is_empty(scratch_.file("state")));
    fs::create_directory(scratch_.file("state/snapvm"));
    EXPECT_TRUE(ok(record_snapshot(place_of("area"), resources_))) << "this one is there, and root's own";
}

TEST_F(SnapshotRecords, ARecordIsOfOneSnapshotInOneSlotOfOneFile) {
    const SnapshotPlace place = place_of("area");
    EXPECT_TRUE(fails(recorded_resources(place), ErrorKind::not_found));
    ASSERT_TRUE(ok(record_snapshot(place, resources_)));
    EXPECT_EQ(need(recorded_resources(place)), resources_);
    EXPECT_TRUE(fails(recorded_resources(place_of("area", 2)), ErrorKind::not_found)) << "another snapshot";
    EXPECT_TRUE(fails(recorded_resources(place_of("area", 1, 1)), ErrorKind::not_found)) << "the other slot";
    EXPECT_TRUE(fails(recorded_resources(place_of("other")), ErrorKind::not_found)) << "another file";
    SnapshotPlace shifted = place;
    shifted.area.offset = 4096;
    EXPECT_TRUE(fails(recorded_resources(shifted), ErrorKind::not_found)) << "another place in the file";
    fs::rename(scratch_.file("area"), scratch_.file("moved"));
    EXPECT_TRUE(ok(recorded_resources(place_of("moved"))));
    fs::copy_file(scratch_.file("moved"), scratch_.file("copy"));
    EXPECT_TRUE(fails(recorded_resources(place_of("copy")), ErrorKind::not_found));
}

TEST_F(SnapshotRecords, ASlotHasOneRecord) {
    for (std::uint8_t id = 1; id < 10; ++id) {
        ASSERT_TRUE(ok(record_snapshot(place_of("area", id), resources_)));
    }
    EXPECT_EQ(records(), 1U);
    EXPECT_TRUE(fails(recorded_resources(place_of("area", 8)), ErrorKind::not_found));
    EXPECT_TRUE(ok(recorded_resources(place_of("area", 9))));
}

TEST_F(SnapshotRecords, RecordsOfAreasThatAreGoneDoNotPileUp) {
    ASSERT_TRUE(ok(record_snapshot(place_of("kept"), resources_)));
    std::vector<UniqueFd> held;  // keeps the numbers of files that are removed from being used again
    for (int i = 0; i < 300; ++i) {
        const SnapshotPlace place = place_of("area");
        held.emplace_back(::open(place.path.c_str(), O_RDONLY));
        ASSERT_TRUE(ok(record_snapshot(place, resources_)));
        fs::remove(place.path);
    }
    EXPECT_LE(records(), 256U);
    EXPECT_TRUE(ok(recorded_resources(place_of("kept"))));
}

TEST_F(SnapshotRecords, WhatOthersCanWriteIsNoRecord) {
    const SnapshotPlace place = place_of("area");
    ASSERT_TRUE(ok(record_snapshot(place, resources_)));
    const fs::path record = only_record();
    struct stat info{};
    ASSERT_EQ(::stat(record.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600U);
    for (const fs::path& path : {record, folder(), folder().parent_path()}) {
        ASSERT_EQ(::stat(path.c_str(), &info), 0);
        for (const mode_t mode : {S_IWGRP, S_IWOTH}) {
            ASSERT_EQ(::chmod(path.c_str(), info.st_mode | mode), 0);
            EXPECT_TRUE(fails(recorded_resources(place), ErrorKind::invalid, path.string())) << path;
            EXPECT_EQ(::chmod(path.c_str(), info.st_mode & 07777), 0);
        }
        EXPECT_TRUE(ok(recorded_resources(place)));
    }
    if (::geteuid() == 0) {
        ASSERT_EQ(::chown(record.c_str(), 12345, 12345), 0);
        EXPECT_TRUE(fails(recorded_resources(place), ErrorKind::invalid));
    }
}

TEST_F(SnapshotRecords, ALinkIsNoRecord) {
    const SnapshotPlace place = place_of("area");
    ASSERT_TRUE(ok(record_snapshot(place, resources_)));
    const fs::path record = only_record();
    fs::rename(record, scratch_.file("elsewhere"));
    fs::create_symlink(scratch_.file("elsewhere"), record);
    EXPECT_TRUE(fails(recorded_resources(place), ErrorKind::system));
    fs::remove(record);
    fs::rename(scratch_.file("elsewhere"), record);
    EXPECT_TRUE(ok(recorded_resources(place)));
    fs::rename(folder(), scratch_.file("folder"));
    fs::create_directory_symlink(scratch_.file("folder"), folder());
    EXPECT_TRUE(fails(recorded_resources(place), ErrorKind::system));
    EXPECT_TRUE(fails(record_snapshot(place, resources_), ErrorKind::system));
}

TEST_F(SnapshotRecords, DamageIsAnError) {
    const SnapshotPlace place = place_of("area");
    ASSERT_TRUE(ok(record_snapshot(place, resources_)));
    const fs::path record = only_record();
    const auto size = fs::file_size(record);
    for (const std::uintmax_t length : {std::uintmax_t{0}, size / 2, size - 1, size + 1}) {
        fs::resize_file(record, length);
        EXPECT_TRUE(fails(recorded_resources(place), ErrorKind::invalid)) << length;
    }
    ASSERT_TRUE(ok(record_snapshot(place, resources_))) << "the next snapshot overwrites it";
    EXPECT_TRUE(ok(recorded_resources(place)));
}

TEST_F(SnapshotRecords, WithoutAFolderThereIsNoneAndSaysWhy) {
    const SnapshotPlace place = place_of("area");
    const std::string file = scratch_.file("file");
    std::ofstream(file).flush();
    for (const char* home : {static_cast<const char*>(nullptr), "", "relative", "/nonexistent/home", file.c_str()}) {
        const ScopedVariable state("XDG_STATE_HOME", nullptr);
        const ScopedVariable own("HOME", home);
        EXPECT_FALSE(record_snapshot(place, resources_).has_value());
        EXPECT_FALSE(recorded_resources(place).has_value());
    }
    EXPECT_FALSE(fs::exists("/nonexistent"));
}

TEST_F(SnapshotRecords, TheFoldersAreMade) {
    const SnapshotPlace place = place_of("area");
    {
        const ScopedVariable state("XDG_STATE_HOME", (scratch_.file("a/b/c") + "//").c_str());
        EXPECT_TRUE(ok(record_snapshot(place, resources_)));
        EXPECT_TRUE(ok(recorded_resources(place)));
    }
    fs::create_directory(scratch_.file("home"));
    const ScopedVariable state("XDG_STATE_HOME", "relative");  // which the XDG specification ignores
    const ScopedVariable home("HOME", scratch_.file("home").c_str());
    EXPECT_TRUE(ok(record_snapshot(place, resources_)));
    EXPECT_TRUE(fs::exists(scratch_.file("home/.local/state/snapvm/snapshots")));
    struct stat info{};
    ASSERT_EQ(::stat(scratch_.file("home/.local").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0700U);
}

}  // namespace
}  // namespace snapvm::test
