// SPDX-License-Identifier: Apache-2.0
// Request bodies and queries of the API. The first byte chooses the parser; the rest is its input.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "vmm/api/bodies.h"
#include "vmm/control/line_matcher.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace snapvm;
    using namespace snapvm::api;
    if (size == 0 || size > kMaxBody) {
        return 0;
    }
    const std::string_view input(reinterpret_cast<const char*>(data + 1), size - 1);
    switch (data[0]) {
        case 'v': (void)parse_vm_state(input); break;
        case 'c':
            // An accepted body fits into an area: its metadata is within the limit.
            if (const auto create = parse_snapshot_create(input);
                create && create->request.metadata.size() > (64U << 10)) {
                __builtin_trap();
            }
            break;
        case 'l': (void)parse_snapshot_load(input); break;
        case 's': (void)parse_stop(input); break;
        case 'b': (void)parse_balloon_update(input); break;
        case 'p': (void)parse_balloon_statistics_update(input); break;
        case 'd': (void)parse_drive_size(input); break;
        case 't': (void)parse_terminal_size(input); break;
        case 'w':
            if (const auto wait = parse_wait(input); wait && wait->what == WaitFor::serial) {
                (void)LineMatcher::compile(wait->regex)
                    ->matches("[    0.000000] aaaaaaaaaaaaaaaaaaaaaaaaaaaa login: (none) \xff\xfe");
            }
            break;
        default: break;
    }
    return 0;
}
