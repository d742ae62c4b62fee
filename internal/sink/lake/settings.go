package lake

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/sink"
)

// Settings say how files are written.
type Settings struct {
	Format      Format // "" if each change is a separate file
	Compression Compression
	Layout      *PathTemplate
	// A file is closed when it reaches any of these bounds: its number of rows, its number of bytes
	// before compression, or its age.
	RollRows, RollBytes int64
	RollAge             time.Duration
}

// Default has the settings of a format that apply if the URL does not override them.
type Default struct {
	Compression Compression
	Layout      string
	RollRows    int64
	RollBytes   int64
	RollAge     time.Duration
}

// batchOptions are the options that are valid only with a format that writes batches.
var batchOptions = []string{"compress", "layout", "roll-rows", "roll-bytes", "roll-age"}

// Options declares the options that Read reads. The parameters ndjson and parquet are the defaults
// of the two formats. The parameter roll is a text for the help that says what happens to a file
// that reaches a bound, for example "upload after".
func Options(ndjson, parquet Default, roll string) []sink.Option {
	const batches = "with `format=ndjson` or `parquet`, "
	return []sink.Option{
		{
			Name: "format", Type: sink.OneOf("json", string(NDJSON), string(Parquet)), Default: "json",
			Help: "`json`: one object or file per change; `ndjson`, `parquet`: batches of changes",
		},
		{
			Name: "compress", Type: sink.OneOf(string(None), string(Gzip), string(Zstd)),
			DefaultNote: either(string(ndjson.Compression), string(parquet.Compression)), Help: batches + "`zstd`, `gzip` or `none`",
		},
		{
			Name: "layout", DefaultNote: either(ndjson.Layout, parquet.Layout), Harmless: true,
			Help: batches + "a template of directories: `{table}`, `{company}`, `{location}`, `{operation}`, `{version}`, " +
				"and `YYYY`, `MM`, `DD`, `HH` of the change's date",
		},
		{
			Name: "roll-rows", Type: sink.Int{Min: 1},
			DefaultNote: either(strconv.FormatInt(ndjson.RollRows, 10), strconv.FormatInt(parquet.RollRows, 10)),
			Help:        batches + roll + " this number of changes",
		},
		{
			Name: "roll-bytes", Type: sink.Size{},
			DefaultNote: either(strconv.FormatInt(ndjson.RollBytes>>20, 10)+"m", strconv.FormatInt(parquet.RollBytes>>20, 10)+"m"),
			Help:        batches + roll + " this number of bytes; `k`, `m` and `g` stand for KiB, MiB and GiB",
		},
		{
			Name: "roll-age", Type: sink.Duration{Min: time.Second},
			DefaultNote: either(short(ndjson.RollAge), short(parquet.RollAge)), Help: batches + roll + " this time",
		},
	}
}

// either describes the defaults of both formats in Markdown.
func either(ndjson, parquet string) string {
	if ndjson == parquet {
		return "`" + ndjson + "`"
	}
	return "`" + ndjson + "`; `" + parquet + "` with Parquet"
}

// short formats a duration, and omits trailing units that are 0.
func short(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"0s", "0m"} {
		if bare, ok := strings.CutSuffix(text, zero); ok && strings.ContainsAny(bare[len(bare)-1:], "hm") {
			text = bare
		}
	}
	return text
}

// Read returns the settings that the options of a URL select, with the defaults of the selected
// format.
func Read(v sink.Values, ndjson, parquet Default) (Settings, error) {
	format := Format(v.Text("format"))
	if format == "json" {
		for _, name := range batchOptions {
			if v.Given(name) {
				return Settings{}, fmt.Errorf("option %s needs format=ndjson or format=parquet", name)
			}
		}
		return Settings{}, nil
	}
	if v.Given("path") {
		return Settings{}, fmt.Errorf("option path needs format=json; with format=%s directories are layout=", format)
	}
	d := ndjson
	if format == Parquet {
		d = parquet
	}
	s := Settings{Format: format, Compression: d.Compression, RollRows: d.RollRows, RollBytes: d.RollBytes, RollAge: d.RollAge}
	if v.Given("compress") {
		s.Compression = Compression(v.Text("compress"))
	}
	if v.Given("roll-rows") {
		s.RollRows = int64(v.Int("roll-rows"))
	}
	if v.Given("roll-bytes") {
		s.RollBytes = v.Size("roll-bytes")
	}
	if v.Given("roll-age") {
		s.RollAge = v.Duration("roll-age")
	}
	var err error
	s.Layout, err = ParsePathTemplate(cmp.Or(v.Text("layout"), d.Layout))
	return s, err
}
