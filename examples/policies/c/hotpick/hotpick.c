/* Glue code between the canonical ABI and hotpick.h. Authors of policies need not read it. */
#include "hotpick.h"

#include <string.h>

#define EXPORT(name) __attribute__((export_name(name)))

/* Allocates memory for the lists and texts that the host passes. */
EXPORT("cabi_realloc")
void *hotpick_cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
    (void)old_size;
    if (size == 0) return (void *)align;
    void *memory = realloc(old, size);
    if (memory == NULL) abort();
    return memory;
}

hotpick_refusal hotpick_refusal_of(const char *reason) {
    hotpick_refusal refusal = {reason != NULL, {NULL, 0}};
    if (reason != NULL) refusal.reason = hotpick_text_of(reason);
    return refusal;
}

EXPORT("hotpick:policy/lifecycle@0.1.0#init")
hotpick_refusal *hotpick_export_init(char *config, size_t config_length, char *target, size_t target_length,
                                     uint32_t shard, uint32_t shards, uint64_t seed, uint64_t generation) {
    static hotpick_refusal refusal;
    hotpick_text text = {config, config_length};
    hotpick_placement where = {{target, target_length}, shard, shards, seed, generation};
    refusal = hotpick_refusal_of(policy_init(text, &where));
    hotpick_free(text);
    hotpick_free(where.target);
    return &refusal;
}

EXPORT("hotpick:policy/endpoints@0.1.0#changed")
void hotpick_export_changed(hotpick_endpoint *added, size_t added_count, hotpick_subconn *removed,
                            size_t removed_count, hotpick_nanos now) {
    policy_endpoints(added, added_count, removed, removed_count, now);
    for (size_t i = 0; i < added_count; i++) {
        for (size_t j = 0; j < added[i].address_count; j++) hotpick_free(added[i].addresses[j]);
        if (added[i].address_count > 0) free((void *)added[i].addresses);
        for (size_t j = 0; j < added[i].attribute_count; j++) {
            hotpick_free(added[i].attributes[j].key);
            hotpick_free(added[i].attributes[j].value);
        }
        if (added[i].attribute_count > 0) free((void *)added[i].attributes);
    }
    if (added_count > 0) free(added);
    if (removed_count > 0) free(removed);
}

EXPORT("hotpick:policy/endpoints@0.1.0#ready")
void hotpick_export_ready(hotpick_subconn *ready, size_t count, hotpick_nanos now) {
    policy_ready(ready, count, now);
    if (count > 0) free(ready);
}

EXPORT("hotpick:policy/picker@0.1.0#pick")
hotpick_result *hotpick_export_pick(uint64_t call, uint32_t method, uint32_t has_affinity, uint64_t affinity,
                                    uint64_t random, hotpick_nanos now, uint32_t attempt, uint32_t wait_for_ready,
                                    uint32_t requeued) {
    static hotpick_result result;
    hotpick_pick_info info = {call,   method, has_affinity != 0,   affinity,      random,
                              now,    attempt, wait_for_ready != 0, requeued != 0};
    result = policy_pick(&info);
    return &result;
}

/* Layout of result<u32, string>, and of result<_, string>. */
typedef struct {
    uint8_t is_error;
    union {
        uint32_t number;
        hotpick_text error;
    } value;
} result;

typedef struct {
    hotpick_text *items;
    size_t count;
} text_list;

/* Layouts of options. */
typedef struct {
    uint8_t is_some;
    hotpick_text value;
} optional_text;
typedef struct {
    uint8_t is_some;
    uint32_t value;
} optional_u32;
typedef struct {
    uint8_t is_some;
    uint64_t value;
} optional_u64;
typedef struct {
    uint8_t is_some;
    hotpick_summary value;
} optional_summary;
typedef struct {
    uint8_t is_some;
    hotpick_responses value;
} optional_responses;

