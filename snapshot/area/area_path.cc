// SPDX-License-Identifier: Apache-2.0
#include "snapshot/area/area_path.h"

#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/memory/gpa.h"

namespace snapvm {
namespace {

// Returns the position of the '@' before an offset, or npos.
std::size_t offset_at(std::string_view text) {
    const std::size_t at = text.rfind('@');
    const bool digit =
        at != std::string_view::npos && at + 1 < text.size() && text[at + 1] >= '0' && text[at + 1] <= '9';
    return digit ? at : std::string_view::npos;
}

}  // namespace

Result<AreaPath> AreaPath::parse(std::string_view text) {
    AreaPath area{std::string(text), 0};
    const std::string as_name = "; for a file of that name write " + area.path + "@0";
    if (const std::size_t at = offset_at(text); at != std::string_view::npos) {
        const auto offset = parse_size(text.substr(at + 1));
        if (!offset) {
            return fail(ErrorKind::usage,
                        "\"" + area.path + "\": " + std::string(text.substr(at + 1)) + " is not an offset",
                        "write PATH or PATH@OFFSET" + as_name);
        }
        area.path.resize(at);
        area.offset = *offset;
    }
    if (area.path.empty()) {
        return fail(ErrorKind::usage, "\"" + std::string(text) + "\" names no file", "write PATH or PATH@OFFSET");
    }
    if (area.path.find('\0') != std::string::npos) {
        return fail(ErrorKind::usage, "a path with a NUL byte in it names no file", "write PATH or PATH@OFFSET");
    }
    if (!is_page_aligned(area.offset) || area.offset >= 1ULL << 60) {
        return fail(ErrorKind::usage,
                    "area offset " + std::to_string(area.offset) + " is not a multiple of 4096, or is too large",
                    "give a multiple of 4096" + as_name);
    }
    return area;
}

std::string AreaPath::text() const {
    if (offset != 0) {
        return path + "@" + size_text(offset);
    }
    return offset_at(path) == std::string_view::npos ? path : path + "@0";
}

}  // namespace snapvm
