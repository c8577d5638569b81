/* tenant: sends each tenant to its pool of endpoints, pauses endpoints that fail, and picks the least loaded.
 *
 *   {"metadata": "tenant", "attribute": "pool", "routes": [{"prefix": "gold-", "pool": "fast"}],
 *    "failures": 3, "pauseSeconds": 10, "strict": false}
 *
 * An RPC whose metadata begins with a route's prefix goes to the ready endpoints whose attribute is the route's pool,
 * the first such route counts. Other RPCs go to all. If a pool is empty, its RPCs go to all as well, or fail if
 * `strict`. An endpoint that has failed `failures` RPCs in a row is paused for `pauseSeconds`. A retry goes to an
 * endpoint that the RPC has not tried. The next version of the policy takes over the pauses.
 */
#include <inttypes.h>
#include <string.h>

#include "hotpick.h"

HOTPICK_PARTS(OUTCOMES, ALARMS, HANDOVER)

typedef struct {
    hotpick_text prefix, pool;
} route;

/* An endpoint. Sorted by number, because the numbers of removed endpoints are not reused soon: a table would have
 * gaps. */
typedef struct {
    hotpick_subconn id;
    hotpick_text pool;
    int64_t failures;    /* in a row */
    hotpick_nanos until; /* end of the pause; 0 if it is not paused */
} endpoint;

static hotpick_text metadata, attribute;
static route *routes;
static size_t route_count;
static int64_t failures = 3;
static double pause_seconds = 10;
static bool strict;
static uint32_t key, pauses, paused;

static endpoint *known;
static size_t known_count;
static hotpick_subconn *ready, *candidates;
static endpoint **members; /* the endpoints of `ready` */
static size_t ready_count, turn;

/* The only timer. */
enum { END_OF_PAUSE = 1 };

static void *resize(void *memory, size_t size) {
    memory = realloc(memory, size + 1);
    if (memory == NULL) abort();
    return memory;
}

static const char *read_routes(const hotpick_value *list) {
    routes = resize(NULL, list->count * sizeof *routes);
    for (; route_count < list->count; route_count++) {
        route *its = &routes[route_count];
        *its = (route){{NULL, 0}, {NULL, 0}};
        const hotpick_setting settings[] = {{"prefix", .string = &its->prefix}, {"pool", .string = &its->pool}};
        const char *refused = hotpick_read_object(&list->items[route_count], "routes", settings, 2);
        if (refused != NULL) return refused;
        if (its->prefix.length == 0) return "routes.prefix: must not be empty";
        if (its->pool.length == 0) return "routes.pool: must not be empty";
    }
    return NULL;
}

const char *policy_init(hotpick_text config, const hotpick_placement *where) {
    turn = where->seed;
    metadata = hotpick_text_of("tenant");
    attribute = hotpick_text_of("pool");
    hotpick_value list = {.kind = HOTPICK_LIST};
    const hotpick_setting settings[] = {
        {"metadata", .string = &metadata},  {"attribute", .string = &attribute},
        {"routes", .list = &list},          {"failures", .integer = &failures},
        {"pauseSeconds", .number = &pause_seconds}, {"strict", .boolean = &strict},
    };
    const char *refused = hotpick_read_config(config, settings, sizeof settings / sizeof *settings);
    if (refused == NULL) refused = read_routes(&list);
    if (refused != NULL) return refused;
    if (failures < 1) return "failures: must be at least 1";
    if (!(pause_seconds > 0 && pause_seconds <= 3600)) return "pauseSeconds: must be above 0 and at most 3600";
    refused = hotpick_declare_metadata(metadata, &key);
    if (refused == NULL) refused = hotpick_counter("tenant_pauses", "Pauses of endpoints.", &pauses);
    if (refused == NULL) refused = hotpick_gauge("tenant_paused", "Endpoints that are paused.", &paused);
    return refused;
}

/* Returns the index of an endpoint, or where to insert it. */
static size_t place_of(hotpick_subconn id) {
    size_t from = 0, to = known_count;
    while (from < to) {
        size_t middle = (from + to) / 2;
        if (known[middle].id < id) from = middle + 1;
        else to = middle;
    }
    return from;
}

