package reconciler

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/state"
)

func TestTakeOver_RecordsTheImportOfTheReferenceServer(t *testing.T) {
	times := `[{"Table":"order","Timestamp":"2026-10-01T00:00:00Z"},{"Table":"customer","Timestamp":"2026-10-02T00:00:00.5Z"}]`
	readable := fmt.Sprintf("*3\r\n$3\r\nset\r\n$12\r\ntable-export\r\n$%d\r\n%s\r\n", len(times), times)
	here, there := &Destination{DestinationKey: Named("sqlite:///here.db", nil)}, "sqlite:///there.db"
	at := func(day int, ns int) cdc.Timestamp { return cdc.At(time.Date(2026, 10, day, 0, 0, 0, ns, time.UTC)) }
	order := continuity.ImportEvidence{Clock: at(1, 0), Reference: true}
	customer := continuity.ImportEvidence{Clock: at(2, 5e8), Reference: true}
	imported := state.ImportRecord{Table: "order", Clock: state.Clock{Timestamp: at(20, 0)}, Job: "j", Rows: 7, Destination: here.Masked}
	own := continuity.ImportEvidence{Clock: at(20, 0)}
	with := func(change func(*state.ImportRecord)) []state.ImportRecord {
		s := imported
		change(&s)
		return []state.ImportRecord{s}
	}
	type snapshots = map[string]continuity.ImportEvidence
	for name, c := range map[string]struct {
		file   string // "": none
		own    []state.ImportRecord
		want   snapshots
		unread bool
	}{
		"no reference server": {want: snapshots{}},
		"its import":          {file: readable, want: snapshots{"order": order, "customer": customer}},
		"an import of one table since": {
			file: readable, own: []state.ImportRecord{imported}, want: snapshots{"order": own, "customer": customer},
		},
		"an import of all tables since": {
			file: readable, own: with(func(s *state.ImportRecord) { s.Whole = true }),
			want: snapshots{"order": {Clock: own.Clock, Whole: true}},
		},
		"an import of the schema since": {
			file: readable, own: with(func(s *state.ImportRecord) { s.Job, s.Rows, s.Whole = "", 0, true }),
			want: snapshots{"order": order, "customer": customer},
		},
		"the same, after an unreadable one": {
			file: "?", own: with(func(s *state.ImportRecord) { s.Job, s.Rows, s.Whole = "", 0, true }),
			want: snapshots{"order": {Clock: own.Clock, Whole: true}}, unread: true,
		},
		"an import somewhere else": {
			file: readable, own: with(func(s *state.ImportRecord) { s.Destination, s.Whole = there, true }),
			want: snapshots{"order": order, "customer": customer},
		},
		"unreadable":                    {file: "?", want: snapshots{}, unread: true},
		"the same, and one table since": {file: "?", own: []state.ImportRecord{imported}, want: snapshots{"order": own}, unread: true},
		"the same, and all tables since": {
			file: "?", own: with(func(s *state.ImportRecord) { s.Whole = true }),
			want: snapshots{"order": {Clock: own.Clock, Whole: true}},
		},
		"a reference server with no import": {file: "*1\r\n$7\r\nflushdb\r\n", want: snapshots{}},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			if c.file != "" {
				if err := os.WriteFile(path+"/eds-data.db", []byte(c.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			dir, err := state.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			if err := record(dir, c.own); err != nil {
				t.Fatal(err)
			}
			r := &Reconciler{Config: Config{State: dir, Logger: slog.New(slog.DiscardHandler)}}
			unread, err := r.takeOver(here)
			if err != nil || (unread != nil) != c.unread || unread != nil && !errors.As(unread, new(*state.ReferenceError)) {
				t.Errorf("takeOver: %v, %v", unread, err)
			}
			got, err := (&follower{Reconciler: r}).snapshots(&recordedEvidence{at: here.DestinationKey})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if pending, err := dir.HasReference(); err != nil || pending != c.unread {
				t.Errorf("a reference server is pending: %v, %v", pending, err)
			}
		})
	}
}

// record records snapshots, each for its own destination.
func record(dir *state.Dir, all []state.ImportRecord) error {
	for _, s := range all {
		if err := dir.RecordSnapshots(Named(s.Destination, nil), s); err != nil {
			return err
		}
	}
	return nil
}

// TestTakeOver_HappensOnce even if the reference server imports again later, after a rollback.
func TestTakeOver_HappensOnce(t *testing.T) {
	path := t.TempDir()
	dir, err := state.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := os.WriteFile(path+"/eds-data.db", []byte("?"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &Reconciler{Config: Config{State: dir, Logger: slog.New(slog.DiscardHandler)}}
	if unread, err := r.takeOver(&Destination{}); unread != nil || err != nil {
		t.Errorf("takeOver: %v, %v", unread, err)
	}
	if all, err := dir.Snapshots(state.DestinationKey{}); err != nil || len(all) > 0 {
		t.Errorf("recorded: %v, %v", slices.Collect(maps.Keys(all)), err)
	}
}
