// SPDX-License-Identifier: Apache-2.0
// The smallest embedder: needs no /dev/kvm, and links code of several layers.
#include <cstdio>

#include "vmm/machine/config.h"
#include "vmm/machine/machine.h"

int main() {
    const snapvm::MachineConfig config{.memory_bytes = 64ULL << 20, .cpus = 2};
    std::printf("%zu memory blocks\n", config.validate() ? config.blocks().size() : 0U);
    return config.validate() && !config.blocks().empty() ? 0 : 1;
}
