package devhq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/shopmonkeyus/eds/internal/devhq/shop"
)

const (
	// bulkTick is the time whose changes are made and stored at once. Fewer than
	// a change a tick are made one by one.
	bulkTick = 10 * time.Millisecond
	// bulkMost is how many changes are made at once at most, about.
	bulkMost = windowMessages / 2
	// maxArrears is how far a slow worker may fall behind its rate and still catch up.
	maxArrears = time.Second
)

// worker makes the shop work at a rate, and puts what comes of it into the stream.
type worker struct {
	shop      *shop.Shop
	publisher *publisher

	// turn holds a token while the shop may be put to work: whoever takes it is
	// the only one to, so that changes reach the stream in their order.
	turn chan struct{}

	mu      sync.Mutex
	rate    float64 // changes a second
	paused  bool
	changed chan struct{} // closed when rate or paused changes
}

func newWorker(s *shop.Shop, p *publisher, rate float64) *worker {
	w := &worker{shop: s, publisher: p, rate: rate, turn: make(chan struct{}, 1), changed: make(chan struct{})}
	w.turn <- struct{}{}
	return w
}

// state returns the rate, which is 0 while work is paused, and a channel that
// is closed when it changes.
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

// run works until ctx is done. What it has begun by then it still stores, until
// hard is done too.
func (w *worker) run(ctx, hard context.Context) error {
	due := time.Now() // when the next change is to be made
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		rate, changed := w.state()
		var wake <-chan time.Time
		if rate > 0 {
			if oldest := time.Now().Add(-maxArrears); due.Before(oldest) {
				due = oldest
			}
			timer.Reset(time.Until(due))
			wake = timer.C
		}
		select {
		case <-wake:
		case <-changed:
			due = time.Now()
			continue
		case <-ctx.Done():
			return nil
		}
		bulk := 1 + int(rate*min(time.Since(due)+bulkTick, maxArrears).Seconds())
		made, err := w.work(hard, min(bulk, bulkMost))
		if err != nil {
			return fmt.Errorf("work in the shop: %w", err)
		}
		due = due.Add(time.Duration(float64(made) / rate * float64(time.Second)))
	}
}

// work makes at least the given number of changes, stores them, and returns how
// many there were. If work was paused meanwhile, it does nothing.
func (w *worker) work(ctx context.Context, changes int) (made int, err error) {
	err = w.exclusively(ctx, func() error {
		if rate, _ := w.state(); rate == 0 {
			return nil
		}
		made, err = w.workNow(ctx, changes)
		return err
	})
	return made, err
}

// workNow is work whatever the rate, for a caller that has the turn.
func (w *worker) workNow(ctx context.Context, changes int) (made int, err error) {
	err = w.shop.Work(ctx, changes, func(all []shop.Change) (int, error) {
		made += len(all)
		return w.store(ctx, all)
	})
	return made, err
}

// store puts changes into the stream and returns how many of them, from the
// first on, are there.
func (w *worker) store(ctx context.Context, changes []shop.Change) (int, error) {
	messages := make([]*nats.Msg, 0, len(changes))
	for i := range changes {
		c := &changes[i]
		messages = append(messages, &nats.Msg{
			Subject: subjectOf(c), Header: nats.Header{nats.MsgIdHdr: {c.ID}},
			Data: c.AppendJSON(make([]byte, 0, len(c.Before)+len(c.After)+1024)),
		})
	}
	return w.publisher.store(ctx, messages)
}

// subjectSpread is how many subjects the changes of one kind go to, in turn.
const subjectSpread = 4096

// subjectOf returns the subject of a change, which ends in a number that those
// around it do not have.
//
// To find the next message for a consumer of several subjects, a NATS server
// looks at every subject of a block of its store, unless the block has as many
// subjects as messages; then it looks at the next message, which is ten times
// as fast.
func subjectOf(c *shop.Change) string {
	return c.Subject() + "." + strconv.FormatUint(c.Seq%subjectSpread, 10)
}

// exclusively calls f while nobody else puts the shop to work.
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
	return nil
}

// evolve changes the schema, and returns when that is stored.
func (w *worker) evolve(ctx context.Context) (what string, err error) {
	err = w.exclusively(ctx, func() error {
		what, err = w.shop.Evolve(ctx, func(c shop.Change) error {
			_, err := w.store(ctx, []shop.Change{c})
			return err
		})
		return err
	})
	if err != nil {
		return "", fmt.Errorf("change the schema: %w", err)
	}
	return what, nil
}

// evolveEvery changes the schema again and again, but not while work is paused,
// until nothing is left to change, or ctx is done.
func (w *worker) evolveEvery(ctx, hard context.Context, every time.Duration, logger *slog.Logger) error {
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
		what, err := w.evolve(hard)
		if errors.Is(err, shop.ErrEvolved) {
			return nil
		}
		if err != nil {
			return err
		}
		logger.Info("the schema changed", "how", what)
	}
}
