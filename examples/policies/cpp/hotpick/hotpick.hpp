// The contract of policy.wit for policies in C++: hotpick.h with types of the standard library.
//
// A policy is a class; HOTPICK_POLICY(Class) at the end of its file exports it. Exceptions are not available: code that
// would throw ends the instance, and the host starts another one.
#pragma once

#include <cstdarg>
#include <cstdlib>
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

// Why something was refused; nothing if it was not.
using Refusal = std::optional<std::string>;

// Takes over what a function of the host returned.
inline Refusal refusal(const char *why) {
    if (why == nullptr) return {};
    Refusal copy = why;
    free(const_cast<char *>(why));
    return copy;
}

// env. `hotpick_now`, `hotpick_random` and `hotpick_level_enabled` are those of C.

inline void log(hotpick_level level, std::string_view line) { hotpick_log(level, text(line)); }
// Returns the name of a method. Empty for 4,096, which stands for many methods.
inline std::string method_name(uint32_t method) { return std::string(std::string_view(Text(hotpick_method_name(method)))); }

// stats: the host's statistics of each subconn. `hotpick_in_flight` is that of C.

// Returns the subconn with the lowest value, the earlier one if equal.
inline std::optional<SubConn> least(std::span<const SubConn> among, hotpick_measure by) {
    SubConn found;
    return hotpick_least(among.data(), among.size(), by, &found) ? std::optional(found) : std::nullopt;
}
inline std::optional<hotpick_summary> stats(SubConn id) {
    hotpick_summary found;
    return hotpick_stats(id, &found) ? std::optional(found) : std::nullopt;
}
inline std::optional<hotpick_responses> response_counts(SubConn id) {
    hotpick_responses found;
    return hotpick_response_counts(id, &found) ? std::optional(found) : std::nullopt;
}

// call: the RPC being picked for. `hotpick_tried` is that of C. What is declared is declared only in `init`.

inline Refusal declare_metadata(std::string_view key, uint32_t &number) {
    return refusal(hotpick_declare_metadata(text(key), &number));
}
inline Refusal declare_affinity(uint32_t key) { return refusal(hotpick_declare_affinity(key)); }
inline Refusal declare_affinity_number(uint32_t key) { return refusal(hotpick_declare_affinity_number(key)); }
// Returns the first value of a declared key.
inline std::optional<Text> metadata(uint32_t key) {
    hotpick_text value;
    if (!hotpick_metadata(key, &value)) return {};
    return Text(value);
}
// Returns all values of a declared key.
inline std::vector<Text> metadata_all(uint32_t key) {
    hotpick_text *values;
    const size_t count = hotpick_metadata_all(key, &values);
    std::vector<Text> all;
    all.reserve(count);
    for (size_t i = 0; i < count; i++) all.push_back(Text(values[i]));
    free(values);
    return all;
}
// Returns the XXH64 of a declared key's value. Equal hashes do not mean equal values.
inline std::optional<uint64_t> metadata_hash(uint32_t key) {
    uint64_t hash;
    return hotpick_metadata_hash(key, &hash) ? std::optional(hash) : std::nullopt;
}
// Returns a number that identifies the first value of a declared key.
inline std::optional<uint64_t> metadata_number(uint32_t key) {
    uint64_t number;
    return hotpick_metadata_number(key, &number) ? std::optional(number) : std::nullopt;
}
// Sets metadata of the request, if this pick sends it.
inline Refusal set_metadata(std::string_view key, std::string_view value) {
    return refusal(hotpick_set_metadata(text(key), text(value)));
}
// Returns the time left until the RPC's deadline.
inline std::optional<Nanos> time_left() {
    Nanos left;
    return hotpick_time_left(&left) ? std::optional(left) : std::nullopt;
}
// Sets the text of the status if this pick fails or drops the RPC.
inline void explain(std::string_view message) { hotpick_explain(text(message)); }

// metrics, timers and connections are those of C: hotpick_counter, hotpick_gauge, hotpick_histogram, hotpick_add,
// hotpick_observe; hotpick_schedule, hotpick_cancel; hotpick_declare_lazy, hotpick_connect, hotpick_disconnect,
// hotpick_resolve_now.

