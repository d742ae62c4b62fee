package continuity

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// streams returns every possible state of the stream, by name. The first stream had last
// messages.
func streams(last uint64, tenants tenancy, p world) map[string]world {
	old := tenants.publish(1, 1, last, storedAt(1))
	created := storedAt(last) + step // a later stream begins
	forever := tenancy{quiet: 99, dense: true, turn: tenants.turn}
	later := forever.publish(2, 1, 18, created)
	table, inX := forever.own(last + 1)
	late := append(slices.Clip(old), message{last + 1, created - step/2, table, inX, 1}) // gone with the first stream

	var older []message // rows that are older than the stream
	for table := range tableNames {
		older = append(older, message{table: table, inX: true}, message{table: table})
	}
	out := make(map[string]world)
	state := func(name string, stream []message, first uint64, histories ...[]message) {
		histories = append(histories, older)
		out[name] = world{history: slices.Concat(histories...), stream: stream, first: first}
	}
	state("same", old, 1, old)
	for first := uint64(2); first <= last; first++ {
		state(fmt.Sprintf("trimmed to %d", first), old[first-1:], first, old)
		if before := first - 1; before != p.checkpoint && before != p.settled {
			close := slices.Clone(old) // the newest dropped message is almost as new as the first one
			close[before-1].stored = storedAt(first) - step/64
			acknowledged := p.consumer != nil && p.consumer.Created == 0 && before <= p.consumer.Floor
			passed := p.settled < before && before <= p.scanned // it is another tenant's
			if !passed && (before <= p.processed || !acknowledged) {
				close[before-1].table, close[before-1].inX = forever.own(before)
			}
			state(fmt.Sprintf("trimmed to %d, closely", first), close[first-1:], first, close)
		}
	}
	state("emptied", nil, last+1, old)
	for _, history := range [][]message{old, late} {
		named := fmt.Sprintf("created again after %d, ", len(history))
		state(named+"empty", nil, 1, history)
		for _, newest := range []uint64{3, last, 18} {
			for _, first := range []uint64{1, 5, 7, 8, 10, last + 1} {
				if first <= newest+1 {
					state(fmt.Sprintf("%s%d to %d", named, first, newest), later[first-1:newest], first, history, later[:newest])
				}
			}
		}
	}
	position := max(p.settled, p.checkpoint)
	for first := position + 1; first <= last && p.processed == position; first++ { // with the storage times of the first stream
		for _, newest := range []uint64{last, 18} {
			again := forever.publish(2, 1, newest, storedAt(1))
			for n := uint64(1); n < first; n++ {
				again[n-1].stored = storedAt(first) - int64(first-n)*step/64
			}
			state(fmt.Sprintf("created again early, trimmed to %d, %d", first, newest), again[first-1:], first, old[:position], again)
		}
	}
	for _, kept := range []uint64{3, 5, 7} {
		stream := append(slices.Clip(old[:kept]), forever.publish(2, kept+1, 18, created)...)
		for _, first := range []uint64{1, 2, 5} {
			if first > kept {
				continue
			}
			if kept >= position && kept < p.processed { // the record of the read messages is also lost
				continue
			}
			named := fmt.Sprintf("restored to %d, trimmed to %d", kept, first)
			state(named, stream[first-1:], first, slices.DeleteFunc(slices.Clone(old), func(m message) bool {
				// There is no evidence that the stream lost messages that were never read.
				return m.sequence > kept && m.sequence > p.processed
			}), stream[kept:])
			if kept < position {
				state(named+", with losses", stream[first-1:], first, late, stream[kept:])
			}
		}
	}
	return out
}

