// Package shop is a simulated auto-repair shop: companies with locations,
// customers with vehicles, appointments that become estimates, repair orders,
// invoices and payments. It is the source of data of a local HQ. Everything it
// does follows from a seed and the time, every change of a row is written to a
// log before anyone hears of it, and what it holds at any moment can be asked
// for, so that what arrived somewhere can be compared with it.
package shop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// ErrEvolved says that the schema has gone through all its evolutions.
var ErrEvolved = errors.New("no evolution of the schema is left")

// Options shape a shop when it is made. A shop that is there already keeps what
// it was made with, except for Now.
type Options struct {
	Seed      uint64
	Customers int              // how many there are in the beginning; 500 where it is 0
	Now       func() time.Time // time.Now where it is nil
}

// checkpointAfter is the size of the log, in bytes, at which a new generation begins.
const checkpointAfter = 64 << 20

// Shop is a simulated shop in a directory. It is safe for concurrent use; its
// work is done one piece at a time.
type Shop struct {
	now             func() time.Time
	checkpointAfter int64

	work    sync.Mutex // held while a step is done and published
	store   store
	step    *step
	actions []action
	records []byte
	pending []Change // in the log, perhaps not in the stream

	state  sync.RWMutex // held while the model or the log changes
	model  *model
	broken error // why no more work can be done
}

// Open opens the shop in dir, which is made, with a new shop in it, where there
// is none. The directory must not be open twice; who owns the data directory
// around it sees to that.
func Open(dir string, o Options) (*Shop, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Customers <= 0 {
		o.Customers = 500
	}
	s := &Shop{now: o.Now, checkpointAfter: checkpointAfter, store: store{dir: dir, sync: (*os.File).Sync}, actions: actions()}
	if err := s.open(o); err != nil {
		return nil, fmt.Errorf("open the shop in %s: %w", dir, err)
	}
	s.step = &step{pen: newPen(), m: s.model, clock: s.now, keep: true}
	return s, nil
}

func (s *Shop) open(o Options) error {
	if err := os.MkdirAll(s.store.dir, 0o700); err != nil {
		return err
	}
	generation, err := newest(s.store.dir)
	if err != nil {
		return err
	}
	if generation == 0 {
		now := o.Now()
		s.model = newModel(o.Seed, o.Customers, now.UnixNano())
		s.model.found(now)
		return s.store.checkpoint(s.model)
	}
	s.store.generation = generation
	if s.model, err = load(filepath.Join(s.store.dir, checkpointName(generation))); err != nil {
		return err
	}
	if err := s.store.openLog(s.replay); err != nil {
		return err
	}
	if err := s.store.sweep(); err != nil {
		return errors.Join(err, s.store.log.Close())
	}
	return nil
}

// replay performs one record, and remembers its changes until a later record
// says that they were published.
func (s *Shop) replay(payload []byte) error {
	if payload[0] == recordPublished {
		r := reader{rest: payload[1:]}
		upTo := r.uint()
		s.pending = slices.DeleteFunc(s.pending, func(c Change) bool { return c.Seq <= upTo })
		return r.err
	}
	return s.model.replay(payload, func(c Change) { s.pending = append(s.pending, c) })
}

// Close ends the work. What was not published is published after the next Open.
func (s *Shop) Close() error {
	s.work.Lock()
	defer s.work.Unlock()
	s.state.Lock()
	defer s.state.Unlock()
	if s.broken == nil {
		s.broken = errors.New("the shop is closed")
	}
	return errors.Join(s.store.sync(s.store.log), s.store.log.Close())
}

// Do does one step of the shop's work: one thing that happens in a shop, which
// changes a few rows. It calls publish with each of the changes, in commit
// order, once they are durable in the log. A nil answer means that the stream
// has the change. After an error Do returns, and the change and those behind it
// are published again, in order, before anything new happens: by the next call,
// or by the first one after the shop was closed or killed and opened again. So
// the stream may be given a change twice, always with the same ID, but never
// misses one and never sees two in the wrong order.
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

// Work does as many steps as make at least the given number of changes, with
// one write to the log and one call of publish for all of them, which is many
// times faster than as many calls of Do. Publish returns how many of the
// changes, from the first on, the stream has; with a nil error it has all. The
// slice is good until publish returns. Otherwise Work keeps Do's promises.
func (s *Shop) Work(ctx context.Context, changes int, publish func([]Change) (int, error)) error {
	s.work.Lock()
	defer s.work.Unlock()
	if err := s.settle(ctx, publish); err != nil {
		return err
	}
	err := s.commit(func() {
		for ok := true; ok; ok = len(s.pending) < changes {
			s.step.begin()
			s.step.work(s.actions)
			s.log()
		}
	})
	if err != nil {
		return err
	}
	return s.settle(ctx, publish)
}

