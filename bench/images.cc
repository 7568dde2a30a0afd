// SPDX-License-Identifier: Apache-2.0
// images: disk images without a guest. The same requests go through the interface of a guest's disk
// to a raw file (the floor), to qcow2 images and to chains of them, and through `qemu-img bench`.
// The clock runs from just before the first request is added until the last one has ended; with
// allocating writes, until a flush has made data and tables durable.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <filesystem>

#include "bench/image_load.h"
#include "bench/process.h"
#include "bench/scenario.h"
#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

constexpr const char* kScenario = "images";
constexpr std::uint64_t kDiskBytes = 64ULL << 20;
constexpr std::uint64_t kHugeBytes = 1ULL << 40;
constexpr unsigned kLayers = 10;
constexpr unsigned kHugePlaces = 8192;  // with more tables than are kept in memory
constexpr unsigned kFewRuns = 6;  // of what takes long

constexpr ImageKind kRaw{.format = DiskFormat::raw};

struct NamedKind {
    const char* name;  ///< clusters, and subclusters if there are some
    ImageKind kind;
};
constexpr std::array kImages = {
    NamedKind{"64K", {.format = DiskFormat::qcow2}},
    NamedKind{"64K/2K", {.format = DiskFormat::qcow2, .extended_l2 = true}},
    NamedKind{"128K/4K", {.format = DiskFormat::qcow2, .cluster_bits = 17, .extended_l2 = true}},
    NamedKind{"4K", {.format = DiskFormat::qcow2, .cluster_bits = 12}}};

struct NamedLoad {
    const char* name;
    ImageLoad load;
};
using Order = ImageLoad::Order;
constexpr std::array kReads = {
    NamedLoad{"read 64K, x1", {.order = Order::sequential, .size = 1 << 16, .count = 256}},
    NamedLoad{"read 64K, x32", {.order = Order::sequential, .size = 1 << 16, .depth = 32, .count = 512}},
    NamedLoad{"read 4K random, x1", {.count = 256}}, NamedLoad{"read 4K random, x32", {.depth = 32, .count = 2048}}};
constexpr std::array kWrites = {
    NamedLoad{"write 64K, x1", {.write = true, .order = Order::sequential, .size = 1 << 16, .count = 256}},
    NamedLoad{"write 64K, x32",
              {.write = true, .order = Order::sequential, .size = 1 << 16, .depth = 32, .count = 512}},
    NamedLoad{"write 4K random, x1", {.write = true, .count = 256}},
    NamedLoad{"write 4K random, x32", {.write = true, .depth = 32, .count = 2048}}};
constexpr std::array kAllocating = {
    NamedLoad{"new 4K random, x1", {.write = true, .count = 128, .flush = true}},
    NamedLoad{"new 4K random, x32", {.write = true, .depth = 32, .count = 1024, .flush = true}},
    NamedLoad{"new 64K, x32",
              {.write = true, .order = Order::sequential, .size = 1 << 16, .depth = 32, .count = 512, .flush = true}}};

/// The files of the scenario, which vanish with it.
class Files {
public:
    /// An image finds its backing file by a path from its own folder, so the path must be absolute.
    explicit Files(const std::string& folder) : folder_(std::filesystem::absolute(folder).string()) {}
    Files(const Files&) = delete;
    Files& operator=(const Files&) = delete;
    ~Files() {
        for (const std::string& path : paths_) {
            (void)::unlink(path.c_str());
        }
    }
    std::string path(const std::string& name) {
        paths_.push_back(folder_ + "/bench-image-" + name);
        return paths_.back();
    }

private:
    std::string folder_;
    std::vector<std::string> paths_;
};

Sample sample_of(const std::string& name, Side side, int run, const ImageLoad& load, const ImageCost& cost) {
    return {kScenario, name, side, run, cost.us, {}, cost.figures(load)};
}

ImageLoad seeded(ImageLoad load, int run) {
    load.seed = static_cast<std::uint64_t>(run + 1000);
    return load;
}

