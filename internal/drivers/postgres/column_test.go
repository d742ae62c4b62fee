package postgres

import (
	"testing"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

func BenchmarkColumn(b *testing.B) {
	for _, c := range []struct {
		name string
		kind kind
		raw  string
	}{
		{"text", kindText, `"an invoice for \"brakes\""`},
		{"bool", kindBool, `true`},
		{"int", kindInt8, `1234567`},
		{"float", kindFloat8, `1234.5678901234567`},
		{"numeric", kindNumeric, `1234.50`},
		{"timestamp", kindTimestampTZ, `"2026-01-02T03:04:05.123Z"`},
		{"jsonb", kindJSONB, `{"a":[1,2.50,"x"]}`},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			col := testColumn(c.kind)
			raw := []byte(c.raw)
			var dst []byte
			for b.Loop() {
				var err error
				if dst, err = col.append(dst[:0], raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// testColumn returns the encoder for column c of table t.
func testColumn(k kind) columnEncoder {
	real := &sqlsink.RealColumn{Name: "c", Type: "test", Native: &attribute{kind: k, typmod: -1}}
	return newColumnEncoder(&sqlsink.Layout{Table: &schema.Table{Name: "t"}}, &sqlsink.Target{Slot: -1, Real: real}, nil)
}

func TestRules_AreDocumented(t *testing.T) { sinktest.DocumentedRules(t, "postgres", rules) }
