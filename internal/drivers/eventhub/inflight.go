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

// keyQueue holds the events of a batch that have the same hub and the same partition key, in stream
// order. Its messages are sent one at a time.
type keyQueue struct {
	hub, key string
	plain    bool // key is the uncut partition key of the protocol, which ends in the row's id
	events   []*cdc.Event
	accepted int // number of events, from the first, that Event Hubs has accepted
}

// keyQueues groups events into queues. The queues are in the order of their first events. Events
// that Event Hubs has already accepted are left out. An error concerns a single event.
func (s *Sink) keyQueues(events []*cdc.Event) ([]*keyQueue, error) {
	s.scratch.list = s.scratch.list[:0]
	byID := s.scratch.byID
	if byID == nil {
		byID = make(map[queueID]*keyQueue)
		s.scratch.byID = byID
	}
	known := make(map[string]string)
	for _, e := range events {
		hub, err := s.name.Of(e, known)
		if err != nil {
			return nil, err
		}
		if s.failedEvents.accepted(e) {
			continue
		}
		key, plain := partitionKey(e)
		id := queueID{hub, key}
		q := byID[id]
		if q == nil {
			q = &keyQueue{hub: hub, key: key, plain: plain}
			byID[id] = q
			s.scratch.list = append(s.scratch.list, q)
		}
		q.events = append(q.events, e)
	}
	return s.scratch.list, nil
}

// queueID identifies a queue within a batch.
type queueID struct{ hub, key string }

// The type scratch is memory that is reused from batch to batch. The zero value is ready to use.
type scratch struct {
	list []*keyQueue
	byID map[queueID]*keyQueue

	mu      sync.Mutex
	writers []*messageWriter // writers that are not in use
}

// clear drops the references to the caller's events.
func (s *scratch) clear() {
	clear(s.list)
	clear(s.byID)
}

func (s *scratch) writer(properties bool) *messageWriter {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.writers); n > 0 {
		w := s.writers[n-1]
		s.writers = s.writers[:n-1]
		return w
	}
	return newMessageWriter(properties)
}

func (s *scratch) putWriter(w *messageWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.release()
	s.writers = append(s.writers, w)
}

// inFlightBatch is one batch being sent.
type inFlightBatch struct {
	sink    *Sink
	session *hubSession
	queues  []*keyQueue
	// The field intact says, after the method send has failed, whether the session is known to be
	// usable.
	intact bool

	mu   sync.Mutex
	next int // index into queues of the next queue to send
	err  error
	// The field soft says whether every error so far has rejected only a single message and left
	// the link open.
	soft bool
}

// send sends all queues, several at a time. It does not return until every sent message has been
// accepted or has returned an error.
func (f *inFlightBatch) send(ctx context.Context) error {
	if err := f.ready(ctx); err != nil {
		return err
	}
	var group sync.WaitGroup
	for range min(f.session.inFlight, len(f.queues)) {
		group.Go(func() {
			w := f.sink.scratch.writer(f.session.properties)
			defer f.sink.scratch.putWriter(w)
			for q := f.take(); q != nil; q = f.take() {
				if err := f.sendQueue(ctx, q, w); err != nil {
					f.fail(err, q)
					return
				}
			}
		})
	}
	// Wait even after a failure, because messages in flight may still be accepted.
	group.Wait()
	f.intact = f.soft
	return f.err
}

// ready opens the links to the batch's hubs, one at a time, so that a connection failure is
// reported only once.
func (f *inFlightBatch) ready(ctx context.Context) error {
	seen := make(map[string]bool)
	for _, q := range f.queues {
		if seen[q.hub] {
			continue
		}
		seen[q.hub] = true
		if err := f.session.openLink(ctx, q.hub); err != nil {
			return fmt.Errorf("hub %q: %w", q.hub, err)
		}
		f.session.progress.Add(1)
	}
	return nil
}

// take returns the next queue, or nil if none is left or the batch has failed.
func (f *inFlightBatch) take() *keyQueue {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil || f.next == len(f.queues) {
		return nil
	}
	f.next++
	return f.queues[f.next-1]
}

