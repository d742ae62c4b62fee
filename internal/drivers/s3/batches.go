package s3

import (
	"context"
	"fmt"
	"os"
	"path"

	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
	"github.com/shopmonkeyus/eds/internal/sink/lake"
)

// batches is the sink that writes an object for each table, and day, of a batch.
//
// A sink can't hold acknowledgement back while an object grows over many batches:
// what Apply has returned for is acknowledged. So it is the batch that grows, by
// the sink's Limits, as long as roll-age says, and each is uploaded whole: objects
// are complete, and nothing but them need survive a crash.
type batches struct {
	*store
	*uploads
	env     sink.Env
	id      string
	encoder *lake.Encoder
	planner lake.Planner
	loader  encode.Loader
}

var (
	_ sink.Sink  = (*batches)(nil)
	_ sink.Pacer = (*batches)(nil)
)

// spools bounds how many objects are made at once: each is encoded by one
// goroutine and lies on the local disk until it is uploaded.
const spools = 8

func newBatches(c config, env sink.Env, s *store) *batches {
	b := &batches{
		store: s, uploads: &uploads{}, env: env, id: lake.ID(env),
		encoder: lake.NewEncoder(c.files, env.Adjusted),
		planner: lake.Planner{Layout: c.files.Layout, Schemas: c.files.Format == lake.Parquet, Rows: c.limits.Rows, Bytes: c.limits.Bytes, Versions: env.Tables},
	}
	b.loader = encode.Loader{ApplyFrom: b.load, Limits: c.limits}
	return b
}

// Limits are those that the URL asks for.
func (b *batches) Limits() sink.Limits { return b.limits }

// Apply uploads the batch's events.
func (b *batches) Apply(ctx context.Context, batch *change.Batch) error {
	return b.deliver(ctx, b.planner, batch.Events, func(_ int, p *lake.Part) string { return p.Name(b.id) })
}

// load uploads rows of a snapshot.
func (b *batches) load(ctx context.Context, batch *change.Batch, from encode.Origin) error {
	planner := b.planner
	planner.Versions = func(context.Context, string, string) (*schema.Table, error) { return from.Table, nil }
	return b.deliver(ctx, planner, batch.Events, func(n int, _ *lake.Part) string { return lake.ImportName(from, n+1) })
}

// deliver uploads events as objects, the nth of which has the name that name
// returns.
func (b *batches) deliver(ctx context.Context, planner lake.Planner, events []*cdc.Event, name func(n int, p *lake.Part) string) error {
	if len(events) == 0 {
		return nil
	}
	ctx, done, err := b.enter(ctx)
	if err != nil {
		return fmt.Errorf("upload %d changes: %w", len(events), err)
	}
	defer done()
	if err = b.ready(ctx); err == nil {
		err = b.write(ctx, planner, events, name)
	}
	if err != nil {
		err = fmt.Errorf("upload %d changes: %w", len(events), err)
	}
	return b.settle(err)
}

func (b *batches) write(ctx context.Context, planner lake.Planner, events []*cdc.Event, name func(n int, p *lake.Part) string) error {
	parts, err := planner.Plan(ctx, events)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(min(spools, b.tasks))
	for n, p := range parts {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			key := b.below(path.Join(p.Dir, name(n, p)+b.encoder.Extension()))
			if len(key) > maxName {
				return fault.Mark(fault.Poison, fmt.Errorf("name an object of table %q: with the prefix it has %d bytes, more than %d", p.Table, len(key), maxName))
			}
			err := b.encoder.Spool(p, func(f *os.File, size int64) error { return b.upload(ctx, key, b.encoder.ContentType(), f, size) })
			if err != nil {
				return fmt.Errorf("put events of table %q: %w", p.Table, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// BeginLoad begins the load of one table.
func (b *batches) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
	return b.loader.BeginLoad(ctx, job, t, mode, scope)
}

// Close interrupts a batch that is being uploaded.
func (b *batches) Close(context.Context) error {
	b.leave()
	b.close()
	return nil
}
