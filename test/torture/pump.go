package torture

import (
	"context"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

const (
	// rate is the number of changes per second that the shop makes.
	rate = 300
	// chunk is the number of changes that the pump requests from the shop in one call. The shop may
	// make a few more.
	chunk = 5
)

// pump makes the shop work, up to a limit of changes. The shop's changes depend only on its seed
// and the limits, not on time.
type pump struct {
	hq   *devhq.HQ
	turn sync.Mutex // held while the shop works

	mu      sync.Mutex
	made    uint64        // number of changes that count towards the limit
	extra   uint64        // number of changes that do not count towards the limit
	base    uint64        // number of changes made before the stream was created
	limit   uint64        // maximum of made
	err     error         // the reason why the shop cannot work
	changed chan struct{} // closed at every change of these fields
}

func newPump(h *devhq.HQ) *pump { return &pump{hq: h, changed: make(chan struct{})} }

// run makes changes until ctx is done or the shop fails.
func (p *pump) run(ctx context.Context) {
	due := time.Now()
	for {
		if late := time.Now().Add(-100 * time.Millisecond); due.Before(late) {
			due = late
		}
		if p.await(ctx, func() bool { return p.made < p.limit }) != nil {
			return
		}
		select {
		case <-time.After(time.Until(due)):
		case <-ctx.Done():
			return
		}
		n, err := p.work(ctx)
		due = due.Add(time.Duration(n) * time.Second / rate)
		if err != nil && ctx.Err() == nil {
			p.set(func() { p.err = err })
			return
		}
	}
}

func (p *pump) work(ctx context.Context) (int, error) {
	p.turn.Lock()
	defer p.turn.Unlock()
	p.mu.Lock()
	n := min(chunk, p.limit-min(p.made, p.limit))
	p.mu.Unlock()
	if n == 0 {
		return 0, nil
	}
	made, err := p.hq.Work(ctx, int(n))
	p.set(func() { p.made += uint64(made) })
	return made, err
}

// burst immediately makes n changes that do not count towards the limit.
func (p *pump) burst(ctx context.Context, n uint64) error {
	p.turn.Lock()
	defer p.turn.Unlock()
	made, err := p.hq.Work(ctx, int(n))
	p.set(func() { p.extra += uint64(made) })
	return err
}

// evolve changes the schema, and returns a description of the change.
func (p *pump) evolve(ctx context.Context) (string, error) {
	p.turn.Lock()
	defer p.turn.Unlock()
	before, err := p.hq.StreamState(ctx)
	if err != nil {
		return "", err
	}
	what, err := p.hq.Evolve(ctx)
	if err != nil {
		return "", err
	}
	after, err := p.hq.StreamState(ctx)
	p.set(func() { p.extra += after.LastSeq - before.LastSeq })
	return what, err
}

// recreate deletes the stream and creates it again. It returns the last sequence of the old
// stream.
func (p *pump) recreate(ctx context.Context) (last uint64, err error) {
	p.turn.Lock()
	defer p.turn.Unlock()
	if err := p.hq.RecreateStream(ctx); err != nil {
		return 0, err
	}
	last = p.sequence()
	p.set(func() { p.base = p.made + p.extra })
	return last, nil
}

// sequence returns the sequence of the last message in the stream.
func (p *pump) sequence() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made + p.extra - p.base
}

// count returns the number of changes so far that count towards the limit.
func (p *pump) count() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made
}

// set holds the lock while it calls f, which changes the fields of the pump.
func (p *pump) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.changed)
	p.changed = make(chan struct{})
}

// until raises the limit of the pump to the given limit, unless it is already higher. Then it waits
// until the shop has made n changes.
func (p *pump) until(ctx context.Context, n, limit uint64) error {
	p.set(func() { p.limit = max(p.limit, limit) })
	return p.await(ctx, func() bool { return p.made >= n })
}

// await waits until the callback returns true. It holds the lock while it calls the callback.
func (p *pump) await(ctx context.Context, holds func() bool) error {
	for {
		p.mu.Lock()
		ok, err, changed := holds(), p.err, p.changed
		p.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