// snapshots returns possible imports, by name.
func snapshots(last uint64) map[string][3]*snapshot {
	at := func(sequence uint64, s snapshot) *snapshot {
		s.taken = storedAt(sequence) + step/4
		return &s
	}
	followed := at(1, snapshot{followed: true})
	every := func(s *snapshot) [3]*snapshot { return [3]*snapshot{s, s, s} }
	return map[string][3]*snapshot{
		"none":                    {},
		"followed":                every(followed),
		"older":                   every(at(3, snapshot{whole: true})),
		"newer":                   every(at(last, snapshot{whole: true})),
		"newer than the position": every(at(7, snapshot{whole: true})),
		"one table newer":         {at(last, snapshot{}), followed, nil},
		"one table older":         {at(3, snapshot{}), followed, nil},
		"one table alone":         {at(7, snapshot{}), nil, nil},
		"partial, newer":          {at(last, snapshot{partial: true}), followed, followed},
		"partial, older":          {at(3, snapshot{partial: true}), followed, followed},
		"partial, followed":       {at(1, snapshot{partial: true, followed: true}), followed, followed},
		"all partial":             every(at(7, snapshot{partial: true})),
	}
}

// A scene is a set of worlds that differ only in the clock of the source.
type scene struct {
	world
	tenants                  tenancy
	streamName, snapshotName string
	seen                     StreamEvidence // the evidence about the stream
}

// evidenceKey identifies equal evidence.
type evidenceKey struct {
	stores, begun                bool
	checkpoint, settled, scanned uint64
	exists                       bool
	consumer                     Consumer
	stream                       StreamEvidence
	snapshots                    string
}

func (s *scene) key() evidenceKey {
	key := evidenceKey{
		stores: s.stores, begun: s.begun, checkpoint: s.checkpoint, settled: s.settled, scanned: s.scanned,
		stream: s.seen, snapshots: s.snapshotName,
	}
	if s.consumer != nil {
		key.exists, key.consumer = true, *s.consumer
	}
	return key
}

func (s *scene) String() string {
	return fmt.Sprintf("%+v, %v, stream %s, snapshots %s, source's clock ahead by %v",
		s.tenants, &s.world, s.streamName, s.snapshotName, time.Duration(s.skew))
}

// scenes calls use with every scene of the enumeration.
func scenes(use func(s *scene)) {
	const last = 9
	imports := snapshots(last)
	for _, tenants := range tenancies(last) {
		positions(tenants, func(p world) {
			for streamName, stream := range streams(last, tenants, p) {
				if !p.plausible(streamName) {
					continue
				}
				s := scene{world: p, tenants: tenants, streamName: streamName}
				s.history, s.stream, s.first, s.now = stream.history, stream.stream, stream.first, storedAt(last)+100*step
				s.at = storedAt
				e := s.positions()
				s.seen = s.observe(e.Sequence())
				for s.snapshotName, s.snapshots = range imports {
					use(&s)
				}
			}
		})
	}
}

func tenancies(last uint64) []tenancy {
	var out []tenancy
	for turn := range 6 {
		out = append(out, tenancy{last, false, turn}, tenancy{6, false, turn}, tenancy{last, true, turn})
	}
	return out
}

// positions calls use with every combination of checkpoint, record and consumer.
func positions(tenants tenancy, use func(world)) {
	consumers := []*Consumer{nil}
	for _, floor := range []uint64{0, 4, 7, 9} {
		acknowledged := floor > 0
		old, later := Consumer{Floor: floor, Acknowledged: acknowledged}, Consumer{
			Floor: floor, Acknowledged: acknowledged, Created: storedAt(99),
		}
		consumers = append(consumers, &old, &later)
	}
	for _, consumer := range consumers {
		for _, stores := range []bool{false, true} {
			for _, settled := range []uint64{0, 4, 6, 8} {
				for _, checkpoint := range []uint64{0, 4, 6, 8} {
					for _, scanned := range []uint64{0, settled + 1, 9} {
						w := world{stores: stores, settled: settled, checkpoint: checkpoint, scanned: scanned, consumer: consumer}
						if !w.possible(tenants) {
							continue
						}
						use(w)
						if stores && checkpoint == 0 {
							w.begun = true
							use(w)
							w.begun = false
						}
						if consumer != nil && consumer.Created > 0 {
							w.acknowledge(tenants)
							use(w)
						}
					}
				}
			}
		}
	}
}

