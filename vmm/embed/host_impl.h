// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <snapvm/host.h>

#include <utility>

#include "vmm/kvm/system.h"

namespace snapvm::embed {

struct Host::Impl {
    explicit Impl(kvm::System opened);

    kvm::System system;
    HostFacts facts;
};

}  // namespace snapvm::embed
