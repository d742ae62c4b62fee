package lake

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/sink"
)

// Settings are what a URL says of its files.
type Settings struct {
	Format      Format // "" where each change is a file of its own
	Compression Compression
	Layout      *Layout
	// A file is begun anew once it has so many rows, bytes before compression, or
	// is so old.
	RollRows, RollBytes int64
	RollAge             time.Duration
}

// Default is what a destination does where its URL says nothing.
type Default struct {
	Compression Compression // of NDJSON; Parquet is compressed by zstd
	Layout      string
	RollRows    int64
	RollBytes   int64
	RollAge     time.Duration
}

// needing are the options that need a format of batches.
var needing = []string{"compress", "layout", "roll-rows", "roll-bytes", "roll-age"}

// Options describes the options that Parse reads. Roll says what happens to a file
// that has reached a bound.
func Options(d Default, roll string) []sink.Option {
	return []sink.Option{
		{Name: "format", Default: "json", Description: "json makes an object or file of each change; ndjson and parquet make one of many"},
		{Name: "compress", Default: string(d.Compression) + ", zstd in Parquet", Description: "with format=ndjson or parquet: zstd, gzip or none"},
		{Name: "layout", Default: d.Layout, Description: "with format=ndjson or parquet, a template of directories; {table}, {company}, {location}, {operation}, {version}, and YYYY, MM, DD, HH of the change's date"},
		{Name: "roll-rows", Default: strconv.FormatInt(d.RollRows, 10), Description: "with format=ndjson or parquet, " + roll + " so many changes"},
		{Name: "roll-bytes", Default: strconv.FormatInt(d.RollBytes, 10), Description: "with format=ndjson or parquet, " + roll + " so many bytes; k, m and g stand for KiB, MiB and GiB"},
		{Name: "roll-age", Default: d.RollAge.String(), Description: "with format=ndjson or parquet, " + roll + " so long"},
	}
}

// Parse reads the options.
func Parse(query url.Values, d Default) (Settings, error) {
	s := Settings{RollRows: d.RollRows, RollBytes: d.RollBytes, RollAge: d.RollAge}
	compression := d.Compression
	switch format := query.Get("format"); format {
	case "", "json":
		for _, name := range needing {
			if query.Has(name) {
				return s, fmt.Errorf("option %s needs format=ndjson or format=parquet", name)
			}
		}
		return s, nil
	case string(NDJSON):
		s.Format = NDJSON
	case string(Parquet):
		s.Format, compression = Parquet, Zstd
	default:
		return s, errors.New("option format should be json, ndjson or parquet")
	}
	if query.Has("path") {
		return s, fmt.Errorf("option path needs format=json; with format=%s directories are layout=", s.Format)
	}
	var err error
	if s.Compression, err = parseCompression(query, compression); err != nil {
		return s, err
	}
	layout := d.Layout
	if query.Has("layout") {
		layout = query.Get("layout")
	}
	if s.Layout, err = ParseLayout(layout); err != nil {
		return s, err
	}
	return s, s.parseRolling(query)
}

func (s *Settings) parseRolling(query url.Values) error {
	if text := query.Get("roll-rows"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 1 {
			return errors.New("option roll-rows should be a number of changes, 1 at least")
		}
		s.RollRows = n
	}
	if text := query.Get("roll-bytes"); text != "" {
		n, err := parseSize(text)
		if err != nil {
			return err
		}
		s.RollBytes = n
	}
	if text := query.Get("roll-age"); text != "" {
		age, err := time.ParseDuration(text)
		if err != nil || age < time.Second {
			return errors.New("option roll-age should be a duration like 1h or 30m, 1s at least")
		}
		s.RollAge = age
	}
	return nil
}

func parseSize(text string) (int64, error) {
	digits, shift := text, 0
	if last := len(text) - 1; last > 0 {
		if i := strings.IndexByte("kmg", text[last]|0x20); i >= 0 {
			digits, shift = text[:last], 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 1 || n > 1<<40>>shift {
		return 0, errors.New("option roll-bytes should be a number of bytes like 64m, 1 at least and 1024g at most")
	}
	return n << shift, nil
}
