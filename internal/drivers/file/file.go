// Package file is the destination that writes events to files in a directory: one file per event,
// or batches of events in rolling NDJSON files or in Parquet files.
package file

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/durable"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
	"github.com/shopmonkeyus/eds/internal/sink/lake"
)

// Driver returns the description of the destination.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "file", Title: "Files", Schemes: []string{"file"},
		Example: "file:///var/lib/eds/changes",
		Summary: "Writes every change to a directory: one JSON file per change, rolling NDJSON files, or Parquet.",
		Help:    help,
		Options: options,
		Fields: []sink.Field{
			{Name: "Directory", Type: "string", Description: "the directory to write into; eds creates it", Required: true},
		},
		Limits:   limits,
		URL:      buildURL,
		Identity: identity,
		Open:     open,
	}
}

var limits = sink.Limits{Rows: 10_000, Bytes: 16 << 20}

const help = `The URL is file:// and a directory: file:///var/lib/eds/changes is absolute,
file://changes is relative to the working directory of eds. eds creates the directory,
and needs to write to it and everything in it.

With format=json, the default, each change is a file of its own,
<table>/<unix seconds>-<key>-<change id>.json, which appears whole or not at all, in
the order of the stream. A change that is delivered again has the same name and
replaces itself. path= gives files other names, by a Go template over the change:
path={{.table}}/{{.mvccTimestamp}}_{{.id}}.json (write %7B and %7D for the braces if a
program checks the URL). Changes with the same name replace each other.

With format=ndjson eds appends changes, one per line, to one file per table,
<table>/<nanoseconds>-<sequence>-<consumer>.ndjson. The name consists of the time when
the stream stored the file's first change, the change's position in the stream, and a
short hash of the consumer. eds begins a new file once roll-rows, roll-bytes or
roll-age is reached. It records the appended changes and their position together in
.eds, so each change is there exactly once, also after a crash. Compressed files
consist of one gzip member or zstd frame per batch; any reader of the format takes
them as one.

With format=parquet each batch becomes one file per table,
<table>/<nanoseconds>-<sequence>-<consumer>.parquet, which appears whole: a batch waits
for roll-rows, roll-bytes or roll-age. Columns have the types of the table's schema
(timestamps in microseconds of UTC, 64-bit integers, JSON as annotated text), beside
_eds_operation, _eds_id, _eds_clock, _eds_sequence, _eds_time, _eds_key and others that
describe the change. A value that a type cannot hold without loss is kept as JSON in
_eds_rest, the rule "kept-as-json".

An import adds a change for each row, an INSERT with "imported": true. Existing files
stay.`

var options = append([]sink.Option{
	{
		Name: "path", Harmless: true,
		Help: "with `format=json`, a Go template for the file's path, with the fields of the change, like " +
			"`{{.table}}/{{.mvccTimestamp}}_{{.id}}.json`",
	},
}, lake.Options(appended, whole, "begin a new file after")...)

// Defaults of the two batch formats: eds appends to NDJSON files, and writes Parquet files whole.
var (
	appended = lake.Default{
		Compression: lake.None, Layout: "{table}/", RollRows: 1_000_000, RollBytes: 256 << 20, RollAge: 24 * time.Hour,
	}
	whole = lake.Default{Compression: lake.Zstd, Layout: "{table}/", RollRows: 100_000, RollBytes: 64 << 20, RollAge: time.Minute}
)

// config is a parsed destination URL.
type config struct {
	directory string       // absolute path
	path      *encode.Path // nil for the default names
	files     lake.Settings
}

func open(_ context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
	c, err := parse(target)
	if err != nil {
		return nil, fault.Mark(fault.Fatal, err)
	}
	d, err := openDisk(c.directory)
	if err != nil {
		return nil, err
	}
	return newSink(d, c, env)
}

// newSink returns the sink for the format that c selects.
func newSink(d disk, c config, env sink.Env) (sink.Sink, error) {
	env = env.Complete()
	s := newFileStore(d, env)
	if c.files.Format != "" {
		return newRollingSink(s, c), nil
	}
	return newFileSink(s, c), nil
}

func parse(target *url.URL) (config, error) {
	v, err := sink.ParseOptions(target, options)
	if err != nil {
		return config{}, err
	}
	directory, err := directoryOf(target)
	if err != nil {
		return config{}, err
	}
	c := config{directory: directory}
	if c.files, err = lake.Read(v, appended, whole); err != nil {
		return c, err
	}
	if v.Given("path") {
		c.path, err = encode.ParsePath(v.Text("path"))
	}
	return c, err
}

// directoryOf returns the absolute path of the directory that a URL names. If the URL has a part
// between file:// and the first slash, where other URLs have a host, that part is the first element
// of a relative path.
func directoryOf(target *url.URL) (string, error) {
	if target.User != nil || target.Fragment != "" || target.Opaque != "" {
		return "", errors.New("the file url should read file:///absolute/directory or file://relative/directory; " +
			"write @ as %40 and # as %23")
	}
	path := target.Host + target.Path
	if runtime.GOOS == "windows" {
		if p := strings.TrimPrefix(path, "/"); filepath.VolumeName(filepath.FromSlash(p)) != "" {
			path = p
		}
	}
	if path == "" {
		return "", errors.New("the file url names no directory")
	}
	if strings.ContainsRune(path, 0) {
		return "", errors.New("the file url's directory has a NUL in its name")
	}
	absolute, err := filepath.Abs(filepath.FromSlash(path))
	if err != nil {
		return "", fmt.Errorf("the file url's directory: %w", err)
	}
	return absolute, nil
}

// identity returns the identity of the destination: the path of the directory with all symbolic
// links resolved.
func identity(target *url.URL) string {
	path, err := directoryOf(target)
	if err != nil {
		return sink.JoinIdentity("file", target.Host, target.Path, nil)
	}
	return sink.JoinIdentity("file", "", filepath.ToSlash(durable.Resolve(path)), nil)
}

// buildURL builds a destination URL from the values of the driver's fields.
func buildURL(values map[string]string) (string, []sink.FieldError) {
	directory := strings.TrimSpace(values["Directory"])
	switch {
	case directory == "":
		return "", []sink.FieldError{{Field: "Directory", Error: "name a directory, like /var/lib/eds/changes"}}
	case strings.ContainsRune(directory, 0):
		return "", []sink.FieldError{{Field: "Directory", Error: "a directory's name cannot hold a NUL"}}
	}
	if runtime.GOOS == "windows" {
		directory = filepath.ToSlash(directory)
	}
	if !strings.HasPrefix(directory, "/") {
		if filepath.VolumeName(directory) != "" {
			directory = "/" + directory
		} else {
			// file://./ keeps the path from being read as a host.
			directory = "/" + strings.TrimPrefix(directory, "./")
			return "file://." + (&url.URL{Path: directory}).EscapedPath(), nil
		}
	}
	return (&url.URL{Scheme: "file", Path: directory}).String(), nil
}

// openDirectory opens the directory at path. It creates the directory and its parents if they do
// not exist.
func openDirectory(path string) (*os.Root, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, classifyOpen(path, err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, classifyOpen(path, err)
	}
	return root, nil
}
