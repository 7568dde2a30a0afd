// SPDX-License-Identifier: Apache-2.0
// The floor of a guest's streams: the same bytes over a unix socket from one process to another, in
// calls of the same size. The peer is the benchmark, on both sides.
//
//   raw_unix PATH
// Connects to PATH. Each line on stdin is `out|in|echo SIZE COUNT`: COUNT writes, reads until SIZE
// * COUNT bytes have come, or COUNT writes, each followed by a read of SIZE bytes. The answer is a
// line of times in ns: `ns`, and `cpu` of this process.
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "bench/floors/raw_clocks.h"

namespace {

int fd = -1;

void write_all(const char* bytes, uint64_t size) {
    while (size > 0) {
        const ssize_t n = write(fd, bytes, size);
        if (n <= 0) die("write", errno);
        bytes += n;
        size -= static_cast<uint64_t>(n);
    }
}
uint64_t read_some(char* bytes, uint64_t size) {
    const ssize_t n = read(fd, bytes, size);
    if (n <= 0) die("read", errno);
    return static_cast<uint64_t>(n);
}

void run(const std::string& what, uint64_t size, uint64_t count) {
    std::vector<char> buffer(size);
    if (what == "in") {
        for (uint64_t left = size * count; left > 0;) left -= read_some(buffer.data(), std::min(size, left));
        return;
    }
    for (uint64_t i = 0; i < count; ++i) {
        write_all(buffer.data(), size);
        if (what == "echo")
            for (uint64_t at = 0; at < size;) at += read_some(buffer.data() + at, size - at);
    }
}

}  // namespace

int main(int argc, char** argv) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (argc != 2 || strlen(argv[1]) >= sizeof address.sun_path) {
        fputs("usage: raw_unix PATH\n", stderr);
        return 2;
    }
    strcpy(address.sun_path, argv[1]);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) die(argv[1], errno);
    for (char line[128]; fgets(line, sizeof line, stdin) != nullptr;) {
        char what[8];
        uint64_t size = 0, count = 0;
        if (sscanf(line, "%7s %lu %lu", what, &size, &count) != 3 || size == 0)
            die("a line of stdin is malformed", EINVAL);
        const uint64_t cpu = cpu_ns(), start = now_ns();
        run(what, size, count);
        const uint64_t end = now_ns();
        printf("ns=%lu cpu=%lu\n", end - start, cpu_ns() - cpu);
        fflush(stdout);
    }
}
