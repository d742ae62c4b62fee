package reconciler

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

func TestStartPosition_BoundsTheTimeOfAnUnappliedMessage(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	e := continuity.Evidence{
		Now: now, Record: continuity.Record{Settled: cdc.Position{Sequence: 9, Stored: 90}},
		Stream: continuity.StreamEvidence{FirstStored: 5, Stored: 80},
	}
	at := cdc.Position{Sequence: 9}
	for name, c := range map[string]struct {
		start continuity.Start
		at    cdc.Position
		want  int64
	}{
		"known":          {continuity.Start{From: continuity.FromSequence}, cdc.Position{Sequence: 9, Stored: 70}, 70},
		"no message":     {continuity.Start{From: continuity.FromNow}, cdc.Position{}, 0},
		"from a time":    {continuity.Start{From: continuity.FromTime, Time: now}, at, now.UnixNano()},
		"from now":       {continuity.Start{From: continuity.FromNow}, at, now.Add(continuity.ClockMargin).UnixNano()},
		"from the start": {continuity.Start{From: continuity.FromBeginning}, at, 5},
		"observed":       {continuity.Start{From: continuity.FromSequence}, at, 80},
		"not observed":   {continuity.Start{From: continuity.FromSequence}, cdc.Position{Sequence: 7}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := startPosition(continuity.Plan{Start: c.start}, c.at, &e)
			if want := (cdc.Position{Sequence: c.at.Sequence, Stored: c.want}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestDescribeMissingRows_NamesCompaniesAndTables(t *testing.T) {
	part := sink.LoadRecord{Table: "order", Scope: sink.Scope{Companies: []string{"a"}}}
	for name, c := range map[string]struct {
		ev   recordedEvidence
		want string
	}{
		"nothing": {},
		"a company that was added": {
			recordedEvidence{Records: sink.Records{Checkpoint: &sink.Recorded{Added: Subjects([]string{"b"})}}},
			"the rows of companies that were added are missing: b; to copy them, run: eds import",
		},
		"some rows": {
			recordedEvidence{Records: sink.Records{Snapshots: []sink.LoadRecord{part}}},
			"only some rows of these tables were imported: order; to copy all rows, run: eds import",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := describeMissingRows(&c.ev, []string{"b"}); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestSnapshots_ReportsLostRecords if a destination was emptied. It does not report records that an
// import of all tables has removed.
func TestSnapshots_ReportsLostRecords(t *testing.T) {
	imported := time.Unix(1_800_000_000, 0).UTC()
	here := state.DestinationKey{Identity: "here", ID: "id"}
	whole := sink.LoadRecord{Table: "part", Whole: true, Imported: imported.Add(time.Hour), Clock: cdc.At(imported)}
	for name, c := range map[string]struct {
		records []sink.LoadRecord
		id      string // that the destination has
		lost    bool
	}{
		"lost":                      {nil, "id", true},
		"imported again as a whole": {[]sink.LoadRecord{whole}, "id", false},
		"another destination":       {nil, "other", false},
	} {
		t.Run(name, func(t *testing.T) {
			p := begin(t, t.TempDir(), nil)
			p.must(p.State.RecordSnapshots(here, state.ImportRecord{Table: "order", ID: "id", Job: "j", Rows: 1, ImportedAt: imported}))
			ev := &recordedEvidence{at: here, id: c.id, recorder: recorderOnly{}, Records: sink.Records{ID: c.id, Snapshots: c.records}}
			_, err := (&follower{Reconciler: p.Reconciler}).snapshots(ev)
			gap := new(continuity.GapError)
			if errors.As(err, &gap) != c.lost || c.lost && (gap.Reason != continuity.Emptied || !cmp.Equal(gap.Tables, []string{"order"})) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// recorderOnly is a recorder none of whose methods is called.
type recorderOnly struct{ sink.Recorder }

// TestEvidence_CopiesRecordsOfTheDestination that the data directory lacks.
func TestEvidence_CopiesRecordsOfTheDestination(t *testing.T) {
	ev := &recordedEvidence{
		at: state.DestinationKey{ID: "id"}, local: map[string]state.ImportRecord{"known": {Table: "known", ID: "id"}},
		Records: sink.Records{Snapshots: []sink.LoadRecord{
			{Table: "known"},
			{Table: "seeded"},
			{Table: "order", Rows: 3, Job: "j"},
			{Table: "order", Rows: 1, Scope: sink.Scope{Companies: []string{"a"}}},
		}},
	}
	want := []state.ImportRecord{{Table: "order", Rows: 3, Job: "j", ID: "id"}}
	if diff := cmp.Diff(want, ev.copies([]string{"seeded"}), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

// filters is a destination that records the filters of other servers.
type filters []string

func (f filters) OtherFilters(context.Context) ([]string, error) {
	if f == nil {
		return nil, errors.New("the connection is lost")
	}
	return f, nil
}

func TestCompaniesToReplace_LimitsAnImportToItsCompanies(t *testing.T) {
	for name, c := range map[string]struct {
		granted, option []string
		others          sink.FilterReader
		want            []string
		fails           bool
	}{
		"all companies":         {granted: []string{AllCompanies}, others: filters{"dbchange.*.*.b.*.PUBLIC.>"}},
		"limited by the option": {granted: []string{"a"}, option: []string{"a"}, want: []string{"a"}},
		"no record of filters":  {granted: []string{"a"}},
		"the same companies":    {granted: []string{"a"}, others: filters(Subjects([]string{"a"}))},
		"another company":       {granted: []string{"a"}, others: filters(Subjects([]string{"b"})), want: []string{"a"}},
		"an error":              {granted: []string{"a"}, others: filters(nil), fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := &follower{
				Reconciler:   &Reconciler{Config: Config{Options: config.ServerSettings{CompanyIDs: c.option}}},
				StreamAccess: StreamAccess{Filters: Subjects(c.granted)},
			}
			destination := &sink.Opened{Capabilities: sink.Capabilities{FilterReader: c.others}}
			got, err := r.companiesToReplace(t.Context(), destination)
			if diff := cmp.Diff(c.want, got); diff != "" || (err != nil) != c.fails {
				t.Errorf("%v, %s", err, diff)
			}
		})
	}
}

func TestStalls_WarnsAboutEachPart(t *testing.T) {
	health := telemetry.NewHealth()
	report := stalls(health)
	warning := func() string {
		for _, w := range health.Report().Warnings {
			return w.Condition + ": " + w.Message
		}
		return ""
	}
	report("order", "order waits")
	report("part", "part waits")
	if got, want := warning(), "import: order waits; part waits"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	report("order", "")
	report("part", "")
	if got := warning(); got != "" {
		t.Errorf("at the end: %q", got)
	}
}

func TestImport_ContinuesAfterTheServerHasStopped(t *testing.T) {
	f := newFixture(t, sqliteURL(t))
	f.hq.set("order", "o1")
	slow, release := make(chan struct{}), make(chan struct{})
	f.hq.block(slow, release)
	f.start(nil)
	id, err := f.RequestImport(ImportRequest{Options: snapshot.Options{AllowEmpty: true}})
	f.must(err)
	<-slow
	go func() { close(release) }()
	f.end()
	f.start(nil)
	if _, err := f.WatchImport(t.Context(), id, func(snapshot.TableProgress, snapshot.Totals) {}); err != nil {
		t.Error(err)
	}
	f.awaitRows("order", "o1")
	f.end()
}

func TestImport_EndsIfItIsCanceled(t *testing.T) {
	f := newFixture(t, sqliteURL(t))
	slow, release := make(chan struct{}), make(chan struct{})
	f.hq.block(slow, release)
	defer close(release)
	f.start(nil)
	id, err := f.RequestImport(ImportRequest{})
	f.must(err)
	<-slow
	f.must(f.CancelImport(id))
	if _, err := f.WatchImport(t.Context(), id, func(snapshot.TableProgress, snapshot.Totals) {}); !errors.Is(err, errCanceled) {
		t.Errorf("got %v", err)
	}
	if f.ImportID() != "" {
		t.Errorf("the import %q is under way", f.ImportID())
	}
	f.end()
}
