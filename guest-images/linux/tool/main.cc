// SPDX-License-Identifier: Apache-2.0
#include "guest-images/linux/tool/tool.h"

#include <sys/random.h>
#include <unistd.h>

namespace tool {

int run_random(int count, char** arguments) {
    unsigned char bytes[256];
    const uint64_t wanted = number(count > 0 ? arguments[0] : "16", sizeof bytes);
    if (getrandom(bytes, wanted, 0) != static_cast<ssize_t>(wanted)) die("getrandom");
    for (uint64_t i = 0; i < wanted; i++) std::printf("%02x", bytes[i]);
    std::printf("\n");
    return 0;
}

namespace {

struct Command {
    const char* name;
    const char* arguments;
    int least;
    int (*run)(int count, char** arguments);
};

constexpr Command commands[] = {
    {"load", "SECONDS|forever [WRITERS [PAGES]]", 1, run_load}, {"vsock-echo", "PORT", 1, run_vsock_echo},
    {"vsock-send", "CID PORT TEXT", 3, run_vsock_send},         {"tcp-sum", "PORT", 1, run_tcp_sum},
    {"tcp-send", "ADDRESS PORT BYTES", 3, run_tcp_send},        {"random", "[BYTES]", 0, run_random},
};

int run(int argc, char** argv) {
    if (getpid() == 1) return run_init();
    for (const Command& command : commands)
        if (argc >= 2 && std::strcmp(argv[1], command.name) == 0 && argc - 2 >= command.least)
            return command.run(argc - 2, argv + 2);
    for (const Command& command : commands) std::fprintf(stderr, "guest-tool %s %s\n", command.name, command.arguments);
    return 2;
}

}  // namespace
}  // namespace tool

int main(int argc, char** argv) {
    setvbuf(stdout, nullptr, _IOLBF, 1024);  // a reader gets each line at once, through a pipe too
    return tool::run(argc, argv);
}