HOTPICK_IMPORT("env", "method-name") void import_method_name(uint32_t method, hotpick_text *name);
HOTPICK_IMPORT("stats", "least")
void import_least(const hotpick_subconn *among, size_t count, uint32_t by, optional_u32 *least);
HOTPICK_IMPORT("stats", "read") void import_stats(hotpick_subconn id, optional_summary *summary);
HOTPICK_IMPORT("stats", "responses") void import_responses(hotpick_subconn id, optional_responses *counts);
HOTPICK_IMPORT("call", "declare-metadata") void import_declare(const char *key, size_t length, result *result);
HOTPICK_IMPORT("call", "declare-affinity") void import_affinity(uint32_t key, result *result);
HOTPICK_IMPORT("call", "declare-affinity-number") void import_affinity_number(uint32_t key, result *result);
HOTPICK_IMPORT("call", "metadata") void import_metadata(uint32_t key, optional_text *value);
HOTPICK_IMPORT("call", "metadata-all") void import_metadata_all(uint32_t key, text_list *values);
HOTPICK_IMPORT("call", "metadata-hash") void import_hash(uint32_t key, optional_u64 *hash);
HOTPICK_IMPORT("call", "metadata-number") void import_number(uint32_t key, optional_u64 *number);
HOTPICK_IMPORT("call", "set-metadata")
void import_set_metadata(const char *key, size_t key_length, const char *value, size_t length, result *result);
HOTPICK_IMPORT("call", "time-left") void import_time_left(optional_u64 *left);
HOTPICK_IMPORT("call", "explain") void import_explain(const char *message, size_t length);
HOTPICK_IMPORT("metrics", "counter")
void import_counter(const char *name, size_t length, const char *help, size_t help_length, result *result);
HOTPICK_IMPORT("metrics", "gauge")
void import_gauge(const char *name, size_t length, const char *help, size_t help_length, result *result);
HOTPICK_IMPORT("metrics", "histogram")
void import_histogram(const char *name, size_t length, const char *help, size_t help_length, const double *buckets,
                      size_t count, result *result);
HOTPICK_IMPORT("timers", "schedule") void import_schedule(uint32_t id, hotpick_nanos delay, result *result);

/* Returns memory, or ends the instance if there is none. */
static void *allocate(size_t size) {
    void *memory = malloc(size);
    if (memory == NULL) abort();
    return memory;
}

/* Returns a zero-terminated copy, which the policy owns. */
static char *ended(hotpick_text text) {
    char *copy = allocate(text.length + 1);
    if (text.length > 0) memcpy(copy, text.data, text.length);
    copy[text.length] = 0;
    return copy;
}

/* Returns NULL, or the error of a result, which the policy owns. */
static const char *error_of(const result *result) {
    if (!result->is_error) return NULL;
    const char *error = ended(result->value.error);
    hotpick_free(result->value.error);
    return error;
}

/* Stores the number of a result. Returns NULL, or the error. */
static const char *number_of(const result *result, uint32_t *number) {
    if (!result->is_error) *number = result->value.number;
    return error_of(result);
}

hotpick_text hotpick_method_name(uint32_t method) {
    hotpick_text name;
    import_method_name(method, &name);
    return name;
}

bool hotpick_least(const hotpick_subconn *among, size_t count, hotpick_measure by, hotpick_subconn *least) {
    optional_u32 found;
    import_least(among, count, (uint32_t)by, &found);
    if (found.is_some) *least = found.value;
    return found.is_some;
}

bool hotpick_stats(hotpick_subconn id, hotpick_summary *summary) {
    optional_summary found;
    import_stats(id, &found);
    if (found.is_some) *summary = found.value;
    return found.is_some;
}

bool hotpick_response_counts(hotpick_subconn id, hotpick_responses *counts) {
    optional_responses found;
    import_responses(id, &found);
    if (found.is_some) *counts = found.value;
    return found.is_some;
}

const char *hotpick_declare_metadata(hotpick_text key, uint32_t *number) {
    result declared;
    import_declare(key.data, key.length, &declared);
    return number_of(&declared, number);
}

const char *hotpick_declare_affinity(uint32_t key) {
    result declared;
    import_affinity(key, &declared);
    return error_of(&declared);
}

const char *hotpick_declare_affinity_number(uint32_t key) {
    result declared;
    import_affinity_number(key, &declared);
    return error_of(&declared);
}

