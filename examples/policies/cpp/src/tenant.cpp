// tenant: sends each tenant to its pool of endpoints, pauses endpoints that fail, and picks the least loaded.
//
//     {"metadata": "tenant", "attribute": "pool", "routes": [{"prefix": "gold-", "pool": "fast"}],
//      "failures": 3, "pauseSeconds": 10, "strict": false}
//
// An RPC whose metadata begins with a route's prefix goes to the ready endpoints whose attribute is the route's pool;
// the first such route counts. Other RPCs go to all. If a pool is empty, its RPCs go to all as well, or fail if
// `strict`. An endpoint that has failed `failures` RPCs in a row is paused for `pauseSeconds`. A retry goes to an
// endpoint that the RPC has not tried. The next version of the policy takes over the pauses.
#include <algorithm>
#include <charconv>
#include <map>
#include <vector>

#include "hotpick.hpp"

using hotpick::Nanos;
using hotpick::Refusal;
using hotpick::SubConn;

class Tenant {
  public:
    Refusal init(std::string_view config, const hotpick_placement &where) {
        turn = where.seed;
        hotpick::Value list;
        auto refused = hotpick::read_config(config, {{"metadata", &metadata},
                                                     {"attribute", &attribute},
                                                     hotpick::Setting::list("routes", &list),
                                                     {"failures", &failures},
                                                     {"pauseSeconds", &pause_seconds},
                                                     {"strict", &strict}});
        if (refused) return refused;
        for (const auto &item : list.items()) {
            auto &route = routes.emplace_back();
            refused = hotpick::read_object(item, "routes", {{"prefix", &route.prefix}, {"pool", &route.pool}});
            if (refused) return refused;
            if (route.prefix.empty()) return "routes.prefix: must not be empty";
            if (route.pool.empty()) return "routes.pool: must not be empty";
        }
        if (failures < 1) return "failures: must be at least 1";
        if (!(pause_seconds > 0 && pause_seconds <= 3600)) return "pauseSeconds: must be above 0 and at most 3600";
        refused = hotpick::declare_metadata(metadata, key);
        if (!refused) refused = hotpick::refusal(hotpick_counter("tenant_pauses", "Pauses of endpoints.", &pauses));
        if (!refused) refused = hotpick::refusal(hotpick_gauge("tenant_paused", "Endpoints that are paused.", &paused));
        return refused;
    }

    void endpoints(std::span<const hotpick_endpoint> added, std::span<const SubConn> removed, Nanos now) {
        for (const auto id : removed) known.erase(id);
        for (const auto &raw : added) {
            const hotpick::Endpoint endpoint(raw);
            known[endpoint.id()].pool = endpoint.attribute(attribute).value_or("");
        }
        find_members();
        check_pauses(now);
    }

    void ready(std::span<const SubConn> now_ready, Nanos) {
        ids.assign(now_ready.begin(), now_ready.end());
        candidates.reserve(ids.size());
        find_members();
    }

    hotpick::PickResult pick(const hotpick::PickInfo &info) {
        if (members.empty()) return hotpick::queue();
        const std::string *pool = pool_of_rpc();
        if (pool != nullptr && !collect(pool, true, true)) {
            if (strict) {
                hotpick::explain("no endpoint is in the pool of this tenant");
                return hotpick::fail(HOTPICK_UNAVAILABLE);
            }
            pool = nullptr;
        }
        const bool found = (info.attempt > 0 && collect(pool, false, false)) || collect(pool, false, true) ||
                           collect(pool, true, true);
        if (!found) return hotpick::queue();
        // Begins at another one in each pick, because the least loaded may be several.
        std::rotate(candidates.begin(), candidates.begin() + turn++ % candidates.size(), candidates.end());
        const auto least = hotpick::least(candidates, HOTPICK_BY_IN_FLIGHT);
        return least ? hotpick::pick(*least) : hotpick::queue();
    }

    void outcomes(std::span<const hotpick_outcome> batch, Nanos now) {
        bool is_new = false;
        for (const auto &outcome : batch) {
            const auto found = known.find(outcome.subconn);
            if (found == known.end() || outcome.client_ended) continue;
            auto &its = found->second;
            if (its.until != 0) continue; // sent before the pause
            its.failures = is_fault(outcome.code) ? its.failures + 1 : 0;
            if (its.failures < failures) continue;
            its.failures = 0;
            its.until = now + pause_time();
            hotpick_add(pauses, 1);
            is_new = true;
        }
        if (is_new) check_pauses(now);
    }

