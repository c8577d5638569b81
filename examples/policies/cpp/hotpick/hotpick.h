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

/* Number of a subconn, the connection to one endpoint. Counted from 0, and not reused while an instance may remember it. */
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

/* The functions that every policy defines. */

/* Starts the policy. Called once, before the other functions. `config` is JSON, `{}` if there is none. Returns NULL, or
 * why the configuration is refused, in memory that stays valid. What is declared (metadata, instruments, lazy
 * connections) is declared only here. */
const char *policy_init(hotpick_text config, const hotpick_placement *where);
/* Called when the resolver's list changed. The first call adds all endpoints; a changed endpoint is added again. */
void policy_endpoints(const hotpick_endpoint *added, size_t added_count, const hotpick_subconn *removed,
                      size_t removed_count, hotpick_nanos now);
/* Called when the set of ready subconns changed. The set is in the resolver's order, and may be empty. */
void policy_ready(const hotpick_subconn *ready, size_t count, hotpick_nanos now);
/* Picks a subconn for one attempt of an RPC. */
hotpick_result policy_pick(const hotpick_pick_info *info);

/* The optional parts. A policy that has some of them exports them by one declaration, and defines their functions:
 *
 *     HOTPICK_PARTS(OUTCOMES, ALARMS, HANDOVER)
 */

/* The canonical gRPC status codes. */
typedef enum {
    HOTPICK_STATUS_OK,
    HOTPICK_STATUS_CANCELLED,
    HOTPICK_STATUS_UNKNOWN,
    HOTPICK_STATUS_INVALID_ARGUMENT,
    HOTPICK_STATUS_DEADLINE_EXCEEDED,
    HOTPICK_STATUS_NOT_FOUND,
    HOTPICK_STATUS_ALREADY_EXISTS,
    HOTPICK_STATUS_PERMISSION_DENIED,
    HOTPICK_STATUS_RESOURCE_EXHAUSTED,
    HOTPICK_STATUS_FAILED_PRECONDITION,
    HOTPICK_STATUS_ABORTED,
    HOTPICK_STATUS_OUT_OF_RANGE,
    HOTPICK_STATUS_UNIMPLEMENTED,
    HOTPICK_STATUS_INTERNAL,
    HOTPICK_STATUS_UNAVAILABLE,
    HOTPICK_STATUS_DATA_LOSS,
    HOTPICK_STATUS_UNAUTHENTICATED,
} hotpick_status;

/* A server's load report (ORCA). A field that the server left out is 0. */
typedef struct {
    double application, cpu, memory; /* utilization */
    double rps, eps;                 /* requests and errors per second */
} hotpick_load;

typedef struct {
    uint64_t call; /* `call` of the pick */
    hotpick_subconn subconn;
    uint32_t method;
    uint8_t code;          /* a hotpick_status */
    bool not_sent;         /* the RPC was not served */
    bool client_ended;     /* the client gave up, which says little about the server */
    hotpick_nanos latency; /* from the pick to the end */
    bool has_load;
    hotpick_load load; /* only if has_load */
} hotpick_outcome;

/* OUTCOMES. Reports RPCs that have ended. */
void policy_outcomes(const hotpick_outcome *batch, size_t count, hotpick_nanos now);

/* A plan. Returned by the three functions below. */
typedef struct {
    uint8_t what;
    const hotpick_subconn *picks;
    size_t count;
} hotpick_plan;

/* No plan: the host calls `policy_pick`. */
static inline hotpick_plan hotpick_no_plan(void) { return (hotpick_plan){0, NULL, 0}; }
/* The next picks, in order. The memory stays valid until the next call of the policy. */
static inline hotpick_plan hotpick_sequence(const hotpick_subconn *picks, size_t count) {
    return (hotpick_plan){1, picks, count};
}
/* A table: the host takes entry `affinity mod count`. The memory stays valid until the next call of the policy. */
static inline hotpick_plan hotpick_by_affinity(const hotpick_subconn *picks, size_t count) {
    return (hotpick_plan){2, picks, count};
}

/* PLANS. Picks ahead, at most `budget` RPCs. */
hotpick_plan policy_plan(uint32_t budget, uint64_t random, hotpick_nanos now);

typedef enum {
    HOTPICK_IDLE,
    HOTPICK_CONNECTING,
    HOTPICK_READY,
    HOTPICK_TRANSIENT_FAILURE,
    HOTPICK_SHUTDOWN,
} hotpick_state;

