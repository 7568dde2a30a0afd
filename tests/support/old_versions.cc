// SPDX-License-Identifier: Apache-2.0
#include "tests/support/old_versions.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <span>

#include "tests/support/need.h"
#include "tests/support/paths.h"
#include "vmm/base/fd.h"
#include "vmm/boot/unpack.h"

namespace snapvm::test {
namespace {

constexpr std::uint64_t kMaxArea = 64ULL << 20;
constexpr std::size_t kChunk = 4096;

std::vector<std::filesystem::path> versions() {
    std::vector<std::filesystem::path> found;
    for (const auto& entry : std::filesystem::directory_iterator(source_folder() + "/tests/old")) {
        if (entry.is_directory()) {
            found.push_back(entry.path());
        }
    }
    std::ranges::sort(found);
    return found;
}

}  // namespace

std::vector<std::filesystem::path> old_areas() {
    std::vector<std::filesystem::path> found;
    for (const auto& version : versions()) {
        for (const auto& entry : std::filesystem::directory_iterator(version)) {
            if (entry.path().string().ends_with(".area.xz")) {
                found.push_back(entry.path());
            }
        }
    }
    std::ranges::sort(found);
    return found;
}

std::vector<std::filesystem::path> old_records() {
    std::vector<std::filesystem::path> found;
    for (const auto& version : versions()) {
        found.push_back(version / "records");
    }
    return found;
}

void unpack_area(const std::filesystem::path& packed, const std::filesystem::path& into) {
    const std::string bytes = need(read_file(packed.string(), kMaxArea));
    const std::vector<std::byte> area = need(unpack(std::as_bytes(std::span(bytes)), kMaxArea));
    const UniqueFd fd = need(open_file(into.string(), O_RDWR | O_CREAT | O_EXCL, 0600));
    for (std::size_t at = 0; at < area.size(); at += kChunk) {
        const auto chunk = std::span(area).subspan(at, std::min(kChunk, area.size() - at));
        if (std::ranges::any_of(chunk, [](std::byte byte) { return byte != std::byte{0}; })) {
            need(write_all_at(fd.get(), chunk, at, into.string()));
        }
    }
    if (::ftruncate(fd.get(), static_cast<off_t>(area.size())) != 0) {
        need(Status(fail(Error::system("ftruncate", into.string(), errno))));
    }
}

}  // namespace snapvm::test
