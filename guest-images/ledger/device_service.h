// SPDX-License-Identifier: Apache-2.0
// What the guest does with virtio devices without a command, if the options `balloon=` and `echo=`
// ask for it (README.md). Only the first vCPU calls this.
#pragma once

#include "guest-images/ledger/options.h"

namespace snapvm::guest {

// Starts those of the devices that exist. It is called after READY.
void start_devices(const Options& options);
// Handles what the devices have done since the last call, and answers. The caller calls it before
// halt(): an interrupt follows if there is more.
void serve_devices();
// Ends the guest if memory that the balloon does not hold differs from what the guest last wrote
// there.
void check_devices();

}  // namespace snapvm::guest
