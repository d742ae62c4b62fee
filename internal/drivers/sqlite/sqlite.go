// Package sqlite is the destination SQLite: one database file, written without cgo.
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
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/shopmonkeyus/eds/internal/durable"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Driver returns the description of the destination.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "sqlite", Title: "SQLite", Schemes: []string{"sqlite"},
		Example: "sqlite:///var/lib/eds/shop.db",
		Summary: "One database file on this machine, that any program can read while eds writes.",
		Help:    help,
		Options: options(),
		Fields: []sink.Field{
			{Name: "Database", Type: "string", Description: "path of the database file; it is made where there is none", Required: true},
		},
		Limits:    sink.Limits{Rows: 20_000, Bytes: 32 << 20},
		KeepsRows: true,
		URL:       urlOf,
		Identity:  identity,
		Open:      open,
	}
}

const help = `The URL is sqlite:// and a path: sqlite:///var/lib/eds/shop.db is absolute, sqlite://shop.db is relative to where eds runs. The file, and its directory, are made where there are none.

eds needs to write the file and its directory, which must be on a disk of this machine: SQLite's locks do not hold over a network file system. Other programs may read at any time and see whole batches only; one that writes for longer than busy_timeout makes eds wait.

A batch of changes and the position it reaches are one transaction, on disk before it is acknowledged: each change takes effect exactly once.`

func options() []sink.Option {
	return append([]sink.Option{
		{Name: "busy_timeout", Default: "5s", Description: "how long to wait for a lock that another program holds, before the wait is reported and begun anew"},
		{Name: "journal_mode", Default: "wal", Description: "wal, delete, truncate or persist; in all but wal readers and the writer wait for one another"},
		{Name: "synchronous", Default: "full", Description: "full, extra or normal; with normal the latest batches may be undone by a loss of power, after they were acknowledged"},
	}, sqlsink.URLOptions...)
}

// dialect is what SQLite contributes to the SQL engine, for one database file.
type dialect struct {
	path        string
	busyTimeout time.Duration
	journalMode string
	synchronous string
	log         *slog.Logger
	adjusted    func(table, column, rule string)

	turn chan struct{} // holds a token while a session of this process writes
	seen atomic.Bool   // the file has been open once

	// maxLog is the size of the write-ahead log beyond which the writer waits for
	// readers to let go of it. Usually it stays near autoCheckpointPages, but
	// readers that always overlap would keep it growing.
	maxLog int64
	// logTolerated is the size up to which readers may keep the write-ahead log
	// growing, 0 where none do. Whose turn it is owns it.
	logTolerated int64
}

func open(ctx context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
	if err := sink.CheckOptions(target, options()); err != nil {
		return nil, err
	}
	d, err := newDialect(target, env)
	if err != nil {
		return nil, fault.Mark(fault.Fatal, err)
	}
	choices, err := sqlsink.ParseOptions(target.Query())
	if err != nil {
		return nil, err
	}
	s, err := sqlsink.Open(ctx, d, choices, env)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// newDialect reads the URL.
func newDialect(target *url.URL, env sink.Env) (*dialect, error) {
	path, err := pathOf(target)
	if err != nil {
		return nil, err
	}
	env = env.Complete()
	d := &dialect{path: path, log: env.Logger, adjusted: env.Adjusted, turn: make(chan struct{}, 1), maxLog: 256 << 20}
	query := target.Query()
	if d.busyTimeout, err = timeoutOf(query.Get("busy_timeout")); err != nil {
		return nil, err
	}
	if d.journalMode, err = sink.ChoiceOf(query, "journal_mode", "wal", "delete", "truncate", "persist"); err != nil {
		return nil, err
	}
	if d.synchronous, err = sink.ChoiceOf(query, "synchronous", "full", "extra", "normal"); err != nil {
		return nil, err
	}
	return d, nil
}

// pathOf returns the absolute path that a URL names.
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
		return "", errors.New("the sqlite url names no database file; it should be like sqlite:///var/lib/eds/shop.db or sqlite://shop.db")
	}
	if path == ":memory:" {
		return "", errors.New("the sqlite url names a database in memory, which would be gone with eds; name a file")
	}
	return filepath.Abs(filepath.FromSlash(path))
}

// identity returns the database file, past all symbolic links.
func identity(target *url.URL) string {
	path, err := pathOf(target)
	if err != nil {
		return sink.JoinIdentity("sqlite", target.Host, target.Path, nil)
	}
	return sink.JoinIdentity("sqlite", "", filepath.ToSlash(durable.Resolve(path)), nil)
}

// timeoutOf reads a duration, or as SQLite has it a number of milliseconds.
func timeoutOf(text string) (time.Duration, error) {
	if text == "" {
		return 5 * time.Second, nil
	}
	timeout, err := time.ParseDuration(text)
	if ms, e := strconv.ParseUint(text, 10, 31); e == nil {
		timeout, err = time.Duration(ms)*time.Millisecond, nil
	}
	if err != nil || timeout < 0 || timeout > time.Hour {
		return 0, errors.New("option busy_timeout should be a duration of up to an hour, like 5s, or milliseconds")
	}
	return timeout, nil
}

// urlOf builds a URL from the values of Driver's Fields.
func urlOf(values map[string]string) (string, []sink.FieldError) {
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

// place returns the nearest directory that exists at or above that of the database file.
// It makes none.
func (d *dialect) place() (string, error) {
	if info, err := os.Stat(d.path); err == nil && info.IsDir() {
		return "", fault.Mark(fault.Fatal, fmt.Errorf("%s is a directory, not a database file", d.path))
	}
	directory, err := durable.Existing(filepath.Dir(d.path))
	if err != nil {
		return "", fault.Mark(fault.Fatal, fmt.Errorf("find the directory of the database file: %w", err))
	}
	return directory, nil
}