bool hotpick_metadata(uint32_t key, hotpick_text *value) {
    optional_text found;
    import_metadata(key, &found);
    if (found.is_some) *value = found.value;
    return found.is_some;
}

size_t hotpick_metadata_all(uint32_t key, hotpick_text **values) {
    text_list found;
    import_metadata_all(key, &found);
    *values = found.count > 0 ? found.items : NULL;
    return found.count;
}

bool hotpick_metadata_hash(uint32_t key, uint64_t *hash) {
    optional_u64 found;
    import_hash(key, &found);
    if (found.is_some) *hash = found.value;
    return found.is_some;
}

bool hotpick_metadata_number(uint32_t key, uint64_t *number) {
    optional_u64 found;
    import_number(key, &found);
    if (found.is_some) *number = found.value;
    return found.is_some;
}

const char *hotpick_set_metadata(hotpick_text key, hotpick_text value) {
    result set;
    import_set_metadata(key.data, key.length, value.data, value.length, &set);
    return error_of(&set);
}

bool hotpick_time_left(hotpick_nanos *left) {
    optional_u64 found;
    import_time_left(&found);
    if (found.is_some) *left = found.value;
    return found.is_some;
}

void hotpick_explain(hotpick_text message) { import_explain(message.data, message.length); }

const char *hotpick_counter(const char *name, const char *help, uint32_t *id) {
    result made;
    import_counter(name, strlen(name), help, strlen(help), &made);
    return number_of(&made, id);
}

const char *hotpick_gauge(const char *name, const char *help, uint32_t *id) {
    result made;
    import_gauge(name, strlen(name), help, strlen(help), &made);
    return number_of(&made, id);
}

const char *hotpick_histogram(const char *name, const char *help, const double *buckets, size_t count, uint32_t *id) {
    result made;
    import_histogram(name, strlen(name), help, strlen(help), buckets, count, &made);
    return number_of(&made, id);
}

const char *hotpick_schedule(uint32_t id, hotpick_nanos delay) {
    result scheduled;
    import_schedule(id, delay, &scheduled);
    return error_of(&scheduled);
}

bool hotpick_equal(hotpick_text a, hotpick_text b) {
    return a.length == b.length && memcmp(a.data, b.data, a.length) == 0;
}

bool hotpick_starts_with(hotpick_text text, hotpick_text prefix) {
    return text.length >= prefix.length && memcmp(text.data, prefix.data, prefix.length) == 0;
}

hotpick_text hotpick_text_of(const char *text) { return (hotpick_text){text, strlen(text)}; }

hotpick_text hotpick_copy(hotpick_text text) { return (hotpick_text){ended(text), text.length}; }

/* The part of the configuration that is still to be read. */
typedef struct {
    const char *at, *end;
} reader;

static bool next_is(reader *from, char c) {
    while (from->at < from->end && *from->at != 0 && strchr(" \t\r\n", *from->at) != NULL) from->at++;
    if (from->at == from->end || *from->at != c) return false;
    from->at++;
    return true;
}

/* Reads four hexadecimal digits. Returns a negative number if there are others. */
static int32_t read_unit(reader *from) {
    int32_t unit = 0;
    for (int i = 0; i < 4; i++) {
        if (from->at == from->end) return -1;
        char c = *from->at++;
        if (c >= '0' && c <= '9') {
            unit = unit * 16 + (c - '0');
        } else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) {
            unit = unit * 16 + ((c | 0x20) - 'a' + 10);
        } else {
            return -1;
        }
    }
    return unit;
}

static size_t put_utf8(char *out, int32_t c) {
    if (c < 0x80) return out[0] = (char)c, 1;
    if (c < 0x800) return out[0] = (char)(0xc0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), 2;
    size_t n = c < 0x10000 ? 3 : 4;
    out[0] = n == 3 ? (char)(0xe0 | c >> 12) : (char)(0xf0 | c >> 18);
    for (size_t i = 1; i < n; i++) out[i] = (char)(0x80 | (c >> 6 * (n - 1 - i) & 63));
    return n;
}

