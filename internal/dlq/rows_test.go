package dlq_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/dlq"
)

// putRows adds rows of an import, by their lines in a file.
func putRows(t *testing.T, q *dlq.Queue, i dlq.EntryImport, lines ...int64) {
	t.Helper()
	for _, line := range lines {
		e := dlq.Entry{
			Operation: "INSERT", Stored: 5, Keys: []string{i.Table}, Rows: [][]string{{i.Table}}, Reason: "out of range",
			Time: time.Unix(1, 0).UTC(), Payload: []byte("{}"),
		}
		if err := q.PutRow(i, "f.gz", line, e); err != nil {
			t.Fatal(err)
		}
	}
}

// rowsIn returns the entries that f chooses as "destination table job line".
func rowsIn(t *testing.T, q *dlq.Queue, f dlq.Filter) []string {
	t.Helper()
	all := []string{}
	for e, err := range q.List(f) {
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join([]string{e.Destination, e.Table, e.Job, strconv.FormatInt(e.Line, 10)}, " ")
		if e.State == dlq.Superseded {
			text += " superseded"
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return all
}

func expectRows(t *testing.T, q *dlq.Queue, f dlq.Filter, want ...string) {
	t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), rowsIn(t, q, f)); diff != "" {
		t.Errorf("the rows are %s", diff)
	}
}

func TestRows_AreOneEntryPerLineAndKeepWhereTheyAre(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	i := dlq.EntryImport{Destination: "d", Table: "order", Job: "j"}
	putRows(t, q, i, 7, 12, 7)
	q = open(t, dir)
	expectRows(t, q, dlq.Filter{}, "d order j 12", "d order j 7")
	if n := q.CountRows(i); n != 2 || q.Count("d").Waiting != 2 {
		t.Errorf("%d rows, %+v", n, q.Count("d"))
	}
	for e := range q.List(dlq.Filter{}) {
		shown, err := q.Show(e.ID)
		want := dlq.Entry{
			ID: e.ID, Stored: 5, Table: "order", Operation: "INSERT", Keys: []string{"order"}, Rows: [][]string{{"order"}},
			State: dlq.Waiting, Stage: dlq.StageImport, Reason: "out of range",
			Time: time.Unix(1, 0).UTC(), Size: 2, Payload: []byte("{}"), Destination: "d", Job: "j", File: "f.gz", Line: e.Line,
		}
		if diff := cmp.Diff(want, shown, cmpopts.IgnoreUnexported(dlq.Entry{})); diff != "" || err != nil {
			t.Errorf("%v: %s", err, diff)
		}
	}
}

func TestRows_AreSupersededByChangesOfTheStream(t *testing.T) {
	q := open(t, t.TempDir())
	i := dlq.EntryImport{Destination: "d", Table: "order", Job: "j"}
	putRows(t, q, i, 1)
	if err := q.Supersede("d", "order", []string{"order"}, cdc.Position{Sequence: 1, Stored: 1}); err != nil {
		t.Fatal(err)
	}
	expectRows(t, q, dlq.Filter{}, "d order j 1 superseded")
	if n := q.CountRows(i); n != 1 || q.Count("d").Waiting != 0 {
		t.Errorf("%d rows, %+v", n, q.Count("d"))
	}
}

func TestRows_AreDroppedByFileAndByImport(t *testing.T) {
	q := open(t, t.TempDir())
	first := dlq.EntryImport{Destination: "d", Table: "order", Job: "1"}
	second := dlq.EntryImport{Destination: "d", Table: "order", Job: "2"}
	others := []dlq.EntryImport{{Destination: "e", Table: "order", Job: "1"}, {Destination: "d", Table: "part", Job: "1"}}
	for _, i := range append(others, first, second) {
		putRows(t, q, i, 1)
	}
	put(t, q, entry(3, "order"))
	if err := q.DropEarlier(second); err != nil {
		t.Fatal(err)
	}
	kept := []string{"d part 1 1", "e order 1 1"}
	expectRows(t, q, dlq.Filter{Stage: dlq.StageImport}, append([]string{"d order 2 1"}, kept...)...)
	expectRows(t, q, dlq.Filter{Stage: dlq.StageImport, Destination: "e"}, "e order 1 1")
	for _, file := range []string{"other.gz", "f.gz"} {
		if err := q.DropFile(second, file); err != nil {
			t.Fatal(err)
		}
		if n := q.CountRows(second); (n == 0) != (file == "f.gz") {
			t.Errorf("%d rows are left", n)
		}
	}
	expectRows(t, q, dlq.Filter{Stage: dlq.StageImport}, kept...)
	if got, want := q.Count(""), (dlq.EntryCounts{Waiting: 2, Unknown: 1}); got != want {
		t.Errorf("got %+v, want two rows and an event: %+v", got, want)
	}
}
