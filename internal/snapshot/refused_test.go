package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// queue opens the dead-letter queue of the world.
func (w *world) queue() *dlq.Queue {
	w.t.Helper()
	q, err := dlq.Open(w.root + "/data/dlq")
	if err != nil {
		w.t.Fatal(err)
	}
	return q
}

// withQueue makes rows that cannot be loaded dead letters.
func (w *world) withQueue(c *snapshot.Config) { c.Dead = w.queue() }

// letters returns the dead letters as text, by file and line.
func (w *world) letters() []string {
	w.t.Helper()
	var all []string
	for e, err := range w.queue().List(dlq.Filter{}) {
		if err != nil {
			w.t.Fatal(err)
		}
		shown, err := w.queue().Show(e.ID)
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%s %s %s %s %d: %s: %s", e.Table, e.Operation, e.Stage, e.File, e.Line, e.Reason, shown.Payload))
	}
	slices.Sort(all)
	return all
}

// without returns the rows of order in everyRow, except the rows with the given ids.
func without(ids ...int) []string {
	return slices.DeleteFunc(rows(0, 205), func(row string) bool {
		return slices.ContainsFunc(ids, func(id int) bool { return row == rows(id, 1)[0] })
	})
}

var errOutOfRange = fault.Mark(fault.Poison, errors.New("value out of range"))

// refusingRows makes the destination refuse the rows with the given ids.
func refusingRows(ids ...string) func(int, *change.Row) error {
	return func(_ int, row *change.Row) error {
		if slices.Contains(ids, string(row.Value(0))) {
			return errOutOfRange
		}
		return nil
	}
}

func TestRefusedRows_AreDeadLettersAndTheOthersAreLoaded(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		first, second := fileName("order", 1), fileName("order", 2)
		w.files[second] = zipped(rowsOf(100, 49) + `{"id":"r00149","n":` + "\n\n" + `{"n":5}` + "\n" + rowsOf(150, 50))
		d.row = refusingRows(`"r00069"`, `"r00160"`)
		report, err := w.run(t.Context(), d, w.withQueue)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, d, map[string][]string{"order": without(69, 149, 160), "customer": rows(0, 3), "vendor": {}})
		if clocks, underWay := w.clocks(); !cmp.Equal(clocks, everyClock) || underWay {
			t.Errorf("under way: %v, clocks: %v", underWay, clocks)
		}
		got := make(map[string]int)
		for _, table := range report.Tables {
			got[table.Table] = table.Refused
		}
		if diff := cmp.Diff(
			map[string]int{"order": 4, "customer": 0, "vendor": 0}, got,
		); diff != "" || report.Refused != 4 || report.Rows != 205 {
			t.Errorf("%d rows, %d refused: %s", report.Rows, report.Refused, diff)
		}
		event := func(id, n, clock string) string {
			return fmt.Sprintf(`"table":"order","key":[%q],"modelVersion":"1","after":{"id":%q,"n":%s},"timestamp":%s`, id, id, n, clock)
		}
		letters := w.letters()
		for i, want := range []struct{ head, part string }{
			{
				"order INSERT import " + first + " 70: file " + first + ", line 70: value out of range: ",
				event("r00069", "69", "1795330801123"),
			},
			{
				"order INSERT import " + second + " 50: file " + second + ", line 50: not valid json at byte 19: want a value: ",
				`{"id":"r00149","n":`,
			},
			{
				"order INSERT import " + second + " 52: file " + second + `, line 52: the row has no value for "id" of its primary key: `,
				`{"n":5}`,
			},
			{
				"order INSERT import " + second + " 63: file " + second + ", line 63: value out of range: ",
				event("r00160", "160", "1795330802123"),
			},
		} {
			if i >= len(letters) || !strings.HasPrefix(letters[i], want.head) || !strings.Contains(letters[i], want.part) {
				t.Errorf("want the dead letter %d: %s...%s", i, want.head, want.part)
			}
		}
		if len(letters) != 4 || !strings.Contains(w.log.String(), "eds dlq list --table order") {
			t.Errorf("the dead letters are\n%s", strings.Join(letters, "\n"))
		}
	})
}

func TestRefusedRows_FailTheTableIfStrict(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		d.row = refusingRows(`"r00069"`)
		_, err := w.run(t.Context(), d, func(c *snapshot.Config) {
			w.withQueue(c)
			c.Strict = true
		})
		want := oneOfThree + "order: file " + fileName("order", 1) + ", line 70 or before: value out of range"
		if err == nil || err.Error() != want {
			t.Errorf("got %v", err)
		}
		expect(t, d, map[string][]string{"order": {"old"}, "customer": rows(0, 3)})
		if letters := w.letters(); len(letters) > 0 {
			t.Errorf("there are dead letters: %q", letters)
		}
	})
}

