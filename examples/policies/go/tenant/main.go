// tenant: sends each tenant to its pool of endpoints, pauses endpoints that fail, and picks the least loaded.
//
//	{"metadata": "tenant", "attribute": "pool", "routes": [{"prefix": "gold-", "pool": "fast"}],
//	 "failures": 3, "pauseSeconds": 10, "strict": false}
//
// An RPC whose metadata begins with a route's prefix goes to the ready endpoints whose attribute is the route's pool;
// the first such route counts. Other RPCs go to all. If a pool is empty, its RPCs go to all as well, or fail if
// `strict`. An endpoint that has failed `failures` RPCs in a row is paused for `pauseSeconds`. A retry goes to an
// endpoint that the RPC has not tried. The next version of the policy takes over the pauses.
package main

import (
	"errors"
	"strconv"
	"strings"

	"example.com/policies/hotpick"
	"example.com/policies/hotpick/alarms"
	"example.com/policies/hotpick/handover"
	"example.com/policies/hotpick/outcomes"
)

const (
	// The only timer.
	endOfPause = 1
	// Format of the state: a line for each paused endpoint, its number and the end of its pause.
	format = 1
)

type route struct{ prefix, pool string }

type endpoint struct {
	pool string
	// In a row.
	failures int
	// End of the pause. 0 if it is not paused.
	until hotpick.Nanos
}

type tenant struct {
	attribute string
	routes    []route
	failures  int
	pause     hotpick.Nanos
	strict    bool
	key       hotpick.Key
	pauses    hotpick.Counter
	paused    hotpick.Gauge

	known map[hotpick.SubConn]*endpoint
	ready []hotpick.SubConn
	// The endpoints of `ready`.
	members    []*endpoint
	candidates []hotpick.SubConn
	turn       uint64
}

func newTenant(config string, where hotpick.Placement) (hotpick.Policy, error) {
	t := &tenant{attribute: "pool", failures: 3, known: map[hotpick.SubConn]*endpoint{}, turn: where.Seed}
	metadata, seconds, list := "tenant", 10.0, hotpick.List{}
	err := hotpick.ReadConfig(config, map[string]any{
		"metadata": &metadata, "attribute": &t.attribute, "routes": &list,
		"failures": &t.failures, "pauseSeconds": &seconds, "strict": &t.strict,
	})
	if err != nil {
		return nil, err
	}
	for _, item := range list {
		var r route
		if err := hotpick.ReadObject(item, "routes", map[string]any{"prefix": &r.prefix, "pool": &r.pool}); err != nil {
			return nil, err
		}
		if r.prefix == "" {
			return nil, errors.New("routes.prefix: must not be empty")
		}
		if r.pool == "" {
			return nil, errors.New("routes.pool: must not be empty")
		}
		t.routes = append(t.routes, r)
	}
	if t.failures < 1 {
		return nil, errors.New("failures: must be at least 1")
	}
	if !(seconds > 0 && seconds <= 3600) {
		return nil, errors.New("pauseSeconds: must be above 0 and at most 3600")
	}
	t.pause = hotpick.Nanos(seconds * float64(hotpick.Second))
	if t.key, err = hotpick.DeclareMetadata(metadata); err != nil {
		return nil, err
	}
	if t.pauses, err = hotpick.NewCounter("tenant_pauses", "Pauses of endpoints."); err != nil {
		return nil, err
	}
	t.paused, err = hotpick.NewGauge("tenant_paused", "Endpoints that are paused.")
	return t, err
}

func (t *tenant) Endpoints(added []hotpick.Endpoint, removed []hotpick.SubConn, now hotpick.Nanos) {
	for _, id := range removed {
		delete(t.known, id)
	}
	for _, its := range added {
		t.endpoint(its.ID).pool = its.Attributes[t.attribute]
	}
	t.findMembers()
	t.checkPauses(now)
}

func (t *tenant) Ready(ready []hotpick.SubConn, now hotpick.Nanos) {
	t.ready = ready
	t.candidates = make([]hotpick.SubConn, 0, 2*len(ready))
	t.findMembers()
}

func (t *tenant) Pick(info *hotpick.PickInfo) hotpick.Result {
	if len(t.ready) == 0 {
		return hotpick.Queue()
	}
	pool := t.poolOfRPC()
	if pool != "" && !t.collect(pool, true, true) {
		if t.strict {
			hotpick.Explain("no endpoint is in the pool of this tenant")
			return hotpick.Fail(hotpick.Unavailable)
		}
		pool = ""
	}
	if info.Attempt == 0 || !t.collect(pool, false, false) {
		_ = t.collect(pool, false, true) || t.collect(pool, true, true)
	}
	// Begins at another one in each pick, because the least loaded may be several.
	t.turn++
	first := t.turn % max(uint64(len(t.candidates)), 1)
	among := append(t.candidates, t.candidates[:first]...)[first:]
	if id, ok := hotpick.Least(among, hotpick.ByInFlight); ok {
		return hotpick.Pick(id)
	}
	return hotpick.Queue()
}

