/* Explains each pick with all that it gets, and returns every kind of result.
   The tenth attempt faults: there are nine codes. */
#include <inttypes.h>
#include <stdio.h>

#include "hotpick.h"

static hotpick_subconn first;

const char *policy_init(hotpick_text config, const hotpick_placement *where) {
    uint32_t user;
    const char *refused = hotpick_declare_metadata(hotpick_text_of("user"), &user);
    return refused != NULL ? refused : hotpick_declare_affinity(user);
}

void policy_endpoints(const hotpick_endpoint *added, size_t added_count, const hotpick_subconn *removed,
                      size_t removed_count, hotpick_nanos now) {}

void policy_ready(const hotpick_subconn *ready, size_t count, hotpick_nanos now) {
    if (count > 0) first = ready[0];
}

hotpick_result policy_pick(const hotpick_pick_info *info) {
    if (info->requeued) return hotpick_queue();
    if (info->wait_for_ready) return hotpick_pick(first);
    char affinity[32] = "none", text[256];
    if (info->has_affinity) snprintf(affinity, sizeof affinity, "%" PRIu64, info->affinity);
    snprintf(text, sizeof text, "%" PRIu64 " %" PRIu32 " %s %" PRIu64 " %" PRIu64 " %s %" PRIu32, info->call, info->method,
             affinity, info->random, info->now, hotpick_tried(first) ? "true" : "false", hotpick_in_flight(first));
    hotpick_explain(hotpick_text_of(text));
    if (info->attempt > HOTPICK_UNAUTHENTICATED + 1) {
        fprintf(stderr, "no such code\n");
        abort();
    }
    return info->attempt > 0 ? hotpick_drop((hotpick_code)(info->attempt - 1)) : hotpick_fail(HOTPICK_UNAVAILABLE);
}
