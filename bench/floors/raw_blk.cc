// SPDX-License-Identifier: Apache-2.0
// The floor of a guest's disk: the same requests on the same file by io_uring with O_DIRECT and
// nothing else, from one thread that keeps DEPTH requests in flight.
//
//   raw_blk PATH
// The file has its final size and has been written. Each line on stdin is `read|write seq|random
// SIZE DEPTH COUNT SEED`: COUNT requests of SIZE bytes, DEPTH in flight, at the same places as the
// guest's (guest-images/ledger/load_format.h). The answer is a line of times in ns: `ns`, and `cpu`
// of this process with the kernel's part.
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "bench/floors/raw_clocks.h"
#include "guest-images/ledger/load_format.h"

namespace {

using snapvm::ledger::load_place;

constexpr unsigned kMostInFlight = 256;

struct Job {
    bool write, random;
    uint64_t size, depth, count, seed;
};

int fd = -1;
uint64_t file_bytes = 0;
io_uring ring;
char* buffers = nullptr;
uint64_t buffer_bytes = 0;

char* buffers_of(uint64_t bytes) {
    if (bytes <= buffer_bytes) return buffers;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) die("mmap", errno);
    madvise(memory, bytes, MADV_HUGEPAGE);  // like a guest's memory
    memset(memory, 0x5a, bytes);
    buffer_bytes = bytes;
    return buffers = static_cast<char*>(memory);
}

void run(const Job& job) {
    char* all = buffers_of(job.size * job.depth);
    std::vector<char*> free;
    for (uint64_t i = 0; i < job.depth; ++i) free.push_back(all + i * job.size);
    uint64_t begun = 0, done = 0;
    while (done < job.count) {
        for (; begun < job.count && !free.empty(); free.pop_back()) {
            io_uring_sqe* sqe = io_uring_get_sqe(&ring);
            if (sqe == nullptr) die("the submission queue has no free entry", EBUSY);
            const uint64_t at = load_place(job.random, job.seed, begun++, job.size, file_bytes);
            if (job.write)
                io_uring_prep_write(sqe, fd, free.back(), static_cast<unsigned>(job.size), at);
            else
                io_uring_prep_read(sqe, fd, free.back(), static_cast<unsigned>(job.size), at);
            io_uring_sqe_set_data(sqe, free.back());
        }
        if (const int n = io_uring_submit_and_wait(&ring, 1); n < 0 && n != -EINTR) die("io_uring_submit_and_wait", -n);
        io_uring_cqe* cqe = nullptr;
        for (; io_uring_peek_cqe(&ring, &cqe) == 0; ++done) {
            if (cqe->res != static_cast<int>(job.size)) die("a request", cqe->res < 0 ? -cqe->res : EIO);
            free.push_back(static_cast<char*>(io_uring_cqe_get_data(cqe)));
            io_uring_cqe_seen(&ring, cqe);
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        fputs("usage: raw_blk PATH\n", stderr);
        return 2;
    }
    fd = open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd < 0) die(argv[1], errno);
    struct stat about;
    if (fstat(fd, &about) != 0) die("fstat", errno);
    file_bytes = static_cast<uint64_t>(about.st_size);
    if (const int error = io_uring_queue_init(kMostInFlight, &ring, 0); error < 0) die("io_uring_queue_init", -error);
    for (char line[128]; fgets(line, sizeof line, stdin) != nullptr;) {
        char kind[8], order[8];
        Job job{};
        if (sscanf(line, "%7s %7s %lu %lu %lu %lu", kind, order, &job.size, &job.depth, &job.count, &job.seed) != 6 ||
            job.size == 0 || job.depth == 0 || job.depth > kMostInFlight || job.size > file_bytes)
            die("a line of stdin is malformed", EINVAL);
        job.write = strcmp(kind, "write") == 0;
        job.random = strcmp(order, "random") == 0;
        buffers_of(job.size * job.depth);
        const uint64_t cpu = cpu_ns(), start = now_ns();
        run(job);
        const uint64_t end = now_ns();
        printf("ns=%lu cpu=%lu\n", end - start, cpu_ns() - cpu);
        fflush(stdout);
    }
}
