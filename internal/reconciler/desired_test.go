package reconciler

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// process is a reconciler with a data directory that outlives the reconciler.
type process struct {
	*Reconciler
	t    *testing.T
	path string
}

func begin(t *testing.T, path string, d *Destination) *process {
	t.Helper()
	dir, err := state.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{State: dir, Logger: slog.New(slog.DiscardHandler), Health: telemetry.NewHealth()}, d)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{r, t, path}
	t.Cleanup(p.crash)
	return p
}

// crash ends the process, unless it has ended already.
func (p *process) crash() {
	p.Close()
	if err := p.State.Close(); err != nil {
		p.t.Error(err)
	}
}

// next crashes the process and starts the next one with the same data directory.
func (p *process) next(d *Destination) *process {
	p.t.Helper()
	p.crash()
	return begin(p.t, p.path, d)
}

func (p *process) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) obstacle(want string) {
	p.t.Helper()
	now, _ := p.desired.now()
	if got := now.obstacle(); got != want {
		p.t.Errorf("the obstacle is %q, want %q", got, want)
	}
}

func (p *process) outcomes(want ...state.ImportOutcome) {
	p.t.Helper()
	now, _ := p.desired.now()
	if diff := cmp.Diff(want, now.Outcomes); diff != "" {
		p.t.Error(diff)
	}
}