/* Reads a JSON string. The decoded text is never longer than its source, so this memory is enough. */
static bool read_string(reader *from, hotpick_text *text) {
    if (!next_is(from, '"')) return false;
    const char *last = from->at;
    while (last < from->end && *last != '"') last += *last == '\\' && from->end - last > 1 ? 2 : 1;
    char *out = allocate((size_t)(last - from->at) + 1);
    size_t length = 0;
    while (from->at < from->end) {
        char c = *from->at++;
        if (c == '"') {
            out[length] = 0;
            *text = (hotpick_text){out, length};
            return true;
        }
        if ((unsigned char)c < 0x20) break;
        if (c != '\\') {
            out[length++] = c;
            continue;
        }
        if (from->at == from->end) break;
        const char *names = "\"\\/bfnrt", *values = "\"\\/\b\f\n\r\t";
        c = *from->at++;
        const char *name = strchr(names, c);
        if (name != NULL && c != 0) {
            out[length++] = values[name - names];
        } else if (c == 'u') {
            int32_t unit = read_unit(from);
            /* A surrogate pair: a character above U+FFFF. */
            if (unit >= 0xd800 && unit < 0xdc00) {
                if (from->end - from->at < 2 || from->at[0] != '\\' || from->at[1] != 'u') break;
                from->at += 2;
                int32_t low = read_unit(from);
                if (low < 0xdc00 || low > 0xdfff) break;
                unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
            } else if (unit < 0 || (unit >= 0xdc00 && unit <= 0xdfff)) {
                break;
            }
            length += put_utf8(out + length, unit);
        } else {
            break;
        }
    }
    free(out);
    return false;
}

static bool read_value(reader *from, hotpick_value *value, int depth);

/* Reads the items of a list or an object, after its first bracket. */
static bool read_items(reader *from, hotpick_value *value, char last, int depth) {
    if (next_is(from, last)) return true;
    size_t room = 0;
    do {
        if (value->count == room) {
            room = room == 0 ? 4 : 2 * room;
            value->items = realloc(value->items, room * sizeof *value->items);
            if (value->items == NULL) abort();
            if (value->kind == HOTPICK_OBJECT) value->names = realloc(value->names, room * sizeof *value->names);
            if (value->kind == HOTPICK_OBJECT && value->names == NULL) abort();
        }
        if (value->kind == HOTPICK_OBJECT) {
            if (!read_string(from, &value->names[value->count]) || !next_is(from, ':')) return false;
        }
        if (!read_value(from, &value->items[value->count++], depth + 1)) return false;
    } while (next_is(from, ','));
    return next_is(from, last);
}

static bool digit(const reader *from) { return from->at < from->end && *from->at >= '0' && *from->at <= '9'; }

/* Reads a number of JSON. Exact if it has at most 15 digits and no large exponent, as settings do. */
static bool read_number(reader *from, double *number) {
    bool is_negative = from->at < from->end && *from->at == '-';
    if (is_negative) from->at++;
    if (!digit(from)) return false;
    double digits = 0;
    int exponent = 0;
    bool is_zero = *from->at == '0';
    while (digit(from)) digits = 10 * digits + (*from->at++ - '0');
    if (is_zero && digits > 0) return false; /* a leading zero */
    if (from->at < from->end && *from->at == '.') {
        from->at++;
        if (!digit(from)) return false;
        for (; digit(from); exponent--) digits = 10 * digits + (*from->at++ - '0');
    }
    if (from->at < from->end && (*from->at == 'e' || *from->at == 'E')) {
        from->at++;
        bool is_small = from->at < from->end && *from->at == '-';
        if (is_small || (from->at < from->end && *from->at == '+')) from->at++;
        if (!digit(from)) return false;
        int written = 0;
        for (; digit(from); from->at++) written = written > 1000 ? written : 10 * written + (*from->at - '0');
        exponent += is_small ? -written : written;
    }
    double scale = 1;
    for (int i = exponent < 0 ? -exponent : exponent; i > 0; i--) scale *= 10;
    digits = exponent < 0 ? digits / scale : digits * scale;
    *number = is_negative ? -digits : digits;
    return digits - digits == 0; /* not infinite */
}

static bool word(reader *from, const char *word) {
    size_t length = strlen(word);
    if ((size_t)(from->end - from->at) < length || memcmp(from->at, word, length) != 0) return false;
    from->at += length;
    return true;
}