// Calls one(side, run) as interleaved() does. No machine has to be torn down in between.
template <class One>
Status in_turn(const Options& options, One one) {
    return interleaved(options, one, std::chrono::milliseconds(0));
}

Options with_runs(Options options, unsigned most) {
    options.runs = std::min(options.runs, most);
    options.warm_up = std::min(options.warm_up, 1U);
    return options;
}

// Measures the same requests on two disks that are there already.
Status compare(const Options& options, Report& report, const std::string& name, const ImageLoad& load,
               const CountedDisk& floor, const CountedDisk& ours) {
    return in_turn(options, [&](Side side, int run) -> Status {
        const ImageCost cost = TRY(run_load(side == Side::floor ? floor : ours, seeded(load, run)));
        return report.add(sample_of(name, side, run, load, cost));
    });
}

Status full_image(const std::string& path, const ImageKind& kind) {
    TRY(make_image(path, kind, kDiskBytes));
    return fill_image(path, kind.format);
}

Status allocated_images(const Options& options, Report& report, Files& files) {
    const std::string raw = files.path("full.raw");
    TRY(full_image(raw, kRaw));
    const CountedDisk floor = TRY(CountedDisk::open(raw, DiskFormat::raw, false));
    for (const NamedKind& image : kImages) {
        const std::string path = files.path("full.qcow2");
        TRY(full_image(path, image.kind));
        const CountedDisk ours = TRY(CountedDisk::open(path, image.kind.format, false));
        for (const auto* loads : {&kReads, &kWrites}) {
            for (const NamedLoad& one : *loads) {
                TRY(compare(options, report, std::string(one.name) + ", " + image.name, one.load, floor, ours));
            }
        }
    }
    return {};
}

// How much of the host's disk the file takes, for each byte that the guest has written.
double file_bytes(const std::string& path, const ImageLoad& load) {
    struct stat info{};
    (void)::stat(path.c_str(), &info);
    return static_cast<double>(info.st_blocks) * 512 / (static_cast<double>(load.size) * load.count);
}

// Writes into an image that is made anew for each run. The floor writes into an allocated raw file,
// and that into a new one is in the parts.
Status one_allocating(const Options& options, Report& report, Files& files, const NamedLoad& one,
                      const NamedKind& image, const std::string& backing, const CountedDisk& floor) {
    const std::string path = files.path("new");
    const std::string name = std::string(one.name) + (backing.empty() ? ", " : " over raw, ") + image.name;
    return in_turn(options, [&](Side side, int run) -> Status {
        const ImageLoad load = seeded(one.load, run);
        const ImageKind& kind = side == Side::floor ? kRaw : image.kind;
        TRY(make_image(path, kind, kDiskBytes, side == Side::floor ? std::string() : backing));
        const CountedDisk disk = TRY(CountedDisk::open(path, kind.format, false));
        const ImageCost fresh = TRY(run_load(disk, load));
        const ImageCost cost = side == Side::floor ? TRY(run_load(floor, load)) : fresh;
        Sample sample = sample_of(name, side, run, load, cost);
        if (side == Side::floor) {
            sample.parts = {{"allocated raw", cost.us}, {"new raw", fresh.us}};
        }
        sample.figures.emplace_back("file_bytes_a_byte", file_bytes(path, load));
        return report.add(sample);
    });
}

Status allocating_writes(const Options& options, Report& report, Files& files) {
    const std::string backing = files.path("backing.raw");
    const std::string raw = files.path("floor.raw");
    TRY(full_image(backing, kRaw));
    TRY(full_image(raw, kRaw));
    const CountedDisk floor = TRY(CountedDisk::open(raw, DiskFormat::raw, false));
    for (const std::string& behind : {std::string(), backing}) {
        for (const NamedLoad& one : kAllocating) {
            for (const NamedKind& image : kImages) {
                TRY(one_allocating(options, report, files, one, image, behind, floor));
            }
        }
    }
    return {};
}