static endpoint *find(hotpick_subconn id) {
    size_t place = place_of(id);
    return place < known_count && known[place].id == id ? &known[place] : NULL;
}

static endpoint *find_or_add(hotpick_subconn id) {
    endpoint *its = find(id);
    if (its != NULL) return its;
    size_t place = place_of(id);
    known = resize(known, (known_count + 1) * sizeof *known);
    memmove(&known[place + 1], &known[place], (known_count - place) * sizeof *known);
    known[place] = (endpoint){.id = id};
    known_count++;
    return &known[place];
}

/* Finds the endpoints of `ready`. Called when either changed. */
static void find_members(void) {
    for (size_t i = 0; i < ready_count; i++) members[i] = find(ready[i]);
}

static hotpick_nanos pause_time(void) { return (hotpick_nanos)(pause_seconds * HOTPICK_SECOND); }

/* Ends the pauses that are over, and sets the timer for the next one. */
static void check_pauses(hotpick_nanos now) {
    hotpick_nanos next = 0;
    size_t count = 0;
    for (size_t i = 0; i < known_count; i++) {
        endpoint *its = &known[i];
        if (its->until <= now) its->until = 0;
        if (its->until > now + pause_time()) its->until = now + pause_time(); /* the version before paused for longer */
        if (its->until == 0) continue;
        count++;
        if (next == 0 || its->until < next) next = its->until;
    }
    hotpick_observe(paused, (double)count);
    if (count > 0) {
        hotpick_schedule(END_OF_PAUSE, next - now);
    } else {
        hotpick_cancel(END_OF_PAUSE);
    }
}

void policy_endpoints(const hotpick_endpoint *added, size_t added_count, const hotpick_subconn *removed,
                      size_t removed_count, hotpick_nanos now) {
    for (size_t i = 0; i < removed_count; i++) {
        endpoint *its = find(removed[i]);
        if (its == NULL) continue;
        free((void *)its->pool.data);
        memmove(its, its + 1, (size_t)(known + known_count - (its + 1)) * sizeof *its);
        known_count--;
    }
    for (size_t i = 0; i < added_count; i++) {
        endpoint *its = find_or_add(added[i].id);
        free((void *)its->pool.data);
        its->pool = (hotpick_text){NULL, 0};
        for (size_t j = 0; j < added[i].attribute_count; j++) {
            if (hotpick_equal(added[i].attributes[j].key, attribute)) its->pool = hotpick_copy(added[i].attributes[j].value);
        }
    }
    find_members();
    check_pauses(now);
}

void policy_ready(const hotpick_subconn *now_ready, size_t count, hotpick_nanos now) {
    ready = resize(ready, count * sizeof *ready);
    candidates = resize(candidates, 2 * count * sizeof *candidates);
    members = resize(members, count * sizeof *members);
    if (count > 0) memcpy(ready, now_ready, count * sizeof *ready);
    ready_count = count;
    find_members();
}

/* Collects the ready endpoints of a pool, or of all, that are suitable. */
static size_t collect(const hotpick_text *pool, bool with_paused, bool with_tried) {
    size_t count = 0;
    for (size_t i = 0; i < ready_count; i++) {
        const endpoint *its = members[i];
        if (its == NULL || (pool != NULL && !hotpick_equal(its->pool, *pool))) continue;
        hotpick_subconn id = its->id;
        if ((!with_paused && its->until != 0) || (!with_tried && hotpick_tried(id))) continue;
        candidates[count++] = id;
    }
    return count;
}

/* Returns the pool of the RPC. NULL: all endpoints. */
static const hotpick_text *pool_of_rpc(void) {
    hotpick_text value;
    if (!hotpick_metadata(key, &value)) return NULL;
    size_t i = 0;
    while (i < route_count && !hotpick_starts_with(value, routes[i].prefix)) i++;
    hotpick_free(value);
    return i < route_count ? &routes[i].pool : NULL;
}