static bool read_value(reader *from, hotpick_value *value, int depth) {
    *value = (hotpick_value){.kind = HOTPICK_NULL};
    if (depth > 64) return false;
    if (next_is(from, '{')) return value->kind = HOTPICK_OBJECT, read_items(from, value, '}', depth);
    if (next_is(from, '[')) return value->kind = HOTPICK_LIST, read_items(from, value, ']', depth);
    if (from->at < from->end && *from->at == '"') return value->kind = HOTPICK_STRING, read_string(from, &value->text);
    if (word(from, "null")) return true;
    value->kind = HOTPICK_BOOLEAN;
    if (word(from, "false")) return true;
    if (word(from, "true")) return value->boolean = true;
    return value->kind = HOTPICK_NUMBER, read_number(from, &value->number);
}

/* Returns "WHERE.NAME: TEXT". */
static const char *about(const char *where, hotpick_text name, const char *text) {
    size_t place = strlen(where), length = strlen(text);
    char *sentence = allocate(place + name.length + length + 4), *at = sentence;
    memcpy(at, where, place);
    at += place;
    if (place > 0) *at++ = '.';
    if (name.length > 0) memcpy(at, name.data, name.length);
    at += name.length;
    memcpy(at, ": ", 2);
    memcpy(at + 2, text, length + 1);
    return sentence;
}

static bool is_whole(double number) {
    return number >= -9007199254740991.0 && number <= 9007199254740991.0 && (double)(int64_t)number == number;
}

/* Stores a value in the variable of its setting. Returns NULL, or what the value must be. */
static const char *store(const hotpick_setting *setting, const hotpick_value *value) {
    if (setting->string != NULL) {
        if (value->kind != HOTPICK_STRING) return "must be a string";
        *setting->string = value->text;
    } else if (setting->boolean != NULL) {
        if (value->kind != HOTPICK_BOOLEAN) return "must be true or false";
        *setting->boolean = value->boolean;
    } else if (setting->number != NULL) {
        if (value->kind != HOTPICK_NUMBER) return "must be a number";
        *setting->number = value->number;
    } else if (setting->integer != NULL) {
        if (value->kind != HOTPICK_NUMBER || !is_whole(value->number)) return "must be a whole number";
        *setting->integer = (int64_t)value->number;
    } else if (setting->list != NULL) {
        if (value->kind != HOTPICK_LIST) return "must be a list";
        *setting->list = *value;
    } else if (setting->object != NULL) {
        if (value->kind != HOTPICK_OBJECT) return "must be an object";
        *setting->object = *value;
    }
    return NULL;
}

/* Returns whether the object has this name again further on. The last one counts. */
static bool comes_again(const hotpick_value *object, size_t at) {
    for (size_t i = at + 1; i < object->count; i++) {
        if (hotpick_equal(object->names[i], object->names[at])) return true;
    }
    return false;
}

const char *hotpick_read_object(const hotpick_value *object, const char *where, const hotpick_setting *settings,
                                size_t count) {
    if (object->kind != HOTPICK_OBJECT) return about("", hotpick_text_of(where), "must be an object");
    for (size_t i = 0; i < object->count; i++) {
        const hotpick_setting *setting = settings, *end = settings + count;
        while (setting < end && !hotpick_equal(hotpick_text_of(setting->name), object->names[i])) setting++;
        if (setting == end) return about(where, object->names[i], "there is no such setting");
        const char *wrong = comes_again(object, i) ? NULL : store(setting, &object->items[i]);
        if (wrong != NULL) return about(where, object->names[i], wrong);
    }
    return NULL;
}

const char *hotpick_read_config(hotpick_text config, const hotpick_setting *settings, size_t count) {
    reader from = {config.data, config.data + config.length};
    hotpick_value object;
    bool is_read = read_value(&from, &object, 0);
    next_is(&from, 0);
    if (!is_read || from.at != from.end) return "the configuration is not JSON";
    if (object.kind != HOTPICK_OBJECT) return "the configuration is not a JSON object";
    return hotpick_read_object(&object, "", settings, count);
}