func (w *world) String() string {
	floor := "none"
	if w.consumer != nil {
		floor = fmt.Sprintf("%+v", *w.consumer)
	}
	return fmt.Sprintf("consumer %s, stores %v, begun %v, checkpoint %d, settled %d, scanned %d",
		floor, w.stores, w.begun, w.checkpoint, w.settled, w.scanned)
}

// possible completes the world's positions, and reports whether they can occur.
func (w *world) possible(tenants tenancy) bool {
	isOwn := func(n uint64) bool { t, _ := tenants.own(n); return t != none }
	switch {
	case w.settled > 0 && !isOwn(w.settled), w.checkpoint > 0 && !isOwn(w.checkpoint),
		!w.stores && w.checkpoint > 0, w.scanned > 0 && w.settled == 0:
		return false
	}
	for n := w.settled + 1; n <= w.scanned; n++ { // scanned is recorded only if every message up to it is settled
		if isOwn(n) {
			return false
		}
	}
	w.processed = max(w.settled, w.checkpoint)
	if w.consumer != nil && w.consumer.Created == 0 {
		w.acknowledge(tenants)
	}
	return true
}

// acknowledge marks every message that the consumer has acknowledged as applied. If the consumer
// was created with a later start, some of these messages may not have been applied.
func (w *world) acknowledge(tenants tenancy) {
	for n := w.processed + 1; n <= w.consumer.Floor; n++ {
		if table, _ := tenants.own(n); table != none {
			w.processed = n
		}
	}
}

// plausible excludes impossible worlds, and worlds without any evidence that distinguishes them
// from an ordinary first start.
func (w *world) plausible(stream string) bool {
	again := strings.HasPrefix(stream, "created again")
	switch {
	case again && w.consumer != nil && w.consumer.Created == 0: // it was deleted with the stream
		return false
	case w.processed == 0 && (again || strings.HasPrefix(stream, "restored")): // no message was read
		return false
	}
	return true
}

// TestDecide_NeverSilentNeverFalse compares Decide with the model in every world. Worlds with equal
// evidence get the same plan. The plan must report a loss if any of these worlds has a loss, and
// must not report a loss if none of them has one.
func TestDecide_NeverSilentNeverFalse(t *testing.T) {
	type class struct {
		evidence Evidence
		plan     Plan
		missing  tableSet // in some world
		present  tableSet // in some world
		name     string   // of a world
	}
	classes := make(map[evidenceKey]*class)
	var silent, count int
	scenes(func(s *scene) {
		key := s.key()
		c := classes[key]
		if c == nil {
			e := s.evidence()
			c = &class{evidence: e, plan: Decide(e), name: s.String()}
			classes[key] = c
		}
		for _, s.skew = range []int64{0, int64(ClockMargin - time.Minute), -int64(ClockMargin - time.Minute)} {
			count++
			missing := s.missing(c.plan)
			for table, lacks := range missing {
				c.missing[table] = c.missing[table] || lacks
				c.present[table] = c.present[table] || !lacks
				if lacks && !c.plan.reports(table, &s.world) {
					if silent++; silent <= 5 {
						t.Errorf("table %s lacks changes, and the plan does not report it\nworld: %v\nplan: %+v, gap: %v",
							tableNames[table], s, c.plan, c.plan.Gap)
					}
				}
			}
		}
	})
	falseAlarms := 0
	for _, c := range classes {
		problem := falseAlarm(&c.evidence, &c.plan, c.missing)
		// If the stream does not have the last message, eds cannot know whether the stream is the
		// same. The plan may then be unverified, even if all worlds here have another stream. A
		// lost checkpoint, by contrast, is always noticed.
		e := &c.evidence
		d := e.Destination
		lost := d.Stores && !d.Begun && d.Checkpoint.Sequence == 0 && e.Record.Settled.Sequence > 0
		unknown := c.plan.Unverified != "" && !lost
		for table := range tableNames {
			_, imported := c.evidence.Snapshots[tableNames[table]]
			if !c.present[table] && !c.plan.names(table, imported) && !unknown {
				problem = fmt.Sprintf("every world lacks some of table %s, and no gap names it", tableNames[table])
			}
		}
		if problem != "" {
			if falseAlarms++; falseAlarms <= 5 {
				t.Errorf("%s\nworld: %s\nplan: %+v, gap: %v", problem, c.name, c.plan, c.plan.Gap)
			}
		}
	}
	t.Logf("%d worlds, %d kinds of evidence; %d silent, %d false alarms", count, len(classes), silent, falseAlarms)
}

