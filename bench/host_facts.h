// SPDX-License-Identifier: Apache-2.0
// Where a figure was measured, and on which sources.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace snapvm::bench {

struct HostFacts {
    std::string cpu;
    std::string kernel;
    std::string kvm;  ///< "vmx", "svm", or "software" where the processor shows neither
    unsigned cores = 0;
    unsigned memory_mib = 0;
    std::string commit;  ///< with "+changes" behind it when the tree has any
    std::string doctor;  ///< `snapvm doctor --json`, or empty

    /// `snapvm` may be missing: then there is no doctor's report.
    static HostFacts gather(const std::string& source_folder, const std::string& snapvm);

    /// A line of its own, doctor's report included.
    [[nodiscard]] std::string long_json() const;
    /// The short ones, into a sample's line.
    void add_to(nlohmann::ordered_json& json) const;
};

}  // namespace snapvm::bench
