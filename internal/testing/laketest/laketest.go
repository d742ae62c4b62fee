// Package laketest reads files that package lake has written, if possible with code that does not
// come from package lake. Only tests import it.
package laketest

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// Events returns the events in a file as JSON, in the order of the file. The extension of name
// gives the format.
func Events(t testing.TB, name string, content []byte) [][]byte {
	t.Helper()
	if strings.HasSuffix(name, ".parquet") {
		table, rows := Rows(t, content)
		events := make([][]byte, len(rows))
		for i, row := range rows {
			events[i] = eventOf(table, row)
		}
		return events
	}
	text := Expand(t, name, content)
	if len(text) == 0 {
		return nil
	}
	return bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
}

// Expand returns the content of a file, decompressed if its name ends in .gz or .zst.
func Expand(t testing.TB, name string, content []byte) []byte {
	t.Helper()
	var r io.Reader = bytes.NewReader(content)
	var err error
	switch {
	case strings.HasSuffix(name, ".gz"):
		r, err = gzip.NewReader(r)
	case strings.HasSuffix(name, ".zst"):
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		text, err := d.DecodeAll(content, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return text
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return text
}

// Rows returns the rows of a Parquet file and the name of their table. Each row maps the names of
// the columns that are not null to JSON values.
func Rows(t testing.TB, content []byte) (table string, rows []map[string]string) {
	t.Helper()
	f, err := parquet.OpenFile(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatalf("open a parquet file: %v", err)
	}
	table, _ = f.Lookup("eds.table")
	fields := f.Schema().Fields()
	for _, group := range f.RowGroups() {
		reader := group.Rows()
		buffer := make([]parquet.Row, 64)
		for {
			n, err := reader.ReadRows(buffer)
			for _, row := range buffer[:n] {
				values := make(map[string]string)
				for _, v := range row {
					if field := fields[v.Column()]; !v.IsNull() {
						values[field.Name()] = text(t, field.Type(), v)
					}
				}
				rows = append(rows, values)
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("read a parquet file: %v", err)
			}
		}
		if err := reader.Close(); err != nil {
			t.Fatalf("read a parquet file: %v", err)
		}
	}
	return table, rows
}

// text returns a value as JSON. It fails the test if the column has a type that eds does not write.
func text(t testing.TB, of parquet.Type, v parquet.Value) string {
	t.Helper()
	logical := ""
	if annotation := of.LogicalType(); annotation != nil {
		logical = annotation.String()
	}
	switch v.Kind() {
	case parquet.Boolean:
		return strconv.FormatBool(v.Boolean())
	case parquet.Double:
		return strconv.FormatFloat(v.Double(), 'g', -1, 64)
	case parquet.Int64:
		if strings.HasPrefix(logical, "TIMESTAMP") {
			if logical != "TIMESTAMP(isAdjustedToUTC=true,unit=MICROS)" {
				t.Fatalf("a column is a %s", logical)
			}
			return `"` + time.UnixMicro(v.Int64()).UTC().Format("2006-01-02T15:04:05.000000Z") + `"`
		}
		return strconv.FormatInt(v.Int64(), 10)
	case parquet.ByteArray:
		if logical == "JSON" {
			return string(v.ByteArray())
		}
		if logical != "STRING" {
			t.Fatalf("a column of text is %q", logical)
		}
		return string(rawjson.AppendQuoted(nil, v.ByteArray()))
	default:
		t.Fatalf("a column is %v", of)
		return ""
	}
}

// eventOf returns the event, as JSON, that a row of a Parquet file represents.
func eventOf(table string, row map[string]string) []byte {
	image := make(map[string]string)
	for column, value := range row {
		if !strings.HasPrefix(column, "_eds_") {
			image[column] = value
		}
	}
	if rest, ok := row["_eds_rest"]; ok {
		m, err := rawjson.OpenObject([]byte(rest))
		for err == nil && m.Next() {
			image[string(m.Name())] = string(m.Value())
		}
	}
	var members []string
	for _, column := range slices.Sorted(maps.Keys(image)) {
		members = append(members, string(rawjson.AppendQuoted(nil, column))+":"+image[column])
	}
	whole := "{" + strings.Join(members, ",") + "}"
	event := `{"operation":` + row["_eds_operation"] + `,"table":` + string(rawjson.AppendQuoted(nil, table)) + `,"imported":` +
		row["_eds_imported"] + `,"mvccTimestamp":` + clockOf(row["_eds_clock"])
	add := func(name, value string, ok bool) {
		if ok {
			event += `,"` + name + `":` + value
		}
	}
	id, ok := row["_eds_id"]
	add("id", id, ok)
	key, ok := row["_eds_key"]
	add("key", key, ok)
	if row["_eds_operation"] == `"DELETE"` {
		add("before", whole, len(image) > 0)
	} else {
		add("after", whole, true)
		before, ok := row["_eds_before"]
		add("before", before, ok)
	}
	return []byte(event + "}")
}

// clockOf removes the leading zeros that make the text of a clock sortable.
func clockOf(sortable string) string {
	wall, logical, _ := strings.Cut(strings.Trim(sortable, `"`), ".")
	wall = strings.TrimLeft(wall, "0")
	if wall == "" {
		wall = "0"
	}
	return `"` + wall + "." + logical + `"`
}
