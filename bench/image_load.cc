// SPDX-License-Identifier: Apache-2.0
#include "bench/image_load.h"

#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "bench/process.h"
#include "devices/disk/qcow2/create.h"
#include "guest-images/ledger/load_format.h"
#include "vmm/base/fd.h"
#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

double cpu_us() {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    const auto us = [](const timeval& time) {
        return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_usec);
    };
    return us(usage.ru_utime) + us(usage.ru_stime);
}

void count(HostCalls& calls, const io::Request& request) {
    ++calls.calls;
    if (request.kind == io::Request::Kind::read) {
        calls.read_bytes += request.size;
    } else if (request.kind == io::Request::Kind::write) {
        calls.written_bytes += request.size;
    }
}

Status wait_readable(const Disk& disk) {
    pollfd wanted{disk.event(), POLLIN, 0};
    if (::poll(&wanted, 1, -1) < 0 && errno != EINTR) {
        return fail(Error::system("poll", disk.name(), errno));
    }
    return {};
}

/// A load under way.
class Running {
public:
    Running(Disk& disk, const ImageLoad& load, const LoadMemory& memory)
        : disk_(disk), load_(load), requests_(load.depth) {
        for (unsigned i = 0; i < load.depth; ++i) {
            DiskRequest& request = requests_[i];
            request.kind = load.write ? DiskRequest::Kind::write : DiskRequest::Kind::read;
            request.size = load.size;
            request.buffers = {{memory.at(i * load.size), load.size}};
        }
    }

    Status run() {
        for (DiskRequest& request : requests_) {
            begin(request);
        }
        TRY(wait_all());
        return load_.flush ? flush() : Status{};
    }

private:
    void begin(DiskRequest& request) {
        if (begun_ < load_.count) {
            request.offset = load_.place(begun_++, disk_.size());
            ++in_flight_;
            disk_.add(request);
        }
    }
    Status flush() {
        DiskRequest& request = requests_.front();
        request.kind = DiskRequest::Kind::flush;
        ++in_flight_;
        disk_.add(request);
        return wait_all();
    }
    Status wait_all() {
        while (in_flight_ > 0) {
            disk_.submit();
            TRY(wait_readable(disk_));
            disk_.reap([this](DiskRequest& request, int error) {
                --in_flight_;
                error_ = error != 0 ? error : error_;
                begin(request);
            });
        }
        return error_ == 0 ? Status{} : Status(fail(Error::system("a request", disk_.name(), error_)));
    }

    Disk& disk_;
    const ImageLoad& load_;
    std::vector<DiskRequest> requests_;
    unsigned begun_ = 0;
    unsigned in_flight_ = 0;
    int error_ = 0;
};

Status make_file(const std::string& path, std::uint64_t size) {
    (void)::unlink(path.c_str());
    const UniqueFd file = TRY(open_file(path, O_RDWR | O_CREAT | O_EXCL, 0600));
    if (::ftruncate(file.get(), static_cast<off_t>(size)) != 0) {
        return fail(Error::system("ftruncate", path, errno));
    }
    return {};
}

}  // namespace

std::uint64_t ImageLoad::place(std::uint64_t n, std::uint64_t disk_bytes) const {
    if (order == Order::stride) {
        return (first + n * stride) % disk_bytes;
    }
    return ledger::load_place(order == Order::random, seed, n, size, disk_bytes);
}

Parts ImageCost::figures(const ImageLoad& load) const {
    const double requests = load.count;
    const double bytes = requests * static_cast<double>(load.size);
    return {{"us_a_request", us / requests},
            {"cpu_us_a_request", cpu_us / requests},
            {"mb_per_s", bytes / us},
            {"host_calls_a_request", static_cast<double>(calls.calls) / requests},
            {"host_reads_a_byte", static_cast<double>(calls.read_bytes) / bytes},
            {"host_writes_a_byte", static_cast<double>(calls.written_bytes) / bytes}};
}

Result<LoadMemory> LoadMemory::make(std::uint64_t bytes) {
    void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return fail(Error::system("mmap", "the requests' memory", errno));
    }
    std::memset(memory, 0x5A, bytes);
    return LoadMemory({static_cast<std::byte*>(memory), Unmap{bytes}});
}

ImageKind default_image() {
    const disk::qcow2::CreateOptions options;
    return {.format = DiskFormat::qcow2, .cluster_bits = options.cluster_bits, .extended_l2 = options.extended_l2};
}

Status make_image(const std::string& path, const ImageKind& kind, std::uint64_t size, const std::string& backing,
                  DiskFormat backing_format) {
    TRY(make_file(path, kind.format == DiskFormat::raw ? size : 0));
    if (kind.format == DiskFormat::raw) {
        return {};
    }
    const UniqueFd file = TRY(open_file(path, O_RDWR));
    disk::qcow2::CreateOptions options;
    options.size = size;
    options.cluster_bits = kind.cluster_bits;
    options.extended_l2 = kind.extended_l2;
    options.backing_file = backing;
    options.backing_format = backing.empty() ? "" : backing_format == DiskFormat::raw ? "raw" : "qcow2";
    return disk::qcow2::create_image(file.get(), options, path);
}

Result<CountedDisk> CountedDisk::open(const std::string& path, DiskFormat format, bool read_only) {
    CountedDisk counted;
    counted.calls_ = std::make_unique<HostCalls>();
    DiskOptions options;
    options.format = format;
    options.read_only = read_only;
    options.hook = [calls = counted.calls_.get()](const io::Request& request) {
        count(*calls, request);
        return io::Fault{};
    };
    counted.disk_ = TRY(open_disk("bench", path, options));
    TRY(counted.disk_->start());
    return counted;
}

Result<ImageCost> run_load(const CountedDisk& disk, const ImageLoad& load) {
    const LoadMemory memory = TRY(LoadMemory::make(load.size * load.depth));
    Running running(disk.disk(), load, memory);
    const HostCalls calls = disk.calls();
    const double cpu = cpu_us();
    const std::uint64_t start = now_ns();
    TRY(running.run());
    const std::uint64_t end = now_ns();
    return ImageCost{
        .us = static_cast<double>(end - start) / 1e3, .cpu_us = cpu_us() - cpu, .calls = disk.calls().since(calls)};
}

Status fill_image(const std::string& path, DiskFormat format, std::uint64_t part, unsigned divisor, unsigned rest) {
    const CountedDisk disk = TRY(CountedDisk::open(path, format, false));
    ImageLoad load{.write = true, .order = ImageLoad::Order::stride, .size = part, .depth = 16};
    load.stride = part * divisor;
    load.count = static_cast<unsigned>(disk.disk().size() / load.stride);
    load.first = part * rest;
    load.flush = true;
    TRY(run_load(disk, load));
    return {};
}

std::uint64_t resident_bytes() {
    ::malloc_trim(0);
    std::ifstream file("/proc/self/statm");
    std::uint64_t total = 0;
    std::uint64_t resident = 0;
    file >> total >> resident;
    return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace snapvm::bench
