// SPDX-License-Identifier: Apache-2.0
// Layers of images that no machine uses, and of a disk that is in use. qemu-img is the judge.
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "devices/disk/disk.h"
#include "devices/disk/image/layer_tree.h"
#include "devices/disk/image/new_layer.h"
#include "devices/disk/image/unused_image.h"
#include "devices/disk/layer_mark.h"
#include "tests/disk/qcow2_rig.h"
#include "tests/support/disk_requests.h"
#include "tests/support/need.h"
#include "tests/support/qemu_img.h"
#include "tests/support/result_matchers.h"
#include "tests/support/scratch_folder.h"

namespace snapvm::disk {
namespace {

using Kind = DiskRequest::Kind;
using test::need;
using test::ok;
using test_rig::qemu;

int write_disk(Disk& disk, std::uint64_t offset, std::vector<std::byte> bytes) {
    return test::run(disk, test::transfer(Kind::write, offset, bytes));
}

std::vector<std::byte> read_disk(Disk& disk, std::uint64_t offset, std::size_t size) {
    std::vector<std::byte> bytes(size);
    EXPECT_EQ(test::run(disk, test::transfer(Kind::read, offset, bytes)), 0);
    return bytes;
}

class Layers : public testing::Test {
protected:
    void SetUp() override { SNAPVM_REQUIRE_QEMU_IMG(); }
    [[nodiscard]] std::string in(const std::string& name) const { return folder_.path() + "/" + name; }
    // Fills the disk's bytes from `mebibyte` on with a letter.
    static void fill(const std::string& path, const std::string& format, const std::string& pattern, int mebibyte) {
        qemu({"qemu-io", "-f", format, "-c", "write -P " + pattern + " " + std::to_string(mebibyte) + "M 1M", path});
    }
    static bool has(const std::string& path, const std::string& format, const std::string& pattern, int mebibyte) {
        return qemu({"qemu-io", "-r", "-f", format, "-c",
                     "read -P " + pattern + " " + std::to_string(mebibyte) + "M 1M", path})
                   .find("Pattern verification failed") == std::string::npos;
    }
    [[nodiscard]] std::string image(const std::string& name) const {
        qemu({"qemu-img", "create", "-q", "-f", "qcow2", in(name), "8M"});
        fill(in(name), "qcow2", "1", 0);
        return in(name);
    }
    [[nodiscard]] std::string raw(const std::string& name) const {
        qemu({"qemu-img", "create", "-q", "-f", "raw", in(name), "8M"});
        fill(in(name), "raw", "1", 0);
        return in(name);
    }
    [[nodiscard]] std::vector<std::string> names() const {
        std::vector<std::string> all;
        for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
            all.push_back(entry.path().filename());
        }
        std::ranges::sort(all);
        return all;
    }
    test::ScratchFolder folder_;
};

TEST_F(Layers, AQcow2ImageKeepsItsPath) {
    const std::string path = image("vm.qcow2");
    const LayerPlaces places = need(take_layer(path, DiskFormat::qcow2, "first", ""));
    EXPECT_EQ(places.frozen, in("vm.first.qcow2"));
    EXPECT_EQ(places.active, path);
    EXPECT_EQ(names(), (std::vector<std::string>{"vm.first.qcow2", "vm.qcow2"}));
    EXPECT_TRUE(has(path, "qcow2", "1", 0));
    fill(path, "qcow2", "2", 0);
    EXPECT_TRUE(has(in("vm.first.qcow2"), "qcow2", "1", 0));
    // The folder can be moved: the overlay names the layer by its name alone.
    const std::string info = qemu({"qemu-img", "info", "-f", "qcow2", "--output=json", path});
    EXPECT_NE(info.find("\"backing-filename\": \"vm.first.qcow2\""), std::string::npos) << info;
    for (const std::string& file : {path, places.frozen}) {
        EXPECT_EQ(test_rig::number_of(test_rig::qemu_check(file), "check-errors"), 0U);
    }
}

TEST_F(Layers, ARawFileStaysWhereItIs) {
    const std::string path = raw("disk.img");
    const LayerPlaces places = need(take_layer(path, DiskFormat::raw, "first", ""));
    EXPECT_EQ(places.frozen, path);
    EXPECT_EQ(places.active, in("disk.overlay.qcow2"));
    EXPECT_TRUE(has(places.active, "qcow2", "1", 0));
    fill(places.active, "qcow2", "2", 0);
    EXPECT_TRUE(has(path, "raw", "1", 0));
}

TEST_F(Layers, TheOverlayMayBeElsewhere) {
    const std::string path = image("vm.qcow2");
    std::filesystem::create_directory(in("other"));
    const LayerPlaces places = need(take_layer(path, DiskFormat::qcow2, "first", in("other/o.qcow2")));
    EXPECT_EQ(places.frozen, path);
    EXPECT_EQ(places.active, in("other/o.qcow2"));
    EXPECT_TRUE(has(places.active, "qcow2", "1", 0));
}

TEST_F(Layers, AFrozenLayerIsNotWritten) {
    const std::string path = image("vm.qcow2");
    const std::string file = raw("disk.img");
    const LayerPlaces first = need(take_layer(path, DiskFormat::qcow2, "first", ""));
    const LayerPlaces second = need(take_layer(file, DiskFormat::raw, "second", ""));
    for (const auto& [frozen, format, active] :
         {std::tuple(first.frozen, DiskFormat::qcow2, path), std::tuple(file, DiskFormat::raw, second.active),
          std::tuple(file, DiskFormat::unstated, second.active)}) {
        DiskOptions options;
        options.format = format;
        const auto refused = open_disk("root", frozen, options);
        ASSERT_FALSE(refused.has_value());
        EXPECT_EQ(refused.error().kind(), ErrorKind::usage);
        EXPECT_NE(std::string(refused.error().what()).find("of " + active), std::string::npos)
            << refused.error().what();
        options.read_only = true;
        EXPECT_TRUE(ok(open_disk("root", frozen, options)));
    }
    DiskOptions options;
    options.format = DiskFormat::qcow2;
    EXPECT_TRUE(ok(open_disk("root", path, options)));
}

// A file system without extended attributes has a file beside the raw one.
TEST_F(Layers, AMarkMayBeAFileBesideARawFile) {
    const std::string path = raw("disk.img");
    std::ofstream(path + ".layer") << R"({"tag":"t","active":"disk.overlay.qcow2"})";
    const auto refused = open_disk("root", path, {});
    ASSERT_FALSE(refused.has_value());
    EXPECT_NE(std::string(refused.error().what()).find("the frozen layer t of " + in("disk.overlay.qcow2")),
              std::string::npos)
        << refused.error().what();
    for (const char* text : {"", "{", R"({"tag":"","active":"a"})", R"({"tag":"t"})", R"({"tag":7,"active":"a"})"}) {
        std::ofstream(path + ".layer", std::ios::trunc) << text;
        EXPECT_EQ(open_disk("root", path, {}).has_value(), *text == '\0') << text;
    }
}

TEST_F(Layers, WhatIsInTheWayStays) {
    const std::string path = image("vm.qcow2");
    std::ofstream(in("vm.taken.qcow2")) << "mine";
    const auto refused = take_layer(path, DiskFormat::qcow2, "taken", "");
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().kind(), ErrorKind::usage);
    EXPECT_EQ(std::filesystem::file_size(in("vm.taken.qcow2")), 4U);
    std::ofstream(in("there")) << "mine";
    EXPECT_FALSE(take_layer(path, DiskFormat::qcow2, "other", in("there")).has_value());
    EXPECT_EQ(std::filesystem::file_size(in("there")), 4U);
    EXPECT_EQ(names(), (std::vector<std::string>{"there", "vm.qcow2", "vm.taken.qcow2"}));
    for (const char* tag : {"", ".x", "-x", "a/b", "a b", "../x"}) {
        EXPECT_FALSE(take_layer(path, DiskFormat::qcow2, tag, "").has_value()) << tag;
    }
    EXPECT_TRUE(ok(take_layer(path, DiskFormat::qcow2, "other", "")));
}