/* CONNECTIVITY. Called when the state of a subconn changed. `message` is the reason for a transient failure. */
void policy_connectivity(hotpick_subconn id, hotpick_state state, hotpick_text message, hotpick_nanos now);

/* ALARMS. Called when a timer set by `hotpick_schedule` has expired. */
void policy_alarm(uint32_t id, hotpick_nanos now);

/* Saved state of an instance. */
typedef struct {
    uint32_t schema; /* the policy's own number for the format of `data` */
    hotpick_text data;
} hotpick_saved;

/* HANDOVER. Returns the state, in memory that stays valid until the next call of the policy. */
hotpick_saved policy_save(void);
/* HANDOVER. Restores the states that instances saved, before the first `policy_endpoints`. Returns NULL, or why it
 * cannot: then an instance without the state is started. */
const char *policy_restore(const hotpick_saved *parts, size_t count);

typedef struct {
    const char *summary;       /* what the policy does, in a few words */
    const char *config_schema; /* a JSON Schema, or "" */
} hotpick_description;

/* ABOUT. Describes the policy, for tools. */
hotpick_description policy_describe(void);

#define HOTPICK_EXPORT(interface, name) __attribute__((export_name("hotpick:policy/" interface "@0.1.0#" name)))

#define HOTPICK_PART_OUTCOMES                                                                                        \
    HOTPICK_EXPORT("outcomes", "done")                                                                               \
    void hotpick_export_outcomes(hotpick_outcome *batch, size_t count, hotpick_nanos now) {                          \
        policy_outcomes(batch, count, now);                                                                          \
        if (count > 0) free(batch);                                                                                  \
    }
#define HOTPICK_PART_PLANS                                                                                           \
    HOTPICK_EXPORT("plans", "make")                                                                                  \
    hotpick_plan *hotpick_export_plan(uint32_t budget, uint64_t random, hotpick_nanos now) {                         \
        static hotpick_plan plan;                                                                                    \
        plan = policy_plan(budget, random, now);                                                                     \
        return &plan;                                                                                                \
    }
#define HOTPICK_PART_CONNECTIVITY                                                                                    \
    HOTPICK_EXPORT("connectivity", "changed")                                                                        \
    void hotpick_export_connectivity(hotpick_subconn id, uint32_t state, char *message, size_t length,               \
                                     hotpick_nanos now) {                                                            \
        hotpick_text text = {message, length};                                                                       \
        policy_connectivity(id, (hotpick_state)state, text, now);                                                    \
        hotpick_free(text);                                                                                          \
    }
#define HOTPICK_PART_ALARMS                                                                                          \
    HOTPICK_EXPORT("alarms", "fired")                                                                                \
    void hotpick_export_alarm(uint32_t id, hotpick_nanos now) { policy_alarm(id, now); }
#define HOTPICK_PART_HANDOVER                                                                                        \
    HOTPICK_EXPORT("handover", "save")                                                                               \
    hotpick_saved *hotpick_export_save(void) {                                                                       \
        static hotpick_saved saved;                                                                                  \
        saved = policy_save();                                                                                       \
        return &saved;                                                                                               \
    }                                                                                                                \
    HOTPICK_EXPORT("handover", "restore")                                                                            \
    hotpick_refusal *hotpick_export_restore(hotpick_saved *parts, size_t count) {                                    \
        static hotpick_refusal refusal;                                                                              \
        refusal = hotpick_refusal_of(policy_restore(parts, count));                                                  \
        for (size_t i = 0; i < count; i++) hotpick_free(parts[i].data);                                              \
        if (count > 0) free(parts);                                                                                  \
        return &refusal;                                                                                             \
    }
#define HOTPICK_PART_ABOUT                                                                                           \
    HOTPICK_EXPORT("about", "describe")                                                                              \
    hotpick_text *hotpick_export_describe(void) {                                                                    \
        static hotpick_text texts[2];                                                                                \
        hotpick_description description = policy_describe();                                                         \
        texts[0] = hotpick_text_of(description.summary);                                                             \
        texts[1] = hotpick_text_of(description.config_schema);                                                       \
        return texts;                                                                                                \
    }

/* Exports up to six optional parts. */
#define HOTPICK_PARTS(...) HOTPICK_PARTS_(__VA_ARGS__, NONE, NONE, NONE, NONE, NONE, NONE)
#define HOTPICK_PARTS_(a, b, c, d, e, f, ...)                                                                        \
    HOTPICK_PART_##a HOTPICK_PART_##b HOTPICK_PART_##c HOTPICK_PART_##d HOTPICK_PART_##e HOTPICK_PART_##f
