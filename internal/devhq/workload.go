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
	// bulkTick is the length of time that one batch covers. All changes that are due in that time
	// are made and stored together. If the rate is less than one change per bulkTick, each batch
	// has one change.
	bulkTick = 10 * time.Millisecond
	// maxBulk is the approximate maximum number of changes in one batch.
	maxBulk = windowMessages / 2
	// maxArrears is the maximum delay that the workload makes up for by working faster than its
	// rate.
	maxArrears = time.Second
)

// workload makes the shop work at a certain rate, and publishes the changes.
type workload struct {
	shop      *shop.Shop
	publisher *publisher

	// turn holds one token. Only the goroutine that has taken the token may make the shop work, so
	// that changes reach the stream in order.
	turn chan struct{}

	mu      sync.Mutex
	rate    float64 // changes per second
	paused  bool
	changed chan struct{} // closed when rate or paused changes
}

func newWorkload(s *shop.Shop, p *publisher, rate float64) *workload {
	w := &workload{shop: s, publisher: p, rate: rate, turn: make(chan struct{}, 1), changed: make(chan struct{})}
	w.turn <- struct{}{}
	return w
}

// currentRate returns the rate, which is 0 while the workload is paused. It also returns a channel
// that is closed when the rate changes.
func (w *workload) currentRate() (rate float64, changed <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.paused {
		return 0, w.changed
	}
	return w.rate, w.changed
}

func (w *workload) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	close(w.changed)
	w.changed = make(chan struct{})
}

// run makes changes until ctx is done. Before it returns, it stores the changes in progress, unless
// the second context is done, too.
func (w *workload) run(ctx, hard context.Context) error {
	due := time.Now() // when the next change is due
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		rate, changed := w.currentRate()
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
		made, err := w.work(hard, min(bulk, maxBulk))
		if err != nil {
			return fmt.Errorf("work in the shop: %w", err)
		}
		due = due.Add(time.Duration(float64(made) / rate * float64(time.Second)))
	}
}

// work makes at least the given number of changes and stores them. It returns the number of
// changes made. If the workload is paused, work does nothing.
func (w *workload) work(ctx context.Context, changes int) (made int, err error) {
	err = w.exclusively(ctx, func() error {
		if rate, _ := w.currentRate(); rate == 0 {
			return nil
		}
		made, err = w.workNow(ctx, changes)
		return err
	})
	return made, err
}

// workNow is like work, but ignores the rate and a pause. The caller must hold the turn.
func (w *workload) workNow(ctx context.Context, changes int) (made int, err error) {
	err = w.shop.Work(ctx, changes, func(all []shop.Change) (int, error) {
		made += len(all)
		return w.store(ctx, all)
	})
	return made, err
}

// store publishes changes. It returns the number of changes that are in the stream. The stored
// changes are always the first ones of the slice.
func (w *workload) store(ctx context.Context, changes []shop.Change) (int, error) {
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

// subjectSpread is the number of different subjects for changes of the same kind.
const subjectSpread = 4096

// subjectOf returns the subject of a change. The subject ends in a number, so that neighbouring
// changes have different subjects.
//
// This makes reading faster. To find the next message for a consumer with several filters, a NATS
// server checks every subject in a block of its store. If the block has as many subjects as
// messages, the server checks the next message instead, which is ten times as fast.
func subjectOf(c *shop.Change) string {
	return c.Subject() + "." + strconv.FormatUint(c.Seq%subjectSpread, 10)
}

// exclusively calls f while it holds the turn.
func (w *workload) exclusively(ctx context.Context, f func() error) error {
	select {
	case <-w.turn:
		defer func() { w.turn <- struct{}{} }()
		return f()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pause stops the workload. If it returns nil, all changes are stored.
func (w *workload) pause(ctx context.Context) error {
	w.set(func() { w.paused = true })
	if err := w.exclusively(ctx, func() error { return nil }); err != nil {
		return fmt.Errorf("wait for the work in progress: %w", err)
	}
	return nil
}

// evolve changes the schema, and returns when the first changes with the new schema are stored.
func (w *workload) evolve(ctx context.Context) (description string, err error) {
	err = w.exclusively(ctx, func() error {
		description, err = w.shop.Evolve(ctx, func(c shop.Change) error {
			_, err := w.store(ctx, []shop.Change{c})
			return err
		})
		return err
	})
	if err != nil {
		return "", fmt.Errorf("change the schema: %w", err)
	}
	return description, nil
}

// evolveEvery changes the schema at the given interval, until no evolution is left or ctx is done.
// It skips times at which the workload is paused.
func (w *workload) evolveEvery(ctx, hard context.Context, every time.Duration, logger *slog.Logger) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		if rate, _ := w.currentRate(); rate == 0 {
			continue
		}
		description, err := w.evolve(hard)
		if errors.Is(err, shop.ErrEvolved) {
			return nil
		}
		if err != nil {
			return err
		}
		logger.Info("the schema changed", "how", description)
	}
}
