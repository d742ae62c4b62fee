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

// batchSink writes each batch as one object per table and directory of the layout.
//
// Events are acknowledged when Apply returns, so the sink cannot keep an object open over several
// batches. Instead its Limits make batches grow until they have the size or age of an object. Each
// batch is uploaded as whole objects, so no other state has to survive a crash.
type batchSink struct {
	*bucketStore
	*serialCalls
	env     sink.Env
	id      string
	encoder *lake.Encoder
	planner lake.Planner
	loader  encode.Loader
}

var (
	_ sink.Sink  = (*batchSink)(nil)
	_ sink.Pacer = (*batchSink)(nil)
)

// maxSpools is the maximum number of objects that are built concurrently. Each object is encoded by
// one goroutine into a file on the local disk, which stays until the object is uploaded.
const maxSpools = 8

func newBatchSink(c config, env sink.Env, s *bucketStore) *batchSink {
	b := &batchSink{
		bucketStore: s, serialCalls: &serialCalls{}, env: env, id: lake.ID(env),
		encoder: lake.NewEncoder(c.files, env.Adjusted),
		planner: lake.Planner{
			Layout: c.files.Layout, Schemas: c.files.Format == lake.Parquet, Rows: c.limits.Rows, Bytes: c.limits.Bytes,
			Versions: env.Tables,
		},
	}
	b.loader = encode.Loader{ApplyFrom: b.applyRows, Limits: c.limits}
	return b
}

// Limits returns the batch limits that the URL sets.
func (b *batchSink) Limits() sink.Limits { return b.limits }

// Apply uploads the batch's events as objects.
func (b *batchSink) Apply(ctx context.Context, batch *change.Batch) error {
	return b.deliver(ctx, b.planner, batch.Events, func(_ int, p *lake.Part) string { return p.Name(b.id) })
}

// applyRows uploads rows of a snapshot as objects whose names depend on the rows' origin.
func (b *batchSink) applyRows(ctx context.Context, batch *change.Batch, from encode.SnapshotPart) error {
	planner := b.planner
	planner.Versions = func(context.Context, string, string) (*schema.Table, error) { return from.Table, nil }
	return b.deliver(ctx, planner, batch.Events, func(n int, _ *lake.Part) string { return lake.ImportName(from, n+1) })
}

// deliver uploads the events as objects. The parameter name is a function that returns the name of
// the nth object, counted from 0, without the directory.
func (b *batchSink) deliver(ctx context.Context, planner lake.Planner, events []*cdc.Event, name func(n int, p *lake.Part) string) error {
	if len(events) == 0 {
		return nil
	}
	ctx, done, err := b.enter(ctx)
	if err != nil {
		return fmt.Errorf("upload %d changes: %w", len(events), err)
	}
	defer done()
	if err = b.prepareCall(ctx); err == nil {
		err = b.write(ctx, planner, events, name)
	}
	if err != nil {
		err = fmt.Errorf("upload %d changes: %w", len(events), err)
	}
	return b.finishCall(err)
}

func (b *batchSink) write(ctx context.Context, planner lake.Planner, events []*cdc.Event, name func(n int, p *lake.Part) string) error {
	parts, err := planner.Plan(ctx, events)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(min(maxSpools, b.tasks))
	for n, p := range parts {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			key := b.below(path.Join(p.Dir, name(n, p)+b.encoder.Extension()))
			if len(key) > maxName {
				return fault.Mark(fault.Poison, fmt.Errorf("name an object of table %q: with the prefix it has %d bytes, more than %d",
					p.Table, len(key), maxName))
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

// BeginLoad begins the load of one table. The load uploads rows in separate objects.
func (b *batchSink) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
	return b.loader.BeginLoad(ctx, job, t, mode, scope)
}

// Close interrupts a running upload and waits for the call to end.
func (b *batchSink) Close(context.Context) error {
	b.shutDown()
	b.close()
	return nil
}
