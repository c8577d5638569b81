// The contract of policy.wit for policies in C++: hotpick.h with types of the standard library.
//
// A policy is a class; HOTPICK_POLICY(Class) at the end of its file exports it. Exceptions are not available: code that
// would throw ends the instance, and the host starts another one.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hotpick.h"

namespace hotpick {

using SubConn = hotpick_subconn;
using Nanos = hotpick_nanos;
using PickInfo = hotpick_pick_info;
using Code = hotpick_code;
using PickResult = hotpick_result;

inline std::string_view view(hotpick_text text) { return {text.data, text.length}; }
inline hotpick_text text(std::string_view view) { return {view.data(), view.size()}; }

// Sends the RPC on this subconn.
inline PickResult pick(SubConn id) { return hotpick_pick(id); }
// Queues the RPC. It is picked for again after a change.
inline PickResult queue() { return hotpick_queue(); }
// Fails the RPC with this code. A wait-for-ready RPC is queued instead.
inline PickResult fail(Code code) { return hotpick_fail(code); }
// Ends the RPC with this code, even if it is wait-for-ready.
inline PickResult drop(Code code) { return hotpick_drop(code); }

// A view of an endpoint, valid until the call returns.
class Endpoint {
  public:
    explicit Endpoint(const hotpick_endpoint &raw) : raw(raw) {}

    SubConn id() const { return raw.id; }
    uint32_t weight() const { return raw.weight; }
    std::string_view address() const { return view(raw.addresses[0]); }

    std::optional<std::string_view> attribute(std::string_view key) const {
        for (const auto &its : std::span(raw.attributes, raw.attribute_count)) {
            if (view(its.key) == key) return view(its.value);
        }
        return {};
    }

  private:
    const hotpick_endpoint &raw;
};

// A text that the host allocated, freed with this object.
class Text {
  public:
    explicit Text(hotpick_text raw) : raw(raw) {}
    Text(Text &&other) : raw(std::exchange(other.raw, {})) {}
    ~Text() { hotpick_free(raw); }
    operator std::string_view() const { return view(raw); }

  private:
    hotpick_text raw;
};

// Returns the first value of a declared key, of the RPC being picked for.
inline std::optional<Text> metadata(uint32_t key) {
    hotpick_text value;
    if (!hotpick_metadata(key, &value)) return {};
    return Text(value);
}

// Sets the text of the status if this pick fails or drops the RPC.
inline void explain(std::string_view message) { hotpick_explain(text(message)); }

// A setting that is a string.
struct Setting {
    const char *name;
    std::string *value; // unchanged if the configuration does not have the setting
};

// Reads a configuration, which may have only these settings. Returns nothing, or a sentence that says what is wrong.
inline std::optional<std::string> read_config(std::string_view config, std::initializer_list<Setting> settings = {}) {
    std::vector<hotpick_text> values(settings.size());
    std::vector<hotpick_setting> raw;
    for (const auto &setting : settings) raw.push_back({setting.name, &values[raw.size()]});
    if (const char *refused = hotpick_read_config(text(config), raw.data(), raw.size())) return refused;
    for (size_t i = 0; i < values.size(); i++) {
        if (values[i].data != nullptr) *settings.begin()[i].value = view(values[i]);
    }
    return {};
}

} // namespace hotpick

#ifdef _LIBCPP_VERSION
// Replaces the library's function, whose formatting code would be most of the component.
_LIBCPP_BEGIN_NAMESPACE_STD
[[noreturn]] void __libcpp_verbose_abort(const char *why, ...) noexcept {
    ::hotpick_log(HOTPICK_ERROR, ::hotpick_text_of(why));
    __builtin_trap();
}
_LIBCPP_END_NAMESPACE_STD
#endif

// Exports a class with these functions as the policy. `init` returns why the configuration is refused:
//
//     std::optional<std::string> init(std::string_view config, const hotpick_placement &where);
//     void endpoints(std::span<const hotpick_endpoint> added, std::span<const SubConn> removed, Nanos now);
//     void ready(std::span<const SubConn> ready, Nanos now);
//     PickResult pick(const PickInfo &info);
//
// Each instance has one object of the class.
#define HOTPICK_POLICY(Class)                                                                                        \
    static Class hotpick_policy;                                                                                     \
    extern "C" const char *policy_init(hotpick_text config, const hotpick_placement *where) {                        \
        static std::optional<std::string> refused;                                                                   \
        refused = hotpick_policy.init(hotpick::view(config), *where);                                                \
        return refused ? refused->c_str() : nullptr;                                                                 \
    }                                                                                                                \
    extern "C" void policy_endpoints(const hotpick_endpoint *added, size_t added_count,                              \
                                     const hotpick_subconn *removed, size_t removed_count, hotpick_nanos now) {      \
        hotpick_policy.endpoints(std::span(added, added_count), std::span(removed, removed_count), now);             \
    }                                                                                                                \
    extern "C" void policy_ready(const hotpick_subconn *ready, size_t count, hotpick_nanos now) {                    \
        hotpick_policy.ready(std::span(ready, count), now);                                                          \
    }                                                                                                                \
    extern "C" hotpick_result policy_pick(const hotpick_pick_info *info) { return hotpick_policy.pick(*info); }
