package snapshot_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/change"
)

// TestLongLines_AreLoadedAlone, so that memory holds long lines of one file only.
func TestLongLines_AreLoadedAlone(t *testing.T) {
	long := func(id string) string {
		return fmt.Sprintf(`{"id":%q,"n":"%s"}`+"\n", id, strings.Repeat("v", 3<<20))
	}
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		w.put("order", rowsOf(0, 50)+"[]\n"+long("x1")+long("x2"), rowsOf(100, 100), long("x3")+rowsOf(200, 5))
		w.put("customer", long("y1"), long("y2")+rowsOf(0, 3))
		w.put("vendor", rowsOf(0, 400), rowsOf(400, 400), rowsOf(800, 400))
		var seen atomic.Int64
		var longRows atomic.Int64
		d.row = func(_ int, row *change.Row) error {
			n := seen.Add(1)
			<-time.After(time.Millisecond) // of the bubble: the rows of other files come meanwhile
			if len(row.Image) < 1<<20 {
				return nil
			}
			if others := seen.Load() - n; others > 0 {
				t.Errorf("%d other rows were loaded beside a long one", others)
			}
			longRows.Add(1)
			return nil
		}
		report, err := w.run(t.Context(), d, w.withQueue)
		if err != nil {
			t.Fatal(err)
		}
		if longRows.Load() != 5 || report.Rows != 50+2+100+1+5+1+1+3+1200 || report.Refused != 1 {
			t.Errorf("%d long rows, %d rows, %d refused", longRows.Load(), report.Rows, report.Refused)
		}
		if letters := w.letters(); len(letters) != 1 {
			t.Errorf("the dead letters are %q", letters)
		}
		if diff := cmp.Diff(rows(0, 1200), d.live("vendor")); diff != "" {
			t.Errorf("vendor: %.300s", diff)
		}
	})
}

func TestLongLines_AreBoundedLikeMessages(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		w.put("customer", rowsOf(0, 3)+`{"id":"x","n":"`+strings.Repeat("v", 65<<20)+`"}`+"\n")
		_, err := w.run(t.Context(), d, nil)
		want := "1 of 3 tables were not imported: customer: file " + fileName("customer", 1) + ", line 4: it is longer than 64 MiB"
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}