// Makes a chain of images over each other, and returns the path of the last. If it is `spread`,
// each has the clusters whose numbers leave its own number; else the first has all.
Result<std::string> make_chain(Files& files, const std::string& name, bool spread) {
    std::string last;
    for (unsigned i = 0; i < kLayers; ++i) {
        const std::string path = files.path(name + std::to_string(i) + ".qcow2");
        TRY(make_image(path, default_image(), kDiskBytes, last, DiskFormat::qcow2));
        if (spread) {
            TRY(fill_image(path, DiskFormat::qcow2, 1 << 16, kLayers, i));
        } else if (i == 0) {
            TRY(fill_image(path, DiskFormat::qcow2));
        }
        last = path;
    }
    return last;
}

Status chains(const Options& options, Report& report, Files& files) {
    const std::string single = files.path("single.qcow2");
    TRY(full_image(single, default_image()));
    const CountedDisk floor = TRY(CountedDisk::open(single, DiskFormat::qcow2, true));
    for (const bool spread : {true, false}) {
        const std::string top = TRY(make_chain(files, spread ? "spread" : "below", spread));
        const CountedDisk ours = TRY(CountedDisk::open(top, DiskFormat::qcow2, true));
        for (const NamedLoad& one : kReads) {
            const std::string name =
                std::string(one.name) + (spread ? ", 10 layers" : ", 10 layers, data in the first");
            TRY(compare(options, report, name, one.load, floor, ours));
        }
    }
    return {};
}

// Opens an image and measures until it can take requests.
Result<Sample> open_sample(Side side, int run, const std::string& path, DiskFormat format) {
    const std::uint64_t start = now_ns();
    const CountedDisk disk = TRY(CountedDisk::open(path, format, true));
    const double us = static_cast<double>(now_ns() - start) / 1e3;
    return Sample{kScenario, "open 1T", side, run, us, {}, {}};
}

// Reads at places that have data, each in another L2 table or another part of one. The memory is
// that of the open image and of all its tables that were read.
Status huge_reads(const Options& options, Report& report, const std::string& raw, const std::string& image,
                  const ImageLoad& load) {
    return in_turn(options, [&](Side side, int run) -> Status {
        const bool floor = side == Side::floor;
        const std::uint64_t before = resident_bytes();
        const CountedDisk disk =
            TRY(CountedDisk::open(floor ? raw : image, floor ? DiskFormat::raw : DiskFormat::qcow2, true));
        const ImageCost cost = TRY(run_load(disk, load));
        Sample sample = sample_of("read 4K random, x32, 1T", side, run, load, cost);
        sample.figures.emplace_back("memory_mib",
                                    (static_cast<double>(resident_bytes()) - static_cast<double>(before)) / (1 << 20));
        return report.add(sample);
    });
}

Status huge_image(const Options& options, Report& report, Files& files) {
    const std::string raw = files.path("huge.raw");
    const std::string image = files.path("huge.qcow2");
    ImageLoad load{.write = true, .depth = 32, .count = kHugePlaces, .flush = true};
    TRY(make_image(raw, kRaw, kHugeBytes));
    TRY(make_image(image, default_image(), kHugeBytes));
    for (const auto& [path, format] : {std::pair{raw, DiskFormat::raw}, std::pair{image, DiskFormat::qcow2}}) {
        const CountedDisk disk = TRY(CountedDisk::open(path, format, false));
        TRY(run_load(disk, load));
    }
    TRY(in_turn(options, [&](Side side, int run) -> Status {
        const bool floor = side == Side::floor;
        return report.add(
            TRY(open_sample(side, run, floor ? raw : image, floor ? DiskFormat::raw : DiskFormat::qcow2)));
    }));
    load.write = load.flush = false;
    return huge_reads(with_runs(options, kFewRuns), report, raw, image, load);
}

constexpr const char* kEnv = "/usr/bin/env";  // looks in PATH