// A killed process leaves an overlay under a name that is used for nothing else.
TEST_F(Layers, WhatAKilledProcessHasLeftIsRemoved) {
    const std::string path = image("vm.qcow2");
    std::ofstream(in(".vm.first.qcow2.new")) << "left over";
    EXPECT_TRUE(ok(take_layer(path, DiskFormat::qcow2, "first", "")));
    EXPECT_EQ(names(), (std::vector<std::string>{"vm.first.qcow2", "vm.qcow2"}));
}

// The steps before the switch can be taken back, whichever was the last.
TEST_F(Layers, AStepThatFailsChangesNothing) {
    const std::string path = image("vm.qcow2");
    for (const bool named : {false, true}) {
        DiskOptions options;
        options.format = DiskFormat::qcow2;
        const auto disk = need(open_disk("root", path, options));
        const auto image = need(ImageFile::of(*disk->file(), DiskFormat::qcow2));
        const auto layer = need(NewLayer::make(image, disk->size(), "first", ""));
        if (named) {
            ASSERT_TRUE(ok(layer->put_names()));
        }
        layer->take_back();
        struct stat now{};
        ASSERT_EQ(::stat(path.c_str(), &now), 0);
        EXPECT_EQ(now.st_ino, image.identity.st_ino);
        EXPECT_EQ(names(), (std::vector<std::string>{"vm.qcow2"}));
    }
    EXPECT_TRUE(has(path, "qcow2", "1", 0));
}