    void alarm(uint32_t, Nanos now) { check_pauses(now); }

    // The state has a line for each paused endpoint: its number, and the end of its pause.
    hotpick::Saved save() {
        std::string state;
        for (const auto &[id, its] : known) {
            if (its.until != 0) state += std::to_string(id) + ' ' + std::to_string(its.until) + '\n';
        }
        return {FORMAT, state};
    }

    Refusal restore(std::span<const hotpick_saved> parts) {
        for (const auto &part : parts) {
            if (part.schema != FORMAT) return "the state is of another version";
            const char *at = part.data.data, *end = at + part.data.length;
            while (at < end) {
                SubConn id;
                Nanos until;
                if (!take(at, end, id, ' ') || !take(at, end, until, '\n')) return "the state cannot be read";
                known[id].until = std::max(known[id].until, until);
            }
        }
        return {};
    }

  private:
    static constexpr uint32_t FORMAT = 1, END_OF_PAUSE = 1;

    struct Route {
        std::string prefix, pool;
    };
    struct Endpoint {
        std::string pool;
        int64_t failures = 0; // in a row
        Nanos until = 0;      // end of the pause; 0 if it is not paused
    };

    static bool take(const char *&at, const char *end, auto &number, char after) {
        const auto [rest, error] = std::from_chars(at, end, number);
        if (error != std::errc() || rest == end || *rest != after) return false;
        at = rest + 1;
        return true;
    }

    // Returns whether a status says that the server is at fault, rather than the request.
    static bool is_fault(uint8_t code) {
        return code == HOTPICK_STATUS_UNKNOWN || code == HOTPICK_STATUS_DEADLINE_EXCEEDED ||
               code == HOTPICK_STATUS_RESOURCE_EXHAUSTED || code == HOTPICK_STATUS_INTERNAL ||
               code == HOTPICK_STATUS_UNAVAILABLE || code == HOTPICK_STATUS_DATA_LOSS;
    }

    Nanos pause_time() const { return static_cast<Nanos>(pause_seconds * HOTPICK_SECOND); }

    // Finds the endpoints that are ready. Called when either changed.
    void find_members() {
        members.clear();
        for (const auto id : ids) {
            if (const auto found = known.find(id); found != known.end()) members.push_back(&*found);
        }
    }

    // Ends the pauses that are over, and sets the timer for the next one.
    void check_pauses(Nanos now) {
        Nanos next = UINT64_MAX;
        size_t count = 0;
        for (auto &[id, its] : known) {
            if (its.until <= now) its.until = 0;
            its.until = std::min(its.until, now + pause_time()); // the version before paused for longer
            if (its.until == 0) continue;
            count++;
            next = std::min(next, its.until);
        }
        hotpick_observe(paused, static_cast<double>(count));
        if (count > 0) {
            hotpick_schedule(END_OF_PAUSE, next - now);
        } else {
            hotpick_cancel(END_OF_PAUSE);
        }
    }

    // Returns the pool of the RPC. Null: all endpoints.
    const std::string *pool_of_rpc() const {
        const auto value = hotpick::metadata(key);
        if (!value) return nullptr;
        for (const auto &route : routes) {
            if (std::string_view(*value).starts_with(route.prefix)) return &route.pool;
        }
        return nullptr;
    }

    // Collects the ready endpoints of a pool, or of all, that are suitable.
    bool collect(const std::string *pool, bool with_paused, bool with_tried) {
        candidates.clear();
        for (const auto *member : members) {
            const auto &[id, its] = *member;
            if (pool != nullptr && its.pool != *pool) continue;
            if ((!with_paused && its.until != 0) || (!with_tried && hotpick_tried(id))) continue;
            candidates.push_back(id);
        }
        return !candidates.empty();
    }

    std::string metadata = "tenant", attribute = "pool";
    std::vector<Route> routes;
    int64_t failures = 3;
    double pause_seconds = 10;
    bool strict = false;
    uint32_t key = 0, pauses = 0, paused = 0;

    std::map<SubConn, Endpoint> known;
    std::vector<SubConn> ids, candidates;
    std::vector<std::pair<const SubConn, Endpoint> *> members;
    size_t turn = 0;
};

HOTPICK_POLICY(Tenant, OUTCOMES, ALARMS, HANDOVER)