// Runs `qemu-img bench` and returns its time. It prints milliseconds, so its runs have to be long.
Result<double> qemu_us(const std::string& path, const ImageLoad& load, const std::string& format) {
    std::vector<std::string> command = {kEnv, "qemu-img", "bench", "-f", format, "-t", "none", "-i", "io_uring"};
    if (load.write) {
        command.emplace_back("-w");
    }
    for (const auto& [option, value] :
         {std::pair{"-c", std::uint64_t{load.count}}, std::pair{"-d", std::uint64_t{load.depth}},
          std::pair{"-s", load.size}, std::pair{"-S", load.stride}}) {
        command.emplace_back(option);
        command.push_back(std::to_string(value));
    }
    command.push_back(path);
    const std::string output = TRY(run_to_end(command));
    constexpr std::string_view kBefore = "completed in ";
    const std::size_t at = output.find(kBefore);
    double seconds = 0;
    if (at == std::string::npos ||
        std::from_chars(output.data() + at + kBefore.size(), output.data() + output.size(), seconds).ec !=
            std::errc{}) {
        return fail(ErrorKind::invalid, "qemu-img bench prints no time: " + output);
    }
    return seconds * 1e6;
}

struct QemuCase {
    const char* name;
    ImageLoad load;
    bool fresh;  ///< an overlay that is made anew for each run, over a raw file
};
constexpr std::uint64_t kStride4K = (1ULL << 20) + 4096;  // passes every 4 KiB of the disk once
constexpr std::array kQemuCases = {
    QemuCase{"beside qemu-img: read 4K, x1", {.order = Order::stride, .count = 1024, .stride = kStride4K}, false},
    QemuCase{"beside qemu-img: read 4K, x32",
             {.order = Order::stride, .depth = 32, .count = 8192, .stride = kStride4K},
             false},
    QemuCase{"beside qemu-img: read 64K, x32",
             {.order = Order::stride, .size = 1 << 16, .depth = 32, .count = 2048, .stride = 1 << 16},
             false},
    QemuCase{"beside qemu-img: write 4K, x32",
             {.write = true, .order = Order::stride, .depth = 32, .count = 8192, .stride = kStride4K},
             false},
    QemuCase{"beside qemu-img: new 4K over raw, x32",
             {.write = true, .order = Order::stride, .depth = 32, .count = 2048, .stride = kStride4K},
             true}};

Status one_beside_qemu(const Options& options, Report& report, const QemuCase& one, const std::string& image,
                       const std::string& backing) {
    return in_turn(options, [&](Side side, int run) -> Status {
        if (one.fresh) {
            TRY(make_image(image, default_image(), kDiskBytes, backing));
        }
        if (side == Side::floor) {
            return report.add({kScenario, one.name, side, run, TRY(qemu_us(image, one.load, "qcow2")), {}, {}});
        }
        const CountedDisk disk = TRY(CountedDisk::open(image, DiskFormat::qcow2, !one.load.write));
        return report.add(sample_of(one.name, side, run, one.load, TRY(run_load(disk, one.load))));
    });
}

Status beside_qemu(const Options& options, Report& report, Files& files) {
    if (!run_to_end({kEnv, "qemu-img", "--version"})) {
        std::fprintf(stderr, "images: there is no qemu-img to compare with; install qemu-utils\n");
        return {};
    }
    const std::string full = files.path("qemu.qcow2");
    const std::string overlay = files.path("overlay.qcow2");
    const std::string backing = files.path("behind.raw");
    TRY(full_image(full, default_image()));
    TRY(full_image(backing, kRaw));
    for (const QemuCase& one : kQemuCases) {
        TRY(one_beside_qemu(with_runs(options, kFewRuns), report, one, one.fresh ? overlay : full, backing));
    }
    return {};
}

}  // namespace

Status bench_images(const Options& options, Report& report) {
    Files files(options.images.empty() ? options.programs : options.images);
    for (const auto part : {allocated_images, allocating_writes, chains, huge_image, beside_qemu}) {
        TRY(part(options, report, files));
    }
    return {};
}

}  // namespace snapvm::bench
