// SPDX-License-Identifier: Apache-2.0
// What the guest does with virtio devices of its own accord, and only where it is told to: `balloon=` and `echo=` in README.md. First vCPU
// only.
#pragma once

#include "guest-images/ledger/options.h"

namespace snapvm::guest {

// After READY. Starts those of the devices that there are.
void start_devices(const Options& options);
// Takes note of what they have done, and answers. To be called before halt(): an interrupt follows when there is more.
void serve_devices();
// Ends the guest if memory that it lent to the balloon, and has back, is not what it has written there since.
void check_devices();

}  // namespace snapvm::guest
