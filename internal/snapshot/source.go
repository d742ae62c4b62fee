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

// exportProgress is the progress of an export at HQ.
type exportProgress struct {
	complete bool
	tables   map[string]tableExport
}

// tableExport is the progress of the export of one table.
type tableExport struct {
	ready bool
	err   error        // reason why the table will never be ready
	files []exportFile // sorted by name
	clock cdc.Timestamp
}

// exportFile is one export file of a table.
type exportFile struct {
	name  string
	url   string // "" if the file cannot be downloaded
	clock cdc.Timestamp
}

// exportSource provides the progress and the files of an export.
type exportSource interface {
	// poll reads the progress of the export.
	poll(ctx context.Context) (exportProgress, error)
	// last returns the result of the latest successful call of poll.
	last() exportProgress
	// locate returns the URL of a file. If the known URL equals stale, locate requests a fresh URL.
	locate(ctx context.Context, table, file, stale string) (string, error)
}

// jobSource is an exportSource for an export job of HQ.
type jobSource struct {
	hq Exporter
	id string

	asking sync.Mutex // held while fresh URLs are requested from HQ
	mu     sync.Mutex
	latest exportProgress
}

func (s *jobSource) poll(ctx context.Context) (exportProgress, error) {
	status, err := s.hq.ExportStatus(ctx, s.id)
	if err != nil {
		return exportProgress{}, err
	}
	e := exportProgress{complete: status.Completed, tables: make(map[string]tableExport, len(status.Tables))}
	for name, t := range status.Tables {
		e.tables[name] = readTable(t, status.Completed)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = e
	return e, nil
}

func (s *jobSource) last() exportProgress {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latest
}

func (s *jobSource) locate(ctx context.Context, table, file, stale string) (string, error) {
	s.asking.Lock()
	defer s.asking.Unlock()
	if at := s.last().tables[table].buildURL(file); at != stale {
		return at, nil
	}
	e, err := s.poll(ctx)
	if err != nil {
		return "", err
	}
	at := e.tables[table].buildURL(file)
	if at == "" {
		return "", fault.Mark(fault.Fatal, errors.New("the export no longer has the file"))
	}
	return at, nil
}

func (t tableExport) buildURL(file string) string {
	for _, f := range t.files {
		if f.name == file {
			return f.url
		}
	}
	return ""
}

// readTable converts HQ's description of a table's export. The parameter complete says whether the
// whole export has ended.
func readTable(t hq.ExportTable, complete bool) tableExport {
	failed := func(format string, a ...any) tableExport {
		return tableExport{err: fmt.Errorf("export: "+format, a...)}
	}
	switch {
	case strings.EqualFold(t.Status, hq.ExportFailed) && t.Error != "":
		return failed("hq reports %q", t.Error)
	case strings.EqualFold(t.Status, hq.ExportFailed):
		return failed("hq reports a failure without a reason")
	case strings.EqualFold(t.Status, hq.ExportCompleted):
	case complete:
		return failed("it ended without this table")
	default:
		return tableExport{}
	}
	files, err := readFiles(t.URLs)
	if err != nil {
		return failed("%w", err)
	}
	clock, err := snapshotClock(files, t.Cursor)
	if err != nil {
		return failed("%w", err)
	}
	return tableExport{ready: true, files: files, clock: clock}
}

// readFiles returns the files with the given URLs, sorted by name and without duplicates.
func readFiles(urls []string) ([]exportFile, error) {
	byName := make(map[string]*url.URL, len(urls))
	files := make([]exportFile, 0, len(urls))
	for _, raw := range urls {
		u, err := url.Parse(raw)
		if err != nil {
			return nil, errors.New("one of the files has an invalid url")
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

// snapshotClock returns the time of a table's snapshot. That is the time of the table's newest file
// or, if there are no files, the time in the cursor.
func snapshotClock(files []exportFile, cursor string) (cdc.Timestamp, error) {
	if len(files) == 0 {
		if cursor == "" {
			return cdc.Timestamp{}, errors.New("the table has neither files nor a cursor, so its time is unknown")
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

// manifestName is the file name of the manifest in a download directory.
const manifestName = "export.json"

// manifest identifies the export that the downloaded files in a directory belong to.
type manifest struct {
	Job      string                   `json:"job"`
	Complete bool                     `json:"complete"` // whether Tables has all tables of the job
	Tables   map[string]manifestTable `json:"tables,omitempty"`
}

type manifestTable struct {
	Files []string `json:"files"`
	Clock string   `json:"clock"`
	Error string   `json:"error,omitempty"`
}

// writeManifest writes the manifest into dir. The manifest lists the tables only if the export is
// complete.
func writeManifest(dir, job string, e exportProgress) error {
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

// readManifest returns the manifest in dir, or the zero manifest if there is none.
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

// dirSource is an exportSource for the export files in a directory.
type dirSource struct {
	found    exportProgress
	complete bool // whether a manifest lists all files of the export
}

func (s *dirSource) poll(context.Context) (exportProgress, error) { return s.found, nil }
func (s *dirSource) last() exportProgress                         { return s.found }
func (s *dirSource) locate(context.Context, string, string, string) (string, error) {
	return "", errNotInDir
}

var errNotInDir = fault.Mark(
	fault.Fatal,
	errors.New("the file is not in the directory; to download it, name the directory with --download-dir and the export with --job-id"),
)

// listedSource is an exportSource for an export whose files are in a directory. HQ still lists the
// files of that export.
type listedSource struct{ *jobSource }

func (s listedSource) poll(ctx context.Context) (exportProgress, error) {
	e, err := s.jobSource.poll(ctx)
	return withoutURLs(e), err
}

func (s listedSource) last() exportProgress { return withoutURLs(s.jobSource.last()) }

func (s listedSource) locate(context.Context, string, string, string) (string, error) {
	return "", errNotInDir
}

// withoutURLs returns a copy of e without URLs, so that no file can be downloaded.
func withoutURLs(e exportProgress) exportProgress {
	tables := make(map[string]tableExport, len(e.tables))
	for name, t := range e.tables {
		t.files = slices.Clone(t.files)
		for i := range t.files {
			t.files[i].url = ""
		}
		tables[name] = t
	}
	return exportProgress{complete: e.complete, tables: tables}
}

// sourceOfManifest returns a source of the files that are listed in a complete manifest.
func sourceOfManifest(m manifest) (*dirSource, error) {
	e := exportProgress{complete: true, tables: make(map[string]tableExport, len(m.Tables))}
	for name, mt := range m.Tables {
		t := tableExport{ready: true}
		if mt.Error != "" {
			t = tableExport{err: errors.New(mt.Error)}
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
	return &dirSource{found: e, complete: true}, nil
}

// sourceOfNames returns a source of the export files in dir, or nil if there are none. It ignores
// all other files.
func sourceOfNames(dir string) (*dirSource, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	e := exportProgress{complete: true, tables: make(map[string]tableExport)}
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

// files returns the sorted names of all files.
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

// downloaded adds up the sizes, in bytes, of the given files. It skips files that are not in dir.
func downloaded(dir string, files []exportFile) int64 {
	var n int64
	for _, f := range files {
		if stat, err := os.Stat(filepath.Join(dir, f.name)); err == nil {
			n += stat.Size()
		}
	}
	return n
}