// A plan. Its subconns stay valid until the next call of the policy.
inline hotpick_plan sequence(std::span<const SubConn> picks) { return hotpick_sequence(picks.data(), picks.size()); }
inline hotpick_plan by_affinity(std::span<const SubConn> picks) { return hotpick_by_affinity(picks.data(), picks.size()); }

// State of an instance, for the next version of the policy. `schema` is the policy's own number for the format of `data`.
struct Saved {
    uint32_t schema;
    std::string data;
};

// A value of JSON that a setting may be: a list or an object.
class Value {
  public:
    explicit Value(hotpick_value raw = {}) : raw(raw) {}
    std::vector<Value> items() const {
        std::vector<Value> all;
        for (const auto &item : std::span(raw.items, raw.count)) all.push_back(Value(item));
        return all;
    }
    std::optional<std::string_view> string() const {
        return raw.kind == HOTPICK_STRING ? std::optional(view(raw.text)) : std::nullopt;
    }
    std::optional<double> number() const {
        return raw.kind == HOTPICK_NUMBER ? std::optional(raw.number) : std::nullopt;
    }
    hotpick_value raw;
};

// A setting, and the variable that its value is stored in. Unchanged if the configuration does not have the setting.
class Setting {
  public:
    Setting(const char *name, bool *value) : raw{.name = name, .boolean = value} {}
    Setting(const char *name, double *value) : raw{.name = name, .number = value} {}
    Setting(const char *name, int64_t *value) : raw{.name = name, .integer = value} {}
    Setting(const char *name, std::string *value) : raw{.name = name}, string(value) {}
    static Setting list(const char *name, Value *value) { return Setting({.name = name, .list = &value->raw}); }
    static Setting object(const char *name, Value *value) { return Setting({.name = name, .object = &value->raw}); }

    hotpick_setting raw;
    std::string *string = nullptr;

  private:
    explicit Setting(hotpick_setting raw) : raw(raw) {}
};

// Calls `read` with settings that C can store in.
inline Refusal with_raw(std::initializer_list<Setting> settings, auto read) {
    std::vector<hotpick_text> values(settings.size());
    std::vector<hotpick_setting> raw;
    for (const auto &setting : settings) {
        raw.push_back(setting.raw);
        if (setting.string != nullptr) raw.back().string = &values[raw.size() - 1];
    }
    if (const char *refused = read(raw.data(), raw.size())) return refused;
    for (size_t i = 0; i < values.size(); i++) {
        if (values[i].data != nullptr) *settings.begin()[i].string = view(values[i]);
    }
    return {};
}

// Reads a configuration, which may have only these settings. Returns nothing, or a sentence that says what is wrong.
inline Refusal read_config(std::string_view config, std::initializer_list<Setting> settings = {}) {
    return with_raw(settings, [&](auto raw, auto count) { return hotpick_read_config(text(config), raw, count); });
}
// Reads an object within a configuration in the same way. `where` is its place, such as `routes`.
inline Refusal read_object(const Value &object, const char *where, std::initializer_list<Setting> settings) {
    return with_raw(settings, [&](auto raw, auto n) { return hotpick_read_object(&object.raw, where, raw, n); });
}

} // namespace hotpick

#ifdef _LIBCPP_VERSION
// Replaces the library's function, whose formatting code would be most of the component.
_LIBCPP_BEGIN_NAMESPACE_STD
[[noreturn]] void __libcpp_verbose_abort(const char *format, ...) noexcept {
    // The library uses only %s and numbers.
    ::std::string why;
    va_list values;
    va_start(values, format);
    for (; *format != 0; format++) {
        if (format[0] == '%' && format[1] == 's') {
            why += va_arg(values, const char *);
            format++;
        } else {
            why += *format;
        }
    }
    ::hotpick_log(HOTPICK_ERROR, ::hotpick::text(why));
    __builtin_trap();
}
_LIBCPP_END_NAMESPACE_STD
#endif

