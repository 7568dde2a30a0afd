// SPDX-License-Identifier: Apache-2.0
// What the tests of qcow2 images share: chains that qemu-img made with a model of what they read
// as, opened chains, and random requests.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "devices/disk/image/raw_image.h"
#include "devices/disk/io/disk_io.h"
#include "devices/disk/qcow2/qcow2_image.h"
#include "tests/support/qemu_img.h"
#include "tests/support/result_matchers.h"
#include "tests/support/scratch_folder.h"

namespace snapvm::disk::test_rig {

using qcow2::OpenOptions;
using test::make_image;
using test::ok;
using test::qemu_img;
using Bytes = std::vector<std::byte>;

inline constexpr std::uint64_t kSector = 512;
inline constexpr std::byte kZero{0};

/// One image of a chain, the top first.
struct Link {
    std::string path;
    std::string format = "qcow2";
};

/// An opened chain with its loop.
class Opened {
public:
    explicit Opened(const std::vector<Link>& chain, OpenOptions options = {}, io::FaultHook hook = {}) {
        auto loop = IoLoop::make(io::EngineKind::automatic, std::move(hook));
        EXPECT_TRUE(ok(loop));
        loop_ = *std::move(loop);
        for (auto link = chain.rbegin(); link != chain.rend() && status_; ++link) {
            const bool top = link + 1 == chain.rend();
            open(*link, top ? options : OpenOptions{.read_only = true});
        }
    }
    [[nodiscard]] const Status& status() const { return status_; }
    Image* operator->() const { return image_.get(); }
    [[nodiscard]] Image& image() const { return *image_; }
    [[nodiscard]] IoLoop& loop() const { return *loop_; }
    template <class T>
    T run(Task<T> task) {
        return loop_->run(std::move(task));
    }
    Bytes read(std::uint64_t offset, std::uint64_t size) {
        Bytes bytes(size);
        const Parts parts{{bytes.data(), bytes.size()}};
        EXPECT_TRUE(ok(run(image_->read(offset, size, parts))));
        return bytes;
    }
    Status write(std::uint64_t offset, Bytes bytes) {
        const Parts parts{{bytes.data(), bytes.size()}};
        return run(image_->write(offset, bytes.size(), parts));
    }

private:
    void open(const Link& link, OpenOptions options) {
        DiskOptions how;
        how.read_only = options.read_only;
        auto file = DiskFile::open("root", link.path, how);
        if (!file) {
            status_ = fail(std::move(file).error());
            return;
        }
        if (link.format == "raw") {
            image_ = std::make_unique<RawImage>(*std::move(file), *loop_, options.read_only);
            return;
        }
        auto header = qcow2::read_header(file->fd.get(), std::filesystem::file_size(link.path), link.path);
        if (!header) {
            status_ = fail(std::move(header).error());
            return;
        }
        auto io = std::make_unique<DiskIo>(*std::move(file), *loop_);
        auto image = loop_->run(qcow2::open_image(std::move(io), *std::move(header), std::move(image_), options));
        if (!image) {
            status_ = fail(std::move(image).error());
            return;
        }
        image_ = *std::move(image);
    }

    std::unique_ptr<IoLoop> loop_;
    std::unique_ptr<Image> image_;  // goes before its loop
    Status status_;
};

inline Bytes noise(std::size_t size, std::mt19937_64& random) {
    Bytes bytes(size);
    // A pattern for each sector: quick to make, and compressible.
    for (std::size_t at = 0; at < size; at += kSector) {
        const std::uint64_t value = random() | 1;
        std::array<std::uint64_t, kSector / sizeof value> words;
        words.fill(value);
        std::memcpy(&bytes[at], words.data(), std::min<std::size_t>(kSector, size - at));
    }
    return bytes;
}

inline void write_file(const std::string& path, const Bytes& bytes) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    EXPECT_TRUE(file.good());
}

inline Bytes read_file(const std::string& path) {
    Bytes bytes(std::filesystem::file_size(path));
    std::ifstream file(path, std::ios::binary);
    file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return bytes;
}

enum class Behind : std::uint8_t { nothing, raw, qcow2, zlib, zstd };

struct Case {
    std::string name;
    std::string options;
    std::uint64_t size = 0;
    Behind behind = Behind::nothing;
    std::uint64_t behind_size = 0;
};

// gtest prints it.
inline void PrintTo(const Case& one, std::ostream* out) { *out << one.name; }

