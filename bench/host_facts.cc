// SPDX-License-Identifier: Apache-2.0
#include "bench/host_facts.h"

#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "vmm/base/fd.h"

namespace snapvm::bench {
namespace {

// Returns the value of the first line of /proc/cpuinfo that begins with `key`.
std::string cpuinfo(const std::string& text, const std::string& key) {
    const std::size_t at = text.find("\n" + key);
    const std::size_t colon = at == std::string::npos ? at : text.find(": ", at);
    if (colon == std::string::npos) {
        return {};
    }
    return text.substr(colon + 2, text.find('\n', colon) - colon - 2);
}

// Returns the output of a shell command without trailing newlines.
std::string output_of(const std::string& command) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(
        ::popen(("{ " + command + "; } 2>/dev/null").c_str(), "re"), ::pclose);
    std::string text;
    std::array<char, 4096> chunk;
    while (pipe) {
        const std::size_t got = std::fread(chunk.data(), 1, chunk.size(), pipe.get());
        if (got == 0) {
            break;
        }
        text.append(chunk.data(), got);
    }
    while (!text.empty() && text.back() == '\n') {
        text.pop_back();
    }
    return text;
}

}  // namespace

HostFacts HostFacts::gather(const std::string& source_folder, const std::string& snapvm) {
    HostFacts facts;
    const std::string text = "\n" + read_file("/proc/cpuinfo", 8U << 20).value_or("");
    facts.cpu = cpuinfo(text, "model name");
    const std::string flags = " " + cpuinfo(text, "flags") + " ";
    facts.kvm = flags.find(" vmx ") != std::string::npos   ? "vmx"
                : flags.find(" svm ") != std::string::npos ? "svm"
                                                           : "software";
    utsname name{};
    if (::uname(&name) == 0) {
        facts.kernel = name.release;
    }
    facts.cores = std::thread::hardware_concurrency();
    struct sysinfo memory{};
    if (::sysinfo(&memory) == 0) {
        facts.memory_mib = static_cast<unsigned>(memory.totalram * memory.mem_unit >> 20);
    }
    const std::string git = "git -C '" + source_folder + "' ";
    facts.commit = output_of(git + "rev-parse --verify HEAD");
    if (facts.commit.empty()) {
        facts.commit = "none";
    }
    if (!output_of(git + "status --porcelain --untracked-files=normal | head -1").empty()) {
        facts.commit += "+changes";
    }
    if (::access(snapvm.c_str(), X_OK) == 0) {
        facts.doctor = output_of("'" + snapvm + "' doctor --json");
    }
    return facts;
}

std::string HostFacts::long_json() const {
    nlohmann::ordered_json json = {{"record", "host"}};
    add_to(json);
    auto report = nlohmann::ordered_json::parse(doctor, nullptr, /*allow_exceptions=*/false);
    json["doctor"] = report.is_discarded() ? nlohmann::ordered_json() : std::move(report);
    return json.dump();
}

void HostFacts::add_to(nlohmann::ordered_json& json) const {
    json["commit"] = commit;
    json["host"] = {{"cpu", cpu},     {"kernel", kernel},         {"kvm", kvm},
                    {"cores", cores}, {"memory_mib", memory_mib}, {"pinned", false}};
}

}  // namespace snapvm::bench