// Outcomes counts failures in a row, and pauses an endpoint that has too many.
func (t *tenant) Outcomes(batch []outcomes.Outcome, now hotpick.Nanos) {
	isNew := false
	for i := range batch {
		outcome := &batch[i]
		its := t.known[outcome.SubConn]
		if its == nil || outcome.ClientEnded || its.until != 0 {
			continue // unknown, no fault of the server, or sent before the pause
		}
		its.failures++
		if !isFault(outcome.Code) {
			its.failures = 0
		}
		if its.failures < t.failures {
			continue
		}
		its.failures, its.until = 0, now+t.pause
		t.pauses.Add(1)
		isNew = true
	}
	if isNew {
		t.checkPauses(now)
	}
}

func (t *tenant) Alarm(id uint32, now hotpick.Nanos) { t.checkPauses(now) }

func (t *tenant) Save() handover.Saved {
	var state strings.Builder
	for id, its := range t.known {
		if its.until != 0 {
			state.WriteString(strconv.FormatUint(uint64(id), 10) + " " + strconv.FormatUint(uint64(its.until), 10) + "\n")
		}
	}
	return handover.Saved{Schema: format, Data: state.String()}
}

func (t *tenant) Restore(parts []handover.Saved) error {
	for _, part := range parts {
		if part.Schema != format {
			return errors.New("the state is of another version")
		}
		for line := range strings.Lines(part.Data) {
			id, until, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			number, err := strconv.ParseUint(id, 10, 32)
			end, itsErr := strconv.ParseUint(until, 10, 64)
			if !ok || err != nil || itsErr != nil {
				return errors.New("the state cannot be read")
			}
			its := t.endpoint(hotpick.SubConn(number))
			its.until = max(its.until, hotpick.Nanos(end))
		}
	}
	return nil
}

// isFault reports whether a status says that the server is at fault, rather than the request.
func isFault(code outcomes.Code) bool {
	switch code {
	case outcomes.Unknown, outcomes.DeadlineExceeded, outcomes.ResourceExhausted, outcomes.Internal, outcomes.Unavailable,
		outcomes.DataLoss:
		return true
	}
	return false
}

func (t *tenant) endpoint(id hotpick.SubConn) *endpoint {
	its := t.known[id]
	if its == nil {
		its = &endpoint{}
		t.known[id] = its
	}
	return its
}

// findMembers finds the endpoints that are ready. Called when either changed.
func (t *tenant) findMembers() {
	t.members = t.members[:0]
	for _, id := range t.ready {
		t.members = append(t.members, t.known[id])
	}
}

// checkPauses ends the pauses that are over, and sets the timer for the next one.
func (t *tenant) checkPauses(now hotpick.Nanos) {
	var next hotpick.Nanos
	count := 0
	for _, its := range t.known {
		if its.until <= now {
			its.until = 0
		}
		its.until = min(its.until, now+t.pause) // the version before paused for longer
		if its.until == 0 {
			continue
		}
		if count++; count == 1 || its.until < next {
			next = its.until
		}
	}
	t.paused.Set(float64(count))
	if count > 0 {
		hotpick.Schedule(endOfPause, next-now)
	} else {
		hotpick.Cancel(endOfPause)
	}
}

// poolOfRPC returns the pool of the RPC. Empty: all endpoints.
func (t *tenant) poolOfRPC() string {
	value, ok := t.key.Metadata()
	if !ok {
		return ""
	}
	for _, r := range t.routes {
		if len(value) >= len(r.prefix) && string(value[:len(r.prefix)]) == r.prefix {
			return r.pool
		}
	}
	return ""
}

// collect collects the ready endpoints of a pool, or of all, that are suitable.
func (t *tenant) collect(pool string, withPaused, withTried bool) bool {
	t.candidates = t.candidates[:0]
	for i, id := range t.ready {
		its := t.members[i]
		if its == nil || (pool != "" && its.pool != pool) {
			continue
		}
		if (!withPaused && its.until != 0) || (!withTried && hotpick.Tried(id)) {
			continue
		}
		t.candidates = append(t.candidates, id)
	}
	return len(t.candidates) > 0
}

func init() { hotpick.Register(newTenant, outcomes.Part, alarms.Part, handover.Part) }

func main() {}
