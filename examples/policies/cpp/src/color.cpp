// color: sends each RPC to the endpoints of its colour, in turn.
//
// The configuration says which metadata key of RPCs is compared with which attribute of endpoints. It also says what
// happens to an RPC without a colour, and to one whose colour no ready endpoint has:
//
//   {"metadata": "color", "attribute": "color", "missing": "any", "unmatched": "fail"}
#include <map>
#include <vector>

#include "hotpick.hpp"

// Ready subconns that take RPCs in turn.
class Group {
  public:
    void add(hotpick::SubConn id) { members.push_back(id); }
    void go_on_at(size_t turn) { next = members.empty() ? 0 : turn % members.size(); }

    hotpick::PickResult pick() {
        const auto picked = members[next];
        if (++next == members.size()) next = 0;
        return hotpick::pick(picked);
    }

  private:
    std::vector<hotpick::SubConn> members;
    size_t next = 0;
};

class Color {
  public:
    std::optional<std::string> init(std::string_view config, const hotpick_placement &where) {
        turn = where.seed;
        auto refused = hotpick::read_config(config, {{"metadata", &metadata},
                                                     {"attribute", &attribute},
                                                     {"missing", &missing},
                                                     {"unmatched", &unmatched}});
        if (refused) return refused;
        for (const auto &[name, fallback] : {std::pair("missing", missing), std::pair("unmatched", unmatched)}) {
            if (fallback != "any" && fallback != "fail") return std::string(name) + ": must be \"any\" or \"fail\"";
        }
        if (const char *why = hotpick_declare_metadata(hotpick::text(metadata), &key)) return why;
        return {};
    }

    void endpoints(std::span<const hotpick_endpoint> added, std::span<const hotpick::SubConn> removed,
                   hotpick::Nanos) {
        for (const auto id : removed) colors.erase(id);
        for (const auto &raw : added) {
            const hotpick::Endpoint endpoint(raw);
            const auto color = endpoint.attribute(attribute);
            if (color) {
                colors[endpoint.id()] = *color;
            } else {
                colors.erase(endpoint.id());
            }
        }
        // A ready endpoint may have a new colour. `ready` is called after this only if the ready set changed.
        regroup();
    }

    void ready(std::span<const hotpick::SubConn> ready, hotpick::Nanos) {
        members.assign(ready.begin(), ready.end());
        regroup();
    }

    hotpick::PickResult pick(const hotpick::PickInfo &) {
        if (members.empty()) return hotpick::queue();
        turn++;
        const auto color = hotpick::metadata(key);
        if (color) {
            const auto group = groups.find(std::string_view(*color));
            if (group != groups.end()) return group->second.pick();
        }
        if ((color ? unmatched : missing) == "any") return all.pick();
        hotpick::explain(color ? "no endpoint has the colour that the RPC asks for" : "the RPC asks for no colour");
        return hotpick::fail(HOTPICK_UNAVAILABLE);
    }

  private:
    void regroup() {
        all = {};
        groups.clear();
        for (const auto id : members) {
            all.add(id);
            const auto color = colors.find(id);
            if (color != colors.end()) groups[color->second].add(id);
        }
        all.go_on_at(turn);
        for (auto &[color, group] : groups) group.go_on_at(turn);
    }

    std::string metadata = "color", attribute = "color", missing = "any", unmatched = "fail";
    uint32_t key = 0;
    std::map<hotpick::SubConn, std::string> colors;
    std::vector<hotpick::SubConn> members; // in the resolver's order
    size_t turn = 0; // picks so far, from a random start: rebuilt groups go on from here, not from their first member
    Group all;
    std::map<std::string, Group, std::less<>> groups;
};

HOTPICK_POLICY(Color)
