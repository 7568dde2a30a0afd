// SPDX-License-Identifier: Apache-2.0
// Describes the host and the sources of a measurement.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace snapvm::bench {

struct HostFacts {
    std::string cpu;
    std::string kernel;
    std::string kvm;  ///< "vmx", "svm", or "software" if the processor shows neither
    unsigned cores = 0;
    unsigned memory_mib = 0;
    std::string commit;  ///< ends in "+changes" if the tree has uncommitted changes
    std::string doctor;  ///< output of `snapvm doctor --json`, or empty

    /// Gathers the facts. If the program `snapvm` is missing, there is no doctor's report.
    static HostFacts gather(const std::string& source_folder, const std::string& snapvm);

    /// Returns a record of all facts, the doctor's report included.
    [[nodiscard]] std::string long_json() const;
    /// Adds commit and host to a sample's record.
    void add_to(nlohmann::ordered_json& json) const;
};

}  // namespace snapvm::bench
