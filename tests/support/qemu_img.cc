// SPDX-License-Identifier: Apache-2.0
#include "tests/support/qemu_img.h"

#include <stdexcept>

#include "tests/support/command.h"

namespace snapvm::test {
namespace {

using nlohmann::json;

std::string joined(const std::vector<std::string>& words) {
    std::string line;
    for (const std::string& word : words) {
        line += (line.empty() ? "" : " ") + word;
    }
    return line;
}

std::string need_run(const std::vector<std::string>& words) {
    CommandResult result = run_program(words);
    if (result.exit_code != 0) {
        throw std::runtime_error(joined(words) + " ended with " + std::to_string(result.exit_code) + ": " + result.err +
                                 result.out);
    }
    return std::move(result.out);
}

std::vector<std::string> with(std::vector<std::string> first, const std::vector<std::string>& rest) {
    first.insert(first.end(), rest.begin(), rest.end());
    return first;
}

}  // namespace

bool have_qemu_img() {
    static const bool have =
        run_program({"qemu-img", "--version"}).exit_code == 0 && run_program({"qemu-io", "--version"}).exit_code == 0;
    return have;
}

std::string qemu_img(const std::vector<std::string>& words) { return need_run(with({"qemu-img"}, words)); }

json qemu_img_json(const std::vector<std::string>& words) {
    return json::parse(need_run(with(with({"qemu-img"}, words), {"--output=json"})));
}

void make_image(const std::string& path, std::uint64_t size, const std::string& options, const std::string& format) {
    std::vector<std::string> words = {"create", "-q", "-f", format};
    if (!options.empty()) {
        words = with(words, {"-o", options});
    }
    words.push_back(path);
    if (size != 0) {
        words.push_back(std::to_string(size));
    }
    qemu_img(words);
}

ImageCheck check_image(const std::string& path, const std::string& format) {
    const CommandResult result = run_program({"qemu-img", "check", "-f", format, "--output=json", path});
    ImageCheck check;
    check.text = result.err + result.out;
    // 0: clean, 2: errors, 3: leaks. Others: the image was not checked to its end.
    if (result.exit_code != 0 && result.exit_code != 2 && result.exit_code != 3) {
        check.errors = 1;
    }
    // A damaged image may be reported in lines before the JSON.
    const auto begin = result.out.find("{\n");
    const json found = begin == std::string::npos
                           ? json()
                           : json::parse(result.out.substr(begin), nullptr, /*allow_exceptions=*/false);
    if (!found.is_object()) {
        check.errors = 1;
        return check;
    }
    check.errors += found.value("corruptions", 0ULL) + found.value("check-errors", 0ULL);
    check.leaks = found.value("leaks", 0ULL);
    return check;
}

::testing::AssertionResult is_clean(const std::string& path, bool leaks_allowed) {
    const ImageCheck check = check_image(path);
    if (check.errors != 0 || (check.leaks != 0 && !leaks_allowed)) {
        return ::testing::AssertionFailure() << path << ": " << check.text;
    }
    return ::testing::AssertionSuccess();
}

::testing::AssertionResult same_contents(const std::string& a, const std::string& a_format, const std::string& b,
                                         const std::string& b_format) {
    const CommandResult result = run_program({"qemu-img", "compare", "-f", a_format, "-F", b_format, a, b});
    if (result.exit_code != 0) {
        return ::testing::AssertionFailure() << a << " and " << b << ": " << result.out << result.err;
    }
    return ::testing::AssertionSuccess();
}

std::string qemu_io(const std::string& path, const std::vector<std::string>& commands, const std::string& format) {
    std::vector<std::string> words = {"qemu-io", "-f", format};
    for (const std::string& command : commands) {
        words = with(words, {"-c", command});
    }
    words.push_back(path);
    std::string out = need_run(words);
    // It ends with 0 although a command has failed, and says so in its output.
    for (const char* const sign : {"failed", "Pattern verification", "invalid", "not found"}) {
        if (out.find(sign) != std::string::npos) {
            throw std::runtime_error(joined(words) + ": " + out);
        }
    }
    return out;
}

}  // namespace snapvm::test
