// SPDX-License-Identifier: Apache-2.0
// Checks the part of JSON Schema that openapi.json uses. It is strict in one thing: an object whose
// schema lists properties may have no others.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/support/paths.h"

namespace snapvm::api::test {

inline nlohmann::json load_openapi() {
    return nlohmann::json::parse(std::ifstream(snapvm::test::source_folder() + "/vmm/api/openapi.json"));
}

inline const nlohmann::json& resolve(const nlohmann::json& api, const nlohmann::json& schema) {
    if (!schema.contains("$ref")) {
        return schema;
    }
    return resolve(api, api.at(nlohmann::json::json_pointer(schema["$ref"].get<std::string>().substr(1))));
}

/// Returns an empty text if the value fits, else where and why it does not.
inline std::string mismatch(const nlohmann::json& api, const nlohmann::json& reference, const nlohmann::json& value,
                            const std::string& where = "$") {
    const nlohmann::json& schema = resolve(api, reference);
    if (value.is_null() && schema.value("nullable", false)) {
        return {};
    }
    const std::string type = schema.value("type", "");
    const bool fits = type.empty() || (type == "object" && value.is_object()) ||
                      (type == "array" && value.is_array()) || (type == "string" && value.is_string()) ||
                      (type == "boolean" && value.is_boolean()) || (type == "integer" && value.is_number_integer());
    if (!fits) {
        return where + " is not of type " + type + ": " + value.dump();
    }
    if (schema.contains("enum") && std::ranges::find(schema["enum"], value) == schema["enum"].end()) {
        return where + " is none of " + schema["enum"].dump() + ": " + value.dump();
    }
    if ((schema.contains("minimum") && value < schema["minimum"]) ||
        (schema.contains("maximum") && value > schema["maximum"])) {
        return where + " is out of range: " + value.dump();
    }
    for (const auto& name : schema.value("required", nlohmann::json::array())) {
        if (!value.contains(name)) {
            return where + " lacks " + name.dump();
        }
    }
    const nlohmann::json others = schema.value("additionalProperties", nlohmann::json(false));
    if (schema.contains("properties") || others.is_object()) {
        const nlohmann::json named = schema.value("properties", nlohmann::json::object());
        for (const auto& [name, part] : value.items()) {
            if (!named.contains(name) && !others.is_object()) {
                return where + " has " + name + ", which is not documented";
            }
            const nlohmann::json& documented = named.contains(name) ? named[name] : others;
            if (auto wrong = mismatch(api, documented, part, where + "." + name); !wrong.empty()) {
                return wrong;
            }
        }
    }
    if (type == "array" && schema.contains("items")) {
        for (std::size_t i = 0; i < value.size(); ++i) {
            if (auto wrong = mismatch(api, schema["items"], value[i], where + "[" + std::to_string(i) + "]");
                !wrong.empty()) {
                return wrong;
            }
        }
    }
    return {};
}

/// Compares an answer with what the file says of its path, method and status: the body's schema, or
/// that there is no body.
inline std::string answer_mismatch(const nlohmann::json& api, const std::string& path, const std::string& method,
                                   unsigned status, const std::string& body) {
    const nlohmann::json::json_pointer at("/paths/" + [&] {
        std::string escaped;
        for (const char c : path) {
            escaped += c == '/' ? "~1" : std::string(1, c);
        }
        return escaped;
    }() + "/" + method + "/responses/" + std::to_string(status));
    if (!api.contains(at)) {
        return method + " " + path + ": status " + std::to_string(status) + " is not documented (" + body + ")";
    }
    const nlohmann::json& response = resolve(api, api.at(at));
    if (!response.contains("content")) {
        return body.empty() ? "" : "a body where none is documented: " + body;
    }
    const nlohmann::json value = nlohmann::json::parse(body, nullptr, false);
    if (value.is_discarded()) {
        return "not JSON: " + body;
    }
    return mismatch(api, response["content"]["application/json"]["schema"], value);
}

}  // namespace snapvm::api::test