hotpick_result policy_pick(const hotpick_pick_info *info) {
    if (ready_count == 0) return hotpick_queue();
    const hotpick_text *pool = pool_of_rpc();
    if (pool != NULL && collect(pool, true, true) == 0) {
        if (strict) {
            hotpick_explain(hotpick_text_of("no endpoint is in the pool of this tenant"));
            return hotpick_fail(HOTPICK_UNAVAILABLE);
        }
        pool = NULL;
    }
    size_t count = info->attempt > 0 ? collect(pool, false, false) : 0;
    if (count == 0) count = collect(pool, false, true);
    if (count == 0) count = collect(pool, true, true);
    if (count == 0) return hotpick_queue();
    /* Begins at another one in each pick, because the least loaded may be several. */
    size_t first = turn++ % count;
    memcpy(candidates + count, candidates, first * sizeof *candidates);
    hotpick_subconn least;
    bool is_found = hotpick_least(candidates + first, count, HOTPICK_BY_IN_FLIGHT, &least);
    return is_found ? hotpick_pick(least) : hotpick_queue();
}

/* Returns whether a status says that the server is at fault, rather than the request. */
static bool is_fault(uint8_t code) {
    return code == HOTPICK_STATUS_UNKNOWN || code == HOTPICK_STATUS_DEADLINE_EXCEEDED ||
           code == HOTPICK_STATUS_RESOURCE_EXHAUSTED || code == HOTPICK_STATUS_INTERNAL ||
           code == HOTPICK_STATUS_UNAVAILABLE || code == HOTPICK_STATUS_DATA_LOSS;
}

void policy_outcomes(const hotpick_outcome *batch, size_t count, hotpick_nanos now) {
    bool is_new = false;
    for (size_t i = 0; i < count; i++) {
        endpoint *its = find(batch[i].subconn);
        if (its == NULL || batch[i].client_ended) continue;
        if (its->until != 0) continue; /* sent before the pause */
        its->failures = is_fault(batch[i].code) ? its->failures + 1 : 0;
        if (its->failures < failures) continue;
        its->failures = 0;
        its->until = now + pause_time();
        hotpick_add(pauses, 1);
        is_new = true;
    }
    if (is_new) check_pauses(now);
}

void policy_alarm(uint32_t id, hotpick_nanos now) {
    (void)id;
    check_pauses(now);
}

/* The state has a line for each paused endpoint: its number, and the end of its pause. */
enum { FORMAT = 1, LONGEST_LINE = 32 };

static char *put_number(char *at, uint64_t number, char after) {
    char digits[20];
    size_t count = 0;
    do digits[count++] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    while (count > 0) *at++ = digits[--count];
    *at++ = after;
    return at;
}

hotpick_saved policy_save(void) {
    static char *state;
    state = resize(state, known_count * LONGEST_LINE);
    char *end = state;
    for (size_t i = 0; i < known_count; i++) {
        if (known[i].until == 0) continue;
        end = put_number(end, known[i].id, ' ');
        end = put_number(end, known[i].until, '\n');
    }
    return (hotpick_saved){FORMAT, {state, (size_t)(end - state)}};
}

/* Reads a number of at most 64 bits and the character after it. */
static bool take_number(const char **at, const char *end, uint64_t *number, char after) {
    const char *first = *at;
    for (*number = 0; *at < end && **at >= '0' && **at <= '9'; (*at)++) {
        if (__builtin_mul_overflow(*number, 10, number)) return false;
        if (__builtin_add_overflow(*number, (uint64_t)(**at - '0'), number)) return false;
    }
    return *at > first && *at < end && *(*at)++ == after;
}

const char *policy_restore(const hotpick_saved *parts, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (parts[i].schema != FORMAT) return "the state is of another version";
        const char *at = parts[i].data.data, *end = at + parts[i].data.length;
        while (at < end) {
            uint64_t id, until;
            if (!take_number(&at, end, &id, ' ') || id > UINT32_MAX || !take_number(&at, end, &until, '\n')) {
                return "the state cannot be read";
            }
            endpoint *its = find_or_add((hotpick_subconn)id);
            if (until > its->until) its->until = until;
        }
    }
    return NULL;
}
