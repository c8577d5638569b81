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

/* Layout of result<_, string> and option<string>. */
typedef struct {
    uint8_t is_some;
    hotpick_text text;
} optional_text;

EXPORT("hotpick:policy/lifecycle@0.1.0#init")
optional_text *hotpick_export_init(char *config, size_t config_length, char *target, size_t target_length,
                                   uint32_t shard, uint32_t shards, uint64_t seed, uint64_t generation) {
    static optional_text result;
    hotpick_text text = {config, config_length};
    hotpick_placement where = {{target, target_length}, shard, shards, seed, generation};
    const char *refused = policy_init(text, &where);
    hotpick_free(text);
    hotpick_free(where.target);
    result.is_some = refused != NULL;
    if (refused != NULL) result.text = hotpick_text_of(refused);
    return &result;
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

typedef struct {
    uint8_t is_error;
    union {
        uint32_t number;
        hotpick_text error;
    } value;
} declared;

HOTPICK_IMPORT("call", "declare-metadata") void import_declare(const char *key, size_t length, declared *result);
HOTPICK_IMPORT("call", "declare-affinity") void import_affinity(uint32_t key, declared *result);
HOTPICK_IMPORT("call", "metadata") void import_metadata(uint32_t key, optional_text *result);
HOTPICK_IMPORT("call", "explain") void import_explain(const char *message, size_t length);

/* Returns a zero-terminated copy, which the policy owns. */
static char *ended(hotpick_text text) {
    char *copy = malloc(text.length + 1);
    if (copy == NULL) abort();
    memcpy(copy, text.data, text.length);
    copy[text.length] = 0;
    return copy;
}

const char *hotpick_declare_metadata(hotpick_text key, uint32_t *number) {
    declared result;
    import_declare(key.data, key.length, &result);
    if (result.is_error) return ended(result.value.error);
    *number = result.value.number;
    return NULL;
}

const char *hotpick_declare_affinity(uint32_t key) {
    declared result;
    import_affinity(key, &result);
    return result.is_error ? ended(result.value.error) : NULL;
}

bool hotpick_metadata(uint32_t key, hotpick_text *value) {
    optional_text result;
    import_metadata(key, &result);
    if (result.is_some) *value = result.text;
    return result.is_some;
}

void hotpick_explain(hotpick_text message) { import_explain(message.data, message.length); }

bool hotpick_equal(hotpick_text a, hotpick_text b) {
    return a.length == b.length && memcmp(a.data, b.data, a.length) == 0;
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
    char *out = malloc((size_t)(from->end - from->at) + 1);
    if (out == NULL) abort();
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

/* Returns "NAME: TEXT". */
static const char *about(hotpick_text name, const char *text) {
    size_t length = strlen(text);
    char *sentence = malloc(name.length + length + 3);
    if (sentence == NULL) abort();
    memcpy(sentence, name.data, name.length);
    memcpy(sentence + name.length, ": ", 2);
    memcpy(sentence + name.length + 2, text, length + 1);
    return sentence;
}

const char *hotpick_read_config(hotpick_text config, const hotpick_setting *settings, size_t count) {
    static const char malformed[] = "the configuration is not a JSON object";
    reader from = {config.data, config.data + config.length};
    if (!next_is(&from, '{')) return malformed;
    if (!next_is(&from, '}')) {
        do {
            hotpick_text name, value;
            if (!read_string(&from, &name) || !next_is(&from, ':')) return malformed;
            const hotpick_setting *setting = settings;
            while (setting < settings + count && !hotpick_equal(hotpick_text_of(setting->name), name)) setting++;
            if (setting == settings + count) return about(name, "there is no such setting");
            if (!read_string(&from, &value)) return about(name, "must be a string");
            *setting->value = value;
        } while (next_is(&from, ','));
        if (!next_is(&from, '}')) return malformed;
    }
    next_is(&from, 0);
    return from.at == from.end ? NULL : malformed;
}