// Evolve makes the next evolution of the schema, says what it is, and changes
// a few rows of the table, which are published as by Do; should that fail, the
// evolution has happened all the same. Once there is none left it returns
// ErrEvolved.
func (s *Shop) Evolve(ctx context.Context, publish func(Change) error) (what string, err error) {
	s.work.Lock()
	defer s.work.Unlock()
	if err := s.settle(ctx, each(publish)); err != nil {
		return "", err
	}
	err = s.commit(func() {
		e := s.model.evolve()
		if e == nil {
			return
		}
		what = e.what
		s.records = appendRecord(s.records, recordEvolution, func(dst []byte) []byte { return appendNumber(dst, s.model.evolved) })
		s.step.begin()
		s.step.show(e)
		s.log()
	})
	if err != nil {
		return "", err
	}
	if what == "" {
		return "", ErrEvolved
	}
	return what, s.settle(ctx, each(publish))
}

// log adds the step just done to what is to be written.
func (s *Shop) log() {
	s.records = appendRecord(s.records, recordStep, func(dst []byte) []byte {
		return append(appendNumber(dst, s.model.step), s.step.record...)
	})
	s.pending = append(s.pending, s.step.changes...)
	clear(s.step.changes)
}

// commit lets act change the model, and makes what it did durable before anyone
// can see it.
func (s *Shop) commit(act func()) error {
	s.state.Lock()
	defer s.state.Unlock()
	if s.broken != nil {
		return s.broken
	}
	s.records = s.records[:0]
	act()
	return s.write(s.records, true)
}

// write appends to the log. Should that fail, the model is ahead of the log,
// and only opening the shop again can mend it.
func (s *Shop) write(records []byte, durable bool) error {
	if err := s.store.append(records, durable); err != nil {
		s.broken = fmt.Errorf("write the shop's log: %w", err)
	}
	return s.broken
}

// settle publishes what is pending, notes that in the log, and begins a new
// generation where the log has become long.
func (s *Shop) settle(ctx context.Context, publish func([]Change) (int, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.usable(); err != nil { // else what is pending may not be in the log
		return err
	}
	published := 0
	var refused error
	if len(s.pending) > 0 {
		published, refused = publish(s.pending)
		if refused == nil {
			published = len(s.pending)
		}
	}
	if err := s.note(published); err != nil {
		return err
	}
	if refused != nil {
		return fmt.Errorf("publish the shop's changes: %w", refused)
	}
	return nil
}

// usable returns why no more work can be done, if that is so.
func (s *Shop) usable() error {
	s.state.RLock()
	defer s.state.RUnlock()
	return s.broken
}

// Published tells the shop that the stream ends with the change of the given
// id, so that neither it nor those before it are published again. Called after
// Open it makes publishing exactly once, whatever the stream remembers of the
// ids of its messages. An id that is none of those still to be published says
// nothing.
func (s *Shop) Published(id string) error {
	s.work.Lock()
	defer s.work.Unlock()
	return s.note(1 + slices.IndexFunc(s.pending, func(c Change) bool { return c.ID == id }))
}

// note records that the first n pending changes are in the stream.
func (s *Shop) note(n int) error {
	s.state.Lock()
	defer s.state.Unlock()
	if s.broken != nil || n == 0 {
		return s.broken
	}
	upTo := s.pending[n-1].Seq
	s.pending = slices.Delete(s.pending, 0, n)
	s.records = appendRecord(s.records[:0], recordPublished, func(dst []byte) []byte { return appendNumber(dst, upTo) })
	// Forgetting this costs no more than publishing again.
	if err := s.write(s.records, false); err != nil || len(s.pending) > 0 {
		return err
	}
	if s.store.size < s.checkpointAfter {
		return nil
	}
	if err := s.store.checkpoint(s.model); err != nil {
		s.broken = fmt.Errorf("write a checkpoint of the shop: %w", err)
	}
	return s.broken
}

// Snapshot returns the shop as it is now, whether or not the last changes are
// published yet. It takes some ten milliseconds a million rows.
func (s *Shop) Snapshot() *Snapshot {
	s.state.Lock()
	defer s.state.Unlock()
	sn := &Snapshot{Clock: s.model.tick(s.now().UnixNano()), tables: make(map[string][]slot), places: slices.Clone(s.model.places)}
	for _, t := range s.model.tables {
		sn.tables[t.name()] = slices.Clone(t.rows)
	}
	if s.broken == nil {
		// The clock must not be handed out again after a restart. Where it can't
		// be written down the shop is at an end, and no change follows. The next
		// step's record makes it durable together with itself.
		_ = s.write(appendRecord(nil, recordClock, func(dst []byte) []byte { return appendClock(dst, sn.Clock) }), false)
	}
	return sn
}

// Companies returns the ids of the companies.
func (s *Shop) Companies() []string {
	s.state.RLock()
	defer s.state.RUnlock()
	return slices.Sorted(maps.Keys(s.model.byName["company"].byKey))
}

// Locations returns the ids of the locations.
func (s *Shop) Locations() []string {
	s.state.RLock()
	defer s.state.RUnlock()
	return slices.Sorted(maps.Keys(s.model.byName["location"].byKey))
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