#define HOTPICK_PART_NONE

/* Used by the macros above: a result without a value, or with the reason for a refusal. */
typedef struct {
    uint8_t is_error;
    hotpick_text reason;
} hotpick_refusal;
hotpick_refusal hotpick_refusal_of(const char *reason);

/* The functions that the host provides. A function that returns `const char *` returns NULL, or why it failed, in memory
 * that the caller owns and may free. */

#define HOTPICK_IMPORT(interface, name) \
    __attribute__((import_module("hotpick:policy/" interface "@0.1.0"), import_name(name)))

#define HOTPICK_SECOND ((hotpick_nanos)1000000000)

typedef enum { HOTPICK_TRACE, HOTPICK_DEBUG, HOTPICK_INFO, HOTPICK_WARN, HOTPICK_ERROR } hotpick_level;

/* env */

/* Returns the name of a method. Empty for 4,096, which stands for many methods. The caller frees it with
 * `hotpick_free`. */
hotpick_text hotpick_method_name(uint32_t method);
/* Returns the current time. In a pick, `now` of its argument is cheaper. */
HOTPICK_IMPORT("env", "now") hotpick_nanos hotpick_now(void);
/* Returns a uniformly distributed number. In a pick, `random` of its argument is cheaper. */
HOTPICK_IMPORT("env", "random") uint64_t hotpick_random(void);
HOTPICK_IMPORT("env", "log") void hotpick_env_log(uint32_t level, const char *data, size_t length);
HOTPICK_IMPORT("env", "level-enabled") bool hotpick_level_enabled(hotpick_level level);
/* Writes a line to the host's log. */
static inline void hotpick_log(hotpick_level level, hotpick_text line) {
    hotpick_env_log((uint32_t)level, line.data, line.length);
}

/* stats: the host's statistics of each subconn. */

typedef enum { HOTPICK_BY_IN_FLIGHT, HOTPICK_BY_LATENCY, HOTPICK_BY_FAILURE_RATE } hotpick_measure;

typedef struct {
    uint32_t in_flight;
    uint32_t max_streams; /* that the peer allows; UINT32_MAX if there is no known limit */
    uint64_t picked, succeeded, failed;
    hotpick_nanos latency_ewma; /* 0 before the first RPC has ended */
    hotpick_nanos ready_since;  /* 0 if the subconn is not ready */
} hotpick_summary;

/* Counters that never decrease, but for the first three fields. See `response-counts` in policy.wit. */
typedef struct {
    uint32_t in_flight, max_streams;
    hotpick_nanos silence; /* time since the first RPC that waits for a response; 0 if none waits */
    uint64_t begun;        /* responses that have begun */
    hotpick_nanos waited;  /* sum of their times to the start */
    uint64_t abandoned;    /* RPCs that the client gave up before */
    hotpick_nanos abandoned_after;
    uint64_t ended, faulty;
} hotpick_responses;

/* Returns the number of RPCs in flight; 0 for an unknown subconn. */
HOTPICK_IMPORT("stats", "in-flight") uint32_t hotpick_in_flight(hotpick_subconn id);
/* Finds the subconn with the lowest value, the earlier one if equal. Returns false if no known one is left. */
bool hotpick_least(const hotpick_subconn *among, size_t count, hotpick_measure by, hotpick_subconn *least);
/* Reads the statistics of a subconn. Returns false if it is unknown. */
bool hotpick_stats(hotpick_subconn id, hotpick_summary *summary);
/* Reads the counters of a subconn's responses. Returns false if it is unknown. */
bool hotpick_response_counts(hotpick_subconn id, hotpick_responses *counts);

/* call: the RPC being picked for. */

/* Declares a metadata key that picks will read. In `policy_init` only. */
const char *hotpick_declare_metadata(hotpick_text key, uint32_t *number);
/* Makes `affinity` the hash of this declared key's value. In `policy_init` only. */
const char *hotpick_declare_affinity(uint32_t key);
/* Makes `affinity` the number of this declared key's value. In `policy_init` only. */
const char *hotpick_declare_affinity_number(uint32_t key);
/* Reads the first value of a declared key. Returns false if there is none. The caller frees the value with
 * `hotpick_free`. */