// Exports a class with these functions as the policy. `init` returns why the configuration is refused:
//
//     hotpick::Refusal init(std::string_view config, const hotpick_placement &where);
//     void endpoints(std::span<const hotpick_endpoint> added, std::span<const SubConn> removed, Nanos now);
//     void ready(std::span<const SubConn> ready, Nanos now);
//     PickResult pick(const PickInfo &info);
//
// Names of optional parts may follow, as in HOTPICK_POLICY(Class, OUTCOMES, HANDOVER). The class then has their functions, too:
//
//     OUTCOMES      void outcomes(std::span<const hotpick_outcome> batch, Nanos now);
//     PLANS         hotpick_plan plan(uint32_t budget, uint64_t random, Nanos now);
//     CONNECTIVITY  void connectivity(SubConn id, hotpick_state state, std::string_view message, Nanos now);
//     ALARMS        void alarm(uint32_t id, Nanos now);
//     HANDOVER      hotpick::Saved save();   hotpick::Refusal restore(std::span<const hotpick_saved> parts);
//     ABOUT         static hotpick_description describe();
//
// Each instance has one object of the class.
#define HOTPICK_POLICY(...) HOTPICK_POLICY_(__VA_ARGS__, NONE, NONE, NONE, NONE, NONE, NONE)
#define HOTPICK_POLICY_(Class, a, b, c, d, e, f, ...)                                                                \
    static Class hotpick_policy;                                                                                     \
    static const char *hotpick_refused(hotpick::Refusal why) {                                                       \
        static hotpick::Refusal refused;                                                                             \
        refused = std::move(why);                                                                                    \
        return refused ? refused->c_str() : nullptr;                                                                 \
    }                                                                                                                \
    extern "C" {                                                                                                     \
    const char *policy_init(hotpick_text config, const hotpick_placement *where) {                                   \
        return hotpick_refused(hotpick_policy.init(hotpick::view(config), *where));                                  \
    }                                                                                                                \
    void policy_endpoints(const hotpick_endpoint *added, size_t added_count, const hotpick_subconn *removed,         \
                          size_t removed_count, hotpick_nanos now) {                                                 \
        hotpick_policy.endpoints(std::span(added, added_count), std::span(removed, removed_count), now);             \
    }                                                                                                                \
    void policy_ready(const hotpick_subconn *ready, size_t count, hotpick_nanos now) {                               \
        hotpick_policy.ready(std::span(ready, count), now);                                                          \
    }                                                                                                                \
    hotpick_result policy_pick(const hotpick_pick_info *info) { return hotpick_policy.pick(*info); }                 \
    HOTPICK_CLASS_##a HOTPICK_CLASS_##b HOTPICK_CLASS_##c HOTPICK_CLASS_##d HOTPICK_CLASS_##e HOTPICK_CLASS_##f      \
    HOTPICK_PARTS(a, b, c, d, e, f)                                                                                  \
    }
#define HOTPICK_CLASS_NONE
#define HOTPICK_CLASS_OUTCOMES                                                                                       \
    void policy_outcomes(const hotpick_outcome *batch, size_t count, hotpick_nanos now) {                            \
        hotpick_policy.outcomes(std::span(batch, count), now);                                                       \
    }
#define HOTPICK_CLASS_PLANS                                                                                          \
    hotpick_plan policy_plan(uint32_t budget, uint64_t random, hotpick_nanos now) {                                  \
        return hotpick_policy.plan(budget, random, now);                                                             \
    }
#define HOTPICK_CLASS_CONNECTIVITY                                                                                   \
    void policy_connectivity(hotpick_subconn id, hotpick_state state, hotpick_text message, hotpick_nanos now) {     \
        hotpick_policy.connectivity(id, state, hotpick::view(message), now);                                         \
    }
#define HOTPICK_CLASS_ALARMS                                                                                         \
    void policy_alarm(uint32_t id, hotpick_nanos now) { hotpick_policy.alarm(id, now); }
#define HOTPICK_CLASS_HANDOVER                                                                                       \
    hotpick_saved policy_save(void) {                                                                                \
        static hotpick::Saved saved;                                                                                 \
        saved = hotpick_policy.save();                                                                               \
        return {saved.schema, hotpick::text(saved.data)};                                                            \
    }                                                                                                                \
    const char *policy_restore(const hotpick_saved *parts, size_t count) {                                           \
        return hotpick_refused(hotpick_policy.restore(std::span(parts, count)));                                     \
    }
#define HOTPICK_CLASS_ABOUT                                                                                          \
    hotpick_description policy_describe(void) { return hotpick_policy.describe(); }
