/* The contract of policy.wit as C types and functions, for policies in C.
 *
 * A WIT record has the memory layout of the C struct with the same fields, so nothing is copied. Arguments of the
 * policy's functions are valid until the function returns. They are never NULL. Texts do not end with a zero byte.
 */
#ifndef HOTPICK_H
#define HOTPICK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Number of a subconn, the connection to one endpoint. Small, and not reused while an instance may remember it. */
typedef uint32_t hotpick_subconn;
/* A time of the host's monotonic clock, in nanoseconds. */
typedef uint64_t hotpick_nanos;

/* A UTF-8 string, not terminated. */
typedef struct {
    const char *data;
    size_t length;
} hotpick_text;

typedef struct {
    hotpick_text key, value;
} hotpick_attribute;

typedef struct {
    hotpick_subconn id;
    const hotpick_text *addresses; /* at least one, the preferred one first */
    size_t address_count;
    uint32_t weight; /* at least 1 */
    const hotpick_attribute *attributes;
    size_t attribute_count;
} hotpick_endpoint;

typedef struct {
    hotpick_text target;
    uint32_t shard, shards;
    uint64_t seed; /* different in each instance */
    uint64_t generation;
} hotpick_placement;

typedef struct {
    uint64_t call; /* unique within the instance */
    uint32_t method;
    bool has_affinity;
    uint64_t affinity; /* XXH64 of the declared key's value; only if has_affinity */
    uint64_t random;   /* uniformly distributed */
    hotpick_nanos now;
    uint32_t attempt; /* number of earlier attempts */
    bool wait_for_ready;
    bool requeued; /* the RPC was queued before */
} hotpick_pick_info;

typedef enum {
    HOTPICK_CANCELLED,
    HOTPICK_UNKNOWN,
    HOTPICK_DEADLINE_EXCEEDED,
    HOTPICK_PERMISSION_DENIED,
    HOTPICK_RESOURCE_EXHAUSTED,
    HOTPICK_UNIMPLEMENTED,
    HOTPICK_INTERNAL,
    HOTPICK_UNAVAILABLE,
    HOTPICK_UNAUTHENTICATED,
} hotpick_code;

/* The result of a pick. Returned by the four functions below. */
typedef struct {
    uint8_t what;
    uint32_t value;
} hotpick_result;

/* Sends the RPC on this subconn. */
static inline hotpick_result hotpick_pick(hotpick_subconn id) { return (hotpick_result){0, id}; }
/* Queues the RPC. It is picked for again after a change. */
static inline hotpick_result hotpick_queue(void) { return (hotpick_result){1, 0}; }
/* Fails the RPC with this code. A wait-for-ready RPC is queued instead. */
static inline hotpick_result hotpick_fail(hotpick_code code) { return (hotpick_result){2, (uint32_t)code}; }
/* Ends the RPC with this code, even if it is wait-for-ready. */
static inline hotpick_result hotpick_drop(hotpick_code code) { return (hotpick_result){3, (uint32_t)code}; }

/* The functions that a policy defines. */

/* Starts the policy. Called once, before the other functions. `config` is JSON, `{}` if there is none. Returns NULL, or
 * why the configuration is refused, in memory that stays valid. Metadata keys are declared only here. */
const char *policy_init(hotpick_text config, const hotpick_placement *where);
/* Called when the resolver's list changed. The first call adds all endpoints; a changed endpoint is added again. */
void policy_endpoints(const hotpick_endpoint *added, size_t added_count, const hotpick_subconn *removed,
                      size_t removed_count, hotpick_nanos now);
/* Called when the set of ready subconns changed. The set is in the resolver's order, and may be empty. */
void policy_ready(const hotpick_subconn *ready, size_t count, hotpick_nanos now);
/* Picks a subconn for one attempt of an RPC. */
hotpick_result policy_pick(const hotpick_pick_info *info);

/* The functions that the host provides. */

#define HOTPICK_IMPORT(interface, name) \
    __attribute__((import_module("hotpick:policy/" interface "@0.1.0"), import_name(name)))

typedef enum { HOTPICK_TRACE, HOTPICK_DEBUG, HOTPICK_INFO, HOTPICK_WARN, HOTPICK_ERROR } hotpick_level;

HOTPICK_IMPORT("env", "log") void hotpick_env_log(uint32_t level, const char *data, size_t length);
HOTPICK_IMPORT("env", "random") uint64_t hotpick_random(void);
HOTPICK_IMPORT("env", "now") hotpick_nanos hotpick_now(void);
/* Returns the number of RPCs in flight; 0 for an unknown subconn. */
HOTPICK_IMPORT("stats", "in-flight") uint32_t hotpick_in_flight(hotpick_subconn id);
/* Returns whether an earlier attempt of the same RPC used this subconn. */
HOTPICK_IMPORT("call", "tried") bool hotpick_tried(hotpick_subconn id);

/* Writes a line to the host's log. */
static inline void hotpick_log(hotpick_level level, hotpick_text line) {
    hotpick_env_log((uint32_t)level, line.data, line.length);
}

/* Declares a metadata key that picks will read. In `policy_init` only. Returns NULL, or why the key is refused. */
const char *hotpick_declare_metadata(hotpick_text key, uint32_t *number);
/* Makes `affinity` the hash of this declared key's value. In `policy_init` only. Returns NULL, or why it failed. */
const char *hotpick_declare_affinity(uint32_t key);
/* Reads the first value of a declared key, of the RPC being picked for. Returns false if there is none. The caller
 * frees the value with `hotpick_free`. */
bool hotpick_metadata(uint32_t key, hotpick_text *value);
/* Sets the text of the status if this pick fails or drops the RPC. */
void hotpick_explain(hotpick_text message);

/* Frees a text that the host allocated. */
static inline void hotpick_free(hotpick_text text) {
    if (text.length > 0) free((void *)text.data);
}

bool hotpick_equal(hotpick_text a, hotpick_text b);
/* Wraps a zero-terminated string. */
hotpick_text hotpick_text_of(const char *text);
/* Copies a text. The caller frees the copy with `free`. */
hotpick_text hotpick_copy(hotpick_text text);

/* A setting that is a string. */
typedef struct {
    const char *name;
    hotpick_text *value; /* unchanged if the configuration does not have the setting */
} hotpick_setting;

/* Reads a configuration, which may have only these settings. Returns NULL, or a sentence that says what is wrong. */
const char *hotpick_read_config(hotpick_text config, const hotpick_setting *settings, size_t count);

#ifdef __cplusplus
}
#endif

#endif
