package state_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/state"
)

// at returns a destination that earlier versions know by the given spellings. The first is the
// current one.
func at(identity string, spellings ...string) state.DestinationKey {
	d := state.DestinationKey{Identity: identity, Same: func(recorded string) bool { return slices.Contains(spellings, recorded) }}
	if len(spellings) > 0 {
		d.Masked, d.Spelled = spellings[0], spellings[0]
	}
	return d
}

// earlierVersion reads and writes a data directory like the release that identifies destinations
// by their spelling.
type earlierVersion struct {
	t    *testing.T
	path string
}

func (e earlierVersion) update(change func(tx *bbolt.Tx)) {
	e.t.Helper()
	db, err := bbolt.Open(e.path+"/eds.db", 0o600, nil)
	must(e.t, err)
	must(e.t, db.Update(func(tx *bbolt.Tx) error { change(tx); return nil }))
	must(e.t, db.Close())
}

func (e earlierVersion) put(bucket, key string, value any) {
	e.t.Helper()
	text, err := json.Marshal(value)
	must(e.t, err)
	e.update(func(tx *bbolt.Tx) { must(e.t, tx.Bucket([]byte(bucket)).Put([]byte(key), text)) })
}

// position returns the sequence that the earlier version reads for a consumer and a spelling. The
// sequence comes from the current record or from the kept record.
func (e earlierVersion) position(consumer, spelling string) (sequence uint64) {
	e.t.Helper()
	e.update(func(tx *bbolt.Tx) {
		var s struct {
			Position    cdc.Position `json:"position"`
			Destination string       `json:"destination"`
		}
		must(e.t, json.Unmarshal(tx.Bucket([]byte("positions")).Get([]byte(consumer)), &s))
		if text := tx.Bucket([]byte("positions")).Get([]byte(consumer + "\x00" + spelling)); s.Destination != spelling && text != nil {
			must(e.t, json.Unmarshal(text, &s))
		}
		sequence = s.Position.Sequence
	})
	return sequence
}

func settledAt(sequence uint64) state.Settled {
	return state.Settled{Position: cdc.Position{Sequence: sequence, Stored: 1}, At: time.Unix(int64(sequence), 0).UTC()}
}

// TestSettled_IsKeptByDestination follows the stream into one destination, into another, and
// into the first again.
func TestSettled_IsKeptByDestination(t *testing.T) {
	d := open(t, t.TempDir())
	one, other := at("one"), at("other")
	expect := func(destination state.DestinationKey, sequence uint64, wantOwn, elsewhere bool) {
		t.Helper()
		got, own, err := d.Settled("eds", destination)
		if got.Position.Sequence != sequence || own != wantOwn || got.Elsewhere != elsewhere || err != nil {
			t.Errorf("%s: %d, own %v, elsewhere %v, %v", destination.Identity, got.Position.Sequence, own, got.Elsewhere, err)
		}
	}
	expect(one, 0, false, false)
	must(t, d.RecordSettled("eds", one, settledAt(200)))
	expect(one, 200, true, false)
	expect(other, 200, false, false) // the record of the other destination
	must(t, d.RecordSettled("eds", other, settledAt(300)))
	must(t, d.RecordSettled("eds", other, settledAt(400)))
	d = reopened(t, d)
	expect(one, 200, true, true)
	expect(other, 400, true, false)
	must(t, d.RecordSettled("eds", one, settledAt(500)))
	expect(one, 500, true, false)
	expect(other, 400, true, true)
	if _, own, err := d.Settled("eds-2", one); own || err != nil {
		t.Errorf("another consumer's: %v, %v", own, err)
	}
}

// TestSettled_IsFoundAfterAnUpgradeAndARollback reads records of an earlier version under several
// spellings, and lets the earlier version read the new records.
func TestSettled_IsFoundAfterAnUpgradeAndARollback(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	e := earlierVersion{t, path}
	away := func(do func()) {
		t.Helper()
		must(t, d.Close())
		do()
		d = open(t, path)
	}
	record := func(sequence uint64, destination string) state.Settled {
		s := settledAt(sequence)
		s.Destination = destination
		return s
	}
	one, other := at("pg://one", "postgresql://one", "postgres://one"), at("pg://other", "postgres://other")
	expect := func(destination state.DestinationKey, want uint64) {
		t.Helper()
		if got, own, err := d.Settled("eds", destination); got.Position.Sequence != want || !own || err != nil {
			t.Errorf("%s: %d, own %v, %v, want %d", destination.Identity, got.Position.Sequence, own, err, want)
		}
	}
	away(func() {
		e.put("positions", "eds", record(100, "postgres://other"))
		e.put("positions", "eds\x00postgres://one", record(70, "postgres://one"))
		e.put("positions", "eds\x00postgresql://one", record(60, "postgresql://one"))
	})
	expect(one, 70)
	expect(other, 100)
	must(t, d.RecordSettled("eds", one, settledAt(110)))
	expect(one, 110)
	expect(other, 100)
	away(func() {
		if got := []uint64{
			e.position("eds", "postgresql://one"), e.position("eds", "postgres://other"),
		}; !slices.Equal(got, []uint64{110, 100}) {
			t.Errorf("the earlier version finds %v", got)
		}
		// The earlier version follows the stream into the other destination, and into the first one
		// again.
		e.put("positions", "eds\x00postgresql://one", record(120, "postgresql://one"))
		e.put("positions", "eds", record(130, "postgres://other"))
	})
	expect(one, 120)
	expect(other, 130)
	away(func() { e.put("positions", "eds", record(140, "")) })
	expect(one, 140) // a record of an unknown destination
}