func destination(t *testing.T) *Destination {
	t.Helper()
	d, err := ParseDestination(
		config.NewSecret("sqlite://"+filepath.Join(t.TempDir(), "shop.db")), config.Standard,
		func(string) (string, bool) { return "", false },
	)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func saved() error { return nil }

func TestPause_SurvivesACrash(t *testing.T) {
	d := destination(t)
	p := begin(t, t.TempDir(), d)
	p.must(p.Pause(true))
	since := p.Paused()
	p = p.next(d)
	p.must(p.Pause(true)) // changes nothing
	p.obstacle("HQ has paused this server")
	if got := p.Paused(); !got.Equal(since) || got.IsZero() {
		t.Errorf("paused at %v, want %v", got, since)
	}
	p.must(p.Pause(false))
	p = p.next(d)
	p.obstacle("")
}

func TestSetDestination_WaitsForTheImportAfterACrash(t *testing.T) {
	d, other := destination(t), destination(t)
	const waits = "the destination is newly configured and waits for an import"
	p := begin(t, t.TempDir(), nil)
	refused := errors.New("the disk is full")
	if err := p.SetDestination(d, func() error { return refused }); !errors.Is(err, refused) || p.Destination() != nil {
		t.Errorf("%v, %v", err, p.Destination())
	}
	p.must(p.SetDestination(d, saved))
	p = p.next(d)
	p.obstacle(waits)
	p = p.next(other) // the operator has configured it
	p.obstacle("")
	p = p.next(d)
	p.obstacle(waits)
	p.must(p.State.BeginImport(state.Import{Identity: d.Identity}))
	p.must(p.State.FinishTable(d.DestinationKey, state.ImportRecord{Table: "order"}))
	p = p.next(d)
	p.obstacle(waits)
	p.must(p.State.FinishImport()) // by eds import
	p = p.next(d)
	p.obstacle("")
	p = p.next(d)
	p.obstacle("")
}

func TestRequestImport_SurvivesACrash(t *testing.T) {
	d := destination(t)
	p := begin(t, t.TempDir(), nil)
	if _, err := p.RequestImport(ImportRequest{}); !errors.Is(err, errNoDestination) {
		t.Error(err)
	}
	p.must(p.SetDestination(d, saved))
	q := ImportRequest{
		Options: snapshot.Options{
			Only: []string{"order"}, CompanyIDs: []string{"c"}, OwnTables: true, TimeOffset: time.Unix(1, 2).UTC(),
		}, HQ: true,
	}
	id, err := p.RequestImport(q)
	p.must(err)
	if _, err := p.RequestImport(q); !errors.Is(err, errUnderWay) {
		t.Error(err)
	}
	p = p.next(d)
	p.obstacle("an import is under way")
	q.ID = id
	if again, err := p.RequestImport(q); err != nil || again != id || p.ImportID() != id {
		t.Errorf("requested again: %q, %v; under way is %q", again, err, p.ImportID())
	}
	job, err := p.job(id)
	p.must(err)
	if diff := cmp.Diff(q, job.ImportRequest); diff != "" {
		t.Error(diff)
	}
	p.outcomes()
	p.finishImport(t.Context(), job, nil)
	p = p.next(d) // HQ has not received the outcome
	p.outcomes(state.ImportOutcome{ID: id})
	p.obstacle("the destination is newly configured and waits for an import") // of all tables
	p.must(p.OutcomeReceived(id))
	p = p.next(d)
	p.outcomes()
}

func TestSetDestination_CancelsTheImportIntoThePreviousOne(t *testing.T) {
	d, other := destination(t), destination(t)
	for name, configure := range map[string]func(*process) *process{
		"while it runs":  func(p *process) *process { p.must(p.SetDestination(other, saved)); return p },
		"during a crash": func(p *process) *process { return p.next(other) },
		"by none":        func(p *process) *process { return p.next(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			p := begin(t, t.TempDir(), d)
			id, err := p.RequestImport(ImportRequest{HQ: true})
			p.must(err)
			p = configure(p)
			p.outcomes(state.ImportOutcome{ID: id, Error: errOtherDestination.Error()})
			if _, err := p.WatchImport(t.Context(), id, nil); !errors.Is(err, errOtherDestination) {
				t.Error(err)
			}
		})
	}
}

func TestWatchImport_ReturnsTheOutcomeToEveryWatcher(t *testing.T) {
	p := begin(t, t.TempDir(), destination(t))
	id, err := p.RequestImport(ImportRequest{})
	p.must(err)
	job, err := p.job(id)
	p.must(err)
	type seen struct {
		Table string
		Phase snapshot.Phase
		Done  int
	}
	type watcher struct {
		seen    chan seen
		outcome chan error
	}
	watch := func(ctx context.Context) watcher {
		w := watcher{make(chan seen), make(chan error, 1)}
		go func() {
			_, err := p.WatchImport(ctx, id, func(t snapshot.TableProgress, all snapshot.Totals) {
				w.seen <- seen{t.Table, t.Phase, all.Done}
			})
			w.outcome <- err
		}()
		return w
	}
	expect := func(w watcher, want ...seen) {
		t.Helper()
		for _, s := range want {
			if got := <-w.seen; got != s {
				t.Errorf("the watcher sees %v, want %v", got, s)
			}
		}
	}
	early := watch(t.Context())
	job.progress.observe(snapshot.TableProgress{Table: "order", Phase: snapshot.Loading}, snapshot.Totals{})
	expect(early, seen{"order", snapshot.Loading, 0})
	job.progress.observe(snapshot.TableProgress{Table: "vendor", Phase: snapshot.Loading}, snapshot.Totals{})
	expect(early, seen{"vendor", snapshot.Loading, 0})
	ctx, leave := context.WithCancel(t.Context())
	late := watch(ctx)
	expect(late, seen{"order", snapshot.Loading, 0}, seen{"vendor", snapshot.Loading, 0})
	job.progress.observe(snapshot.TableProgress{Table: "order", Phase: snapshot.Done}, snapshot.Totals{Done: 1})
	expect(early, seen{"order", snapshot.Done, 1})
	expect(late, seen{"order", snapshot.Done, 1})
	leave()
	if err := <-late.outcome; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	p.must(p.CancelImport(id))
	for range 2 {
		if err := <-early.outcome; !errors.Is(err, errCanceled) {
			t.Error(err)
		}
		early = watch(t.Context()) // after its end
		expect(early, seen{"vendor", snapshot.Loading, 1}, seen{"order", snapshot.Done, 1})
	}
	if err := <-early.outcome; !errors.Is(err, errCanceled) {
		t.Error(err)
	}
	p.obstacle("")
	if _, err := p.WatchImport(t.Context(), "other", nil); err == nil {
		t.Error("an unknown import is watched")
	}
}

func TestWatchImport_EndsWithTheReconciler(t *testing.T) {
	p := begin(t, t.TempDir(), destination(t))
	id, err := p.RequestImport(ImportRequest{})
	p.must(err)
	outcome := make(chan error)
	go func() {
		_, err := p.WatchImport(t.Context(), id, func(snapshot.TableProgress, snapshot.Totals) {})
		outcome <- err
	}()
	p.Close()
	if err := <-outcome; !errors.Is(err, errStopped) {
		t.Error(err)
	}
}
