// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/nearest.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace snapvm::cli {
namespace {

// The optimal string alignment distance.
std::size_t distance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> before;  // the rows for i-2, i-1 and i letters of a
    std::vector<std::size_t> last(b.size() + 1);
    for (std::size_t j = 0; j <= b.size(); ++j) {
        last[j] = j;
    }
    for (std::size_t i = 1; i <= a.size(); ++i) {
        std::vector<std::size_t> row(b.size() + 1);
        row[0] = i;
        for (std::size_t j = 1; j <= b.size(); ++j) {
            row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                row[j] = std::min(row[j], before[j - 2] + 1);
            }
        }
        before = std::exchange(last, std::move(row));
    }
    return last[b.size()];
}

}  // namespace

std::string nearest(std::string_view wrong, std::span<const std::string> words) {
    constexpr std::size_t kLongest = 40;  // the time grows with the square of the length
    std::string best;
    std::size_t least = std::max<std::size_t>(wrong.size() / 3, 1) + 1;
    for (const std::string& word : words) {
        if (const std::size_t edits = wrong.size() > kLongest ? least : distance(wrong, word); edits < least) {
            least = edits;
            best = word;
        }
    }
    return best;
}

}  // namespace snapvm::cli
