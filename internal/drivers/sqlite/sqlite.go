// Package sqlite writes to a SQLite database file, without cgo.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/shopmonkeyus/eds/internal/durable"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Driver returns the driver for SQLite.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "sqlite", Title: "SQLite", Schemes: []string{"sqlite"},
		Example: "sqlite:///var/lib/eds/shop.db",
		Summary: "Writes rows to one database file on this machine, which any program can read while eds writes.",
		Help:    help,
		Options: options,
		Fields: []sink.Field{
			{Name: "Database", Type: "string", Description: "path of the database file; eds creates it", Required: true},
		},
		Limits:    sink.Limits{Rows: 20_000, Bytes: 32 << 20},
		KeepsRows: true,
		URL:       buildURL,
		Identity:  identity,
		Open:      open,
	}
}

const help = `The URL is sqlite:// and a path: sqlite:///var/lib/eds/shop.db is absolute,
sqlite://shop.db is relative to the working directory of eds. eds creates the file and
its directory.

eds needs to write the file and its directory, which must be on a disk of this machine:
SQLite's locks do not work on a network file system. Other programs may read at any
time and see whole batches only; one that writes for longer than busy_timeout makes eds
wait.

A batch of changes and its position are one transaction, on disk before eds
acknowledges it: each change takes effect exactly once.`

var options = append([]sink.Option{
	{
		Name: "busy_timeout", Type: sink.Duration{Max: time.Hour, Unit: time.Millisecond}, Default: "5s",
		Help: "how long to wait for a lock that another program holds, before eds reports the wait and retries; " +
			"a duration, or a number of milliseconds",
	},
	{
		Name: "journal_mode", Type: sink.OneOf("wal", "delete", "truncate", "persist"), Default: "wal",
		Help: "`wal`, `delete`, `truncate` or `persist`; in all but `wal` readers and the writer wait for one another",
	},
	{
		Name: "synchronous", Type: sink.OneOf("full", "extra", "normal"), Default: "full",
		Help: "`full`, `extra` or `normal`; with `normal` a loss of power may undo the latest batches after they were acknowledged",
	},
}, sqlsink.RowOptions...)

// dialect implements sqlsink.Dialect for one SQLite database file.
type dialect struct {
	path        string
	busyTimeout time.Duration
	journalMode string
	synchronous string
	log         *slog.Logger
	adjusted    func(table, column, rule string)

	turn chan struct{} // holds a token while a session of this process writes
	seen atomic.Bool   // eds has opened the file at least once

	// maxLog is a limit for the size of the write-ahead log, in bytes. If a commit makes the log
	// that large or larger, the commit waits for readers and truncates the log. Usually the log
	// stays near autoCheckpointPages, but overlapping readers can keep it growing.
	maxLog int64
	// logTolerated is the size, in bytes, up to which the log may grow after readers have blocked a
	// truncation. It is 0 if no readers block truncations. Only the session that has the turn to
	// write uses logTolerated.
	logTolerated int64
}

func open(ctx context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
	d, shared, err := parse(target, env)
	if err != nil {
		return nil, fault.Mark(fault.Fatal, err)
	}
	s, err := sqlsink.Open(ctx, d, shared, env)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// parse reads the settings from a destination URL.
func parse(target *url.URL, env sink.Env) (*dialect, sqlsink.Options, error) {
	v, err := sink.ParseOptions(target, options)
	if err != nil {
		return nil, sqlsink.Options{}, err
	}
	shared, err := sqlsink.ReadOptions(v)
	if err != nil {
		return nil, shared, err
	}
	path, err := pathOf(target)
	if err != nil {
		return nil, shared, err
	}
	env = env.Complete()
	return &dialect{
		path: path, log: env.Logger, adjusted: env.Adjusted, turn: make(chan struct{}, 1), maxLog: 256 << 20,
		busyTimeout: v.Duration("busy_timeout"), journalMode: v.Text("journal_mode"), synchronous: v.Text("synchronous"),
	}, shared, nil
}

// pathOf returns the absolute path of the database file that a URL names.
func pathOf(target *url.URL) (string, error) {
	if target.User != nil || target.Fragment != "" {
		return "", errors.New("the sqlite url has a user name or a fragment; in a path write @ as %40 and # as %23")
	}
	path := target.Host + target.Path
	if target.Opaque != "" {
		var err error
		if path, err = url.PathUnescape(target.Opaque); err != nil {
			return "", errors.New("the sqlite url has a path in which a % is not followed by two hexadecimal digits")
		}
	}
	// sqlite:///C:/shop.db
	if runtime.GOOS == "windows" && len(path) > 2 && path[0] == '/' && path[2] == ':' {
		path = path[1:]
	}
	if path == "" || strings.HasSuffix(path, "/") || strings.Contains(path, "\x00") {
		return "", errors.New("the sqlite url names no database file; " +
			"it should be like sqlite:///var/lib/eds/shop.db or sqlite://shop.db")
	}
	if path == ":memory:" {
		return "", errors.New("the sqlite url names a database in memory, which eds would lose when it stops; name a file")
	}
	return filepath.Abs(filepath.FromSlash(path))
}

// identity returns a string that identifies the database file of target. It resolves symbolic
// links.
func identity(target *url.URL) string {
	path, err := pathOf(target)
	if err != nil {
		return sink.JoinIdentity("sqlite", target.Host, target.Path, nil)
	}
	return sink.JoinIdentity("sqlite", "", filepath.ToSlash(durable.Resolve(path)), nil)
}

// buildURL builds a destination URL from the values of Driver's Fields, or returns the error of the
// invalid field.
func buildURL(values map[string]string) (string, []sink.FieldError) {
	path := strings.TrimSpace(values["Database"])
	if path == "" {
		return "", []sink.FieldError{{Field: "Database", Error: "the path of the database file is missing"}}
	}
	if strings.ContainsRune(path, 0) || strings.HasSuffix(path, "/") {
		return "", []sink.FieldError{{Field: "Database", Error: "this is not the path of a file"}}
	}
	path = filepath.ToSlash(path)
	switch {
	case filepath.VolumeName(path) != "":
		path = "/" + path
	case !strings.HasPrefix(path, "/"):
		path = "./" + path
	}
	escaped := (&url.URL{Path: path}).EscapedPath()
	return "sqlite://" + escaped, nil
}

// existingDir returns the directory of the database file or, if that directory does not exist, the
// nearest existing directory above it.
func (d *dialect) existingDir() (string, error) {
	if info, err := os.Stat(d.path); err == nil && info.IsDir() {
		return "", fault.Mark(fault.Fatal, fmt.Errorf("%s is a directory, not a database file", d.path))
	}
	directory, err := durable.Existing(filepath.Dir(d.path))
	if err != nil {
		return "", fault.Mark(fault.Fatal, fmt.Errorf("find the directory of the database file: %w", err))
	}
	return directory, nil
}
