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
	// downloads is the maximum number of files that are downloaded at once. It is also the maximum
	// number of a table's files that are downloaded ahead of the file that is being loaded.
	downloads = 4
)

// importRun is the state of one call of Run.
type importRun struct {
	cfg  Config
	sink sink.Capabilities // capabilities of cfg.Sink
	// recorder records snapshots in the destination, under id. It is nil if the destination keeps
	// no records.
	recorder   sink.Recorder
	snapshots  []sink.LoadRecord // snapshots that the destination has recorded
	id         string
	held       string // id that a destination without records holds; "" if there is none
	mode       sink.LoadMode
	downloader *downloader
	tracker    *progressTracker
	began      time.Time // start of the import; zero before the confirmation

	tables map[string]*schema.Table // every table that HQ knows
	wanted []string                 // the tables to import, sorted by name
	// refused maps each table that the destination cannot hold to the reason.
	refused map[string]error
	// reserved lists objects whose schemas use names that only eds may use.
	reserved []TableReport

	requestedJob string     // id of the export that the options name; "" if there is none
	local        *dirSource // files of requestedJob in Dir; nil if Dir is not set
	downloaded   bool       // whether DownloadDir has all files of the complete export

	imp      state.Import
	resumed  bool
	previous *state.Import           // an interrupted import that this import replaces
	sources  map[string]exportSource // sources of the export files, by job id

	// loading has as many shares as tables can be loaded at once. Loading a file takes one share,
	// or all shares if the file must be loaded alone.
	loading *semaphore.Weighted

	mu      sync.Mutex
	results map[string]TableReport
}

