// Package shop simulates an auto-repair shop. It has companies with locations, and customers with
// vehicles. Appointments become estimates, repair orders, invoices and payments. The shop is the
// data source of the HQ for development. Everything it does depends only on a seed and the time.
// Its rows can be read at any moment, so that they can be compared with a destination.
//
// The rows are in memory. A snapshot file stores them across runs. The file is written when the
// shop opens, after every saveAfter changes, when the schema changes, and when the shop closes.
package shop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/durable"
)

// ErrEvolved means that the schema has gone through all its evolutions.
var ErrEvolved = errors.New("the schema has no evolution left")

var errClosed = errors.New("the shop is closed")

// Options configures a new shop. An existing shop keeps its seed and its number of customers.
type Options struct {
	Seed      uint64
	Customers int              // number of customers of a new shop; 0 means 500
	Now       func() time.Time // returns the current time; nil means time.Now
}

// saveAfter is the number of changes after which the snapshot file is written again.
const saveAfter = 50_000

// temporary is the name pattern of a snapshot file that is still being written.
const temporary = "snapshot-*.tmp"

// Shop is a simulated shop. It is safe for concurrent use, and does one piece of work at a time.
type Shop struct {
	path      string // path of the snapshot file
	now       func() time.Time
	saveAfter int

	work    sync.Mutex // held while changes are made and published
	step    *step
	actions []action
	pending []Change // changes made that may not be in the stream yet
	unsaved int      // number of changes since the snapshot file was last written

	state  sync.RWMutex // guards model and closed
	model  *model
	closed bool
}

// Open opens the shop in the directory dir. If dir contains no shop, Open creates a new one. The
// same directory must not be opened twice at the same time.
//
// If the shop was killed, it starts from its snapshot file. It may have lost changes that it had
// published, so it then starts a new history; see History.
func Open(dir string, o Options) (*Shop, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Customers <= 0 {
		o.Customers = 500
	}
	s := &Shop{path: filepath.Join(dir, "snapshot"), now: o.Now, saveAfter: saveAfter, actions: actions()}
	if err := s.open(o); err != nil {
		return nil, fmt.Errorf("open the shop in %s: %w", dir, err)
	}
	s.step = &step{generator: newGenerator(), m: s.model, clock: s.now, keep: true}
	return s, nil
}

