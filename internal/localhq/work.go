package localhq

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// worker makes the source work at a rate, and puts what comes of it into the
// stream.
type worker struct {
	source    source
	publisher *publisher

	// turn holds a token while the source may be put to work: whoever takes it
	// is the only one to, so that changes reach the publisher in their order.
	turn chan struct{}

	mu      sync.Mutex
	rate    float64 // changes a second
	paused  bool
	changed chan struct{} // closed when rate or paused changes
}

func newWorker(s source, p *publisher, rate float64) *worker {
	w := &worker{source: s, publisher: p, rate: rate, turn: make(chan struct{}, 1), changed: make(chan struct{})}
	w.turn <- struct{}{}
	return w
}

func (w *worker) state() (rate float64, changed <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.paused {
		return 0, w.changed
	}
	return w.rate, w.changed
}

func (w *worker) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	close(w.changed)
	w.changed = make(chan struct{})
}

// run works until ctx is done.
func (w *worker) run(ctx context.Context) error {
	due := time.Now() // of the next change
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		rate, changed := w.state()
		var wake <-chan time.Time
		if rate > 0 {
			// What was not done while there was no work to do is not made up for.
			if now := time.Now(); due.Before(now.Add(-maxArrears)) {
				due = now
			}
			timer.Reset(time.Until(due))
			wake = timer.C
		}
		select {
		case <-wake:
			made, err := w.work(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return fmt.Errorf("work in the shop: %w", err)
			}
			due = due.Add(time.Duration(float64(max(made, 1)) / rate * float64(time.Second)))
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// maxArrears is how far a slow worker may fall behind its rate and still catch up.
const maxArrears = time.Second

// work does one piece of work and returns how many changes it made. It does
// nothing where work was paused meanwhile.
func (w *worker) work(ctx context.Context) (made int, err error) {
	err = w.exclusively(ctx, func() error {
		if rate, _ := w.state(); rate == 0 {
			return nil
		}
		return w.source.do(ctx, func(m message) error {
			made++
			return w.publish(ctx, m)
		})
	})
	return made, err
}

func (w *worker) publish(ctx context.Context, m message) error {
	return w.publisher.publish(ctx, &nats.Msg{
		Subject: m.subject, Header: nats.Header{nats.MsgIdHdr: {m.id}}, Data: m.data,
	})
}

// exclusively calls f while nobody else puts the source to work.
func (w *worker) exclusively(ctx context.Context, f func() error) error {
	select {
	case <-w.turn:
		defer func() { w.turn <- struct{}{} }()
		return f()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pause stops the work. When it returns nil, nothing is under way and every
// change is stored.
func (w *worker) pause(ctx context.Context) error {
	w.set(func() { w.paused = true })
	if err := w.exclusively(ctx, func() error { return nil }); err != nil {
		return fmt.Errorf("wait for the work under way: %w", err)
	}
	return w.publisher.flush(ctx)
}

// evolve changes the schema, and returns when that is stored.
func (w *worker) evolve(ctx context.Context) (what string, err error) {
	err = w.exclusively(ctx, func() error {
		what, err = w.source.evolve(ctx, func(m message) error { return w.publish(ctx, m) })
		return err
	})
	if err != nil {
		return "", fmt.Errorf("change the schema: %w", err)
	}
	return what, w.publisher.flush(ctx)
}

// evolveEvery changes the schema again and again, but not while work is paused.
func (w *worker) evolveEvery(ctx context.Context, every time.Duration, logger *slog.Logger) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		if rate, _ := w.state(); rate == 0 {
			continue
		}
		what, err := w.evolve(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		logger.Info("the schema changed", "how", what)
	}
}
