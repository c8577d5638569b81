/* color: sends each RPC to the endpoints of its colour, in turn.
 *
 * The configuration says which metadata key of RPCs is compared with which attribute of endpoints. It also says what
 * happens to an RPC without a colour, and to one whose colour no ready endpoint has:
 *
 *   {"metadata": "color", "attribute": "color", "missing": "any", "unmatched": "fail"}
 */
#include <string.h>

#include "hotpick.h"

/* Ready subconns that take RPCs in turn. */
typedef struct {
    hotpick_text color;
    hotpick_subconn *members;
    size_t count, next;
} group;

static hotpick_text metadata, attribute, missing, unmatched;
static uint32_t key;

/* Endpoints with a colour, sorted by number. Numbers of removed endpoints are not reused soon, which leaves gaps. */
typedef struct {
    hotpick_subconn id;
    hotpick_text color;
} colored;

static colored *known;
static size_t known_count;

static hotpick_subconn *ready;
static size_t ready_count;

static group all, *groups;
static size_t group_count;

/* Picks so far, from a random start. Rebuilt groups go on from here, not from their first member. */
static size_t turn;

/* As realloc, but aborts without memory. The host then replaces the instance. */
static void *resize(void *memory, size_t size) {
    memory = realloc(memory, size + 1);
    if (memory == NULL) abort();
    return memory;
}

/* Returns whether a fallback is "any" rather than "fail". */
static bool is_any(hotpick_text fallback) { return hotpick_equal(fallback, hotpick_text_of("any")); }

static bool is_fallback(hotpick_text text) { return is_any(text) || hotpick_equal(text, hotpick_text_of("fail")); }

const char *policy_init(hotpick_text config, const hotpick_placement *where) {
    turn = where->seed;
    metadata = attribute = hotpick_text_of("color");
    missing = hotpick_text_of("any");
    unmatched = hotpick_text_of("fail");
    const hotpick_setting settings[] = {
        {"metadata", .string = &metadata},
        {"attribute", .string = &attribute},
        {"missing", .string = &missing},
        {"unmatched", .string = &unmatched},
    };
    const char *refused = hotpick_read_config(config, settings, sizeof settings / sizeof *settings);
    if (refused != NULL) return refused;
    if (!is_fallback(missing)) return "missing: must be \"any\" or \"fail\"";
    if (!is_fallback(unmatched)) return "unmatched: must be \"any\" or \"fail\"";
    return hotpick_declare_metadata(metadata, &key);
}

static void join(group *into, hotpick_subconn id) {
    into->members = resize(into->members, (into->count + 1) * sizeof *into->members);
    into->members[into->count++] = id;
}

static group *group_of(hotpick_text color) {
    for (size_t i = 0; i < group_count; i++) {
        if (hotpick_equal(groups[i].color, color)) return &groups[i];
    }
    return NULL;
}

/* Returns the index of an endpoint in `known`, or where to insert it. */
static size_t place_of(hotpick_subconn id) {
    size_t from = 0, to = known_count;
    while (from < to) {
        size_t middle = (from + to) / 2;
        if (known[middle].id < id) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from;
}

static bool is_known(size_t at, hotpick_subconn id) { return at < known_count && known[at].id == id; }

static void regroup(void) {
    for (size_t i = 0; i < group_count; i++) {
        free(groups[i].members);
        free((void *)groups[i].color.data);
    }
    group_count = 0;
    groups = resize(groups, ready_count * sizeof *groups);
    free(all.members);
    all = (group){0};
    for (size_t i = 0; i < ready_count; i++) {
        join(&all, ready[i]);
        size_t at = place_of(ready[i]);
        if (!is_known(at, ready[i])) continue;
        group *its = group_of(known[at].color);
        if (its == NULL) {
            its = &groups[group_count++];
            *its = (group){.color = hotpick_copy(known[at].color)};
        }
        join(its, ready[i]);
    }
    if (all.count > 0) all.next = turn % all.count;
    for (size_t i = 0; i < group_count; i++) groups[i].next = turn % groups[i].count;
}

static void forget(hotpick_subconn id) {
    size_t at = place_of(id);
    if (!is_known(at, id)) return;
    free((void *)known[at].color.data);
    known_count--;
    memmove(known + at, known + at + 1, (known_count - at) * sizeof *known);
}

/* Adds an endpoint that is not in `known`. */
static void remember(hotpick_subconn id, hotpick_text color) {
    size_t at = place_of(id);
    known = resize(known, (known_count + 1) * sizeof *known);
    memmove(known + at + 1, known + at, (known_count - at) * sizeof *known);
    known[at] = (colored){id, hotpick_copy(color)};
    known_count++;
}

void policy_endpoints(const hotpick_endpoint *added, size_t added_count, const hotpick_subconn *removed,
                      size_t removed_count, hotpick_nanos now) {
    for (size_t i = 0; i < removed_count; i++) forget(removed[i]);
    for (size_t i = 0; i < added_count; i++) {
        forget(added[i].id);
        for (size_t j = 0; j < added[i].attribute_count; j++) {
            const hotpick_attribute *its = &added[i].attributes[j];
            if (!hotpick_equal(its->key, attribute)) continue;
            remember(added[i].id, its->value);
            break;
        }
    }
    /* A ready endpoint may have a new colour. `policy_ready` is called after this only if the ready set changed. */
    regroup();
}

void policy_ready(const hotpick_subconn *now_ready, size_t count, hotpick_nanos now) {
    ready = resize(ready, count * sizeof *ready);
    memcpy(ready, now_ready, count * sizeof *ready);
    ready_count = count;
    regroup();
}

static hotpick_result next_of(group *of) {
    hotpick_subconn picked = of->members[of->next];
    turn++;
    if (++of->next == of->count) of->next = 0;
    return hotpick_pick(picked);
}

hotpick_result policy_pick(const hotpick_pick_info *info) {
    if (all.count == 0) return hotpick_queue();
    hotpick_text color;
    bool asked = hotpick_metadata(key, &color);
    if (asked) {
        group *its = group_of(color);
        hotpick_free(color);
        if (its != NULL) return next_of(its);
    }
    if (is_any(asked ? unmatched : missing)) return next_of(&all);
    hotpick_explain(hotpick_text_of(asked ? "no endpoint has the colour that the RPC asks for" : "the RPC asks for no colour"));
    return hotpick_fail(HOTPICK_UNAVAILABLE);
}