// TestSettled_DistinguishesDestinationsOfOneSpelling uses two topics that differ in an option,
// which earlier versions do not distinguish.
func TestSettled_DistinguishesDestinationsOfOneSpelling(t *testing.T) {
	d := open(t, t.TempDir())
	a, b := at("kafka://b/a", "kafka://b"), at("kafka://b/b", "kafka://b")
	must(t, d.RecordSettled("eds", a, settledAt(10)))
	must(t, d.RecordSettled("eds", b, settledAt(20)))
	for want, destination := range map[uint64]state.DestinationKey{10: a, 20: b} {
		if got, own, err := d.Settled("eds", destination); got.Position.Sequence != want || !own || err != nil {
			t.Errorf("%s: %d, own %v, %v", destination.Identity, got.Position.Sequence, own, err)
		}
	}
}

// TestSettled_FollowsTheID moves a database with an id to another address, and puts another
// database at the old one.
func TestSettled_FollowsTheID(t *testing.T) {
	d := open(t, t.TempDir())
	one := at("pg://one")
	must(t, d.RecordSettled("eds", one, settledAt(10))) // before it had an id
	one.ID = "A"
	if got, own, err := d.Settled("eds", one); got.Position.Sequence != 10 || !own || err != nil {
		t.Errorf("before it had an id: %d, own %v, %v", got.Position.Sequence, own, err)
	}
	must(t, d.RecordSettled("eds", one, settledAt(20)))
	moved, another := at("pg://moved"), at("pg://one")
	moved.ID, another.ID = "A", "B"
	if got, own, err := d.Settled("eds", moved); got.Position.Sequence != 20 || !own || err != nil {
		t.Errorf("at another address: %d, own %v, %v", got.Position.Sequence, own, err)
	}
	if _, own, err := d.Settled("eds", another); own || err != nil {
		t.Errorf("another one: own %v, %v", own, err)
	}
}

func TestBatchBoundaries_AreKeptByConsumerAndDestination(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	one, other := at("one", "a://one"), at("other", "a://other")
	expect := func(consumer string, destination state.DestinationKey, want ...uint64) {
		t.Helper()
		if got, err := d.BatchBoundaries(consumer, destination); !slices.Equal(got, want) || err != nil {
			t.Errorf("%s, %s: %v, %v, want %v", consumer, destination.Identity, got, err, want)
		}
	}
	must(t, d.RecordBatchBoundaries("eds", one, []uint64{7, 9007199254740993}))
	must(t, d.RecordBatchBoundaries("eds-2", one, []uint64{3}))
	expect("eds", other)
	must(t, d.RecordBatchBoundaries("eds", other, []uint64{20}))
	d = reopened(t, d)
	expect("eds", one, 7, 9007199254740993)
	expect("eds", other, 20)
	expect("eds-2", one, 3)
	must(t, d.RecordBatchBoundaries("eds", other, nil))
	expect("eds", other)
	expect("eds", one, 7, 9007199254740993)
	// An earlier version continues with the followed destination.
	must(t, d.RecordSettled("eds", one, settledAt(8)))
	must(t, d.RecordBatchBoundaries("eds", one, []uint64{30}))
	must(t, d.Close())
	earlierVersion{t, path}.put("ends", "eds", []uint64{40})
	d = open(t, path)
	expect("eds", one, 40)
	expect("eds", other)
}

func snapshotOf(table string, clock int64, change ...func(*state.ImportRecord)) state.ImportRecord {
	s := state.ImportRecord{
		Table: table, Clock: state.Clock{Timestamp: cdc.Timestamp{Wall: clock}}, Job: "j", Rows: 1, ImportedAt: time.Unix(clock, 0).UTC(),
	}
	for _, do := range change {
		do(&s)
	}
	return s
}

