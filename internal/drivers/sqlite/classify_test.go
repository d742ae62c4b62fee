package sqlite

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

func TestClassify(t *testing.T) {
	d := &dialect{}
	for _, c := range []struct {
		name string
		code int // extended result code
		want sqlsink.Verdict
	}{
		{"busy", 5, sqlsink.Verdict{}},
		{"busy, snapshot", 517, sqlsink.Verdict{}},
		{"locked", 6, sqlsink.Verdict{}},
		{"out of memory", 7, sqlsink.Verdict{}},
		{"interrupted", 9, sqlsink.Verdict{}},
		{"full", 13, sqlsink.Verdict{}},
		{"protocol", 15, sqlsink.Verdict{}},
		{"i/o error, write", 778, sqlsink.Verdict{Lost: true}},
		{"read-only", 8, sqlsink.Verdict{Class: fault.Refused, Lost: true}},
		{"read-only, directory", 1544, sqlsink.Verdict{Class: fault.Refused, Lost: true}},
		{"can't open", 14, sqlsink.Verdict{Class: fault.Refused, Lost: true}},
		{"permission", 3, sqlsink.Verdict{Class: fault.Refused, Lost: true}},
		{"not a database", 26, sqlsink.Verdict{Class: fault.Fatal, Lost: true}},
		{"corrupt, index", 779, sqlsink.Verdict{Class: fault.Fatal, Lost: true}},
		{"constraint, unique", 2067, sqlsink.Verdict{Class: fault.Poison}},
		{"constraint, datatype", 3091, sqlsink.Verdict{Class: fault.Poison}},
		{"mismatch", 20, sqlsink.Verdict{Class: fault.Poison}},
		{"too big", 18, sqlsink.Verdict{Class: fault.Poison}},
		{"general error", 1, sqlsink.Verdict{Stale: true}},
		{"schema changed", 17, sqlsink.Verdict{Stale: true}},
		{"misuse", 21, sqlsink.Verdict{Lost: true}},
	} {
		err := d.withHint(fmt.Errorf("write: %w", &capi.Error{Code: c.code}))
		if diff := cmp.Diff(c.want, d.Classify(err)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
	for err, want := range map[error]sqlsink.Verdict{errMoved: {Lost: true}, errors.New("another"): {}} {
		if diff := cmp.Diff(want, d.Classify(err)); diff != "" {
			t.Errorf("%v: %s", err, diff)
		}
	}
}
