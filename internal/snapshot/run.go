package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/state"
)

const (
	defaultPatience = 5 * time.Minute
	defaultParallel = 4
	// downloads is how many files are downloaded at once, and how many of a
	// table are downloaded ahead of the one that is loaded.
	downloads = 4
)

// run is one run of an import.
type run struct {
	cfg  Config
	sink sink.Capabilities // of cfg.Sink
	// recorder records what is imported, under the destination's id; nil: nothing does.
	recorder  sink.Recorder
	snapshots []sink.Snapshot // that it has recorded
	id        string
	held      string // id that a destination holds which records nothing; "": it holds none
	mode      sink.LoadMode
	fetch     *fetcher
	tracker   *tracker
	began     time.Time // zero before it was confirmed

	tables map[string]*schema.Table // every table that HQ knows
	wanted []string                 // the tables to import, by name
	// refused are the tables that the destination can't have.
	refused map[string]error
	// reserved are the objects whose schemas name what is eds's own.
	reserved []TableReport

	// What the options say of the export: its job, and the files of it that are in Dir.
	// DownloadDir holds all that it had when it was complete.
	job        string
	local      *dirSource
	downloaded bool

	imp      state.Import
	resumed  bool
	previous *state.Import     // an import that this one takes the place of
	sources  map[string]source // by job

	// loading has a share for each table at a time. A file that is loaded holds one, or all.
	loading *semaphore.Weighted

	mu      sync.Mutex
	results map[string]TableReport
}

func newRun(c Config) *run {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.HTTP == nil {
		c.HTTP = &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 15 * time.Second, MaxIdleConnsPerHost: downloads, IdleConnTimeout: time.Minute,
			ForceAttemptHTTP2: true, DisableCompression: true,
		}}
	}
	if c.Present == nil {
		c.Present = time.Now
	}
	if c.Patience <= 0 {
		c.Patience = defaultPatience
	}
	if c.Parallel <= 0 {
		c.Parallel = defaultParallel
	}
	if c.Poll == (retry.Backoff{}) {
		c.Poll = retry.Backoff{Min: time.Second, Max: 15 * time.Second}
	}
	r := &run{
		cfg: c, sink: sink.CapabilitiesOf(c.Sink), tracker: newTracker(c.Observe), refused: make(map[string]error), sources: make(map[string]source), results: make(map[string]TableReport),
		loading: semaphore.NewWeighted(int64(c.Parallel)),
		fetch:   &fetcher{client: c.HTTP, log: c.Logger, slots: make(chan struct{}, downloads), patience: c.Patience, backoff: c.Retry},
	}
	switch {
	case c.NoDelete || !c.TimeOffset.IsZero(): // a part of a table must not take the place of the whole
		r.mode = sink.Merge
	case c.AllowEmpty:
		r.mode = sink.ReplaceOrEmpty
	}
	return r
}

// check finds out, before anything is changed, whether the import can work:
// the destination, the key, the tables.
func (r *run) check(ctx context.Context) error {
	if !r.cfg.DryRun {
		w := r.watch("all tables", "test the destination")
		err := r.cfg.Sink.Probe(ctx)
		w.end()
		if err != nil {
			return &ProbeError{err}
		}
	}
	var err error
	r.tables, err = r.cfg.Schemas.Latest(ctx)
	if malformed := new(schema.MalformedError); errors.As(err, &malformed) && len(r.tables) > 0 {
		for _, object := range slices.Sorted(maps.Keys(malformed.Objects)) {
			err := malformed.Objects[object]
			r.cfg.Logger.WarnContext(ctx, "a table is left out, because its schema can't be used", "object", object, "error", err)
			if errors.Is(err, schema.ErrReserved) && len(r.cfg.Only) == 0 {
				r.reserved = append(r.reserved, TableReport{Table: object, Final: true, Err: err})
			}
		}
		err = nil
	}
	if err != nil {
		return err
	}
	if r.cfg.ValidateOnly {
		return nil
	}
	r.wanted, err = r.selectTables()
	return err
}

// selectTables returns the names of the tables to import.
func (r *run) selectTables() ([]string, error) {
	all := slices.Sorted(maps.Keys(r.tables))
	if len(r.cfg.Only) == 0 {
		return all, nil
	}
	for _, name := range r.cfg.Only {
		if r.tables[name] == nil {
			hint := ""
			if near := sink.Nearest(name, all); near != "" {
				hint = fmt.Sprintf("; did you mean %q?", near)
			}
			return nil, fault.Mark(fault.Fatal, fmt.Errorf("hq knows no table %q%s", name, hint))
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(r.cfg.Only))), nil
}

// same reports whether a previous import has the parameters and destination of this one.
func (r *run) same(previous state.Import) bool {
	if previous.Parameters == "" { // an earlier version began it
		return previous.Fingerprint == r.imp.Fingerprint
	}
	return previous.Parameters == r.imp.Parameters && r.cfg.Destination.Owns(previous.Identity, previous.Destination)
}

