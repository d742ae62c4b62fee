// Package file is the destination that writes events into files of a directory:
// one file an event, or batches of them in rolling NDJSON files or in Parquet.
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
		Summary: "Every change in a directory: a JSON file each, rolling NDJSON files, or Parquet.",
		Help:    help,
		Options: options,
		Fields: []sink.Field{
			{Name: "Directory", Type: "string", Description: "the directory to write into; it is made if there is none", Required: true},
		},
		Limits:   limits,
		URL:      urlOf,
		Identity: identity,
		Open:     open,
	}
}

var limits = sink.Limits{Rows: 10_000, Bytes: 16 << 20}

const help = `The URL is file:// and a directory: file:///var/lib/eds/changes is absolute, file://changes is relative to where eds runs. It is made where there is none; eds needs to write to it and everything in it.

With format=json, the default, each change is a file of its own, <table>/<unix seconds>-<key>-<change id>.json, which appears whole or not at all, in the order of the stream. A change that is delivered again has the same name and replaces itself. path= gives files other names, by a Go template over the change: path={{.table}}/{{.mvccTimestamp}}_{{.id}}.json (written with %7B and %7D for the braces where a URL has to be clean). Changes for which it makes one name replace each other.

With format=ndjson changes are appended, one a line, to a file a table, <table>/<nanoseconds>-<sequence>-<consumer>.ndjson, named by when the stream stored the first of them, its place there, and a short hash of the consumer. A new file is begun once roll-rows, roll-bytes or roll-age is reached. What was appended and the position that it reaches are recorded together in .eds, so that each change is there exactly once, also after a crash. Compressed files are made of one gzip member or zstd frame a batch; any reader of the format takes them as one.

With format=parquet each batch becomes a file a table, <table>/<nanoseconds>-<sequence>-<consumer>.parquet, which appears whole: a batch waits for roll-rows, roll-bytes or roll-age. Columns have the types of the table's schema (timestamps in microseconds of UTC, 64-bit integers, JSON as annotated text), beside _eds_operation, _eds_id, _eds_clock, _eds_sequence, _eds_time, _eds_key and others that say what the change is. What a type can not hold without loss is kept as JSON in _eds_rest, the rule "kept-as-json".

layout= puts files of both formats into other directories, as {table}/dt=YYYY-MM-DD/, by the date of the change in UTC.

Names that a file system could not hold, or that would lead out of the directory, are escaped with % and two hexadecimal digits. Bytes that are not UTF-8 become U+FFFD, the rule "invalid-utf8". The directory .eds is eds's own; do not read or change what is in it. It holds an id. If eds starts and finds none, or another one, the directory was emptied or its file system is not mounted: eds reports that, and writes nothing until eds import is run.

An import adds a change for each row, an INSERT with "imported": true. What is there stays.`

var options = append([]sink.Option{
	{Name: "path", Description: "with format=json, a Go template of the file's path, as {{.table}}/{{.id}}.json"},
}, lake.Options(appended, "begin a new file after (100000, 64m and 1m in Parquet)")...)

// What becomes of batches where the URL says no more than format=: NDJSON files are
// appended to, Parquet files can't be.
var (
	appended = lake.Default{Compression: lake.None, Layout: "{table}/", RollRows: 1_000_000, RollBytes: 256 << 20, RollAge: 24 * time.Hour}
	whole    = lake.Default{Layout: "{table}/", RollRows: 100_000, RollBytes: 64 << 20, RollAge: time.Minute}
)

// choices are what the URL says.
type choices struct {
	directory string       // absolute
	path      *encode.Path // nil: the default names
	files     lake.Settings
}

func open(_ context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
	if err := sink.CheckOptions(target, options); err != nil {
		return nil, err
	}
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

// newSink makes the sink that the choices ask for.
func newSink(d disk, c choices, env sink.Env) (sink.Sink, error) {
	env = env.Complete()
	s := newFileStore(d, env)
	if c.files.Format != "" {
		return newRollingSink(s, c), nil
	}
	return newFileSink(s, c), nil
}

func parse(target *url.URL) (choices, error) {
	directory, err := directoryOf(target)
	if err != nil {
		return choices{}, err
	}
	c := choices{directory: directory}
	query := target.Query()
	defaults := appended
	if query.Get("format") == string(lake.Parquet) {
		defaults = whole
	}
	if c.files, err = lake.Parse(query, defaults); err != nil {
		return c, err
	}
	if text := query.Get("path"); text != "" {
		c.path, err = encode.ParsePath(text)
	}
	return c, err
}

// directoryOf returns the absolute path that a URL names. What follows file://
// up to the first slash would be a host; here it begins a relative path.
func directoryOf(target *url.URL) (string, error) {
	if target.User != nil || target.Fragment != "" || target.Opaque != "" {
		return "", errors.New("the file url should read file:///absolute/directory or file://relative/directory; write @ as %40 and # as %23")
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

// identity returns the directory, past all symbolic links.
func identity(target *url.URL) string {
	path, err := directoryOf(target)
	if err != nil {
		return sink.JoinIdentity("file", target.Host, target.Path, nil)
	}
	return sink.JoinIdentity("file", "", filepath.ToSlash(durable.Resolve(path)), nil)
}

// urlOf makes a URL of the values of the driver's fields.
func urlOf(values map[string]string) (string, []sink.FieldError) {
	directory := strings.TrimSpace(values["Directory"])
	switch {
	case directory == "":
		return "", []sink.FieldError{{Field: "Directory", Error: "name a directory, like /var/lib/eds/changes"}}
	case strings.ContainsRune(directory, 0):
		return "", []sink.FieldError{{Field: "Directory", Error: "a directory's name can not hold a NUL"}}
	}
	if runtime.GOOS == "windows" {
		directory = filepath.ToSlash(directory)
	}
	if !strings.HasPrefix(directory, "/") {
		if filepath.VolumeName(directory) != "" {
			directory = "/" + directory
		} else {
			// A relative path can begin with what no host may hold.
			directory = "/" + strings.TrimPrefix(directory, "./")
			return "file://." + (&url.URL{Path: directory}).EscapedPath(), nil
		}
	}
	return (&url.URL{Scheme: "file", Path: directory}).String(), nil
}

// openDirectory makes the directory where there is none and opens it.
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
