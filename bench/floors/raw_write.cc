// SPDX-License-Identifier: Apache-2.0
// The floor of everything that is written: the same number of bytes, in sequence, onto the same
// file system or device, with O_DIRECT and nothing else. It uses two ways, pwrite of large blocks
// and io_uring with several in flight; the bench takes the better.
//
//   raw_write PATH OFFSET
// Each line on stdin is a number of bytes (rounded up to 4 KiB). The answer is a line of times in
// ns: of the writes, and of writes and fdatasync.
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "bench/floors/raw_clocks.h"

namespace {

constexpr uint64_t kBlock = 4 << 20, kBuffer = 64 << 20, kSmall = 2 << 20;
constexpr unsigned kInFlight = 16;  // the fastest depth measured here

int fd = -1;
uint64_t base = 0;
char* buffer = nullptr;

void by_pwrite(uint64_t bytes) {
    for (uint64_t at = 0; at < bytes;) {
        const ssize_t n =
            pwrite(fd, buffer + at % kBuffer, std::min(kBlock, bytes - at), static_cast<off_t>(base + at));
        if (n <= 0) die("pwrite", n == 0 ? ENOSPC : errno);
        at += static_cast<uint64_t>(n);
    }
}

void by_uring(io_uring& ring, uint64_t bytes) {
    uint64_t at = 0;
    unsigned flying = 0;
    while (at < bytes || flying > 0) {
        while (at < bytes && flying < kInFlight) {
            const uint64_t size = std::min(kSmall, bytes - at);
            io_uring_sqe* sqe = io_uring_get_sqe(&ring);
            io_uring_prep_write(sqe, fd, buffer + at % kBuffer, static_cast<unsigned>(size), base + at);
            io_uring_sqe_set_data64(sqe, size);
            at += size;
            ++flying;
        }
        if (const int n = io_uring_submit_and_wait(&ring, 1); n < 0) die("io_uring_submit_and_wait", -n);
        io_uring_cqe* cqe = nullptr;
        while (flying > 0 && io_uring_peek_cqe(&ring, &cqe) == 0) {
            if (cqe->res < 0) die("write", -cqe->res);
            if (static_cast<uint64_t>(cqe->res) != io_uring_cqe_get_data64(cqe)) die("a short write", EIO);
            io_uring_cqe_seen(&ring, cqe);
            --flying;
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) {
        fputs("usage: raw_write PATH OFFSET\n", stderr);
        return 2;
    }
    fd = open(argv[1], O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EINVAL) fd = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);  // tmpfs
    if (fd < 0) die(argv[1], errno);
    base = strtoull(argv[2], nullptr, 10);
    void* memory = mmap(nullptr, kBuffer, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) die("mmap", errno);
    buffer = static_cast<char*>(memory);
    uint64_t random = 1;
    for (uint64_t at = 0; at < kBuffer; at += 8) {  // random bytes, which nothing on the way compresses
        random = random * 6364136223846793005 + 1442695040888963407;
        memcpy(buffer + at, &random, 8);
    }
    io_uring ring;
    const bool has_uring = io_uring_queue_init(kInFlight, &ring, 0) == 0;
    for (char line[32]; fgets(line, sizeof line, stdin) != nullptr;) {
        const uint64_t bytes = (strtoull(line, nullptr, 10) + 4095) / 4096 * 4096;
        for (const bool uring : {false, true}) {
            if (uring && !has_uring) continue;
            const uint64_t start = now_ns();
            if (uring)
                by_uring(ring, bytes);
            else
                by_pwrite(bytes);
            const uint64_t written = now_ns();
            if (fdatasync(fd) != 0) die("fdatasync", errno);
            const uint64_t synced = now_ns();
            printf("%s=%lu %s_sync=%lu ", uring ? "uring" : "pwrite", written - start, uring ? "uring" : "pwrite",
                   synced - start);
        }
        printf("\n");
        fflush(stdout);
    }
}
