// SPDX-License-Identifier: Apache-2.0
// Chains of three images for the tests of merges: a child, its parent, and a base behind that.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <utility>

#include "devices/disk/image/chain.h"
#include "devices/disk/image/merge.h"
#include "tests/disk/qcow2_disk.h"
#include "tests/support/need.h"

namespace snapvm::disk::merge_rig {

using namespace test_rig;
using test::need;
using test::qemu_io;
using test::ScratchFolder;

inline constexpr std::uint64_t kMiB = 1ULL << 20;

struct Layout {
    std::string name;
    std::string child;   ///< options of the image
    std::string parent;  ///< or "raw"
    std::string base;    ///< "raw", "qcow2", or empty: none
    std::uint64_t child_size = 4 * kMiB;
    std::uint64_t parent_size = 4 * kMiB;
    std::uint64_t base_size = 4 * kMiB;
    bool compressed = false;

    [[nodiscard]] std::string parent_format() const { return parent == "raw" ? "raw" : "qcow2"; }
};
inline void PrintTo(const Layout& one, std::ostream* out) { *out << one.name; }

inline const std::vector<Layout>& layouts() {
    static const std::string kSmall = "extended_l2=on,cluster_size=128k";
    static const std::vector<Layout> all = {
        {.name = "plain", .child = "", .parent = "", .base = "qcow2"},
        {.name = "on_raw_base", .child = "", .parent = "", .base = "raw"},
        {.name = "no_base", .child = "", .parent = "", .base = ""},
        {.name = "raw_parent", .child = "", .parent = "raw", .base = ""},
        {.name = "raw_parent_shorter", .child = kSmall, .parent = "raw", .base = "", .parent_size = 3 * kMiB + kSector},
        {.name = "raw_parent_longer", .child = "", .parent = "raw", .base = "", .parent_size = 5 * kMiB},
        {.name = "subclusters", .child = kSmall, .parent = kSmall, .base = "qcow2"},
        {.name = "coarse_child", .child = "cluster_size=1M", .parent = "cluster_size=4k", .base = "qcow2"},
        {.name = "fine_child", .child = "cluster_size=4k", .parent = "", .base = "raw"},
        {.name = "subclusters_over_plain", .child = kSmall, .parent = "cluster_size=8k", .base = "qcow2"},
        {.name = "plain_over_subclusters", .child = "", .parent = kSmall, .base = "qcow2"},
        {.name = "compressed", .child = "", .parent = "", .base = "qcow2", .compressed = true},
        {.name = "compressed_subclusters", .child = kSmall, .parent = kSmall, .base = "raw", .compressed = true},
        {.name = "version_2", .child = "compat=0.10", .parent = "compat=0.10", .base = "qcow2"},
        {.name = "clusters_512",
         .child = "cluster_size=512",
         .parent = "cluster_size=512",
         .base = "raw",
         .child_size = kMiB,
         .parent_size = kMiB,
         .base_size = kMiB},
        {.name = "child_longer",
         .child = kSmall,
         .parent = "",
         .base = "qcow2",
         .child_size = 5 * kMiB + 3 * kSector,
         .parent_size = 3 * kMiB + 5 * kSector},
        {.name = "child_longer_version_2",
         .child = "compat=0.10",
         .parent = "",
         .base = "raw",
         .child_size = 5 * kMiB + 3 * kSector,
         .parent_size = 3 * kMiB + 5 * kSector,
         .base_size = 6 * kMiB},
        {.name = "child_shorter",
         .child = "",
         .parent = kSmall,
         .base = "qcow2",
         .child_size = 3 * kMiB + kSector,
         .base_size = 5 * kMiB},
    };
    return all;
}

/// The files of a chain, named "child", "parent" and "base" in a folder.
class Files {
public:
    Files(Layout layout, std::uint64_t seed) : layout_(std::move(layout)), random_(seed) {
        if (!layout_.base.empty()) {
            write_file(file("raw"), noise(layout_.base_size, random_));
            qemu_img({"convert", "-f", "raw", "-O", layout_.base, file("raw"), file("base")});
        }
        if (layout_.parent == "raw") {
            write_file(file("raw"), half_noise(layout_.parent_size, random_));
            qemu_img({"convert", "-f", "raw", "-O", "raw", file("raw"), file("parent")});  // with holes
        } else {
            make("parent", layout_.parent, layout_.parent_size, "base", layout_.base);
        }
        make("child", layout_.child, layout_.child_size, "parent", layout_.parent_format());
        model = contents("child");
        EXPECT_EQ(model.size(), layout_.child_size);
    }

