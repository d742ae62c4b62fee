package reconciler

import (
	"context"
	"errors"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/pipeline"
)

// runPipeline opens the destination and the stream, and runs a pipeline from the stream to the
// destination until the context due ends.
func (r *follower) runPipeline(due, hard context.Context, d *Destination) (err error) {
	destination, err := r.openDestination(due, d)
	if err != nil {
		return err
	}
	if err := r.awaitWriters(due, destination); err != nil {
		return err
	}
	ev, err := r.collectEvidence(due, d, destination)
	if err != nil {
		return err
	}
	source, applied, err := r.subscribe(due, d, destination, ev)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeSource(source)) }()
	limits := d.Driver.Limits
	if destination.Pacer != nil {
		limits = destination.Pacer.Limits()
	}
	config := pipeline.Config{
		Source: source, Sink: destination, KeepsRows: d.Driver.KeepsRows, Limits: limits, Tables: r.Tables,
		SnapshotClock: func(table string) (cdc.Timestamp, bool) {
			snap, ok := ev.Evidence.Snapshots[table]
			return snap.Clock, ok && snap.Replaces()
		},
		Checkpoint: applied, Rules: r.Rules, Unknown: &r.unknown, Dead: r.Dead, Destination: d.Identity,
		Metrics: r.Metrics, Logger: r.Logger,
		MaxRows: r.Options.MaxPendingBuffer, MaxInFlight: r.Options.MaxAckPending,
		Budget:     pipeline.NewBudget(pipeline.DefaultBudget), // shared with lanes
		MinLatency: r.Options.MinPendingLatency, MaxLatency: r.Options.MaxPendingLatency,
	}
	if limits.Stable {
		if config.BatchBoundaries, err = r.State.BatchBoundaries(r.Consumer, ev.at); err != nil {
			return err
		}
		config.RecordBatchBoundaries = func(ends []uint64) error { return r.State.RecordBatchBoundaries(r.Consumer, ev.at, ends) }
	}
	beside, err := r.lanesFor(destination, ev, &config, source.Began())
	if err != nil {
		return err
	}
	p, err := pipeline.New(config)
	if err != nil {
		return err
	}
	r.setRunning(p)
	defer r.setRunning(nil)
	r.Health.Ready()
	if beside != nil {
		beside.healer = r.healerFor(d, beside, ev, source, limits.Metered)
		return beside.run(due, hard, p)
	}
	return p.Run(due, hard)
}

func closeSource(source interface{ Close(context.Context) error }) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return source.Close(ctx)
}