// Another file under the image's name is neither moved nor removed.
TEST_F(Layers, AnotherFileUnderTheNameIsLeftAlone) {
    const std::string path = image("vm.qcow2");
    DiskOptions options;
    options.format = DiskFormat::qcow2;
    const auto disk = need(open_disk("root", path, options));
    const auto layer =
        need(NewLayer::make(need(ImageFile::of(*disk->file(), DiskFormat::qcow2)), disk->size(), "first", ""));
    std::filesystem::rename(path, in("moved"));
    std::ofstream(path) << "mine";
    const Status refused = layer->put_names();
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().kind(), ErrorKind::busy);
    layer->take_back();
    EXPECT_EQ(std::filesystem::file_size(path), 4U);
    const auto image = need(ImageFile::of(*disk->file(), DiskFormat::qcow2));
    for (const std::string& into : {std::string(), in("o.qcow2")}) {
        EXPECT_EQ(NewLayer::make(image, disk->size(), "second", into).error().kind(), ErrorKind::busy);
    }
}

// Requests of before and after the switch, through the disk of a machine.
TEST_F(Layers, ADiskInUseContinuesInItsOverlay) {
    for (const DiskFormat format : {DiskFormat::raw, DiskFormat::qcow2}) {
        SCOPED_TRACE(name_of(format));
        const bool is_raw = format == DiskFormat::raw;
        const std::string path = is_raw ? raw("d.img") : image("d.qcow2");
        DiskOptions options;
        options.format = format;
        std::unique_ptr<Disk> disk = need(open_disk("root", path, options));
        ASSERT_TRUE(ok(disk->start()));
        EXPECT_EQ(write_disk(*disk, 1 << 20, std::vector<std::byte>(4096, std::byte{2})), 0);
        const auto layer = need(NewLayer::make(need(ImageFile::of(*disk->file(), format)), disk->size(), "t", ""));
        const int event = need(disk->prepare_overlay(layer->take_overlay()));
        EXPECT_EQ(write_disk(*disk, 2 << 20, std::vector<std::byte>(4096, std::byte{3})), 0);
        ASSERT_TRUE(ok(layer->put_names()));
        std::unique_ptr<Disk> next = need(disk->continue_in_overlay(layer->mark(), layer->frozen_path()));
        layer->keep();
        if (next) {
            disk = std::move(next);
        }
        EXPECT_EQ(disk->event(), event);
        // That the machine has the layer is not why it cannot be written.
        const auto refused = open_disk("other", layer->frozen_path(), options);
        ASSERT_FALSE(refused.has_value());
        EXPECT_NE(refused.error().message().find("is the frozen layer t of"), std::string::npos);
        EXPECT_EQ(write_disk(*disk, 1 << 20, std::vector<std::byte>(4096, std::byte{4})), 0);
        EXPECT_EQ(read_disk(*disk, 1 << 20, 4096), std::vector<std::byte>(4096, std::byte{4}));
        EXPECT_EQ(read_disk(*disk, 2 << 20, 4096), std::vector<std::byte>(4096, std::byte{3}));
        disk.reset();
        EXPECT_TRUE(qemu({"qemu-io", "-r", "-f", std::string(name_of(format)), "-c", "read -P 2 1M 4k", "-c",
                          "read -P 3 2M 4k", layer->frozen_path()})
                        .find("failed") == std::string::npos);
        EXPECT_TRUE(qemu({"qemu-io", "-r", "-f", "qcow2", "-c", "read -P 4 1M 4k", "-c", "read -P 3 2M 4k",
                          layer->active_path()})
                        .find("failed") == std::string::npos);
    }
}

