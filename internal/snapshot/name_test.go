package snapshot_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/snapshot"
)

const exampleName = "202611220102031234567890000000042-7f3a9c-1-2-00000000-order_item2-1f.ndjson.gz"

func TestParseExportName_ReadsTheExactClock(t *testing.T) {
	wall := time.Date(2026, 11, 22, 1, 2, 3, 123456789, time.UTC).UnixNano()
	for name, want := range map[string]snapshot.ExportName{
		exampleName: {Clock: cdc.Timestamp{Wall: wall, Logical: 42}, Unique: "7f3a9c-1-2-00000000", Table: "order_item2", Schema: "1f"},
		"197001010000000000000000000000000-a-0-0-00000000-t-1.ndjson.gz": {Unique: "a-0-0-00000000", Table: "t", Schema: "1"},
		"226204112347168547758074294967295-a-0-0-99999999-_-1.ndjson.gz": {
			Clock: cdc.Timestamp{Wall: 1<<63 - 1, Logical: 1<<32 - 1}, Unique: "a-0-0-99999999", Table: "_", Schema: "1",
		},
		"202402290000000000000000000000000-a-0-0-00000000-t-1.ndjson.gz": {
			Clock: cdc.Timestamp{Wall: time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC).UnixNano()}, Unique: "a-0-0-00000000", Table: "t",
			Schema: "1",
		},
	} {
		got, err := snapshot.ParseExportName(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if got.Name() != name {
			t.Errorf("%s comes back as %s", name, got.Name())
		}
	}
}

func TestParseExportName_RefusesOtherNames(t *testing.T) {
	for _, name := range []string{
		"", ".ndjson.gz", "order.ndjson.gz", exampleName + ".part", exampleName[:len(exampleName)-3],
		"2026112201020312345678900000000421-7f-1-2-00000000-order-1.ndjson.gz", // 34 digits
		"20261122010203123456789000000004-7f-1-2-00000000-order-1.ndjson.gz",   // 32
		"202613220102031234567890000000042-7f-1-2-00000000-order-1.ndjson.gz",  // month 13
		"202611220102601234567890000000042-7f-1-2-00000000-order-1.ndjson.gz",  // second 60
		"202302290000000000000000000000000-7f-1-2-00000000-order-1.ndjson.gz",  // no leap year
		"196912312359590000000000000000000-7f-1-2-00000000-order-1.ndjson.gz",  // before 1970
		"226204112347168547758080000000000-7f-1-2-00000000-order-1.ndjson.gz",  // past 64 bits
		"202611220102031234567894294967296-7f-1-2-00000000-order-1.ndjson.gz",  // logical past 32 bits
		"+02611220102031234567890000000042-7f-1-2-00000000-order-1.ndjson.gz",
		"202611220102031234567890000000042--1-2-00000000-order-1.ndjson.gz",
		"202611220102031234567890000000042-7f-x-2-00000000-order-1.ndjson.gz",
		"202611220102031234567890000000042-7f-1-2-0000000-order-1.ndjson.gz",
		"202611220102031234567890000000042-7f-1-2-00000000-Order-1.ndjson.gz",
		"202611220102031234567890000000042-7f-1-2-00000000-or.der-1.ndjson.gz",
		"202611220102031234567890000000042-7f-1-2-00000000-../order-1.ndjson.gz",
		"202611220102031234567890000000042-7f-1-2-00000000--1.ndjson.gz",
		"202611220102031234567890000000042-7f-1-2-00000000-order-.ndjson.gz",
		"202611220102031234567890000000042-7f-1-2-00000000-order-1-2.ndjson.gz",
	} {
		if f, err := snapshot.ParseExportName(name); err == nil {
			t.Errorf("%s is parsed as %+v", name, f)
		}
	}
}

func FuzzParseExportName(f *testing.F) {
	f.Add(exampleName)
	f.Add("197001010000000000000000000000000-a-0-0-00000000-t-1.ndjson.gz")
	f.Add("226204112347168547758074294967295-a-0-0-99999999-_-1.ndjson.gz")
	f.Fuzz(func(t *testing.T, name string) {
		file, err := snapshot.ParseExportName(name)
		if err != nil {
			return
		}
		if got := file.Name(); got != name {
			t.Fatalf("%q comes back as %q", name, got)
		}
	})
}
