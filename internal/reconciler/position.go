package reconciler

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/source/jetstream"
	"github.com/shopmonkeyus/eds/internal/state"
)

// streamName is the name of HQ's stream of changes.
const streamName = "dbchange"

// AllCompanies is the company id that matches every company.
const AllCompanies = "*"

// Subjects returns the NATS subjects of the companies' changes, sorted and without duplicates.
func Subjects(companies []string) []string {
	filters := make([]string, len(companies))
	for i, id := range companies {
		filters[i] = streamName + ".*.*." + id + ".*.PUBLIC.>"
	}
	slices.Sort(filters)
	return slices.Compact(filters)
}

// joinFilters returns the name under which the destination records a set of filters.
func joinFilters(filters []string) string { return strings.Join(filters, " ") }

// recordInterval is the time between two writes of the position to the data directory, if the
// destination stores the position with each batch.
const recordInterval = 5 * time.Second

// subscribe opens the stream at the start that continuity.Decide chooses. It also returns the
// position up to which every change is applied.
func (r *follower) subscribe(
	ctx context.Context, d *Destination, destination *sink.Opened, ev *recordedEvidence,
) (*jetstream.Source, cdc.Position, error) {
	var source *jetstream.Source
	var plan continuity.Plan
	err := r.retry(ctx, "stream", func() error {
		e := ev.Evidence
		config := r.sourceConfig(ev, destination)
		if err := jetstream.Observe(ctx, config, &e); err != nil {
			return err
		}
		plan = continuity.Decide(e)
		if plan.Gap == nil && r.dropped != nil {
			plan.Gap = r.dropped
		}
		ev.Records.Tables = withoutImported(ev.Records.Tables, e.Snapshots)
		if plan.Gap != nil && !r.markIncomplete(ev, plan) {
			return fault.Mark(fault.Fatal, plan.Gap)
		}
		var err error
		if plan, err = r.leaveImported(ctx, ev, config, e, plan); err != nil {
			return err
		}
		if plan.Applied.Sequence > 0 && !e.Destination.Stores {
			if err := storeCheckpoint(ctx, destination, plan.Applied); err != nil {
				return err
			}
		}
		config.Plan = plan
		opened, err := jetstream.Open(ctx, config)
		if err != nil {
			return err
		}
		if plan.Forget {
			err = r.forget(ctx, destination, ev)
		}
		if err == nil {
			err = r.recordBeginning(ctx, ev, plan, opened, &e)
		}
		if err != nil {
			return errors.Join(err, closeSource(opened))
		}
		source = opened
		return nil
	})
	if err != nil {
		return nil, cdc.Position{}, fmt.Errorf("open the stream: %w", err)
	}
	r.dropped = nil
	r.Health.Set("stream", nil)
	r.reportStart(plan, describeMissingRows(ev, companies(r.Filters)))
	if ev.Unread != nil { // from now on, the recorded position decides
		err = r.State.FinishReference(ev.at)
	}
	return source, plan.Applied, errors.Join(err, r.State.MarkBegun(slices.Collect(maps.Keys(ev.Evidence.Snapshots))...))
}

// reportStart logs the start of reading, unless reading simply continues. It warns if eds cannot
// verify the start. The parameter missing describes rows that the destination lacks. If it is not
// "", reportStart warns about these rows.
func (r *follower) reportStart(plan continuity.Plan, missing string) {
	if plan.Note != "" {
		r.Logger.Warn(plan.Note)
	}
	if missing != "" {
		r.Logger.Warn(missing)
	}
	r.Health.Warn("scope", missing)
	r.warnUnverified(plan.Unverified)
	if plan.Start.From == continuity.FromTime {
		r.Logger.Info("following the stream from the time of the snapshot", "time", plan.Start.Time.UTC().Format(time.RFC3339))
	}
}

// warnUnverified warns that eds cannot rule out missing changes, for the given reason. The reason
// "" ends the warning.
func (r *follower) warnUnverified(reason string) {
	if reason != "" {
		reason += "; to compare the destination with the source, run: eds verify"
		r.Logger.Warn("eds cannot check that the destination has every change", "reason", reason)
	}
	r.setUnverified(reason)
}

