package continuity

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestDecide_ReportsLossesInRandomWorlds that the enumeration does not contain: any length, any
// times, any mix of tenants and tables.
func TestDecide_ReportsLossesInRandomWorlds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, untouched := randomWorld(t)
		p := Decide(w.evidence())
		for table, lacks := range w.missing(p) {
			if lacks && !p.reports(table, &w) {
				t.Fatalf("table %s lacks changes, and the plan does not report it\nplan: %+v, gap: %v", tableNames[table], p, p.Gap)
			}
		}
		if untouched && (p.Gap != nil || p.Unverified != "") {
			t.Fatalf("nothing happened, and the plan reports it\nplan: %+v, gap: %v", p, p.Gap)
		}
	})
}

// randomWorld returns a world, and whether nothing happened in it except a graceful stop.
func randomWorld(t *rapid.T) (w world, untouched bool) {
	old := randomMessages(t, 1, 1, storedAt(1))
	w = world{first: 1, stream: old, history: slices.Clip(old), stores: rapid.Bool().Draw(t, "stores"), skew: drawSkew(t)}
	w.at = func(sequence uint64) int64 {
		for _, m := range old {
			if m.sequence == sequence {
				return m.stored
			}
		}
		return 0
	}
	w.now = old[len(old)-1].stored + int64(100*24*time.Hour)
	untouched = drawPositions(t, &w, old)
	if w.processed > 0 {
		untouched = drawStream(t, &w, old) && untouched
	}
	drawSnapshots(t, &w, old)
	for table := range tableNames {
		w.history = append(w.history, message{table: table, inX: true}, message{table: table})
	}
	return w, untouched && w.processed > 0
}

func drawSkew(t *rapid.T) int64 {
	margin := int64(ClockMargin - time.Minute)
	return rapid.Int64Range(-margin, margin).Draw(t, "skew")
}

func randomMessages(t *rapid.T, generation int, first uint64, start int64) []message {
	var out []message
	n := rapid.IntRange(1, 20).Draw(t, "messages")
	for i := range n {
		start += rapid.Int64Range(1, int64(5*time.Hour)).Draw(t, "after")
		table, inX := rapid.IntRange(none, 2).Draw(t, "table"), rapid.Bool().Draw(t, "in x")
		out = append(out, message{first + uint64(i), start, table, inX, generation})
	}
	return out
}

// drawPositions makes the server apply some messages. It reports whether all positions agree.
func drawPositions(t *rapid.T, w *world, old []message) bool {
	var ours []uint64
	for _, m := range old {
		if m.table != none {
			ours = append(ours, m.sequence)
		}
	}
	if len(ours) == 0 {
		return true
	}
	draw := func(label string) uint64 { return rapid.SampledFrom(append([]uint64{0}, ours...)).Draw(t, label) }
	w.settled = draw("settled")
	w.processed = w.settled
	if w.stores {
		w.checkpoint = draw("checkpoint")
		w.processed = max(w.settled, w.checkpoint)
	}
	next := uint64(len(old)) + 1
	if i := slices.IndexFunc(ours, func(n uint64) bool { return n > w.settled }); i >= 0 {
		next = ours[i]
	}
	if w.settled > 0 {
		w.scanned = rapid.Uint64Range(w.settled, next-1).Draw(t, "scanned")
	}
	if w.processed > 0 && rapid.Bool().Draw(t, "a consumer exists") {
		floor := rapid.Uint64Range(0, w.processed).Draw(t, "floor")
		w.consumer = &Consumer{Floor: floor, Acknowledged: floor > 0}
	}
	return w.settled > 0 && (!w.stores || w.checkpoint >= w.settled)
}

// drawStream may change the stream, and reports whether it has left the stream unchanged.
func drawStream(t *rapid.T, w *world, old []message) bool {
	created := old[len(old)-1].stored + int64(time.Hour)
	switch rapid.IntRange(0, 3).Draw(t, "stream") {
	case 1:
		dropped := rapid.IntRange(1, len(old)).Draw(t, "dropped")
		w.stream, w.first = old[dropped:], uint64(dropped)+1
	case 2:
		again := randomMessages(t, 2, 1, created)
		dropped := rapid.IntRange(0, len(again)).Draw(t, "dropped")
		w.stream, w.first, w.history, w.consumer = again[dropped:], uint64(dropped)+1, append(w.history, again...), nil
	case 3:
		kept := rapid.IntRange(1, len(old)).Draw(t, "kept")
		lastRead := max(w.settled, w.checkpoint)
		if uint64(kept) >= lastRead {
			return true // every read message is still there
		}
		again := randomMessages(t, 2, uint64(kept)+1, created)
		w.stream, w.history = append(slices.Clip(old[:kept]), again...), append(w.history, again...)
	default:
		return true
	}
	return false
}

func drawSnapshots(t *rapid.T, w *world, old []message) {
	kind := rapid.IntRange(0, 2).Draw(t, "snapshots")
	for i := range w.snapshots {
		if kind == 0 || kind == 1 && rapid.Bool().Draw(t, "not imported") {
			continue
		}
		s := &snapshot{taken: w.skew + rapid.Int64Range(old[0].stored, old[len(old)-1].stored).Draw(t, "taken")}
		switch {
		case kind == 2:
			s.whole = true
		case w.processed > 0:
			s.followed = rapid.Bool().Draw(t, "followed")
		}
		s.partial = kind == 1 && rapid.Bool().Draw(t, "partial")
		if s.followed { // it is older than the messages read since
			s.taken = w.skew + old[0].stored
		}
		w.snapshots[i] = s
	}
}