// TestSnapshots_AreKeptByDestination imports into one destination, into another, and into the
// first again.
func TestSnapshots_AreKeptByDestination(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	one, other := at("one", "a://one"), at("other", "a://other")
	clocks := func(destination state.DestinationKey) map[string]int64 {
		t.Helper()
		all, err := d.Snapshots(destination)
		must(t, err)
		found := make(map[string]int64)
		for table, s := range all {
			found[table] = s.Clock.Wall
		}
		return found
	}
	expect := func(destination state.DestinationKey, want map[string]int64) {
		t.Helper()
		if diff := cmp.Diff(want, clocks(destination)); diff != "" {
			t.Errorf("%s: %s", destination.Identity, diff)
		}
	}
	must(t, d.RecordSnapshots(one, snapshotOf("order", 1), snapshotOf("customer", 1)))
	must(t, d.FinishTable(other, snapshotOf("order", 2)))
	d = reopened(t, d)
	expect(one, map[string]int64{"order": 1, "customer": 1})
	expect(other, map[string]int64{"order": 2})
	must(t, d.Adopt(one))
	must(t, d.MarkBegun("order"))
	must(t, d.Adopt(other))
	expect(one, map[string]int64{"order": 1, "customer": 1})
	all, err := d.Snapshots(one)
	if must(t, err); !all["order"].Begun || all["customer"].Begun {
		t.Errorf("the followed snapshots are %+v", all)
	}
	must(t, d.FinishTable(one, snapshotOf("order", 3)))
	expect(one, map[string]int64{"order": 3, "customer": 1})
	expect(other, map[string]int64{"order": 2})
	must(t, d.Close())
	// An earlier version knows only one snapshot per table: the snapshot of the followed
	// destination.
	e := earlierVersion{t, path}
	e.update(func(tx *bbolt.Tx) {
		must(t, tx.Bucket([]byte("snapshots")).ForEach(func(key, text []byte) error {
			var s state.ImportRecord
			if err := json.Unmarshal(text, &s); err != nil || s.Table != string(key) || s.Destination != "a://one" {
				t.Errorf("%s: %s, %v", key, text, err)
			}
			return nil
		}))
	})
	e.put("snapshots", "order", snapshotOf("order", 4, func(s *state.ImportRecord) { s.Destination = "a://other" }))
	d = open(t, path)
	expect(other, map[string]int64{"order": 4})
}

// TestAdopt_KeepsSnapshotsOfAnEarlierVersionUnderAnotherSpelling changes the spelling of the URL at
// the upgrade, and later changes an environment variable that the URL uses.
func TestAdopt_KeepsSnapshotsOfAnEarlierVersionUnderAnotherSpelling(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	must(t, d.Close())
	e := earlierVersion{t, path}
	e.put("snapshots", "order", snapshotOf("order", 1, func(s *state.ImportRecord) { s.Destination = "postgres://${HOST}/shop" }))
	d = open(t, path)
	one := at("pg://one/shop", "postgresql://one/shop", "postgres://${HOST}/shop")
	must(t, d.Adopt(one))
	got, err := d.Snapshots(one)
	must(t, err)
	want := snapshotOf("order", 1, func(s *state.ImportRecord) { s.Identity, s.Destination = one.Identity, one.Masked })
	if diff := cmp.Diff(map[string]state.ImportRecord{"order": want}, got); diff != "" {
		t.Error(diff)
	}
	if got, err := d.Snapshots(at("pg://two/shop", "postgres://${HOST}/shop")); err != nil || len(got) > 0 {
		t.Errorf("another host has %v, %v", got, err)
	}
}

// TestRecordSnapshots_KeepsTheClockOfTheLastReplacement under any spelling. A replacement in
// another destination does not count.
func TestRecordSnapshots_KeepsTheClockOfTheLastReplacement(t *testing.T) {
	partial := func(s *state.ImportRecord) { s.Partial = true }
	one := at("one", "a://one")
	respelled := at("one", "b://one", "a://one")
	for name, finish := range map[string]func(d *state.Dir, at state.DestinationKey, s state.ImportRecord) error{
		"RecordSnapshots": func(d *state.Dir, at state.DestinationKey, s state.ImportRecord) error {
			return d.RecordSnapshots(at, s)
		},
		"FinishTable": (*state.Dir).FinishTable,
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t, t.TempDir())
			must(t, finish(d, one, snapshotOf("order", 1)))
			must(t, finish(d, at("other"), snapshotOf("order", 2)))
			must(t, finish(d, respelled, snapshotOf("order", 3, partial)))
			must(t, finish(d, respelled, snapshotOf("order", 4, partial)))
			all, err := d.Snapshots(one)
			must(t, err)
			s := all["order"]
			if got := s.Replaced(); got.Wall != 1 || s.Partial {
				t.Errorf("replaced at %v by a snapshot of %v, partial: %v", got, s.Clock, s.Partial)
			}
		})
	}
}

