// SPDX-License-Identifier: Apache-2.0
// The floor of a guest's network interface: the same frames into a tap, by write and by io_uring,
// from one thread.
//
//   raw_tap NAME
// The tap exists and is up. Each line on stdin is `SIZE DEPTH COUNT`: COUNT frames
// (guest-images/ledger/load_frame.h), DEPTH of them in flight with io_uring. The answer is a line
// of times in ns: `write` and `uring`, and `write_cpu` and `uring_cpu` of this process.
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "bench/floors/raw_clocks.h"
#include "guest-images/ledger/load_frame.h"

namespace {

namespace ledger = snapvm::ledger;

constexpr unsigned kMostInFlight = 256;

int fd = -1;

void by_write(const iovec (&parts)[2], uint64_t count) {
    for (uint64_t i = 0; i < count; ++i)
        if (writev(fd, parts, 2) < 0) die("writev", errno);
}

void by_uring(io_uring& ring, const iovec (&parts)[2], uint64_t depth, uint64_t count) {
    uint64_t begun = 0, done = 0;
    while (done < count) {
        for (; begun < count && begun - done < depth; ++begun)
            io_uring_prep_writev(io_uring_get_sqe(&ring), fd, parts, 2, 0);
        if (const int n = io_uring_submit_and_wait(&ring, 1); n < 0 && n != -EINTR) die("io_uring_submit_and_wait", -n);
        io_uring_cqe* cqe = nullptr;
        for (; io_uring_peek_cqe(&ring, &cqe) == 0; ++done) {
            if (cqe->res < 0) die("a frame", -cqe->res);
            io_uring_cqe_seen(&ring, cqe);
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    ifreq request{};
    if (argc != 2 || strlen(argv[1]) >= sizeof request.ifr_name) {
        fputs("usage: raw_tap NAME\n", stderr);
        return 2;
    }
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0) die("/dev/net/tun", errno);
    strcpy(request.ifr_name, argv[1]);
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    int header_bytes = sizeof(ledger::FrameHeader);
    if (ioctl(fd, TUNSETIFF, &request) != 0) die("TUNSETIFF", errno);
    if (ioctl(fd, TUNSETVNETHDRSZ, &header_bytes) != 0) die("TUNSETVNETHDRSZ", errno);
    io_uring ring;
    if (const int error = io_uring_queue_init(kMostInFlight, &ring, 0); error < 0) die("io_uring_queue_init", -error);
    std::vector<uint8_t> frame(ledger::kLargestFrame);
    for (char line[128]; fgets(line, sizeof line, stdin) != nullptr;) {
        uint64_t size = 0, depth = 0, count = 0;
        if (sscanf(line, "%lu %lu %lu", &size, &depth, &count) != 3 || size < ledger::kSmallestFrame ||
            size > frame.size() || depth == 0 || depth > kMostInFlight)
            die("a line of stdin is malformed", EINVAL);
        ledger::FrameHeader header = ledger::make_frame(frame.data(), size);
        const iovec parts[2] = {{&header, sizeof header}, {frame.data(), size}};
        const uint64_t cpu = cpu_ns(), start = now_ns();
        by_write(parts, count);
        const uint64_t written = now_ns(), written_cpu = cpu_ns();
        by_uring(ring, parts, depth, count);
        const uint64_t end = now_ns();
        printf("write=%lu write_cpu=%lu uring=%lu uring_cpu=%lu\n", written - start, written_cpu - cpu, end - written,
               cpu_ns() - written_cpu);
        fflush(stdout);
    }
}