func (s *Shop) open(o Options) error {
	dir := filepath.Dir(s.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	unfinished, _ := filepath.Glob(filepath.Join(dir, temporary)) // left over from a killed process
	for _, path := range unfinished {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	m, closed, err := load(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		now := o.Now()
		m = newModel(o.Seed, o.Customers, now.UnixNano())
		m.seedShop(now)
	case err != nil:
		return err
	case !closed:
		m.history = max(m.history+1, o.Now().UnixNano())
	}
	s.model = m
	return s.save(false)
}

// save replaces the snapshot file. The parameter closed says whether every change in the snapshot
// is in the stream and the shop makes no more changes. The caller must hold the lock s.state.
func (s *Shop) save(closed bool) error {
	err := durable.Replace(s.path, temporary, func(w io.Writer) error { return s.model.save(w, closed) })
	if err != nil {
		return fmt.Errorf("write the shop's snapshot: %w", err)
	}
	s.unsaved = 0
	return nil
}

// Close saves the shop and ends its work. If some changes are not published yet, the shop starts a
// new history at the next Open.
func (s *Shop) Close() error {
	s.work.Lock()
	defer s.work.Unlock()
	s.state.Lock()
	defer s.state.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.save(len(s.pending) == 0)
}

// History returns the id of the shop's history. All changes published during one history are
// consistent with each other. A stream or an export of a different history may contradict the
// shop's rows.
func (s *Shop) History() string { return strconv.FormatInt(s.model.history, 36) }

// Do performs one step of the shop's work, which is one business action that changes a few rows.
// It calls publish with each change, in commit order. If publish fails, Do returns the error. The
// next call then publishes the failed change and all later ones again, before it makes new
// changes. So the stream may receive a change twice, always with the same ID, but no change is
// missing or out of order.
func (s *Shop) Do(ctx context.Context, publish func(Change) error) error {
	return s.Work(ctx, 1, each(publish))
}

func each(publish func(Change) error) func([]Change) (int, error) {
	return func(changes []Change) (int, error) {
		for i := range changes {
			if err := publish(changes[i]); err != nil {
				return i, err
			}
		}
		return len(changes), nil
	}
}

// Work performs steps until they have made at least the given number of changes, and then calls
// publish once with all of these changes. The function publish must store the changes in the order
// of the slice. If publish fails, it must still return the number of changes that are in the
// stream. The slice is valid until publish returns. In all other respects, Work is like Do.
func (s *Shop) Work(ctx context.Context, changes int, publish func([]Change) (int, error)) error {
	s.work.Lock()
	defer s.work.Unlock()
	if err := s.publishPending(ctx, publish); err != nil {
		return err
	}
	err := s.change(func() error {
		for len(s.pending) == 0 || len(s.pending) < changes {
			s.step.begin()
			s.step.work(s.actions)
			s.collect()
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.publishPending(ctx, publish); err != nil || s.unsaved < s.saveAfter {
		return err
	}
	s.state.RLock()
	defer s.state.RUnlock()
	return s.save(false)
}

// Evolve applies the next evolution of the schema, and returns a description of the evolution. It
// also changes a few rows of the evolved table, and publishes these changes as Do does. If
// publishing fails, the evolution has happened nevertheless. If no evolution is left, the error is
// ErrEvolved.
func (s *Shop) Evolve(ctx context.Context, publish func(Change) error) (description string, err error) {
	s.work.Lock()
	defer s.work.Unlock()
	if err := s.publishPending(ctx, each(publish)); err != nil {
		return "", err
	}
	err = s.change(func() error {
		e := s.model.evolve()
		if e == nil {
			return ErrEvolved
		}
		description = e.description
		s.step.begin()
		s.step.show(e)
		s.collect()
		return s.save(false) // a schema that clients may have seen must not be lost
	})
	if err != nil {
		return "", err
	}
	return description, s.publishPending(ctx, each(publish))
}

// change holds the lock while it calls act, which may change the model. If the shop is closed,
// change returns an error and does not call act.
func (s *Shop) change(act func() error) error {
	s.state.Lock()
	defer s.state.Unlock()
	if s.closed {
		return errClosed
	}
	return act()
}

// collect adds the changes of the last step to the pending changes.
func (s *Shop) collect() {
	s.pending = append(s.pending, s.step.changes...)
	s.unsaved += len(s.step.changes)
	clear(s.step.changes)
}

// publishPending publishes all pending changes. Changes that publish could not store stay pending.
func (s *Shop) publishPending(ctx context.Context, publish func([]Change) (int, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.change(func() error { return nil }); err != nil {
		return err
	}
	if len(s.pending) == 0 {
		return nil
	}
	published, err := publish(s.pending)
	if err != nil {
		s.pending = slices.Delete(s.pending, 0, published)
		return fmt.Errorf("publish the shop's changes: %w", err)
	}
	s.pending = slices.Delete(s.pending, 0, len(s.pending))
	return nil
}

// Snapshot returns the current state of the shop, including changes that are not published yet. It
// takes about ten milliseconds per million rows.
func (s *Shop) Snapshot() *Snapshot {
	s.state.Lock()
	defer s.state.Unlock()
	sn := &Snapshot{Clock: s.model.tick(s.now().UnixNano()), tables: make(map[string][]slot), owners: slices.Clone(s.model.owners)}
	for _, t := range s.model.tables {
		sn.tables[t.name()] = slices.Clone(t.rows)
	}
	return sn
}

// Companies returns the sorted ids of all companies.
func (s *Shop) Companies() []string { return s.keys("company") }

// Locations returns the sorted ids of all locations.
func (s *Shop) Locations() []string { return s.keys("location") }

func (s *Shop) keys(table string) []string {
	s.state.RLock()
	defer s.state.RUnlock()
	return slices.Sorted(maps.Keys(s.model.byName[table].byKey))
}

// LatestSchemas returns the newest schema of every object, keyed by object name.
func (s *Shop) LatestSchemas() map[string]json.RawMessage {
	s.state.RLock()
	defer s.state.RUnlock()
	latest := make(map[string]json.RawMessage)
	for _, t := range s.model.tables {
		latest[t.latest().object] = t.latest().schema
	}
	return latest
}

// Schema returns one version of an object's schema, and whether that version exists.
func (s *Shop) Schema(object, version string) (json.RawMessage, bool) {
	s.state.RLock()
	defer s.state.RUnlock()
	for _, t := range s.model.tables {
		for _, l := range t.layouts {
			if l.object == object && l.version == version {
				return l.schema, true
			}
		}
	}
	return nil, false
}
