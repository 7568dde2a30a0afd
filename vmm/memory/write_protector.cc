// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/write_protector.h"

#include <linux/userfaultfd.h>

#include <algorithm>

#include "vmm/base/try.h"

namespace snapvm {

Result<std::unique_ptr<WriteProtector>> WriteProtector::over(const GuestMemory& memory, FaultHandler& handler) {
    std::unique_ptr<WriteProtector> protector(new WriteProtector(memory, handler));
    // A page that was given up has no mapping that could be protected, unless the kernel keeps a
    // marker for it. If none was given up, every page that was ever written is present, and markers
    // for the rest would only cost page tables.
    const bool given_up =
        std::ranges::any_of(memory.blocks(), [](const MemoryBlock& block) { return block.types().touched(); });
    FaultUseSpec spec{.kinds = FaultKind::write_protect,
                      .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | (given_up ? kUffdProtectsUnpopulated : 0),
                      .ranges = {}};
    for (std::size_t block = 0; block < memory.blocks().size(); ++block) {
        spec.ranges.push_back({block, 0, memory.blocks()[block].spec().pages()});
    }
    if (const Status begun = protector->use_.begin(spec); !begun) {
        if (begun.error().kind() == ErrorKind::unsupported && given_up) {
            return fail(ErrorKind::unsupported, "this kernel cannot write-protect pages that a balloon has taken",
                        "use Linux 6.4 or newer");
        }
        return fail(ErrorKind::unsupported, "pages cannot be write-protected (" + begun.error().what() + ")",
                    "see userfaultfd in snapvm doctor");
    }
    return protector;
}

}  // namespace snapvm
