// SPDX-License-Identifier: Apache-2.0
#include <snapvm/host.h>

#include <algorithm>

#include "vmm/base/try.h"
#include "vmm/embed/host_impl.h"
#include "vmm/emulate/kernel_mode_repair.h"
#include "vmm/platform/platform.h"

namespace snapvm::embed {

std::string_view version() { return SNAPVM_VERSION; }

Host::Impl::Impl(kvm::System opened) : system(std::move(opened)) {
    const kvm::Capabilities& caps = system.capabilities();
    facts = {.kvm_api_version = KVM_API_VERSION,
             .max_cpus = std::min(static_cast<std::uint32_t>(caps.max_vcpus), platform::kMaxCpus),
             .dirty_log = caps.manual_dirty_log != 0,
             .dirty_ring = caps.dirty_ring != 0,
             .kernel_mode_emulated = emulate::kernel_mode_is_emulated()};
}

Host::Host(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

Result<Host> Host::open() { return Host(std::make_shared<const Impl>(TRY(kvm::System::open()))); }

const HostFacts& Host::facts() const { return impl_->facts; }

}  // namespace snapvm::embed
