// SPDX-License-Identifier: Apache-2.0
// Runs a fuzz target over the given files (or all files of given folders), as libFuzzer's -runs=0
// does. An empty corpus is an error: a replay of no input proves nothing. With --seeds N it runs
// the target over N inputs of random bytes instead; the descriptors and the memory in use must be
// as before afterwards.
#include <malloc.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

struct InUse {
    std::size_t descriptors = 0;
    std::size_t bytes = 0;  ///< of the heap; 0 with a sanitizer, whose heap does not tell

    static InUse now() {
        const std::filesystem::directory_iterator open("/proc/self/fd");
        return {static_cast<std::size_t>(std::distance(begin(open), end(open))), ::mallinfo2().uordblks};
    }
};

void run_seed(std::uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<std::uint8_t> bytes(random() % 4096);
    for (std::uint8_t& byte : bytes) {
        byte = static_cast<std::uint8_t>(random());
    }
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

int run_seeds(std::uint32_t count) {
    constexpr std::uint32_t kWarmUp = 50;  // what is made once is made now
    constexpr std::size_t kSlack = 1 << 20;
    for (std::uint32_t seed = 0; seed < kWarmUp; ++seed) {
        run_seed(seed);
    }
    const InUse before = InUse::now();
    for (std::uint32_t seed = 0; seed < count; ++seed) {
        std::fprintf(stderr, "\rseed %u", seed);
        run_seed(seed);
    }
    const InUse after = InUse::now();
    std::printf("\n%u seeds, descriptors %zu to %zu, bytes %zu to %zu\n", count, before.descriptors, after.descriptors,
                before.bytes, after.bytes);
    return after.descriptors <= before.descriptors && after.bytes <= before.bytes + kSlack ? 0 : 1;
}

int replay(const std::vector<std::filesystem::path>& files) {
    for (const auto& file : files) {
        std::ifstream in(file, std::ios::binary);
        if (!in) {
            std::fprintf(stderr, "%s: cannot be read\n", file.c_str());
            return 1;
        }
        const std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
        std::fprintf(stderr, "%s\n", file.c_str());
        // A heap copy of exactly that size lets a sanitizer see a read past the end.
        const std::vector<std::uint8_t> exact(bytes.begin(), bytes.end());
        LLVMFuzzerTestOneInput(exact.data(), exact.size());
    }
    std::printf("%zu inputs replayed\n", files.size());
    return files.empty() ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc == 3 && std::string_view(argv[1]) == "--seeds") {
        return run_seeds(static_cast<std::uint32_t>(std::strtoul(argv[2], nullptr, 10)));
    }
    std::vector<std::filesystem::path> files;
    for (int i = 1; i < argc; ++i) {
        std::error_code error;
        if (std::filesystem::is_directory(argv[i], error)) {
            for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[i], error)) {
                if (entry.is_regular_file(error)) {
                    files.push_back(entry.path());
                }
            }
        } else {
            files.emplace_back(argv[i]);
        }
    }
    return replay(files);
}
