// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <nlohmann/json.hpp>

#include "vmm/base/printable.h"
#include "vmm/crash/names.h"
#include "vmm/crash/report.h"

namespace snapvm {
namespace {

using crash::hex;
using nlohmann::ordered_json;

std::string number(std::uint64_t value) { return "0x" + hex(value); }

std::string lower(std::string text) {
    std::ranges::transform(text, text.begin(),
                           [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    return text;
}

ordered_json numbers(const std::vector<std::uint64_t>& values) {
    ordered_json list = ordered_json::array();
    for (const std::uint64_t value : values) {
        list.push_back(number(value));
    }
    return list;
}

void put_ending(ordered_json& json, const CrashReport& report) {
    const CrashReport::Ending& ending = report.ending;
    json["vcpu"] = ending.vcpu;
    if (ending.run_error != 0) {
        json["run_errno"] = ending.run_error;
    } else {
        json["exit"] = {{"name", crash::exit_name(ending.exit)}, {"number", ending.exit}};
    }
    if (ending.detail && ending.exit == KVM_EXIT_INTERNAL_ERROR) {
        json["suberror"] = {{"name", crash::suberror_name(*ending.detail)}, {"number", *ending.detail}};
        json["data"] = numbers(ending.data);
    } else if (ending.detail) {
        json["hardware_reason"] = number(*ending.detail);
    }
    if (!ending.instruction.empty()) {
        json["failed_instruction"] = {{"bytes", crash::hex_bytes(ending.instruction, "")},
                                      {"text", report.failed_instruction}};
    }
}

void put_registers(ordered_json& json, const CrashReport& report) {
    if (report.regs) {
        for (const auto& [name, value] : crash::general_registers(*report.regs)) {
            json["registers"][lower(name)] = number(value);
        }
    }
    if (!report.sregs) {
        return;
    }
    for (const auto& [name, value] : crash::control_registers(*report.sregs)) {
        json["registers"][lower(name)] = number(value);
    }
    for (const auto& [name, segment] : crash::segments(*report.sregs)) {
        json["segments"][lower(name)] = {{"selector", number(segment.selector)},
                                         {"base", number(segment.base)},
                                         {"limit", number(segment.limit)},
                                         {"attributes", number(crash::attributes(segment))},
                                         {"usable", segment.unusable == 0}};
    }
    for (const auto& [name, table] : crash::tables(*report.sregs)) {
        json[lower(name)] = {{"base", number(table.base)}, {"limit", number(table.limit)}};
    }
}

}  // namespace

std::string to_json(const CrashReport& report) {
    ordered_json json = {{"reason", report.reason}};
    put_ending(json, report);
    if (!report.mode.empty()) {
        json["mode"] = report.mode;
    }
    json["vcpu_was_reset"] = report.vcpu_was_reset;
    put_registers(json, report);
    json["code"] = ordered_json::array();
    for (const CrashReport::Instruction& line : report.code) {
        json["code"].push_back({{"address", number(line.address)},
                                {"bytes", crash::hex_bytes(line.bytes, "")},
                                {"text", line.text},
                                {"current", line.address == report.code_address}});
    }
    json["backtrace"] = ordered_json::array();
    for (const CrashReport::Frame& frame : report.backtrace) {
        json["backtrace"].push_back({{"rip", number(frame.rip)}, {"rbp", number(frame.rbp)}});
    }
    json["backtrace_end"] = report.backtrace_end;
    if (!report.stack.empty()) {
        json["stack"] = {{"address", number(report.stack_address)},
                         {"word_size", report.word_size},
                         {"words", numbers(report.stack)}};
    }
    json["consoles"] = ordered_json::object();
    for (const CrashReport::ConsoleLines& console : report.consoles) {
        json["consoles"][console.name] = console.lines;
    }
    json["left_out"] = report.left_out;
    // The report has no raw bytes of a guest or file. If an error's text has some, dump replaces
    // them and does not throw.
    return json_text(ordered_json{{"crash", std::move(json)}});
}

}  // namespace snapvm