    [[nodiscard]] std::string file(const std::string& name) const { return folder_.file(name); }
    [[nodiscard]] const Layout& layout() const { return layout_; }
    [[nodiscard]] std::mt19937_64& random() { return random_; }
    /// Returns what qemu-img reads from an image.
    [[nodiscard]] Bytes contents(const std::string& name, const std::string& format = "qcow2") const {
        qemu_img({"convert", "-f", format, "-O", "raw", file(name), file("contents")});
        return read_file(file("contents"));
    }
    /// Returns how a child's header must name what is behind the parent.
    [[nodiscard]] BackingName behind() const {
        return layout_.base.empty() ? BackingName{} : BackingName{.file = "base", .format = layout_.base};
    }
    [[nodiscard]] Result<Chain> open(const std::string& name, io::FaultHook hook = {}) const {
        return open_chain("root", file(name), {.format = DiskFormat::qcow2, .hook = std::move(hook)});
    }
    /// Opens the child to be read, over a parent that may be written.
    [[nodiscard]] Chain open_down(const std::string& parent = "parent", io::FaultHook hook = {}) const {
        Chain chain;
        chain.loop = need(IoLoop::make(io::EngineKind::automatic, std::move(hook)));
        if (!layout_.base.empty()) {
            add(chain, "base", layout_.base, true);
        }
        add(chain, parent, layout_.parent_format(), false);
        add(chain, "child", "qcow2", true);
        return chain;
    }

    Bytes model;  ///< what the child reads as

private:
    void make(const std::string& name, const std::string& options, std::uint64_t size, const std::string& backing,
              const std::string& format) {
        std::vector<std::string> words = {"create", "-q", "-f", "qcow2"};
        if (!options.empty()) {
            words.insert(words.end(), {"-o", options});
        }
        if (!format.empty()) {
            words.insert(words.end(), {"-b", backing, "-F", format});
        }
        words.insert(words.end(), {file(name), std::to_string(size)});
        qemu_img(words);
        if (layout_.compressed) {
            for (const char* const at : {"128k", "256k", "1M", "2432k"}) {
                const std::string value = std::to_string(1 + random_() % 200);
                qemu_io(file(name), {"write -q -c -P " + value + " " + at + " 128k"});
            }
        }
        Chain chain = need(open(name));
        for (unsigned i = 0; i < 20; ++i) {
            Request request = change(size / kSector);
            EXPECT_TRUE(ok(chain.loop->run(execute(*chain.top, request))));
        }
        EXPECT_TRUE(ok(chain.loop->run(chain.top->close())));
    }
    /// Returns a write, or zeros, of up to a sixteenth of the disk.
    Request change(std::uint64_t sectors) {
        Request request;
        const std::uint64_t most = random_() % 2 == 0 ? sectors / 16 : 16;
        const std::uint64_t count = 1 + random_() % most;
        request.kind = random_() % 3 == 0 ? Request::Kind::write_zeroes : Request::Kind::write;
        request.offset = random_() % (sectors - count + 1) * kSector;
        request.size = count * kSector;
        request.unmap = random_() % 2 == 0;
        request.bytes = noise(request.size, random_);
        request.parts = {{request.bytes.data(), request.size}};
        return request;
    }
    void add(Chain& chain, const std::string& name, const std::string& format, bool read_only) const {
        DiskOptions options;
        options.read_only = read_only;
        options.format = format == "raw" ? DiskFormat::raw : DiskFormat::qcow2;
        const std::string path = file(name);
        DiskFile opened = need(DiskFile::open("root", path, options));
        if (format == "raw") {
            chain.top = std::make_unique<RawImage>(std::move(opened), *chain.loop, read_only);
            return;
        }
        qcow2::Header header = need(qcow2::read_header(opened.fd.get(), std::filesystem::file_size(path), path));
        auto io = std::make_unique<DiskIo>(std::move(opened), *chain.loop);
        OpenOptions how;
        how.read_only = read_only;
        chain.top =
            need(chain.loop->run(qcow2::open_image(std::move(io), std::move(header), std::move(chain.top), how)));
    }

    ScratchFolder folder_;
    Layout layout_;
    std::mt19937_64 random_;
};

inline Bytes read_all(Chain& chain) {
    Bytes bytes(chain.top->size());
    const Parts parts{{bytes.data(), bytes.size()}};
    EXPECT_TRUE(ok(chain.loop->run(chain.top->read(0, bytes.size(), parts))));
    return bytes;
}

/// EXPECT_TRUE(same(a, b)) says where two disks begin to differ.
inline ::testing::AssertionResult same(const Bytes& is, const Bytes& wanted) {
    if (is.size() != wanted.size()) {
        return ::testing::AssertionFailure() << is.size() << " bytes, not " << wanted.size();
    }
    const auto [at, other] = std::ranges::mismatch(is, wanted);
    if (at == is.end()) {
        return ::testing::AssertionSuccess();
    }
    return ::testing::AssertionFailure() << "the byte at " << at - is.begin() << " differs";
}

}  // namespace snapvm::disk::merge_rig