// The overlay is opened while requests are in flight: what ends meanwhile is told all the same.
TEST_F(Layers, ARequestThatEndsMeanwhileIsTold) {
    DiskOptions options;
    options.format = DiskFormat::qcow2;
    const auto disk = need(open_disk("root", image("vm.qcow2"), options));
    ASSERT_TRUE(ok(disk->start()));
    const auto layer =
        need(NewLayer::make(need(ImageFile::of(*disk->file(), DiskFormat::qcow2)), disk->size(), "t", ""));
    std::vector<std::byte> bytes(1 << 16);
    DiskRequest request = test::transfer(Kind::read, 0, bytes);
    disk->add(request);
    disk->submit();
    ASSERT_TRUE(ok(disk->prepare_overlay(layer->take_overlay())));
    EXPECT_EQ(test::finish(*disk, 1), 0);
}

// An overlay of the old size would cut off what the guest has been told of.
TEST_F(Layers, ADiskThatWasResizedMeanwhileKeepsItsImage) {
    for (const DiskFormat format : {DiskFormat::raw, DiskFormat::qcow2}) {
        SCOPED_TRACE(name_of(format));
        DiskOptions options;
        options.format = format;
        const auto disk = need(open_disk("root", format == DiskFormat::raw ? raw("d.img") : image("d.qcow2"), options));
        ASSERT_TRUE(ok(disk->start()));
        const auto layer = need(NewLayer::make(need(ImageFile::of(*disk->file(), format)), disk->size(), "t", ""));
        ASSERT_TRUE(ok(disk->prepare_overlay(layer->take_overlay())));
        ASSERT_TRUE(ok(disk->resize(16 << 20)));
        const auto refused = disk->continue_in_overlay(layer->mark(), layer->frozen_path());
        ASSERT_FALSE(refused.has_value());
        EXPECT_EQ(refused.error().kind(), ErrorKind::busy);
        disk->drop_overlay();
        EXPECT_EQ(write_disk(*disk, 12 << 20, std::vector<std::byte>(4096, std::byte{5})), 0);
    }
}

