// Package shop simulates an auto-repair shop: companies with locations, customers with vehicles,
// appointments that become estimates, repair orders, invoices and payments. It is the data source
// of the HQ for development. Everything it does follows from a seed and the time, and its rows can
// be read at any moment, so that a destination can be compared with them.
//
// The rows are in memory. A snapshot file keeps them from one run to the next: it is written when
// the shop opens, after every saveAfter changes, when the schema changes, and when the shop closes.
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

// ErrEvolved says that the schema has gone through all its evolutions.
var ErrEvolved = errors.New("the schema has no evolution left")

var errClosed = errors.New("the shop is closed")

// Options configure a new shop. An existing shop keeps its seed and its customers.
type Options struct {
	Seed      uint64
	Customers int              // of a new shop; 0 means 500
	Now       func() time.Time // nil means time.Now
}

// saveAfter is the number of changes after which the snapshot file is written.
const saveAfter = 50_000

// temporary is the pattern of the snapshot file's name while it is written.
const temporary = "snapshot-*.tmp"

// Shop is a simulated shop. It is safe for concurrent use. It does one piece of work at a time.
type Shop struct {
	path      string // of the snapshot file
	now       func() time.Time
	saveAfter int

	work    sync.Mutex // held while changes are made and published
	step    *step
	actions []action
	pending []Change // made, but perhaps not in the stream
	unsaved int      // changes since the snapshot file was written

	state  sync.RWMutex // guards model and closed
	model  *model
	closed bool
}

// Open opens the shop in dir. If there is none, it makes the directory and a new shop. The caller
// must not open a directory twice.
//
// A shop that was killed opens as its snapshot file has it, so it may have published changes that
// it does not know any more. Then it begins a new history: see History.
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
	unfinished, _ := filepath.Glob(filepath.Join(dir, temporary)) // after a kill
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

// save replaces the snapshot file. closed says that the stream has every change of it, and that no
// change follows. The caller holds state.
func (s *Shop) save(closed bool) error {
	err := durable.Replace(s.path, temporary, func(w io.Writer) error { return s.model.save(w, closed) })
	if err != nil {
		return fmt.Errorf("write the shop's snapshot: %w", err)
	}
	s.unsaved = 0
	return nil
}

// Close saves the shop and ends its work. If changes are not published, the shop has another
// history after the next Open.
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

// History identifies the shop's history. All changes published in one history follow from each
// other. If it differs from the history of a stream or of an export, these may contradict the
// shop's rows.
func (s *Shop) History() string { return strconv.FormatInt(s.model.history, 36) }

// Do does one step of the shop's work: one business action, which changes a few rows. It calls
// publish with each change, in commit order. After an error Do returns, and the next call
// publishes the change and those after it again, in order, before it makes new ones. So the stream
// may receive a change twice, always with the same ID, but misses none and sees none out of order.
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

// Work does steps until they make at least the given number of changes, and calls publish once for
// all of them. If publish fails, it returns how many of the changes, from the first on, are in the
// stream. The slice is valid until publish returns. Otherwise Work is like Do.
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

// Evolve makes the next evolution of the schema and returns its description. It also changes a few
// rows of the table and publishes them as Do does; if that fails, the evolution has happened. If
// none is left, Evolve returns ErrEvolved.
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
		return s.save(false) // a schema that clients have seen must not disappear
	})
	if err != nil {
		return "", err
	}
	return description, s.publishPending(ctx, each(publish))
}

// change calls act, which changes the model.
func (s *Shop) change(act func() error) error {
	s.state.Lock()
	defer s.state.Unlock()
	if s.closed {
		return errClosed
	}
	return act()
}

// collect adds the changes of the last step to those that are pending.
func (s *Shop) collect() {
	s.pending = append(s.pending, s.step.changes...)
	s.unsaved += len(s.step.changes)
	clear(s.step.changes)
}

// publishPending publishes the pending changes.
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

// Snapshot returns the shop as it is now, with the changes that are not published yet. It takes
// some ten milliseconds per million rows.
func (s *Shop) Snapshot() *Snapshot {
	s.state.Lock()
	defer s.state.Unlock()
	sn := &Snapshot{Clock: s.model.tick(s.now().UnixNano()), tables: make(map[string][]slot), owners: slices.Clone(s.model.owners)}
	for _, t := range s.model.tables {
		sn.tables[t.name()] = slices.Clone(t.rows)
	}
	return sn
}

// Companies returns the ids of the companies.
func (s *Shop) Companies() []string { return s.keys("company") }

// Locations returns the ids of the locations.
func (s *Shop) Locations() []string { return s.keys("location") }

func (s *Shop) keys(table string) []string {
	s.state.RLock()
	defer s.state.RUnlock()
	return slices.Sorted(maps.Keys(s.model.byName[table].byKey))
}

// LatestSchemas returns the newest schema of every object, by object name.
func (s *Shop) LatestSchemas() map[string]json.RawMessage {
	s.state.RLock()
	defer s.state.RUnlock()
	latest := make(map[string]json.RawMessage)
	for _, t := range s.model.tables {
		latest[t.latest().object] = t.latest().schema
	}
	return latest
}

// Schema returns one version of an object's schema.
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