func newImportRun(c Config) *importRun {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.HTTP == nil {
		c.HTTP = &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 15 * time.Second, MaxIdleConnsPerHost: downloads,
			IdleConnTimeout:   time.Minute,
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
	r := &importRun{
		cfg: c, sink: sink.CapabilitiesOf(c.Sink), tracker: newTracker(c.Observe), refused: make(map[string]error),
		sources: make(map[string]exportSource), results: make(map[string]TableReport),
		loading: semaphore.NewWeighted(int64(c.Parallel)),
		downloader: &downloader{
			client: c.HTTP, log: c.Logger, slots: make(chan struct{}, downloads), patience: c.Patience, backoff: c.Retry,
		},
	}
	switch {
	case c.NoDelete || !c.TimeOffset.IsZero(): // some rows of a table must not replace all rows
		r.mode = sink.Merge
	case c.AllowEmpty:
		r.mode = sink.ReplaceOrEmpty
	}
	return r
}

// check probes the destination, requests the list of tables from HQ, and selects the tables to
// import. The request also checks the API key. check runs before the import changes anything.
func (r *importRun) check(ctx context.Context) error {
	if !r.cfg.DryRun {
		w := r.newWatch("all tables", "test the destination")
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
			r.cfg.Logger.WarnContext(ctx, "skipping a table because its schema is not usable", "object", object, "error", err)
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

// selectTables returns the names of the tables to import, sorted.
func (r *importRun) selectTables() ([]string, error) {
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

// matches reports whether a previous import has the same parameters and destination as this one.
func (r *importRun) matches(previous state.Import) bool {
	if previous.Parameters == "" { // an earlier version started the import
		return previous.Fingerprint == r.imp.Fingerprint
	}
	return previous.Parameters == r.imp.Parameters && r.cfg.Destination.Owns(previous.Identity, previous.Destination)
}

// fingerprint returns a hash of the import's parameters and of the given spelling of the
// destination's URL, which may be "".
func (r *importRun) fingerprint(spelling string) string {
	sorted := func(s []string) []string { return slices.Compact(slices.Sorted(slices.Values(s))) }
	o := r.cfg.Options
	mode := r.mode
	if mode.Replaces() {
		mode = sink.Replace
	}
	text, _ := json.Marshal(struct { // encoding strings and numbers does not fail
		Destination                string
		Only, Companies, Locations []string
		Offset                     int64
		Mode                       sink.LoadMode
	}{spelling, sorted(o.Only), sorted(o.CompanyIDs), sorted(o.LocationIDs), r.timeOffset(), mode})
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// partial reports whether the import loads only some of the source's rows, or keeps rows that the
// source may have deleted.
func (r *importRun) partial() bool {
	return r.mode == sink.Merge || len(r.cfg.CompanyIDs) > 0 || len(r.cfg.LocationIDs) > 0
}

// timeOffset returns the option TimeOffset in Unix milliseconds, or 0 if the option is not set.
func (r *importRun) timeOffset() int64 {
	if r.cfg.TimeOffset.IsZero() {
		return 0
	}
	return r.cfg.TimeOffset.UnixMilli()
}

func (r *importRun) plan() Plan {
	p := Plan{Mode: r.mode, Resumed: r.resumed, Began: r.imp.Started, Schema: r.cfg.SchemaOnly}
	if n := len(r.imp.Jobs); n > 0 {
		p.Job = r.imp.Jobs[n-1].ID
	}
	if p.Job != "" || r.cfg.Dir != "" || r.cfg.DownloadDir != "" {
		p.Dir = r.workDir(p.Job)
	}
	for _, name := range r.wanted {
		t := PlanTable{Table: name, Done: r.imp.Tables[name].Done, Files: -1}
		if job := r.jobIndexOf(name); job >= 0 && !t.Done {
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

// makeTables creates or alters the unfinished tables in the destination. It adds the tables that
// the destination refuses to r.refused.
func (r *importRun) makeTables(ctx context.Context) error {
	if err := r.refuseForeign(ctx); err != nil {
		return err
	}
	refused, err := r.migrate(ctx, r.unfinished())
	maps.Copy(r.refused, refused)
	return err
}

// migrate creates or alters the named tables. It returns the tables that the destination refuses,
// with the reason. If it returns an error, the error concerns all named tables.
func (r *importRun) migrate(ctx context.Context, names []string) (refused map[string]error, err error) {
	m := r.sink.Migrator
	if m == nil || len(names) == 0 {
		return nil, nil
	}
	tables := make([]*schema.Table, len(names))
	for i, name := range names {
		tables[i] = r.tables[name]
	}
	migrate := func(tables []*schema.Table) error {
		return r.retry(ctx, "make the tables", func() error {
			_, err := m.Migrate(ctx, tables) // the migrator logs the changes
			return err
		})
	}
	errs, err := sink.MigrateTables(tables, migrate, func(err error) bool {
		return ctx.Err() != nil || fault.Of(err) == fault.Transient
	})
	if err != nil {
		return nil, err
	}
	if len(errs) == len(tables) {
		return nil, errs[tables[0]]
	}
	refused = make(map[string]error)
	for t, err := range errs {
		refused[t.Name] = err
	}
	return refused, nil
}

// retry calls fn until fn succeeds, fails with an error that is not transient, or has failed for
// longer than Config.Patience.
func (r *importRun) retry(ctx context.Context, operation string, fn func() error) error {
	w := r.newWatch("all tables", operation)
	defer w.end()
	return r.retryWatched(ctx, w, operation, fn)
}

// retryWatched is like retry, but uses the given watch.
func (r *importRun) retryWatched(ctx context.Context, w *stallWatch, operation string, fn func() error) error {
	w.doing(operation)
	policy := retry.Policy{
		Backoff: r.cfg.Retry, Patience: r.cfg.Patience,
		Failed: func(err error, wait time.Duration) {
			r.cfg.Logger.WarnContext(ctx, "an operation failed; trying again", "wait", wait, "error", err)
		},
	}
	return retry.Do(ctx, policy, func() error {
		if err := fn(); err != nil {
			err = fmt.Errorf("%s: %w", operation, err)
			w.failed(err)
			return err
		}
		w.progress()
		return nil
	})
}

// unfinished returns the names of the wanted tables that are neither done nor refused.
func (r *importRun) unfinished() []string {
	return slices.DeleteFunc(slices.Clone(r.wanted), func(name string) bool {
		return r.imp.Tables[name].Done || r.refused[name] != nil
	})
}

// fillReport adds the results of all tables, and their sums, to the report.
func (r *importRun) fillReport(report *Report) {
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

// keepsFiles reports whether export files are kept after they were loaded.
func (r *importRun) keepsFiles() bool {
	return r.cfg.NoCleanup || r.cfg.Dir != "" || r.cfg.DownloadDir != ""
}

// setResult records the result of a table for the report.
func (r *importRun) setResult(t TableReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results[t.Table] = t
}
