package eventhub

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azeventhubs/v2"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// lane are the events of a batch that have one hub and one partition key, in
// order. They are sent one message after the other.
type lane struct {
	hub, key string
	plain    bool // the key ends in the row's id
	events   []*cdc.Event
	accepted int // events, from the first on, that Event Hubs have
}

// lanes sorts events into lanes, in the order of their first events, without
// those that Event Hubs have accepted already. An error is about one event.
func (s *Sink) lanes(events []*cdc.Event) ([]*lane, error) {
	s.scratch.lanes = s.scratch.lanes[:0]
	places := s.scratch.places
	if places == nil {
		places = make(map[place]*lane)
		s.scratch.places = places
	}
	known := make(map[string]string)
	for _, e := range events {
		hub, err := s.name.Of(e, known)
		if err != nil {
			return nil, err
		}
		if s.unsettled.accepted(e) {
			continue
		}
		key, plain := partitionKey(e)
		at := place{hub, key}
		l := places[at]
		if l == nil {
			l = &lane{hub: hub, key: key, plain: plain}
			places[at] = l
			s.scratch.lanes = append(s.scratch.lanes, l)
		}
		l.events = append(l.events, e)
	}
	return s.scratch.lanes, nil
}

// place is what the events of a lane have in common.
type place struct{ hub, key string }

// scratch is memory that is used again by the next batch. The zero value is
// ready.
type scratch struct {
	lanes  []*lane
	places map[place]*lane

	mu      sync.Mutex
	writers []*writer // that nobody uses
}

// clear lets go of all that is the caller's.
func (s *scratch) clear() {
	clear(s.lanes)
	clear(s.places)
}

func (s *scratch) writer(properties bool) *writer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.writers); n > 0 {
		w := s.writers[n-1]
		s.writers = s.writers[:n-1]
		return w
	}
	return newWriter(properties)
}

func (s *scratch) giveBack(w *writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.release()
	s.writers = append(s.writers, w)
}

// flight is the sending of a batch.
type flight struct {
	sink    *Sink
	session *session
	lanes   []*lane
	// intact says, after an error, that the session is of further use.
	intact bool

	mu   sync.Mutex
	next int // lane
	err  error
	// soft says that err is a message's that was refused, and no more.
	soft bool
}

// fly sends all lanes, several at a time, and returns once every message that
// was sent is accepted or its fate unknown.
func (f *flight) fly(ctx context.Context) error {
	if err := f.ready(ctx); err != nil {
		return err
	}
	var group sync.WaitGroup
	for range min(f.session.inFlight, len(f.lanes)) {
		group.Go(func() {
			w := f.sink.scratch.writer(f.session.properties)
			defer f.sink.scratch.giveBack(w)
			for l := f.take(); l != nil; l = f.take() {
				if err := f.send(ctx, l, w); err != nil {
					f.fail(err, l)
					return
				}
			}
		})
	}
	// Whatever goes wrong, what is under way may yet be accepted.
	group.Wait()
	f.intact = f.soft
	return f.err
}

// ready opens the links of the batch's hubs, one after the other, so that what
// hinders that is told of once.
func (f *flight) ready(ctx context.Context) error {
	seen := make(map[string]bool)
	for _, l := range f.lanes {
		if seen[l.hub] {
			continue
		}
		seen[l.hub] = true
		if err := f.session.reach(ctx, l.hub); err != nil {
			return fmt.Errorf("hub %q: %w", l.hub, err)
		}
		f.session.moved.Add(1)
	}
	return nil
}

// take returns the next lane, or nil where no more are to be sent.
func (f *flight) take() *lane {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil || f.next == len(f.lanes) {
		return nil
	}
	f.next++
	return f.lanes[f.next-1]
}

// fail ends the flight: what is under way goes on, nothing new is sent.
func (f *flight) fail(err error, l *lane) {
	soft := refused(err)
	err = fmt.Errorf("hub %q: %w", l.hub, f.session.explain(err))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.soft = soft && (f.err == nil || f.soft)
	f.err = worse(f.err, err)
}

func (f *flight) failed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err != nil
}

// send sends a lane, in as few messages as hold it.
func (f *flight) send(ctx context.Context, l *lane, w *writer) error {
	client, err := f.session.client(l.hub)
	if err != nil {
		return err
	}
	for l.accepted < len(l.events) {
		if l.accepted > 0 && f.failed() {
			return nil
		}
		batch, err := client.NewEventDataBatch(ctx, &azeventhubs.EventDataBatchOptions{PartitionKey: &l.key})
		if err != nil {
			return err
		}
		n := l.accepted
		for ; n < len(l.events); n++ {
			event, replaced := w.write(l, n, n == l.accepted)
			err := batch.AddAMQPAnnotatedMessage(event, nil)
			if errors.Is(err, azeventhubs.ErrEventDataTooLarge) && n > l.accepted {
				break // it begins the next message
			}
			if err != nil {
				return err
			}
			if replaced {
				f.sink.adjusted(l.events[n])
			}
		}
		if err := client.SendEventDataBatch(ctx, batch, nil); err != nil {
			return err
		}
		l.accepted = n
		f.session.moved.Add(1)
	}
	return nil
}

// adjusted counts an event whose bytes were replaced.
func (s *Sink) adjusted(e *cdc.Event) {
	s.counting.Lock()
	defer s.counting.Unlock()
	s.env.Adjusted(e.Table, "", "invalid-utf8")
}

// unsettled are the events of batches that failed: whether Event Hubs have
// accepted them. The zero value has none.
type unsettled struct {
	seed   maphash.Seed
	events map[print]bool
}

// print tells one event from another.
type print struct {
	sequence uint64
	payload  uint64
}

func (u *unsettled) print(e *cdc.Event) print {
	return print{e.Position.Sequence, maphash.Bytes(u.seed, e.Payload)}
}

// accepted reports whether Event Hubs have accepted e, as far as is known.
func (u *unsettled) accepted(e *cdc.Event) bool {
	return u.events != nil && u.events[u.print(e)]
}

// keep remembers what became of the events of lanes.
func (u *unsettled) keep(lanes []*lane) {
	none := !slices.ContainsFunc(lanes, func(l *lane) bool { return l.accepted > 0 })
	if u.events == nil && none {
		return
	}
	if u.events == nil {
		u.seed = maphash.MakeSeed()
		u.events = make(map[print]bool)
	}
	for _, l := range lanes {
		for i, e := range l.events {
			u.events[u.print(e)] = i < l.accepted
		}
	}
}

// settle forgets the events of a batch that has succeeded; and all others, where
// it shows that the caller has gone on to another batch.
func (u *unsettled) settle(events []*cdc.Event) {
	if u.events == nil {
		return
	}
	for _, e := range events {
		p := u.print(e)
		if _, part := u.events[p]; !part {
			u.events = nil
			return
		}
		delete(u.events, p)
	}
	if len(u.events) == 0 {
		u.events = nil
	}
}
