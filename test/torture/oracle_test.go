package torture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/devhq/shop"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/verify"
)

func TestBrokenPromise(t *testing.T) {
	wrong := func(names ...string) (reports []verify.Report) {
		for _, name := range []string{"a", "b"} {
			r := verify.Report{Table: name}
			if slices.Contains(names, name) {
				r.Missing = 1
			}
			reports = append(reports, r)
		}
		return reports
	}
	names := func(command string, names ...string) map[string]Remedy {
		tables := make(map[string]Remedy)
		for _, name := range names {
			tables[name] = Remedy{"missing", command}
		}
		return tables
	}
	whole := &Remedy{"a gap", "eds import"}
	for name, test := range map[string]struct {
		reports []verify.Report
		claim   Claim
		may     suspects
		idle    bool // the server does not follow the stream
		want    Symptom
	}{
		"equal, and eds says so":           {reports: wrong()},
		"wrong, and eds says nothing":      {reports: wrong("a"), want: Silence},
		"wrong, and eds cannot check":      {reports: wrong("a"), claim: Claim{Unverified: "the stream is young"}, want: Unverified},
		"equal, and eds cannot check":      {reports: wrong(), claim: Claim{Unverified: "the stream is young"}},
		"wrong, which eds may know or not": {reports: wrong("a"), may: suspects{names: []string{"a"}}, want: Silence},
		"wrong, and eds names it":          {reports: wrong("a"), claim: Claim{Tables: names("eds import --only a", "a")}},
		"wrong, and eds names another": {
			reports: wrong("a"), claim: Claim{Tables: names("eds import --only b", "b")},
			want: Misnamed,
		},
		"wrong, and eds names another as well": {reports: wrong("a"), claim: Claim{Tables: names("eds import", "a", "b")}, want: Misnamed},
		"wrong, and eds names a suspect as well": {
			reports: wrong("a"), claim: Claim{Tables: names("eds import", "a", "b")}, may: suspects{names: []string{"b"}},
		},
		"two wrong, and eds names one": {
			reports: wrong("a", "b"), claim: Claim{Tables: names("eds import", "a")},
			want: Misnamed,
		},
		"two wrong, and eds waits because of one":  {reports: wrong("a", "b"), claim: Claim{Tables: names("eds import", "a")}, idle: true},
		"wrong, and eds waits without a word":      {reports: wrong("a"), idle: true, want: Stuck},
		"equal, and eds waits without a word":      {reports: wrong(), idle: true, want: Stuck},
		"wrong, and eds names it without a remedy": {reports: wrong("a"), claim: Claim{Tables: names("", "a")}, want: Incurable},
		"wrong, and eds names the whole":           {reports: wrong("a", "b"), claim: Claim{Whole: whole}},
		"one wrong, and eds names the whole":       {reports: wrong("a"), claim: Claim{Whole: whole}, want: Misnamed},
		"one wrong, and all are suspects":          {reports: wrong("a"), claim: Claim{Whole: whole}, may: suspects{all: true}},
		"wrong, and eds is not healthy":            {reports: wrong("a"), claim: Claim{Alarms: []string{"session: 503"}}, want: Unnamed},
		"equal, and eds is not healthy":            {reports: wrong(), claim: Claim{Alarms: []string{"session: 503"}}, want: FalseAlarm},
		"equal, and eds names a table":             {reports: wrong(), claim: Claim{Tables: names("eds import", "a")}, want: FalseAlarm},
		"equal, and eds names the whole":           {reports: wrong(), claim: Claim{Whole: whole}, want: FalseAlarm},
		"equal, and eds names a suspect": {
			reports: wrong(), claim: Claim{Tables: names("eds import", "a")},
			may: suspects{names: []string{"a"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			test.claim.Running = !test.idle
			f := brokenPromise(observation{tables: []string{"a", "b"}, drained: true, reports: test.reports, claim: test.claim}, test.may)
			if got := symptomOf(f); got != test.want {
				t.Errorf("judged %v, want %q", f, test.want)
			}
		})
	}
}

func symptomOf(f *Failure) Symptom {
	if f == nil {
		return ""
	}
	return f.Symptom
}

// TestBrokenPromise_MatchesFormula compares brokenPromise with the promise as a single formula,
// for every state of two tables and every report of eds.
func TestBrokenPromise_MatchesFormula(t *testing.T) {
	bit := func(n, i int) bool { return n>>i&1 == 1 }
	tables := []string{"a", "b"}
	passed := 0
	for n := range 1 << 12 {
		o := observation{tables: tables, drained: bit(n, 0), claim: Claim{Running: bit(n, 1), Tables: make(map[string]Remedy)}}
		if bit(n, 2) {
			o.claim.Alarms = []string{"an alarm"}
		}
		if bit(n, 3) {
			o.claim.Whole = &Remedy{"a gap", "eds import"}
		}
		may, complete, honest, curable, equal, someNamed := suspects{}, true, true, true, true, false
		for i, table := range tables {
			differs, named, command, suspect := bit(n, 4+i), bit(n, 6+i), bit(n, 8+i), bit(n, 10+i)
			r := verify.Report{Table: table}
			if differs {
				r.Different = 1
			}
			o.reports = append(o.reports, r)
			if named {
				o.claim.Tables[table] = Remedy{Reason: "it is so"}
				if command {
					o.claim.Tables[table] = Remedy{"it is so", "eds import"}
				}
			}
			if suspect {
				may.names = append(may.names, table)
			}
			whole := o.claim.Whole != nil
			curable = curable && (!named || command || whole)
			named = named || whole
			equal = equal && !differs
			someNamed = someNamed || named
			complete = complete && (named || !differs)
			honest = honest && (!named || differs || suspect)
		}
		quiet := o.claim.Silent()
		want := equal && quiet && o.drained && o.claim.Running ||
			someNamed && honest && curable && (complete || !o.claim.Running)
		f := brokenPromise(o, may)
		if (f == nil) != want {
			t.Errorf("%+v with the suspects %v: got %v, want it to pass: %v", o, may, f, want)
		}
		if f == nil {
			passed++
		}
	}
	if passed == 0 {
		t.Error("nothing ever passes")
	}
}

// mirror is a destination that contains the shop's rows, changed by the function alter.
type mirror struct {
	shop  *shop.Shop
	alter func(t *schema.Table, rows []json.RawMessage) []json.RawMessage
}

func (m mirror) Read(_ context.Context, t *schema.Table) iter.Seq2[*change.Row, error] {
	rows := slices.Collect(m.shop.Snapshot().Rows(t.Name, nil, nil))
	return verify.Rows(t, slices.Values(m.alter(t, rows)))
}

func openShop(t *testing.T) *shop.Shop {
	t.Helper()
	s, err := shop.Open(t.TempDir(), shop.Options{Seed: 3, Customers: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func schemaOf(t *testing.T, s *shop.Shop, table string) *schema.Table {
	t.Helper()
	for _, text := range s.LatestSchemas() {
		decoded, err := schema.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		if decoded.Name == table {
			return decoded
		}
	}
	t.Fatalf("there is no table %s", table)
	return nil
}

// differing compares a destination with the shop.
func differing(t *testing.T, s *shop.Shop, d sink.Reader) []string {
	t.Helper()
	reports, err := compare(t.Context(), s, d)
	if err != nil {
		t.Fatal(err)
	}
	return observation{reports: reports}.differing()
}

// TestCompare_SeesEveryDifference changes rows of every table, one column at a time.
func TestCompare_SeesEveryDifference(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	// sees changes the rows of each table for which the function alter does not return nil.
	sees := func(what string, alter func(layout *schema.Table, rows []json.RawMessage) []json.RawMessage) (altered []string) {
		t.Helper()
		got := differing(t, s, mirror{s, func(layout *schema.Table, rows []json.RawMessage) []json.RawMessage {
			if len(rows) == 0 {
				return rows
			}
			after := alter(layout, slices.Clone(rows))
			if after == nil {
				return rows
			}
			altered = append(altered, layout.Name)
			return after
		}})
		if diff := cmp.Diff(altered, got); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
		return altered
	}
	sees("nothing", func(*schema.Table, []json.RawMessage) []json.RawMessage { return nil })
	all := sees("a row is missing", func(_ *schema.Table, rows []json.RawMessage) []json.RawMessage { return rows[1:] })
	sees("a row is there twice", func(_ *schema.Table, rows []json.RawMessage) []json.RawMessage { return append(rows, rows[0]) })
	sees("all rows are missing", func(_ *schema.Table, rows []json.RawMessage) []json.RawMessage { return rows[:0] })
	if len(all) < 10 {
		t.Errorf("only %v have rows", all)
	}
	for _, one := range all {
		sees("a row of one table is missing", func(layout *schema.Table, rows []json.RawMessage) []json.RawMessage {
			if layout.Name != one {
				return nil
			}
			return rows[1:]
		})
	}
	for i := 0; ; i++ {
		altered := sees(fmt.Sprintf("another value in column %d", i), func(layout *schema.Table, rows []json.RawMessage) []json.RawMessage {
			if i >= len(layout.Columns) {
				return nil
			}
			last := len(rows) - 1
			rows[last] = with(t, rows[last], layout.Columns[i])
			return rows
		})
		if len(altered) == 0 {
			break
		}
	}
}

// with returns the row with a different value in the column c.
func with(t *testing.T, row json.RawMessage, c schema.Column) json.RawMessage {
	t.Helper()
	var members map[string]json.RawMessage
	if err := json.Unmarshal(row, &members); err != nil {
		t.Fatal(err)
	}
	value := map[schema.Type]string{
		schema.String: `"another"`, schema.Enum: `"another"`, schema.DateTime: `"2001-02-03T04:05:06.000007Z"`, schema.Integer: "4711",
		schema.Number: "0.4711", schema.Boolean: "true", schema.Object: `{"another":1}`, schema.Array: `["another"]`,
	}[c.Type]
	if bytes.Equal(members[c.Name], []byte(value)) {
		value = "null" // the column is a boolean
	}
	members[c.Name] = json.RawMessage(value)
	text, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestCompare_FailsWithTheDestination(t *testing.T) {
	s := openShop(t)
	broken := errors.New("connection refused")
	if _, err := compare(t.Context(), s, unreadable{broken}); !errors.Is(err, broken) {
		t.Errorf("compare returned %v", err)
	}
}

type unreadable struct{ err error }

func (u unreadable) Read(context.Context, *schema.Table) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) { yield(nil, u.err) }
}

// TestDestinations calls every method of every destination.
func TestDestinations(t *testing.T) {
	t.Parallel()
	for name, start := range Destinations() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, d := openShop(t), start(t, t.TempDir())
			load(t, s, d.URL())
			found := func() (names []string) {
				t.Helper()
				err := d.Read(t.Context(), func(rows sink.Reader) error {
					names = differing(t, s, rows)
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				return names
			}
			expect := func(after string, want ...string) {
				t.Helper()
				if diff := cmp.Diff(want, found()); diff != "" {
					t.Fatalf("after %s: %s", after, diff)
				}
			}
			do := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			expect("the load")
			first, err := d.Copy(t.Context())
			do(err)
			do(d.Truncate(t.Context(), "customer"))
			expect("truncating customer", "customer")
			do(d.Drop(t.Context(), "order"))
			do(d.Drop(t.Context(), "order"))
			do(d.Truncate(t.Context(), "order"))
			expect("dropping order", "customer", "order")
			second, err := d.Copy(t.Context())
			do(err)
			do(d.Empty(t.Context()))
			do(d.Empty(t.Context()))
			if got := found(); len(got) < 10 {
				t.Errorf("after emptying it only %v differ", got)
			}
			for range 2 {
				do(d.Restore(t.Context(), first))
				expect("restoring the first copy")
				do(d.Restore(t.Context(), second))
				expect("restoring the second copy", "customer", "order")
			}
		})
	}
}

// load puts the shop's rows into a destination, without a server.
func load(t *testing.T, s *shop.Shop, url string) {
	t.Helper()
	_, destination, err := drivers.Open(t.Context(), url, os.LookupEnv, sink.Env{Adjusted: func(string, string, string) {}})
	if err != nil {
		t.Fatal(err)
	}
	snapshot := s.Snapshot()
	for _, name := range s.Tables() {
		layout := schemaOf(t, s, name)
		l, err := destination.BeginLoad(t.Context(), "job", layout, sink.Replace, sink.Scope{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.LoadFile(t.Context(), "file", verify.Rows(layout, snapshot.Rows(name, nil, nil))); err != nil {
			t.Fatal(err)
		}
		_, err = l.Finish(t.Context())
		if err := errors.Join(err, l.Close(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	if err := destination.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
