// round_robin: picks the ready endpoints in turn, from a random start.
#include <vector>

#include "hotpick.hpp"

class RoundRobin {
  public:
    std::optional<std::string> init(std::string_view config, const hotpick_placement &where) {
        next = where.seed;
        return hotpick::read_config(config);
    }

    void endpoints(std::span<const hotpick_endpoint>, std::span<const hotpick::SubConn>, hotpick::Nanos) {
        // Round robin uses no data of endpoints.
    }

    void ready(std::span<const hotpick::SubConn> ready, hotpick::Nanos) {
        members.assign(ready.begin(), ready.end());
        if (!members.empty()) next %= members.size();
    }

    hotpick::PickResult pick(const hotpick::PickInfo &) {
        if (members.empty()) return hotpick::queue();
        const auto picked = members[next];
        if (++next == members.size()) next = 0;
        return hotpick::pick(picked);
    }

  private:
    std::vector<hotpick::SubConn> members;
    size_t next = 0;
};

HOTPICK_POLICY(RoundRobin)