// fail records err, which is an error about queue q. After that, the batch sends no more messages,
// but messages in flight continue.
func (f *inFlightBatch) fail(err error, q *keyQueue) {
	soft := refused(err)
	err = fmt.Errorf("hub %q: %w", q.hub, f.session.classify(err))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.soft = soft && (f.err == nil || f.soft)
	f.err = worse(f.err, err)
}

func (f *inFlightBatch) failed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err != nil
}

// sendQueue sends the unaccepted events of a queue in as few messages as possible. It always sends
// the first message. Before each later message, it stops if the batch has failed.
func (f *inFlightBatch) sendQueue(ctx context.Context, q *keyQueue, w *messageWriter) error {
	client, err := f.session.client(q.hub)
	if err != nil {
		return err
	}
	for q.accepted < len(q.events) {
		if q.accepted > 0 && f.failed() {
			return nil
		}
		batch, err := client.NewEventDataBatch(ctx, &azeventhubs.EventDataBatchOptions{PartitionKey: &q.key})
		if err != nil {
			return err
		}
		n := q.accepted
		for ; n < len(q.events); n++ {
			event, replaced := w.write(q, n, n == q.accepted)
			err := batch.AddAMQPAnnotatedMessage(event, nil)
			if errors.Is(err, azeventhubs.ErrEventDataTooLarge) && n > q.accepted {
				break // event n starts the next message
			}
			if err != nil {
				return err
			}
			if replaced {
				f.sink.adjusted(q.events[n])
			}
		}
		if err := client.SendEventDataBatch(ctx, batch, nil); err != nil {
			return err
		}
		q.accepted = n
		f.session.progress.Add(1)
	}
	return nil
}

// adjusted counts an event whose invalid UTF-8 was replaced.
func (s *Sink) adjusted(e *cdc.Event) {
	s.counting.Lock()
	defer s.counting.Unlock()
	s.env.Adjusted(e.Table, "", "invalid-utf8")
}

// failedEvents records, for each event of a failed batch, whether Event Hubs accepted the event.
// The zero value is empty.
type failedEvents struct {
	seed maphash.Seed
	// The field events says for each recorded event whether Event Hubs accepted the event. The map
	// is nil if nothing is recorded.
	events map[fingerprint]bool
}

// fingerprint identifies an event by its position in the stream and a hash of its payload.
type fingerprint struct {
	sequence uint64
	payload  uint64
}

func (r *failedEvents) fingerprint(e *cdc.Event) fingerprint {
	return fingerprint{e.Position.Sequence, maphash.Bytes(r.seed, e.Payload)}
}

// accepted reports whether Event Hubs is known to have accepted e.
func (r *failedEvents) accepted(e *cdc.Event) bool {
	return r.events != nil && r.events[r.fingerprint(e)]
}

// record stores, for each event of the queues, whether Event Hubs accepted the event. It stores
// nothing if none of these events was accepted and nothing was stored before.
func (r *failedEvents) record(queues []*keyQueue) {
	none := !slices.ContainsFunc(queues, func(q *keyQueue) bool { return q.accepted > 0 })
	if r.events == nil && none {
		return
	}
	if r.events == nil {
		r.seed = maphash.MakeSeed()
		r.events = make(map[fingerprint]bool)
	}
	for _, q := range queues {
		for i, e := range q.events {
			r.events[r.fingerprint(e)] = i < q.accepted
		}
	}
}

// forget removes the events of a batch that has succeeded. If one of these events is not recorded,
// the caller has moved on to another batch, so forget removes all records.
func (r *failedEvents) forget(events []*cdc.Event) {
	if r.events == nil {
		return
	}
	for _, e := range events {
		p := r.fingerprint(e)
		if _, part := r.events[p]; !part {
			r.events = nil
			return
		}
		delete(r.events, p)
	}
	if len(r.events) == 0 {
		r.events = nil
	}
}