bool hotpick_metadata(uint32_t key, hotpick_text *value);
/* Reads all values of a declared key. Returns their number. The caller frees each, and the list with `free`. */
size_t hotpick_metadata_all(uint32_t key, hotpick_text **values);
/* Reads the XXH64 of a declared key's value. Equal hashes do not mean equal values. Returns false if there is none. */
bool hotpick_metadata_hash(uint32_t key, uint64_t *hash);
/* Reads a number that identifies the first value of a declared key. Returns false if there is none. */
bool hotpick_metadata_number(uint32_t key, uint64_t *number);
/* Sets metadata of the request, if this pick sends it. */
const char *hotpick_set_metadata(hotpick_text key, hotpick_text value);
/* Returns whether an earlier attempt of the same RPC used this subconn. */
HOTPICK_IMPORT("call", "tried") bool hotpick_tried(hotpick_subconn id);
/* Reads the time left until the RPC's deadline. Returns false if it has none. */
bool hotpick_time_left(hotpick_nanos *left);
/* Sets the text of the status if this pick fails or drops the RPC. */
void hotpick_explain(hotpick_text message);

/* metrics: instruments of the policy, `hotpick_policy_NAME`. Created in `policy_init` only. */

const char *hotpick_counter(const char *name, const char *help, uint32_t *id);
const char *hotpick_gauge(const char *name, const char *help, uint32_t *id);
/* `buckets` are the upper bounds: finite, not negative and ascending. */
const char *hotpick_histogram(const char *name, const char *help, const double *buckets, size_t count, uint32_t *id);
/* Adds to a counter. */
HOTPICK_IMPORT("metrics", "add") void hotpick_add(uint32_t id, uint64_t delta);
/* Sets a gauge, or records a value in a histogram. */
HOTPICK_IMPORT("metrics", "observe") void hotpick_observe(uint32_t id, double value);

/* timers: delivered to `policy_alarm`. */

/* Sets the timer `id`, a number that the policy chooses. Replaces the timer if it is set already. */
const char *hotpick_schedule(uint32_t id, hotpick_nanos delay);
HOTPICK_IMPORT("timers", "cancel") void hotpick_cancel(uint32_t id);

/* connections. By default the host connects every subconn and keeps it connected. */

/* Makes the host connect a subconn only on request. In `policy_init` only. */
HOTPICK_IMPORT("connections", "declare-lazy") void hotpick_declare_lazy(void);
/* Requests that an idle subconn connect. */
HOTPICK_IMPORT("connections", "connect") void hotpick_connect(hotpick_subconn id);
/* Requests that a connecting or ready subconn become idle. */
HOTPICK_IMPORT("connections", "disconnect") void hotpick_disconnect(hotpick_subconn id);
/* Requests a new resolution of the channel's target. */
HOTPICK_IMPORT("connections", "resolve-now") void hotpick_resolve_now(void);

/* Texts and configurations. */

/* Frees a text that the host allocated. */
static inline void hotpick_free(hotpick_text text) {
    if (text.length > 0) free((void *)text.data);
}

bool hotpick_equal(hotpick_text a, hotpick_text b);
bool hotpick_starts_with(hotpick_text text, hotpick_text prefix);
/* Wraps a zero-terminated string. */
hotpick_text hotpick_text_of(const char *text);
/* Copies a text. The caller frees the copy with `free`. */
hotpick_text hotpick_copy(hotpick_text text);

/* A value of JSON. */
typedef enum {
    HOTPICK_NULL,
    HOTPICK_BOOLEAN,
    HOTPICK_NUMBER,
    HOTPICK_STRING,
    HOTPICK_LIST,
    HOTPICK_OBJECT,
} hotpick_kind;

typedef struct hotpick_value {
    hotpick_kind kind;
    bool boolean;
    double number;
    hotpick_text text;
    struct hotpick_value *items; /* of a list or an object */
    hotpick_text *names;         /* of an object's items */
    size_t count;
} hotpick_value;

/* A setting, and the variable that its value is stored in, which is unchanged if the configuration does not have it:
 *
 *   {"metadata", .string = &metadata}, {"failures", .integer = &failures}
 */
typedef struct {
    const char *name;
    /* One of these. */
    hotpick_text *string;
    bool *boolean;
    double *number;
    int64_t *integer;            /* a whole number */
    hotpick_value *list, *object;
} hotpick_setting;

/* Reads a configuration, which may have only these settings. Returns NULL, or a sentence that says what is wrong. */
const char *hotpick_read_config(hotpick_text config, const hotpick_setting *settings, size_t count);
/* Reads an object within a configuration in the same way. `where` is its place, such as `routes[0]`. */
const char *hotpick_read_object(const hotpick_value *object, const char *where, const hotpick_setting *settings,
                                size_t count);

#ifdef __cplusplus
}
#endif

#endif