TEST_F(Layers, TheTreeHasAllThatStandOnALayer) {
    const std::string path = image("vm.qcow2");
    ASSERT_TRUE(ok(take_layer(path, DiskFormat::qcow2, "first", "")));
    fill(path, "qcow2", "2", 0);
    ASSERT_TRUE(ok(take_layer(path, DiskFormat::qcow2, "second", "")));
    qemu({"qemu-img", "create", "-q", "-f", "qcow2", "-b", "vm.first.qcow2", "-F", "qcow2", in("clone.qcow2")});
    std::ofstream(in("notes.txt")) << "no image";
    const auto tree = need(layer_tree(path, DiskFormat::qcow2));
    ASSERT_EQ(tree.size(), 4U);
    EXPECT_EQ(tree[0].tag, "first");
    EXPECT_EQ(tree[1].path, in("clone.qcow2"));
    EXPECT_EQ(tree[1].depth, 1U);
    EXPECT_EQ(tree[2].tag, "second");
    EXPECT_EQ(tree[3].path, path);
    EXPECT_EQ(tree[3].depth, 2U);
    EXPECT_TRUE(tree[3].asked_for);
    EXPECT_EQ(tree[3].size, 8U << 20);
    EXPECT_EQ(need(find_layer(tree, "second")).path, in("vm.second.qcow2"));
    const auto none = find_layer(tree, "third");
    ASSERT_FALSE(none.has_value());
    EXPECT_NE(none.error().message().find("first, second"), std::string::npos);
    EXPECT_NE(to_text(tree).find("layer second"), std::string::npos);
}

TEST_F(Layers, ARevertPutsTheImageBack) {
    const std::string path = image("vm.qcow2");
    ASSERT_TRUE(ok(take_layer(path, DiskFormat::qcow2, "first", "")));
    fill(path, "qcow2", "2", 0);
    ASSERT_TRUE(ok(take_layer(path, DiskFormat::qcow2, "second", "")));
    fill(path, "qcow2", "3", 0);
    ASSERT_TRUE(ok(revert_to_layer(path, "second")));
    EXPECT_TRUE(has(path, "qcow2", "2", 0));
    ASSERT_TRUE(ok(revert_to_layer(path, "first")));
    EXPECT_TRUE(has(path, "qcow2", "1", 0));
    EXPECT_TRUE(has(in("vm.second.qcow2"), "qcow2", "2", 0));
    EXPECT_EQ(names(), (std::vector<std::string>{"vm.first.qcow2", "vm.qcow2", "vm.second.qcow2"}));
    EXPECT_FALSE(revert_to_layer(path, "third").has_value());
    // Another disk on the same layer has a layer with the same tag, which is not this disk's.
    qemu({"qemu-img", "create", "-q", "-f", "qcow2", "-b", "vm.first.qcow2", "-F", "qcow2", in("a.qcow2")});
    ASSERT_TRUE(ok(take_layer(in("a.qcow2"), DiskFormat::qcow2, "second", "")));
    ASSERT_TRUE(ok(revert_to_layer(path, "second")));
    EXPECT_TRUE(has(path, "qcow2", "2", 0));
    ASSERT_TRUE(ok(revert_to_layer(path, "first")));
    // An image on which another one stands stays.
    qemu({"qemu-img", "create", "-q", "-f", "qcow2", "-b", "vm.qcow2", "-F", "qcow2", in("above.qcow2")});
    EXPECT_FALSE(revert_to_layer(path, "first").has_value());
    std::filesystem::remove(in("above.qcow2"));
    std::filesystem::remove(in("a.qcow2"));
    std::filesystem::remove(in("a.second.qcow2"));
    // Not the frozen layer itself, and not an image in use.
    EXPECT_FALSE(revert_to_layer(in("vm.second.qcow2"), "first").has_value());
    DiskOptions options;
    options.format = DiskFormat::qcow2;
    const auto disk = need(open_disk("root", path, options));
    const auto busy = revert_to_layer(path, "first");
    ASSERT_FALSE(busy.has_value());
    EXPECT_EQ(busy.error().kind(), ErrorKind::busy);
}

// A hundred layers are one chain, within the limit of a chain.
TEST_F(Layers, ManyLayers) {
    const std::string path = image("vm.qcow2");
    for (int i = 0; i < 100; ++i) {
        ASSERT_TRUE(ok(take_layer(path, DiskFormat::qcow2, "t" + std::to_string(i), "")));
    }
    EXPECT_TRUE(has(path, "qcow2", "1", 0));
    EXPECT_EQ(need(layer_tree(path, DiskFormat::qcow2)).size(), 101U);
}

}  // namespace
}  // namespace snapvm::disk
