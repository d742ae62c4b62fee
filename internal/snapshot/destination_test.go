package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// destination is a sink on disk that survives a killed process. live/<table> has the rows of the
// table, one per line. stage/<table>/<job>/<file> has the rows of a loaded file.
type destination struct {
	root string

	mu       sync.Mutex
	migrated []string
	begun    []string // "<job> <table> <mode>"
	loaded   []string // files, in the order of loading
	clocks   map[string]cdc.Timestamp
	probe    error
	// fail is called before each operation, and after an operation with a name that ends in "ed".
	fail func(operation, table, file string) error
	// hang is called before fail, for the operation and table in hanging. It may be slow. Nil: not
	// called.
	hang    func()
	hanging [2]string
	// row is called for each row of a file. If it returns errEnough, the destination skips the rest
	// of the file and reports the file as loaded.
	row func(n int, r *change.Row) error
}

var errEnough = errors.New("enough")

var _ sink.Migrator = (*destination)(nil)

func newDestination(t testing.TB, root string) *destination {
	d := &destination{root: root + "/destination", clocks: make(map[string]cdc.Timestamp)}
	for _, dir := range []string{"live", "stage"} {
		if err := os.MkdirAll(filepath.Join(d.root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func (d *destination) check(operation, table, file string) error {
	if d.hang != nil && d.hanging == [2]string{operation, table} {
		d.hang()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail == nil {
		return nil
	}
	return d.fail(operation, table, file)
}

func (d *destination) Probe(context.Context) error                { return d.probe }
func (d *destination) Close(context.Context) error                { return nil }
func (d *destination) Apply(context.Context, *change.Batch) error { return errors.New("unused") }

func (d *destination) Migrate(_ context.Context, tables []*schema.Table) ([]string, error) {
	for _, t := range tables {
		if err := d.check("migrate", t.Name, ""); err != nil {
			return nil, err
		}
	}
	for _, t := range tables {
		d.migrated = append(d.migrated, t.Name)
	}
	return nil, nil
}

func (d *destination) BeginLoad(_ context.Context, job string, t *schema.Table, mode sink.LoadMode, _ sink.Scope) (sink.Load, error) {
	if err := d.check("begin", t.Name, ""); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.begun = append(d.begun, fmt.Sprintf("%s %s %d", job, t.Name, mode))
	l := &diskLoad{d: d, table: t, mode: mode, dir: filepath.Join(d.root, "stage", t.Name, job)}
	others, _ := filepath.Glob(filepath.Join(d.root, "stage", t.Name, "*"))
	for _, other := range others {
		if other != l.dir {
			if err := os.RemoveAll(other); err != nil {
				return nil, err
			}
		}
	}
	return l, os.MkdirAll(l.dir, 0o700)
}

type diskLoad struct {
	d     *destination
	table *schema.Table
	mode  sink.LoadMode
	dir   string

	placed bool
	rows   int64
}

func (l *diskLoad) Loaded(file string) bool {
	_, err := os.Stat(filepath.Join(l.dir, file))
	return err == nil
}

func (l *diskLoad) LoadFile(_ context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
	return l.load(file, rows, func(_ *change.Row, _ int64, err error) error { return err })
}

func (l *diskLoad) LoadRows(
	_ context.Context, file string, rows iter.Seq2[*change.Row, error], refused func(*change.Row, int64, error) error,
) (int64, error) {
	return l.load(file, rows, refused)
}

func (l *diskLoad) load(file string, rows iter.Seq2[*change.Row, error], refused func(*change.Row, int64, error) error) (int64, error) {
	if err := l.d.check("load", l.table.Name, file); err != nil {
		return 0, err
	}
	var text bytes.Buffer
	n, out := 0, 0
	for row, err := range rows {
		if err != nil {
			return 0, fmt.Errorf("copy: %w", err)
		}
		n++
		if l.d.row != nil {
			err := l.d.row(n, row)
			if errors.Is(err, errEnough) {
				return int64(n), nil
			}
			if fault.Of(err) == fault.Poison {
				if err := refused(row, int64(n), err); err != nil {
					return 0, err
				}
				out++
				continue
			}
			if err != nil {
				return 0, err
			}
		}
		fmt.Fprintf(&text, "%s %s\n", row.Value(0), row.Value(1))
		l.d.mu.Lock()
		l.d.clocks[file] = row.Clock
		l.d.mu.Unlock()
	}
	path := filepath.Join(l.dir, file)
	if err := os.WriteFile(path+".tmp", text.Bytes(), 0o600); err != nil {
		return 0, err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return 0, err
	}
	l.d.mu.Lock()
	l.d.loaded = append(l.d.loaded, file)
	l.d.mu.Unlock()
	return int64(n - out), l.d.check("loaded", l.table.Name, file)
}

func (l *diskLoad) Finish(context.Context) (int64, error) {
	if err := l.d.check("finish", l.table.Name, ""); err != nil {
		return 0, err
	}
	if l.placed {
		return l.rows, l.d.check("finished", l.table.Name, "")
	}
	files, err := filepath.Glob(filepath.Join(l.dir, "*.gz"))
	if err != nil {
		return 0, err
	}
	var rows []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		rows = append(rows, splitLines(text)...)
	}
	slices.Sort(rows)
	rows = slices.Compact(rows)
	l.rows = int64(len(rows))
	old := l.d.live(l.table.Name)
	switch {
	case l.mode == sink.Merge:
		rows = append(rows, old...)
	case l.mode == sink.Replace && l.rows == 0 && len(old) > 0:
		return 0, fault.Mark(fault.Fatal, sink.ErrWouldEmpty)
	}
	if err := errors.Join(l.d.setLive(l.table.Name, rows), os.RemoveAll(l.dir)); err != nil {
		return 0, err
	}
	l.placed = true
	return l.rows, l.d.check("finished", l.table.Name, "")
}

func (l *diskLoad) Discard(context.Context) error { return os.RemoveAll(l.dir) }
func (l *diskLoad) Close(context.Context) error   { return l.d.check("close", l.table.Name, "") }

var errLoadLost = fault.Mark(fault.Fatal, sink.ErrLoadLost)

// loseStage removes the staged rows of a table.
func (d *destination) loseStage(table string) error {
	return os.RemoveAll(filepath.Join(d.root, "stage", table))
}

// live returns the sorted rows of a live table; nil if there is no table.
func (d *destination) live(table string) []string {
	text, err := os.ReadFile(filepath.Join(d.root, "live", table))
	if err != nil {
		return nil
	}
	return splitLines(text)
}

func (d *destination) setLive(table string, rows []string) error {
	slices.Sort(rows)
	path := filepath.Join(d.root, "live", table)
	if err := os.WriteFile(path+".tmp", []byte(strings.Join(slices.Compact(rows), "\n")), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// staged returns the number of a table's files whose rows are loaded but not in place yet.
func (d *destination) staged(table string) int {
	files, _ := filepath.Glob(filepath.Join(d.root, "stage", table, "*", "*.gz"))
	return len(files)
}

func splitLines(text []byte) []string {
	if len(text) == 0 {
		return []string{}
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// rows returns the rows of rowsOf in the form in which live returns them.
func rows(first, n int) []string {
	out := []string{}
	for i := first; i < first+n; i++ {
		out = append(out, fmt.Sprintf(`"r%05d" %d`, i, i))
	}
	return out
}
