/* What a policy in C is to the hotpick host: the contract of policy.wit, as C types and functions.
 *
 * A record of WIT lies in memory as the struct of C with the same fields does, so nothing is copied. What a function is
 * given is its own until it returns, unless it says otherwise; nothing is null, and a text does not end with a zero.
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

/* A connection to an endpoint: a small number, never reused while the channel lives. */
typedef uint32_t hotpick_subconn;
/* Of the host's monotonic clock. */
typedef uint64_t hotpick_nanos;

/* UTF-8. */
typedef struct {
    const char *data;
    size_t length;
} hotpick_text;

typedef struct {
    hotpick_text key, value;
} hotpick_attribute;

typedef struct {
    hotpick_subconn id;
    const hotpick_text *addresses; /* at least one, preferred first */
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
    uint64_t affinity; /* XXH64 of the declared key's value, if the RPC has one */
    uint64_t random;   /* uniform */
    hotpick_nanos now;
    uint32_t attempt; /* 0 at first */
    bool wait_for_ready;
    bool requeued; /* picked for again after it was queued */
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

/* The answer to a pick. Made by one of the four functions below. */
typedef struct {
    uint8_t what;
    uint32_t value;
} hotpick_result;

/* Use this subconn. */
static inline hotpick_result hotpick_pick(hotpick_subconn id) { return (hotpick_result){0, id}; }
/* Hold the RPC until something changes. */
static inline hotpick_result hotpick_queue(void) { return (hotpick_result){1, 0}; }
/* Fail the RPC, unless it is wait-for-ready. */
static inline hotpick_result hotpick_fail(hotpick_code code) { return (hotpick_result){2, (uint32_t)code}; }
/* End the RPC now. */
static inline hotpick_result hotpick_drop(hotpick_code code) { return (hotpick_result){3, (uint32_t)code}; }

/* What the policy is: it defines these four. */

/* Called once, first. Gives NULL, or why the configuration (JSON, `{}` if there is none) is refused: a text that stays
 * where it is. Metadata keys are declared here and nowhere else. */
const char *policy_init(hotpick_text config, const hotpick_placement *where);
/* The resolver's list has changed. The first call adds everything; one that has changed is added again. */
void policy_endpoints(const hotpick_endpoint *added, size_t added_count, const hotpick_subconn *removed,
                      size_t removed_count, hotpick_nanos now);
/* These subconns are ready, in the resolver's order; there may be none. */
void policy_ready(const hotpick_subconn *ready, size_t count, hotpick_nanos now);
/* Called for each attempt of each RPC. */
hotpick_result policy_pick(const hotpick_pick_info *info);

/* What the host offers. */

#define HOTPICK_IMPORT(interface, name) \
    __attribute__((import_module("hotpick:policy/" interface "@0.1.0"), import_name(name)))

typedef enum { HOTPICK_TRACE, HOTPICK_DEBUG, HOTPICK_INFO, HOTPICK_WARN, HOTPICK_ERROR } hotpick_level;

HOTPICK_IMPORT("env", "log") void hotpick_env_log(uint32_t level, const char *data, size_t length);
HOTPICK_IMPORT("env", "random") uint64_t hotpick_random(void);
HOTPICK_IMPORT("env", "now") hotpick_nanos hotpick_now(void);
/* RPCs under way; 0 of an unknown subconn. */
HOTPICK_IMPORT("stats", "in-flight") uint32_t hotpick_in_flight(hotpick_subconn id);
/* Whether an earlier attempt of the same RPC used this subconn. */
HOTPICK_IMPORT("call", "tried") bool hotpick_tried(hotpick_subconn id);

/* A line for the host's log. */
static inline void hotpick_log(hotpick_level level, hotpick_text line) {
    hotpick_env_log((uint32_t)level, line.data, line.length);
}

/* In `policy_init` only: names a metadata key that picks will read. Gives NULL, or why not. */
const char *hotpick_declare_metadata(hotpick_text key, uint32_t *number);
/* In `policy_init` only: picks are told the hash of this declared key's value, as `affinity`. Gives NULL, or why not. */
const char *hotpick_declare_affinity(uint32_t key);
/* The first value of a declared key of the RPC that is being picked for. False if it has none. The text is the caller's
 * to give back by `hotpick_free`. */
bool hotpick_metadata(uint32_t key, hotpick_text *value);
/* The text of the status of an RPC that is about to be failed or dropped. */
void hotpick_explain(hotpick_text message);

/* Gives back what the host has given. */
static inline void hotpick_free(hotpick_text text) {
    if (text.length > 0) free((void *)text.data);
}

bool hotpick_equal(hotpick_text a, hotpick_text b);
/* Of a text that ends with a zero. */
hotpick_text hotpick_text_of(const char *text);
/* The policy's own, until it is given to `free`. */
hotpick_text hotpick_copy(hotpick_text text);

/* A setting that is a string. */
typedef struct {
    const char *name;
    hotpick_text *value; /* as it is if the configuration does not have it */
} hotpick_setting;

/* Reads a configuration: an object with none but these settings. Gives NULL, or a sentence that names what is wrong. */
const char *hotpick_read_config(hotpick_text config, const hotpick_setting *settings, size_t count);

#ifdef __cplusplus
}
#endif

#endif
