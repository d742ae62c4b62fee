package snapshot

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
)

// export is how far an export is.
type export struct {
	complete bool
	tables   map[string]exportTable
}

// exportTable is how far the export of a table is.
type exportTable struct {
	ready bool
	err   error        // why the table will never be ready
	files []exportFile // by name
	clock cdc.Timestamp
}

// exportFile is one file of a table.
type exportFile struct {
	name  string
	url   string // "" where it can't be downloaded
	clock cdc.Timestamp
}

// source tells what there is to import.
type source interface {
	// poll asks how far the export is.
	poll(ctx context.Context) (export, error)
	// last returns the latest answer of poll.
	last() export
	// locate returns the URL of a file, a fresh one where stale is the one known.
	locate(ctx context.Context, table, file, stale string) (string, error)
}

// jobSource is an export job of HQ.
type jobSource struct {
	hq Exporter
	id string

	asking sync.Mutex // held while HQ is asked for fresh URLs
	mu     sync.Mutex
	latest export
}

func (s *jobSource) poll(ctx context.Context) (export, error) {
	answer, err := s.hq.ExportStatus(ctx, s.id)
	if err != nil {
		return export{}, err
	}
	e := export{complete: answer.Completed, tables: make(map[string]exportTable, len(answer.Tables))}
	for name, t := range answer.Tables {
		e.tables[name] = readTable(t, answer.Completed)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = e
	return e, nil
}

func (s *jobSource) last() export {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latest
}

func (s *jobSource) locate(ctx context.Context, table, file, stale string) (string, error) {
	s.asking.Lock()
	defer s.asking.Unlock()
	if at := s.last().tables[table].urlOf(file); at != stale {
		return at, nil
	}
	e, err := s.poll(ctx)
	if err != nil {
		return "", err
	}
	at := e.tables[table].urlOf(file)
	if at == "" {
		return "", fault.Mark(fault.Fatal, errors.New("the export no longer has the file"))
	}
	return at, nil
}

func (t exportTable) urlOf(file string) string {
	for _, f := range t.files {
		if f.name == file {
			return f.url
		}
	}
	return ""
}

// readTable understands what HQ says of a table.
func readTable(t hq.ExportTable, complete bool) exportTable {
	failed := func(format string, a ...any) exportTable {
		return exportTable{err: fmt.Errorf("export: "+format, a...)}
	}
	switch {
	case strings.EqualFold(t.Status, hq.ExportFailed) && t.Error != "":
		return failed("hq says %q", t.Error)
	case strings.EqualFold(t.Status, hq.ExportFailed):
		return failed("hq says that it failed, and not why")
	case strings.EqualFold(t.Status, hq.ExportCompleted):
	case complete:
		return failed("it ended without this table")
	default:
		return exportTable{}
	}
	files, err := readFiles(t.URLs)
	if err != nil {
		return failed("%w", err)
	}
	clock, err := snapshotClock(files, t.Cursor)
	if err != nil {
		return failed("%w", err)
	}
	return exportTable{ready: true, files: files, clock: clock}
}

// readFiles finds the names of the files in their URLs.
func readFiles(urls []string) ([]exportFile, error) {
	byName := make(map[string]*url.URL, len(urls))
	files := make([]exportFile, 0, len(urls))
	for _, raw := range urls {
		u, err := url.Parse(raw)
		if err != nil {
			return nil, errors.New("one of the files has a url that is not one")
		}
		name := path.Base(u.Path)
		parsed, err := ParseExportName(name)
		if err != nil {
			return nil, err
		}
		if same := byName[name]; same != nil {
			if same.Host != u.Host || same.Path != u.Path {
				return nil, fmt.Errorf("two different files have the name %s", name)
			}
			continue
		}
		byName[name] = u
		files = append(files, exportFile{name: name, url: raw, clock: parsed.Clock})
	}
	sortFiles(files)
	return files, nil
}

func sortFiles(files []exportFile) {
	slices.SortFunc(files, func(a, b exportFile) int { return cmp.Compare(a.name, b.name) })
}

// snapshotClock returns the time that a table's snapshot shows: that of its
// newest file, else its cursor.
func snapshotClock(files []exportFile, cursor string) (cdc.Timestamp, error) {
	if len(files) == 0 {
		if cursor == "" {
			return cdc.Timestamp{}, errors.New("the table has neither files nor a cursor to tell its time")
		}
		clock, err := cdc.ParseTimestamp(cursor)
		if err == nil && clock.IsZero() {
			err = errors.New("its cursor is zero")
		}
		return clock, err
	}
	newest := slices.MaxFunc(files, func(a, b exportFile) int { return a.clock.Compare(b.clock) })
	return newest.clock, nil
}

// manifestName is the file that tells, beside downloads, what they belong to.
const manifestName = "export.json"

// manifest is what that file holds.
type manifest struct {
	Job      string                   `json:"job"`
	Complete bool                     `json:"complete"` // Tables are all that the job has
	Tables   map[string]manifestTable `json:"tables,omitempty"`
}

type manifestTable struct {
	Files []string `json:"files"`
	Clock string   `json:"clock"`
	Error string   `json:"error,omitempty"`
}

// writeManifest writes down what the files in dir belong to.
func writeManifest(dir, job string, e export) error {
	m := manifest{Job: job, Complete: e.complete, Tables: make(map[string]manifestTable, len(e.tables))}
	for name, t := range e.tables {
		if !e.complete {
			break
		}
		mt := manifestTable{Files: []string{}, Clock: t.clock.String()}
		for _, f := range t.files {
			mt.Files = append(mt.Files, f.name)
		}
		if t.err != nil {
			mt.Error = t.err.Error()
		}
		m.Tables[name] = mt
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, manifestName)
	if err := os.WriteFile(file+partSuffix, text, 0o600); err != nil {
		return err
	}
	return os.Rename(file+partSuffix, file)
}

// readManifest returns the zero manifest where there is none.
func readManifest(dir string) (manifest, error) {
	var m manifest
	text, err := os.ReadFile(filepath.Join(dir, manifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		return m, fmt.Errorf("read %s of the files of an earlier import: %w", manifestName, err)
	}
	return m, nil
}

// dirSource is the files of a directory.
type dirSource struct {
	found export
	whole bool // a manifest lists all files of the export
}

func (s *dirSource) poll(context.Context) (export, error) { return s.found, nil }
func (s *dirSource) last() export                         { return s.found }
func (s *dirSource) locate(context.Context, string, string, string) (string, error) {
	return "", errNotInDir
}

var errNotInDir = fault.Mark(fault.Fatal, errors.New("the file is not in the directory; to download it, name the directory with --download-dir and the export with --job-id"))

// listedSource is the files of a directory, as HQ lists those of their export.
type listedSource struct{ *jobSource }

func (s listedSource) poll(ctx context.Context) (export, error) {
	e, err := s.jobSource.poll(ctx)
	return withoutURLs(e), err
}

func (s listedSource) last() export { return withoutURLs(s.jobSource.last()) }

func (s listedSource) locate(context.Context, string, string, string) (string, error) {
	return "", errNotInDir
}

// withoutURLs returns the export as one of which nothing can be downloaded.
func withoutURLs(e export) export {
	tables := make(map[string]exportTable, len(e.tables))
	for name, t := range e.tables {
		t.files = slices.Clone(t.files)
		for i := range t.files {
			t.files[i].url = ""
		}
		tables[name] = t
	}
	return export{complete: e.complete, tables: tables}
}

// sourceOfManifest returns the files that a complete manifest lists.
func sourceOfManifest(m manifest) (*dirSource, error) {
	e := export{complete: true, tables: make(map[string]exportTable, len(m.Tables))}
	for name, mt := range m.Tables {
		t := exportTable{ready: true}
		if mt.Error != "" {
			t = exportTable{err: errors.New(mt.Error)}
		}
		var err error
		if t.clock, err = cdc.ParseTimestamp(mt.Clock); err != nil {
			return nil, err
		}
		for _, file := range mt.Files {
			parsed, err := ParseExportName(file)
			if err != nil {
				return nil, err
			}
			t.files = append(t.files, exportFile{name: file, clock: parsed.Clock})
		}
		sortFiles(t.files)
		e.tables[name] = t
	}
	return &dirSource{found: e, whole: true}, nil
}

// sourceOfNames returns the export files that stand in dir, or nil where there
// are none. Other files there are not ours.
func sourceOfNames(dir string) (*dirSource, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	e := export{complete: true, tables: make(map[string]exportTable)}
	for _, entry := range entries {
		parsed, err := ParseExportName(entry.Name())
		if err != nil || !entry.Type().IsRegular() {
			continue
		}
		t := e.tables[parsed.Table]
		t.ready = true
		t.files = append(t.files, exportFile{name: entry.Name(), clock: parsed.Clock})
		if parsed.Clock.Compare(t.clock) > 0 {
			t.clock = parsed.Clock
		}
		e.tables[parsed.Table] = t
	}
	if len(e.tables) == 0 {
		return nil, nil
	}
	return &dirSource{found: e}, nil // ReadDir sorts by name
}

// files returns the names of all files, sorted.
func (s *dirSource) files() []string {
	var names []string
	for _, t := range s.found.tables {
		for _, f := range t.files {
			names = append(names, f.name)
		}
	}
	slices.Sort(names)
	return names
}

// downloaded returns the bytes of those of the files that are in dir.
func downloaded(dir string, files []exportFile) int64 {
	var n int64
	for _, f := range files {
		if stat, err := os.Stat(filepath.Join(dir, f.name)); err == nil {
			n += stat.Size()
		}
	}
	return n
}