// falseAlarm returns a description of a loss that the plan reports although no world with this
// evidence has that loss. It returns "" if there is no such loss. An acknowledgement without a
// record is never verified.
func falseAlarm(e *Evidence, p *Plan, missing tableSet) string {
	adopted := e.resumes() && e.Position().Sequence == 0 && !e.CheckpointLost() && e.floor() > 0
	switch {
	case e.resumes() && e.Sequence() == 0 && p.Gap != nil: // it should have read the dropped messages
		return ""
	case missing == tableSet{} && p.Gap != nil:
		return "a gap is reported, though no world lacks anything"
	case missing == tableSet{} && p.Unverified != "" && !adopted:
		return "the position is unverified, though no world lacks anything"
	case p.Gap == nil:
		return ""
	}
	for _, table := range p.Gap.Tables {
		if !missing[slices.Index(tableNames[:], table)] {
			return fmt.Sprintf("table %s is named, though no world lacks any of it", table)
		}
	}
	return ""
}

// reports returns whether the plan says that the table may lack changes.
func (p *Plan) reports(table int, w *world) bool {
	if p.Unverified != "" {
		return true
	}
	return p.names(table, w.snapshots[table] != nil)
}

// names reports whether the plan's gap names the table.
func (p *Plan) names(table int, imported bool) bool {
	return p.Gap != nil && (slices.Contains(p.Gap.Tables, tableNames[table]) || p.Gap.Others && !imported)
}

// TestDecide_IsSilentUntilSomethingChanges: a server has started to read from a snapshot, and was
// stopped before anything changed at the source.
func TestDecide_IsSilentUntilSomethingChanges(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	const warned = "no applied position is recorded; eds uses the consumer's acknowledgements, up to message 5000, instead"
	for name, c := range map[string]struct {
		change func(e *Evidence)
		want   string
	}{
		"nothing has changed":        {func(*Evidence) {}, ""},
		"another import":             {func(e *Evidence) { e.Snapshots["order"] = ImportEvidence{Clock: cdc.At(now)} }, ""},
		"something was acknowledged": {func(e *Evidence) { e.Consumer.Acknowledged = true }, warned},
		"the snapshots are lost":     {func(e *Evidence) { e.Snapshots = nil }, warned},
		"another server has imported": {func(e *Evidence) {
			e.Snapshots["order"] = ImportEvidence{Clock: cdc.At(now), Followed: true, Reference: true}
		}, warned},
		"a message was settled": {func(e *Evidence) { e.Record.Settled.Sequence = 5000 }, warned},
		"messages were scanned": {func(e *Evidence) { e.Record.Scanned = 5000 }, warned},
	} {
		t.Run(name, func(t *testing.T) {
			e := Evidence{
				Destination: DestinationEvidence{Stores: true},
				Snapshots:   map[string]ImportEvidence{"order": {Clock: cdc.At(now), Followed: true}},
				Consumer:    &Consumer{Floor: 5000, Created: now.UnixNano()},
				Stream: StreamEvidence{
					First: 100, FirstStored: now.Add(-24 * time.Hour).UnixNano(), Stored: now.Add(-time.Minute).UnixNano(), Pending: 1,
				},
				Now: now,
			}
			c.change(&e)
			got := Decide(e)
			start := Start{From: FromSequence, Sequence: 5001}
			if name == "another import" {
				start = Start{From: FromTime, Time: now.Add(-ClockMargin)}
			}
			if got.Unverified != c.want || got.Gap != nil || !cmp.Equal(got.Start, start) {
				t.Errorf("%+v", got)
			}
		})
	}
}