// TestRefusedRows_FailTheTableIfTheyAreTooMany: 101 of 1,000 lines, spread over two files, are
// refused.
func TestRefusedRows_FailTheTableIfTheyAreTooMany(t *testing.T) {
	for name, c := range map[string]struct {
		text    string
		refused []string
	}{
		"lines":     {strings.Repeat("[]\n", 51), nil},
		"of a sink": {rowsOf(1000, 51), ids(1000, 51)},
		"of both":   {strings.Repeat("[]\n", 20) + rowsOf(1000, 31), ids(1000, 31)},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world, d *destination) {
				w.put("order", rowsOf(0, 899), strings.Repeat("{}\n", 50), c.text)
				d.row = refusingRows(c.refused...)
				_, err := w.run(t.Context(), d, w.withQueue)
				want := "order: more than 100 of 1000 rows cannot be loaded, the last one: file " + fileName("order", 3) + ", line "
				if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(
					err.Error(), "; see: eds dlq list --table order",
				) {
					t.Errorf("got %v", err)
				}
				expect(t, d, map[string][]string{"order": {"old"}, "customer": rows(0, 3)})
				if n := len(w.letters()); n != 100 {
					t.Errorf("%d dead letters, want the first 100", n)
				}
			})
		})
	}
	inWorld(t, func(t *testing.T, w *world, d *destination) { // the same number, but farther apart
		w.put("order", strings.Repeat("{}\n", 50)+rowsOf(0, 950), strings.Repeat("{}\n", 51))
		if report, err := w.run(t.Context(), d, w.withQueue); err != nil || report.Refused != 101 {
			t.Errorf("%d refused, %v", report.Refused, err)
		}
		expect(t, d, map[string][]string{"order": rows(0, 950)})
	})
}

// ids returns the raw ids of n rows of rowsOf.
func ids(first, n int) (all []string) {
	for i := first; i < first+n; i++ {
		all = append(all, fmt.Sprintf(`"r%05d"`, i))
	}
	return all
}

func TestRefusedRows_KeepTheTableIfAllAreRefused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		w.put("customer", "[]\n[]\n")
		_, err := w.run(t.Context(), d, w.withQueue)
		const want = "customer: all rows of the snapshot were refused, so the table keeps its rows; see: eds dlq list --table customer"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v", err)
		}
		expect(t, d, map[string][]string{"order": rows(0, 205), "customer": {"old"}})
	})
}

// TestRefusedRows_AreKeptOnceIfTheImportIsResumed after an interruption before or after each
// operation.
func TestRefusedRows_AreKeptOnceIfTheImportIsResumed(t *testing.T) {
	for _, at := range []string{"begin", "load", "loaded", "finish", "finished"} {
		t.Run(at, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world, d *destination) {
				w.files[fileName("order", 2)] = zipped(rowsOf(100, 99) + "[]\n")
				d.row = refusingRows(`"r00069"`, `"r00201"`)
				ctx, cancel := context.WithCancelCause(t.Context())
				d.fail = func(operation, table, file string) error {
					if operation == at && table == "order" && (file == "" || file == fileName("order", 2)) && ctx.Err() == nil {
						cancel(errors.New("the power is cut"))
						return ctx.Err()
					}
					return nil
				}
				if _, err := w.run(ctx, d, w.withQueue); err == nil {
					t.Error("the import was not interrupted")
				}
				report, err := w.run(t.Context(), d, w.withQueue)
				if err != nil || report.Refused != 3 {
					t.Errorf("%d refused, %v", report.Refused, err)
				}
				expect(t, d, map[string][]string{"order": without(69, 199, 201)})
				if letters := w.letters(); len(letters) != 3 {
					t.Errorf("the dead letters are\n%s", strings.Join(letters, "\n"))
				}
			})
		})
	}
}