// fingerprint tells imports of different parameters, or into destinations of different
// spellings, apart.
func (r *run) fingerprint(spelling string) string {
	sorted := func(s []string) []string { return slices.Compact(slices.Sorted(slices.Values(s))) }
	o := r.cfg.Options
	mode := r.mode
	if mode.Replaces() {
		mode = sink.Replace
	}
	text, _ := json.Marshal(struct { // strings, numbers and booleans always encode
		Destination                string
		Only, Companies, Locations []string
		Offset                     int64
		Mode                       sink.LoadMode
	}{spelling, sorted(o.Only), sorted(o.CompanyIDs), sorted(o.LocationIDs), r.timeOffset(), mode})
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// partial reports whether tables get only some of the source's rows, or keep rows
// that the source may have deleted.
func (r *run) partial() bool {
	return r.mode == sink.Merge || len(r.cfg.CompanyIDs) > 0 || len(r.cfg.LocationIDs) > 0
}

// timeOffset returns the option in unix milliseconds, 0 where it is not given.
func (r *run) timeOffset() int64 {
	if r.cfg.TimeOffset.IsZero() {
		return 0
	}
	return r.cfg.TimeOffset.UnixMilli()
}

func (r *run) plan() Plan {
	p := Plan{Mode: r.mode, Resumed: r.resumed, Began: r.imp.Started, Schema: r.cfg.SchemaOnly}
	if n := len(r.imp.Jobs); n > 0 {
		p.Job = r.imp.Jobs[n-1].ID
	}
	if p.Job != "" || r.cfg.Dir != "" || r.cfg.DownloadDir != "" {
		p.Dir = r.workDir(p.Job)
	}
	for _, name := range r.wanted {
		t := PlanTable{Table: name, Done: r.imp.Tables[name].Done, Files: -1}
		if job := r.owner(name); job >= 0 && !t.Done {
			id := r.imp.Jobs[job].ID
			if src := r.sources[id]; src != nil {
				now := src.last()
				e, ok := now.tables[name]
				t.Absent = !ok && now.complete
				if e.ready {
					t.Files, t.Bytes = len(e.files), downloaded(r.workDir(id), e.files)
				}
			}
		}
		p.Tables = append(p.Tables, t)
	}
	return p
}

// makeTables makes the destination have the tables that are not done, but for those that
// it refuses.
func (r *run) makeTables(ctx context.Context) error {
	if err := r.refuseForeign(ctx); err != nil {
		return err
	}
	refused, err := r.migrate(ctx, r.unfinished())
	maps.Copy(r.refused, refused)
	return err
}

// migrate makes the destination have the given tables, and returns those that
// it refuses, with the reason. An error is one of all of them.
func (r *run) migrate(ctx context.Context, names []string) (refused map[string]error, err error) {
	m := r.sink.Migrator
	if m == nil || len(names) == 0 {
		return nil, nil
	}
	err = r.migrateTogether(ctx, m, names)
	if err == nil || ctx.Err() != nil || fault.Of(err) == fault.Transient || len(names) == 1 {
		return nil, err
	}
	refused = make(map[string]error)
	for _, name := range names {
		err := r.migrateTogether(ctx, m, []string{name})
		if ctx.Err() != nil || err != nil && fault.Of(err) == fault.Transient {
			return nil, err
		}
		if err != nil {
			refused[name] = err
		}
	}
	if len(refused) == len(names) {
		return nil, err
	}
	return refused, nil
}

func (r *run) migrateTogether(ctx context.Context, m sink.Migrator, names []string) error {
	tables := make([]*schema.Table, len(names))
	for i, name := range names {
		tables[i] = r.tables[name]
	}
	return r.persist(ctx, "make the tables", func() error {
		_, err := m.Migrate(ctx, tables) // which logs what it changes
		return err
	})
}

// persist calls f until it succeeds, fails for good, or has failed for longer
// than is waited.
func (r *run) persist(ctx context.Context, operation string, f func() error) error {
	w := r.watch("all tables", operation)
	defer w.end()
	return r.retry(ctx, w, operation, f)
}

func (r *run) retry(ctx context.Context, w *watch, operation string, f func() error) error {
	w.doing(operation)
	backoff := r.cfg.Retry
	var since time.Time // of the first failure
	for {
		err := f()
		if err == nil {
			w.progress()
			return nil
		}
		if since.IsZero() {
			since = time.Now()
		}
		failure := fmt.Errorf("%s: %w", operation, err)
		w.failed(failure)
		wait := backoff.Next(err)
		if ctx.Err() != nil || fault.Of(err) != fault.Transient || time.Since(since)+wait > r.cfg.Patience {
			return failure
		}
		r.cfg.Logger.WarnContext(ctx, "trying again", "operation", operation, "wait", wait, "error", err)
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// unfinished returns the wanted tables that are not done, nor given up.
func (r *run) unfinished() []string {
	return slices.DeleteFunc(slices.Clone(r.wanted), func(name string) bool { return r.imp.Tables[name].Done || r.refused[name] != nil })
}

// fill fills in what happened.
func (r *run) fill(report *Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	report.Tables = slices.SortedFunc(maps.Values(r.results), func(a, b TableReport) int { return strings.Compare(a.Table, b.Table) })
	for _, t := range report.Tables {
		report.Rows += t.Rows
		report.Refused += t.Refused
		report.Bytes += t.Bytes
	}
	if r.keepsFiles() {
		if n := len(r.imp.Jobs); n > 0 {
			report.Dir = r.workDir(r.imp.Jobs[n-1].ID)
		}
	}
}

// keepsFiles reports whether files stay after they were loaded.
func (r *run) keepsFiles() bool { return r.cfg.NoCleanup || r.cfg.Dir != "" || r.cfg.DownloadDir != "" }

// settle notes what became of a table.
func (r *run) settle(t TableReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results[t.Table] = t
}