// TestRecordSnapshots_KeepsTheClockThatWasNotFollowed of an earlier import, if a later import loads
// only some of the rows.
func TestRecordSnapshots_KeepsTheClockThatWasNotFollowed(t *testing.T) {
	part := func(s *state.ImportRecord) { s.Partial = true }
	whole := func(s *state.ImportRecord) { s.Whole = true }
	begun := func(s *state.ImportRecord) { s.Begun = true }
	schemaOnly := func(s *state.ImportRecord) { s.Job, s.Rows = "", 0 }
	for name, test := range map[string]struct {
		before, after  state.ImportRecord
		clock          int64
		partial, whole bool
	}{
		"complete":           {snapshotOf("order", 3, whole), snapshotOf("order", 5, part), 3, false, true},
		"complete, followed": {snapshotOf("order", 3, whole, begun), snapshotOf("order", 5, part), 5, true, false},
		"partial":            {snapshotOf("order", 3, part), snapshotOf("order", 5, part), 3, true, false},
		"partial, followed":  {snapshotOf("order", 3, part, begun), snapshotOf("order", 5, part), 5, true, false},
		"newer":              {snapshotOf("order", 5), snapshotOf("order", 3, part), 3, false, false},
		"schema only":        {snapshotOf("order", 3, schemaOnly), snapshotOf("order", 5, part), 3, true, false},
		"replaced":           {snapshotOf("order", 3, part), snapshotOf("order", 5), 5, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			d, here := open(t, t.TempDir()), at("here", "a://here")
			must(t, d.RecordSnapshots(here, test.before))
			must(t, d.RecordSnapshots(here, test.after))
			all, err := d.Snapshots(here)
			must(t, err)
			if s := all["order"]; s.Clock.Wall != test.clock || s.Partial != test.partial || s.Whole != test.whole || s.Begun {
				t.Errorf("the record is %+v", s)
			}
		})
	}
}

func TestFinishWholeImport_RemovesTablesThatLeft(t *testing.T) {
	d := open(t, t.TempDir())
	here, there := at("here", "a://here"), at("there", "a://there")
	must(t, d.RecordSnapshots(here, snapshotOf("imported", 1), snapshotOf("absent", 1), snapshotOf("left", 1)))
	must(t, d.RecordSnapshots(there, snapshotOf("elsewhere", 1), snapshotOf("left", 2)))
	must(t, d.FinishWholeImport(here, []string{"imported"}, []string{"imported", "absent"}))
	whole := func(table string) bool {
		all, err := d.Snapshots(here)
		must(t, err)
		return all[table].Whole
	}
	all, err := d.Snapshots(here)
	if must(t, err); len(all) != 2 || !whole("imported") || whole("absent") {
		t.Errorf("here: %+v", all)
	}
	if all, err = d.Snapshots(there); err != nil || len(all) != 2 || all["elsewhere"].Whole {
		t.Errorf("there: %+v, %v", all, err)
	}
	if _, underWay, err := d.Import(); err != nil || underWay {
		t.Errorf("the import is under way: %v, %v", underWay, err)
	}
}

func TestHeldID_IsKnownOnceRecorded(t *testing.T) {
	d := open(t, t.TempDir())
	made, err := d.DestinationID("one")
	if must(t, err); made == "" {
		t.Error("no id was generated")
	}
	if held, err := d.HeldID("one"); held != "" || err != nil {
		t.Errorf("it holds %q, %v", held, err)
	}
	must(t, d.RecordHeldID("one", "other"))
	d = reopened(t, d)
	held, err := d.HeldID("one")
	id, e := d.DestinationID("one")
	if err := errors.Join(err, e); held != "other" || id != "other" || err != nil {
		t.Errorf("it holds %q, its id is %q, %v", held, id, err)
	}
	if again, err := d.DestinationID("two"); again == "other" || strings.TrimSpace(again) == "" || err != nil {
		t.Errorf("another one's id is %q, %v", again, err)
	}
}

func TestWorked_IsRecordedPerDestination(t *testing.T) {
	path := t.TempDir()
	d, err := state.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.RecordWorked("postgres://h/a"); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = state.Open(path); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for identity, want := range map[string]bool{"postgres://h/a": true, "postgres://h/b": false} {
		if got, err := d.Worked(identity); got != want || err != nil {
			t.Errorf("%s has worked: %v, %v", identity, got, err)
		}
	}
}
