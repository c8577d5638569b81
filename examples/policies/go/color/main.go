// color: sends each RPC to the endpoints of its colour, in turn.
//
// The configuration says which metadata key of RPCs is compared with which attribute of endpoints. It also says what
// happens to an RPC without a colour, and to one whose colour no ready endpoint has:
//
//	{"metadata": "color", "attribute": "color", "missing": "any", "unmatched": "fail"}
package main

import (
	"errors"

	"example.com/policies/hotpick"
)

// group has ready subconns that take RPCs in turn.
type group struct {
	members []hotpick.SubConn
	next    int
}

func (g *group) goOnAt(turn uint32) {
	if len(g.members) > 0 {
		g.next = int(turn % uint32(len(g.members)))
	}
}

func (g *group) pick() hotpick.Result {
	picked := g.members[g.next]
	if g.next++; g.next == len(g.members) {
		g.next = 0
	}
	return hotpick.Pick(picked)
}

type color struct {
	attribute          string
	missing, unmatched string

	key    hotpick.Key
	colors map[hotpick.SubConn]string
	ready  []hotpick.SubConn
	all    group
	groups map[string]*group
	// Picks so far, from a random start. Rebuilt groups go on from here, not from their first member.
	turn uint32
}

func newColor(config string, where hotpick.Placement) (hotpick.Policy, error) {
	c := &color{attribute: "color", missing: "any", unmatched: "fail", colors: map[hotpick.SubConn]string{}, turn: uint32(where.Seed)}
	metadata := "color"
	settings := map[string]any{
		"metadata":  &metadata,
		"attribute": &c.attribute,
		"missing":   &c.missing,
		"unmatched": &c.unmatched,
	}
	if err := hotpick.ReadConfig(config, settings); err != nil {
		return nil, err
	}
	for name, fallback := range map[string]string{"missing": c.missing, "unmatched": c.unmatched} {
		if fallback != "any" && fallback != "fail" {
			return nil, errors.New(name + ": must be \"any\" or \"fail\"")
		}
	}
	key, err := hotpick.DeclareMetadata(metadata)
	c.key = key
	return c, err
}

func (c *color) Endpoints(added []hotpick.Endpoint, removed []hotpick.SubConn, now hotpick.Nanos) {
	for _, id := range removed {
		delete(c.colors, id)
	}
	for _, endpoint := range added {
		if color, ok := endpoint.Attributes[c.attribute]; ok {
			c.colors[endpoint.ID] = color
		} else {
			delete(c.colors, endpoint.ID)
		}
	}
	// A ready endpoint may have a new colour. `Ready` is called after this only if the ready set changed.
	c.regroup()
}

func (c *color) Ready(ready []hotpick.SubConn, now hotpick.Nanos) {
	c.ready = ready
	c.regroup()
}

func (c *color) regroup() {
	c.all = group{members: c.ready}
	c.all.goOnAt(c.turn)
	c.groups = map[string]*group{}
	for _, id := range c.ready {
		color, ok := c.colors[id]
		if !ok {
			continue
		}
		if c.groups[color] == nil {
			c.groups[color] = &group{}
		}
		c.groups[color].members = append(c.groups[color].members, id)
	}
	for _, group := range c.groups {
		group.goOnAt(c.turn)
	}
}

func (c *color) Pick(info *hotpick.PickInfo) hotpick.Result {
	if len(c.ready) == 0 {
		return hotpick.Queue()
	}
	c.turn++
	color, asked := c.key.Metadata()
	fallback, why := c.missing, "the RPC asks for no colour"
	if asked {
		if group, ok := c.groups[string(color)]; ok {
			return group.pick()
		}
		fallback, why = c.unmatched, "no endpoint has the colour that the RPC asks for"
	}
	if fallback == "any" {
		return c.all.pick()
	}
	hotpick.Explain(why)
	return hotpick.Fail(hotpick.Unavailable)
}

func init() { hotpick.Register(newColor) }

func main() {}
