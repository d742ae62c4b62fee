package verify_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/verify"
)

func newTable(t testing.TB, key []string, columns ...schema.Column) *schema.Table {
	t.Helper()
	table, err := schema.New("order", "1", key, columns)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func orders(t testing.TB) *schema.Table {
	return newTable(t, []string{"company", "id"},
		schema.Column{Name: "id", Type: schema.Integer}, schema.Column{Name: "company", Type: schema.String},
		schema.Column{Name: "total", Type: schema.Number}, schema.Column{Name: "at", Type: schema.DateTime})
}

func images(lines ...string) iter.Seq[json.RawMessage] {
	return func(yield func(json.RawMessage) bool) {
		for _, l := range lines {
			if !yield(json.RawMessage(l)) {
				return
			}
		}
	}
}

// shown ignores the internal parts of reports.
var shown = cmpopts.IgnoreFields(verify.Report{}, "Suspects")

// TestCompare_ReportsOnlyRowsThatDifferEachTime if rows change all the time.
func TestCompare_ReportsOnlyRowsThatDifferEachTime(t *testing.T) {
	table := orders(t)
	compare := func(among *verify.Suspects, want, got []string) verify.Report {
		t.Helper()
		report, err := verify.Compare(t.Context(), table, among, verify.Rows(table, images(want...)), verify.Rows(table, images(got...)))
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	row := func(id, total int) string { return fmt.Sprintf(`{"company":"a","id":%d,"total":%d}`, id, total) }
	first := compare(
		nil, []string{row(1, 1), row(2, 1), row(3, 1), row(4, 1)}, []string{row(1, 2), row(2, 2), row(4, 1), row(5, 1), row(6, 1)},
	)
	if first.Different != 2 || first.Missing != 1 || first.Extra != 2 || first.Suspects.Len() != 5 || first.Suspects.Moved() != 5 {
		t.Errorf("at first: %v, %d suspects", first, first.Suspects.Len())
	}
	// Rows 1, 3 and 5 are equal now; 4 and 7 are new differences.
	second := compare(
		first.Suspects, []string{row(1, 2), row(2, 3), row(3, 1), row(4, 2), row(5, 1), row(7, 1)},
		[]string{row(1, 2), row(2, 2), row(3, 1), row(4, 1), row(5, 1), row(6, 1)},
	)
	expected := verify.Report{
		Table: "order", Want: 6, Got: 6, Different: 1, Extra: 1, Columns: map[string]int64{"total": 1},
		ExtraKeys: []string{"a/6"}, Differences: []verify.Difference{{"a/2", []string{"total"}}},
	}
	if diff := cmp.Diff(expected, second, shown); diff != "" || second.Suspects.Len() != 2 || second.Suspects.Moved() != 1 {
		t.Errorf("%d suspects, %d moved: %s", second.Suspects.Len(), second.Suspects.Moved(), diff)
	}
}

func TestCompare_KeepsNoSuspectsIfThereAreTooMany(t *testing.T) {
	table := wide(t, 1)
	report, err := verify.Compare(t.Context(), table, nil, wideRows(table, verify.MaxSuspects+1), verify.Rows(table, images()))
	if err != nil || report.Missing != verify.MaxSuspects+1 || report.Suspects != nil {
		t.Errorf("%v, %v", report.Missing, err)
	}
}

func TestCompare_NamesDifferences(t *testing.T) {
	table := orders(t)
	want := []string{
		`{"company":"a","id":1,"total":1.50,"at":"2026-01-02T03:04:05Z"}`,
		`{"company":"a","id":2,"total":9007199254740993}`,
		`{"company":"a","id":3,"total":0}`,
		`{"company":"a b","id":100}`,
		`{"company":"a","id":4,"at":"2026-01-02"}`,
	}
	got := []string{
		`{"id":4,"company":"a","at":"2026-01-03","total":1}`,
		`{"id":1.0,"company":"\u0061","total":15e-1,"at":"2026-01-02 04:04:05+01","unknown":1}`,
		`{"id":1,"company":"ab","total":null}`,
		`{"id":2,"company":"a","total":9007199254740992}`,
		`{"id":3,"company":"a"}`,
		`{"id":3,"company":"a","total":0}`,
	}
	report, err := verify.Compare(t.Context(), table, nil, verify.Rows(table, images(want...)), verify.Rows(table, images(got...)))
	if err != nil {
		t.Fatal(err)
	}
	expected := verify.Report{
		Table: "order", Want: 5, Got: 6, Missing: 1, Extra: 2, Different: 3,
		Columns:     map[string]int64{"at": 1, "total": 3},
		MissingKeys: []string{`"a b"/100`}, ExtraKeys: []string{"ab/1", "a/3"},
		Differences: []verify.Difference{{"a/4", []string{"at", "total"}}, {"a/2", []string{"total"}}, {"a/3", []string{"total"}}},
	}
	if diff := cmp.Diff(expected, report, shown); diff != "" {
		t.Error(diff)
	}
	line := `order: 5 rows there, 6 here; 1 missing: "a b"/100; 2 extra: ab/1 a/3; 3 different: a/4 (at, total) a/2 (total) a/3 (total)`
	if diff := cmp.Diff(line, report.String()); diff != "" || report.Equal() {
		t.Error(diff)
	}
}

func TestCompare_IgnoresTheOrderOfRows(t *testing.T) {
	table := orders(t)
	rows := []string{`{"company":"a","id":1}`, `{"company":"b","id":1,"total":2}`, `{"company":"","id":11}`}
	backwards := slices.Clone(rows)
	slices.Reverse(backwards)
	rows = append([]string{`{"company":"b","id":1.0,"total":"an older version of the row"}`}, rows...)
	lines := verify.Lines(table, strings.NewReader(strings.Join(backwards, "\r\n\n")))
	report, err := verify.Compare(t.Context(), table, nil, verify.Rows(table, images(rows...)), lines)
	if err != nil {
		t.Fatal(err)
	}
	want := verify.Report{Table: "order", Want: 3, Got: 3, Columns: map[string]int64{}}
	if diff := cmp.Diff(want, report, shown); diff != "" || report.String() != "order: 3 rows are equal" {
		t.Errorf("%s\n%s", report, diff)
	}
}

func TestCompare_NamesFewAndShortExamples(t *testing.T) {
	table := orders(t)
	var want []string
	for i := range 3 * verify.Examples {
		want = append(want, fmt.Sprintf(`{"company":"%s","id":%d}`, strings.Repeat("SECRET", 1000), i))
	}
	report, err := verify.Compare(t.Context(), table, nil, verify.Rows(table, images(want...)), verify.Rows(table, images()))
	if err != nil {
		t.Fatal(err)
	}
	text := report.String()
	if report.Missing != 3*verify.Examples || len(report.MissingKeys) != verify.Examples ||
		len(text) > verify.Examples*120 || !strings.HasSuffix(text, " ...") {
		t.Errorf("%d missing: %s", report.Missing, report)
	}
}

func TestCompare_EndsWithAnErrorOfEitherSide(t *testing.T) {
	table := orders(t)
	broken := errors.New("broken")
	good := verify.Rows(table, images(`{"company":"a","id":1}`))
	reads := verify.Lines(table, io.MultiReader(strings.NewReader("{\"company\":\"a\",\"id\":1}\n"), iotest.ErrReader(broken)))
	for name, sides := range map[string][2]iter.Seq2[*change.Row, error]{"want": {reads, good}, "got": {good, reads}} {
		if _, err := verify.Compare(t.Context(), table, nil, sides[0], sides[1]); !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	notJSON := verify.Lines(table, strings.NewReader("{\"company\":\"a\",\"id\":1}\n{\"company\":\"SECRET"))
	_, err := verify.Compare(t.Context(), table, nil, good, notJSON)
	if err == nil || !strings.Contains(err.Error(), `row 2 of "order"`) || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("a truncated line: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	if _, err := verify.Compare(ctx, table, nil, good, good); err == nil {
		t.Error("a canceled comparison returns no error")
	}
}

// TestCompare_FindsAnyDifference in a random set of rows.
func TestCompare_FindsAnyDifference(t *testing.T) {
	table := orders(t)
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(1, 30).Draw(r, "rows")
		var want []string
		for i := range n {
			want = append(want, fmt.Sprintf(`{"company":"c","id":%d,"total":%d}`, i, rapid.IntRange(0, 3).Draw(r, "total")))
		}
		at := rapid.IntRange(0, n-1).Draw(r, "at")
		got := slices.Clone(want)
		expected := verify.Report{Table: "order", Want: int64(n), Got: int64(n), Columns: map[string]int64{}}
		switch rapid.IntRange(0, 3).Draw(r, "change") {
		case 0:
			got = slices.Delete(got, at, at+1)
			expected.Got, expected.Missing, expected.MissingKeys = int64(n-1), 1, []string{fmt.Sprintf("c/%d", at)}
		case 1:
			got = append(got, want[at])
			expected.Got, expected.Extra, expected.ExtraKeys = int64(n+1), 1, []string{fmt.Sprintf("c/%d", at)}
		case 2:
			got[at] = fmt.Sprintf(`{"company":"c","id":%d,"total":4}`, at)
			expected.Different, expected.Columns["total"] = 1, 1
			expected.Differences = []verify.Difference{{fmt.Sprintf("c/%d", at), []string{"total"}}}
		}
		report, err := verify.Compare(
			t.Context(), table, nil, verify.Rows(table, images(want...)),
			verify.Rows(table, images(rapid.Permutation(got).Draw(r, "order")...)),
		)
		if err != nil {
			r.Fatal(err)
		}
		if diff := cmp.Diff(expected, report, shown); diff != "" {
			r.Fatal(diff)
		}
	})
}

// wide returns a table with the given number of columns.
func wide(t testing.TB, columns int) *schema.Table {
	cs := []schema.Column{{Name: "id", Type: schema.String}}
	for i := range columns - 1 {
		cs = append(cs, schema.Column{Name: fmt.Sprintf("c%02d", i), Type: schema.Integer})
	}
	return newTable(t, []string{"id"}, cs...)
}

func wideRows(table *schema.Table, n int) iter.Seq2[*change.Row, error] {
	return verify.Rows(table, func(yield func(json.RawMessage) bool) {
		var image []byte
		for i := range n {
			image = fmt.Appendf(image[:0], `{"id":"%08x-0000-4000-8000-%012x"`, i, i)
			for _, c := range table.Columns[1:] {
				image = append(append(append(image, `,"`...), c.Name...), `":`...)
				image = strconv.AppendInt(image, int64(i), 10)
			}
			if !yield(append(image, '}')) {
				return
			}
		}
	})
}

// TestCompare_ComparesAMillionRowsIn256MiB compares only a tenth of these rows, in an eighth of
// that memory.
func TestCompare_ComparesAMillionRowsIn256MiB(t *testing.T) {
	const n = 100_000
	table := wide(t, 20)
	runtime.GC() // memory of earlier tests
	var peak uint64
	sampled := func(rows iter.Seq2[*change.Row, error]) iter.Seq2[*change.Row, error] {
		return func(yield func(*change.Row, error) bool) {
			var m runtime.MemStats
			i := 0
			for row, err := range rows {
				if i++; i%(n/20) == 0 {
					runtime.ReadMemStats(&m)
					peak = max(peak, m.HeapInuse)
				}
				if !yield(row, err) {
					return
				}
			}
		}
	}
	report, err := verify.Compare(t.Context(), table, nil, sampled(wideRows(table, n)), sampled(wideRows(table, n)))
	if err != nil || !report.Equal() || report.Got != int64(n) {
		t.Fatalf("%v, %v", report, err)
	}
	t.Logf("peak heap %d MiB", peak>>20)
	if peak > 32<<20 {
		t.Errorf("peak heap %d MiB", peak>>20)
	}
}

func BenchmarkCompare(b *testing.B) {
	table := wide(b, 20)
	const n = 20_000
	for b.Loop() {
		if report, err := verify.Compare(b.Context(), table, nil, wideRows(table, n), wideRows(table, n)); err != nil || !report.Equal() {
			b.Fatal(report, err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}