// collectEvidence reads the records of the destination and of the data directory.
func (r *follower) collectEvidence(ctx context.Context, d *Destination, destination *sink.Opened) (*recordedEvidence, error) {
	ev, err := r.readRecords(ctx, d, destination)
	if err != nil {
		return nil, err
	}
	settled, own, err := r.settled(ev)
	if err != nil {
		return nil, err
	}
	if ev.recorder != nil {
		ev.Destination.Stores, ev.Destination.Records, ev.Destination.Begun = true, true, ev.Checkpoint != nil
		if ev.Checkpoint != nil {
			ev.Destination.Checkpoint = ev.Checkpoint.Position
		}
		ev.Destination.Lost = !own && ev.Checkpoint == nil
		settled.Elsewhere = settled.Elsewhere || settled.Filter != "" && settled.Filter != r.filter()
	} else if destination.Checkpointer != nil && !ev.Destination.Lost {
		if ev.Destination.Checkpoint, err = r.checkpoint(ctx, destination); err != nil {
			return nil, err
		}
		// Each filter has a separate checkpoint. A new filter has no checkpoint yet, so the record
		// in the data directory decides.
		ev.Destination.Stores = ev.Destination.Checkpoint.Sequence > 0 || settled.Position.Sequence == 0 || settled.Filter == r.filter()
	}
	ev.Record = continuity.Record{Settled: settled.Position, Scanned: settled.Scanned, Elsewhere: settled.Elsewhere}
	if !settled.Exact && settled.Position.Stored > 0 {
		// The message may be newer than Stored. It is not newer than the record, if the clocks
		// agree within the margin.
		ev.Record.Settled.Stored = max(settled.Position.Stored, settled.At.Add(continuity.ClockMargin).UnixNano())
	}
	if ev.Unread, err = r.takeOver(d); err != nil {
		return nil, err
	}
	ev.Evidence.Snapshots, err = r.snapshots(ev)
	return ev, err
}

// filter returns the name under which the data directory records the consumer's filters.
func (r *follower) filter() string {
	sum := sha256.Sum256([]byte(joinFilters(r.Filters)))
	return hex.EncodeToString(sum[:8])
}

// sourceConfig returns the configuration for reading the stream.
func (r *follower) sourceConfig(ev *recordedEvidence, destination *sink.Opened) jetstream.Config {
	// If the destination stores the position, the local record may lag.
	every := time.Duration(0)
	if destination.Checkpointer != nil {
		every = recordInterval
	}
	return jetstream.Config{
		Conn: r.Conn, Stream: streamName, Name: r.Consumer, Filters: r.Filters,
		MaxAckPending: r.Options.MaxAckPending, ResetSupport: r.ResetSupport,
		Logger: r.Logger, RecordEvery: every, Unverified: r.warnUnverified,
		Record: func(read continuity.Record) error {
			return r.State.RecordSettled(r.Consumer, ev.at, state.Settled{
				Position: read.Settled, Scanned: read.Scanned, At: time.Now().UTC(), Exact: true, Filter: r.filter(),
			})
		},
	}
}

// checkpoint returns the position that the destination has stored, or zero if there is none.
func (r *follower) checkpoint(ctx context.Context, destination *sink.Opened) (cdc.Position, error) {
	var position cdc.Position
	if destination.Checkpointer == nil {
		return position, nil
	}
	err := r.retry(ctx, "destination", func() (err error) {
		position, err = destination.Checkpointer.Checkpoint(ctx)
		return err
	})
	if err != nil {
		return position, fmt.Errorf("read the checkpoint of the destination: %w", err)
	}
	return position, nil
}

// storeCheckpoint stores a position at the destination if only the data directory has it, for example
// after a change of the filters. Without this copy, the destination would appear to have lost its
// checkpoint until the next batch.
func storeCheckpoint(ctx context.Context, destination *sink.Opened, at cdc.Position) error {
	if destination.Checkpointer == nil {
		return nil
	}
	if err := destination.Apply(ctx, &change.Batch{First: at, Last: at}); err != nil {
		return fmt.Errorf("store the checkpoint in the destination: %w", err)
	}
	return nil
}

// forget drops the recorded positions. Call it only after the opened source has recorded its start.
// If the program ends before forget is called, the old positions lead to the same plan again.
func (r *follower) forget(ctx context.Context, destination *sink.Opened, ev *recordedEvidence) error {
	if err := r.State.RecordBatchBoundaries(r.Consumer, ev.at, nil); err != nil {
		return err
	}
	if destination.Checkpointer == nil || ev.recorder != nil {
		return nil
	}
	if err := destination.Checkpointer.ResetCheckpoint(ctx); err != nil {
		return fmt.Errorf("reset the checkpoint of the destination: %w", err)
	}
	return nil
}