inline const std::vector<Case>& cases() {
    static constexpr std::uint64_t kMiB = 1ULL << 20;
    static const std::vector<Case> all = {
        {"plain", "", 8 * kMiB},
        {"odd_size", "", 5 * kMiB + 3 * kSector},
        {"clusters_512", "cluster_size=512", kMiB},
        {"clusters_512_counts_64", "cluster_size=512,refcount_bits=64", kMiB},
        {"clusters_4096_counts_1", "cluster_size=4096,refcount_bits=1", 4 * kMiB},
        {"counts_2", "cluster_size=8192,refcount_bits=2", 4 * kMiB},
        {"counts_8", "cluster_size=65536,refcount_bits=8", 4 * kMiB},
        {"clusters_2M", "cluster_size=2M", 24 * kMiB + kSector},
        {"subclusters", "extended_l2=on", 8 * kMiB},
        {"subclusters_16K", "extended_l2=on,cluster_size=16k", 4 * kMiB + kSector},
        {"subclusters_2M", "extended_l2=on,cluster_size=2M", 24 * kMiB},
        {"version_2", "compat=0.10", 8 * kMiB},
        {"version_2_512", "compat=0.10,cluster_size=512", kMiB},
        {"preallocated", "preallocation=metadata", 4 * kMiB},
        {"preallocated_subclusters", "preallocation=metadata,extended_l2=on", 4 * kMiB},
        {"on_raw", "", 4 * kMiB, Behind::raw, 4 * kMiB},
        {"on_shorter_raw", "cluster_size=4096", 4 * kMiB, Behind::raw, 2 * kMiB + kSector},
        {"on_longer_qcow2", "", 4 * kMiB, Behind::qcow2, 6 * kMiB},
        {"on_shorter_qcow2", "extended_l2=on", 4 * kMiB, Behind::qcow2, 3 * kMiB + 5 * kSector},
        {"on_zlib", "", 4 * kMiB, Behind::zlib, 4 * kMiB},
        {"on_zstd", "extended_l2=on", 4 * kMiB, Behind::zstd, 4 * kMiB},
        {"version_2_on_qcow2", "compat=0.10", 4 * kMiB, Behind::qcow2, 4 * kMiB},
    };
    return all;
}

/// A chain of files and what its top has to read as.
struct Disk {
    test::ScratchFolder folder;
    std::vector<Link> chain;
    Bytes model;
};

inline Bytes half_noise(std::uint64_t size, std::mt19937_64& random) {
    Bytes bytes(size);
    for (std::uint64_t at = 0; at < size; at += 128 * kSector) {
        if (random() % 2 == 0) {
            const Bytes some = noise(std::min<std::uint64_t>(128 * kSector, size - at), random);
            std::memcpy(&bytes[at], some.data(), some.size());
        }
    }
    return bytes;
}

inline void make_behind(Disk& disk, const Case& one, std::mt19937_64& random) {
    const Bytes bytes = half_noise(one.behind_size, random);
    std::ranges::copy_n(bytes.begin(), static_cast<std::ptrdiff_t>(std::min(one.size, one.behind_size)),
                        disk.model.begin());
    const std::string raw = disk.folder.file("behind.raw");
    write_file(raw, bytes);
    if (one.behind == Behind::raw) {
        disk.chain.push_back({raw, "raw"});
        return;
    }
    const std::string path = disk.folder.file("behind.qcow2");
    std::vector<std::string> words = {"convert", "-f", "raw", "-O", "qcow2"};
    if (one.behind != Behind::qcow2) {
        words.emplace_back("-c");
    }
    if (one.behind == Behind::zstd) {
        words.insert(words.end(), {"-o", "compression_type=zstd"});
    }
    words.insert(words.end(), {raw, path});
    qemu_img(words);
    disk.chain.push_back({path, "qcow2"});
}

inline std::unique_ptr<Disk> make_disk(const Case& one, std::mt19937_64& random) {
    auto disk = std::make_unique<Disk>();
    disk->model.resize(one.size);
    std::string options = one.options;
    if (one.behind != Behind::nothing) {
        make_behind(*disk, one, random);
        const Link& behind = disk->chain.front();
        options += (options.empty() ? "" : ",") + ("backing_file=" + behind.path) + ",backing_fmt=" + behind.format;
    }
    const std::string top = disk->folder.file("top.qcow2");
    make_image(top, one.size, options);
    disk->chain.insert(disk->chain.begin(), {top, "qcow2"});
    return disk;
}

/// A request with its bytes.
struct Request {
    enum class Kind : std::uint8_t { read, write, write_zeroes, discard };
    Kind kind{};
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    bool unmap = false;
    Bytes bytes;
    Parts parts;
};

inline Task<Status> execute(Image& image, Request& request) {
    switch (request.kind) {
        case Request::Kind::read: return image.read(request.offset, request.size, request.parts);
        case Request::Kind::write: return image.write(request.offset, request.size, request.parts);
        case Request::Kind::write_zeroes: return image.write_zeroes(request.offset, request.size, request.unmap);
        case Request::Kind::discard: break;
    }
    return image.discard(request.offset, request.size);
}

inline Request random_request(std::uint64_t begin, std::uint64_t end, std::mt19937_64& random) {
    Request request;
    const std::uint64_t kind = random() % 10;
    request.kind = kind < 2   ? Request::Kind::read
                   : kind < 7 ? Request::Kind::write
                   : kind < 9 ? Request::Kind::write_zeroes
                              : Request::Kind::discard;
    const std::uint64_t sectors = (end - begin) / kSector;
    const std::uint64_t most = random() % 3 == 0 ? sectors : std::min<std::uint64_t>(sectors, 16);
    const std::uint64_t count = 1 + random() % most;
    request.size = count * kSector;
    request.offset = begin + random() % (sectors - count + 1) * kSector;
    request.unmap = random() % 2 == 0;
    if (request.kind == Request::Kind::write) {
        request.bytes = noise(request.size, random);
    } else if (request.kind == Request::Kind::read) {
        request.bytes.resize(request.size);
    }
    // In two buffers.
    const std::uint64_t cut = random() % (request.bytes.size() + 1) / kSector * kSector;
    request.parts = {{request.bytes.data(), cut}, {request.bytes.data() + cut, request.bytes.size() - cut}};
    return request;
}

}  // namespace snapvm::disk::test_rig