// TestRefusedRows_OfEarlierImportsAreDropped after an import of all rows of the table.
func TestRefusedRows_OfEarlierImportsAreDropped(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		d.row = refusingRows(`"r00069"`, `"r00002"`)
		runs := []struct {
			change func(c *snapshot.Config)
			want   int
		}{
			{func(*snapshot.Config) {}, 3}, // of order and customer
			{func(c *snapshot.Config) { c.Only = []string{"order"} }, 3},
			{func(c *snapshot.Config) { c.Only, c.NoDelete = []string{"order"}, true }, 5},
			{func(c *snapshot.Config) { c.Destination = named("disk://elsewhere") }, 8},
			{func(*snapshot.Config) { d.row = nil }, 3},
		}
		for i, run := range runs {
			if _, err := w.run(t.Context(), d, func(c *snapshot.Config) {
				w.withQueue(c)
				run.change(c)
			}); err != nil {
				t.Fatal(err)
			}
			if letters := w.letters(); len(letters) != run.want {
				t.Errorf("after import %d the dead letters are\n%s", i, strings.Join(letters, "\n"))
			}
		}
	})
}

// TestRefusedRows_OfADamagedFileAreNone: the lines of a damaged file are not reliable, and the file
// is loaded again.
func TestRefusedRows_OfADamagedFileAreNone(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		file := fileName("order", 2)
		good := w.files[file]
		bad := zipped(rowsOf(100, 50) + "[]\n" + rowsOf(150, 50))
		w.files[file] = append(slices.Clone(bad[:len(bad)-5]), "xxxxx"...)
		if _, err := w.run(t.Context(), d, w.withQueue); err == nil || !strings.Contains(
			err.Error(), "the file is damaged: gzip: invalid checksum",
		) {
			t.Errorf("got %v", err)
		}
		if letters := w.letters(); len(letters) > 0 {
			t.Errorf("there are dead letters: %q", letters)
		}
		w.files[file] = good
		if report, err := w.run(t.Context(), d, w.withQueue); err != nil || report.Refused > 0 {
			t.Errorf("%d refused, %v", report.Refused, err)
		}
		expect(t, d, everyRow)
	})
}

// TestRefusedRows_AreDroppedIfTheirFileIsLoadedAgain and the destination accepts them.
func TestRefusedRows_AreDroppedIfTheirFileIsLoadedAgain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		d.row = refusingRows(`"r00069"`)
		lost := false
		d.fail = func(operation, table, _ string) error {
			if operation == "finish" && table == "order" && !lost {
				lost, d.row = true, nil
				return errors.Join(errLoadLost, d.loseStage("order"))
			}
			return nil
		}
		report, err := w.run(t.Context(), d, w.withQueue)
		if err != nil || report.Refused > 0 || !lost {
			t.Errorf("%d refused, %v", report.Refused, err)
		}
		expect(t, d, everyRow)
		if letters := w.letters(); len(letters) > 0 {
			t.Errorf("there are dead letters: %q", letters)
		}
	})
}

// TestImport_SupersedesDeadLettersOfEarlierChanges of tables whose rows it replaces.
func TestImport_SupersedesDeadLettersOfEarlierChanges(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		for i, e := range []dlq.Entry{
			{Table: "order", Clock: everyClock["order"], Keys: []string{"a"}, Rows: [][]string{{"a"}}},
			{Table: "order", Clock: cdc.Timestamp{Wall: everyClock["order"].Wall + 1}, Keys: []string{"b"}, Rows: [][]string{{"b"}}},
			{Table: "part", Clock: everyClock["order"], Keys: []string{"c"}, Rows: [][]string{{"c"}}},
			{Table: "order"},
		} {
			e.Sequence, e.Stored, e.Destination = uint64(i), everyClock["order"].Wall-int64(time.Hour), named("disk://"+d.root).Identity
			if err := w.queue().Put(e); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.run(t.Context(), d, w.withQueue); err != nil {
			t.Fatal(err)
		}
		var got []string
		for e, err := range w.queue().List(dlq.Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(e.Sequence, " ", e.State))
		}
		if diff := cmp.Diff([]string{"0 superseded", "1 waiting", "2 waiting", "3 superseded"}, got); diff != "" {
			t.Error(diff)
		}
	})
}

// TestRefusedRows_FailTheTableIfTheQueueIsFull at once, because waiting does not help.
func TestRefusedRows_FailTheTableIfTheQueueIsFull(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		d.row = refusingRows(`"r00069"`)
		began := time.Now()
		_, err := w.run(t.Context(), d, func(c *snapshot.Config) {
			w.withQueue(c)
			c.Dead.Limits.Bytes = 0
		})
		if !errors.Is(err, dlq.ErrFull) {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(began); waited > time.Second {
			t.Errorf("after %v", waited)
		}
	})
}
