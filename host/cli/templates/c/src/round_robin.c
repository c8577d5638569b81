/* round_robin: picks the ready endpoints in turn, from a random start. */
#include <string.h>

#include "hotpick.h"

static hotpick_subconn *ready;
static size_t count, next;

const char *policy_init(hotpick_text config, const hotpick_placement *where) {
    next = where->seed;
    return hotpick_read_config(config, NULL, 0);
}

void policy_endpoints(const hotpick_endpoint *added, size_t added_count, const hotpick_subconn *removed,
                      size_t removed_count, hotpick_nanos now) {
    /* Round robin uses no data of endpoints. */
}

void policy_ready(const hotpick_subconn *now_ready, size_t now_count, hotpick_nanos now) {
    free(ready);
    count = now_count;
    ready = malloc(count * sizeof *ready + 1);
    if (ready == NULL) abort();
    memcpy(ready, now_ready, count * sizeof *ready);
    if (count > 0) next %= count;
}

hotpick_result policy_pick(const hotpick_pick_info *info) {
    if (count == 0) return hotpick_queue();
    hotpick_subconn picked = ready[next];
    if (++next == count) next = 0;
    return hotpick_pick(picked);
}
