package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/durable"
)

// Bounds for the unreported tombstones that are kept: their number and total size.
const (
	maxTombstones     = 20
	maxTombstoneBytes = 4 << 20
)

// unfinished is the name prefix of temporary files, which become tombstones once they are
// complete.
const unfinished = ".unfinished-"

// crashDir returns the directory of the tombstones in the data directory.
func crashDir(data string) string { return filepath.Join(data, "crash") }

// Tombstone describes a crash of a worker. The next worker reports it to HQ.
type Tombstone struct {
	Time     time.Time    `json:"time"` // when the worker ended
	Version  string       `json:"version,omitempty"`
	PID      int          `json:"pid"`
	Kind     CrashKind    `json:"kind"`
	ExitCode int          `json:"exitCode"` // -1 after a signal
	Signal   string       `json:"signal,omitempty"`
	Ran      TextDuration `json:"ran"`
	Ready    bool         `json:"ready"`             // whether the worker was ever ready
	Session  string       `json:"session,omitempty"` // session that the worker left open
	Reason   string       `json:"reason"`            // how the worker ended, in words
	Message  string       `json:"message,omitempty"` // the first line of the runtime's report
	Stderr   string       `json:"stderr"`            // at most the last 64 KiB

	path string
}

// TextDuration is a time.Duration that is encoded as text like "1m2.5s".
type TextDuration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d TextDuration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *TextDuration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = TextDuration(v)
	return err
}

// Remove deletes the tombstone's file. It succeeds if the file does not exist.
func (t Tombstone) Remove() error {
	if err := os.Remove(t.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a tombstone: %w", err)
	}
	return nil
}

// Tombstones returns the tombstones in the data directory dir, oldest first. If some cannot be
// read, it returns the readable ones and an error.
func Tombstones(dir string) ([]Tombstone, error) {
	names, err := tombstoneNames(crashDir(dir))
	if err != nil {
		return nil, err
	}
	var stones []Tombstone
	var problems []error
	for _, name := range names {
		t := Tombstone{path: filepath.Join(crashDir(dir), name)}
		text, err := os.ReadFile(t.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the parent has removed it
		}
		if err == nil {
			err = json.Unmarshal(text, &t)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("read the tombstone %s: %w", t.path, err))
			continue
		}
		stones = append(stones, t)
	}
	return stones, errors.Join(problems...)
}

// tombstoneNames returns the file names of the tombstones in dir, oldest first.
func tombstoneNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // in the order of their names, which begin with the time
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list tombstones: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() && filepath.Ext(e.Name()) == ".json" && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// writeTombstone writes a tombstone for a worker that has ended. The parameter e describes the
// worker's end. The method only logs a failure, which must not block the restart of the worker.
func (s *supervisor) writeTombstone(e ending, kind CrashKind) {
	t := Tombstone{
		Time: time.Now().UTC(), Version: s.Version, PID: e.pid, Kind: kind, ExitCode: e.code, Signal: e.signal,
		Ran: TextDuration(e.ran.Round(time.Millisecond)), Ready: e.ready, Session: e.session, Reason: e.describe(s.Limits),
		Message: s.Redact(e.message), Stderr: s.Redact(e.stderr),
	}
	path, err := t.write(crashDir(s.Dir))
	if err != nil {
		s.Logger.Error("the tombstone cannot be written", "pid", e.pid, "kind", kind, "error", err)
		return
	}
	s.Logger.Error("a tombstone was written", "pid", e.pid, "kind", kind, "path", path)
}

// write writes t to a file in dir atomically, removes old tombstones, and returns the path of
// the new file.
func (t Tombstone) write(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	text, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, t.name())
	err = durable.Replace(path, unfinished+"*", func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
	if err != nil {
		return "", err
	}
	return path, removeOld(dir, t.name())
}

// name returns the file name of t. It begins with the time, so that sorting by name sorts by
// time.
func (t Tombstone) name() string {
	return fmt.Sprintf("%s-%d.json", t.Time.Format("20060102T150405.000000000Z"), t.PID)
}

// removeOld removes unfinished files that a power cut has left behind. It also removes the
// oldest tombstones in dir until the remaining ones are within the bounds. It never removes the
// new tombstone, whose file name is the last argument.
func removeOld(dir, newest string) error {
	leavings, err := filepath.Glob(filepath.Join(dir, unfinished+"*"))
	if err != nil {
		return err
	}
	names, err := tombstoneNames(dir)
	if err != nil {
		return err
	}
	count, size := 0, int64(0)
	for _, name := range slices.Backward(names) {
		path := filepath.Join(dir, name)
		info, err := os.Lstat(path)
		if err != nil {
			continue // the worker has reported it
		}
		count, size = count+1, size+info.Size()
		if name != newest && (count > maxTombstones || size > maxTombstoneBytes) {
			leavings = append(leavings, path)
		}
	}
	var problems []error
	for _, path := range leavings {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}
