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

// streamName is HQ's stream of changes.
const streamName = "dbchange"

// AllCompanies stands for every company.
const AllCompanies = "*"

// Subjects returns the subjects of the companies' changes, sorted.
func Subjects(companies []string) []string {
	filters := make([]string, len(companies))
	for i, id := range companies {
		filters[i] = streamName + ".*.*." + id + ".*.PUBLIC.>"
	}
	slices.Sort(filters)
	return slices.Compact(filters)
}

// joined is the name of a set of filters at the destination.
func joined(filters []string) string { return strings.Join(filters, " ") }

// recordInterval is how often the data directory stores a position that the
// destination stores with each batch.
const recordInterval = 5 * time.Second

// subscribe opens the stream where continuity.Decide says that reading begins. It
// also returns the position up to which everything is applied.
func (r *run) subscribe(ctx context.Context, d *Destination, destination *sink.Opened, k *recorded) (*jetstream.Source, cdc.Position, error) {
	var source *jetstream.Source
	var plan continuity.Plan
	err := r.retry(ctx, "stream", func() error {
		e := k.Evidence
		config := r.stream(k, destination)
		if err := jetstream.Observe(ctx, config, &e); err != nil {
			return err
		}
		plan = continuity.Decide(e)
		if plan.Gap == nil && r.dropped != nil {
			plan.Gap = r.dropped
		}
		k.Records.Tables = withoutImported(k.Records.Tables, e.Snapshots)
		if plan.Gap != nil && !r.leaveIncomplete(k, plan) {
			return fault.Mark(fault.Fatal, plan.Gap)
		}
		var err error
		if plan, err = r.leaveImported(ctx, k, config, e, plan); err != nil {
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
			err = r.forget(ctx, destination, k)
		}
		if err == nil {
			err = r.begin(ctx, d, k, plan, opened, &e)
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
	r.logStart(plan, limited(k, companies(r.Filters)))
	if k.Unread != nil { // from now on the position says where to go on
		err = r.State.SettleReference(k.at)
	}
	return source, plan.Applied, errors.Join(err, r.State.MarkBegun(slices.Collect(maps.Keys(k.Evidence.Snapshots))...))
}

// logStart logs where reading begins, unless it simply goes on, and whether that
// could be verified.
func (r *run) logStart(plan continuity.Plan, limited string) {
	if plan.Note != "" {
		r.Logger.Warn(plan.Note)
	}
	if limited != "" {
		r.Logger.Warn(limited)
	}
	r.Health.Warn("scope", limited)
	r.warnUnverified(plan.Unverified)
	if plan.Start.From == continuity.FromTime {
		r.Logger.Info("following the stream from the time of the snapshot", "time", plan.Start.Time.UTC().Format(time.RFC3339))
	}
}

// warnUnverified warns that eds cannot rule out that changes are missing, for a reason;
// "" ends the warning.
func (r *run) warnUnverified(reason string) {
	if reason != "" {
		reason += "; to compare the destination with the source, run: eds verify"
		r.Logger.Warn("eds cannot check that the destination has every change", "reason", reason)
	}
	r.doubt(reason)
}

// evidence collects what the destination and the data directory know.
func (r *run) evidence(ctx context.Context, d *Destination, destination *sink.Opened) (*recorded, error) {
	k, err := r.readRecords(ctx, d, destination)
	if err != nil {
		return nil, err
	}
	settled, own, err := r.settled(k)
	if err != nil {
		return nil, err
	}
	if k.recorder != nil {
		k.Destination.Stores, k.Destination.Records, k.Destination.Begun = true, true, k.Checkpoint != nil
		if k.Checkpoint != nil {
			k.Destination.Checkpoint = k.Checkpoint.Position
		}
		k.Destination.Lost = !own && k.Checkpoint == nil
		settled.Elsewhere = settled.Elsewhere || settled.Filter != "" && settled.Filter != r.filter()
	} else if destination.Checkpointer != nil && !k.Destination.Lost {
		if k.Destination.Checkpoint, err = r.checkpoint(ctx, destination); err != nil {
			return nil, err
		}
		// Each filter has a checkpoint of its own. Under another one than before
		// there is none yet, and the record says where to go on.
		k.Destination.Stores = k.Destination.Checkpoint.Sequence > 0 || settled.Position.Sequence == 0 || settled.Filter == r.filter()
	}
	k.Record = continuity.Record{Settled: settled.Position, Scanned: settled.Scanned, Elsewhere: settled.Elsewhere}
	if !settled.Exact && settled.Position.Stored > 0 {
		// The message may be newer than Stored says, but not than the record, if the
		// clocks agree within the margin.
		k.Record.Settled.Stored = max(settled.Position.Stored, settled.At.Add(continuity.ClockMargin).UnixNano())
	}
	if k.Unread, err = r.takeOver(d); err != nil {
		return nil, err
	}
	k.Evidence.Snapshots, err = r.snapshots(d, k)
	return k, err
}

// filter names the consumer's filters in the record.
func (r *run) filter() string {
	sum := sha256.Sum256([]byte(joined(r.Filters)))
	return hex.EncodeToString(sum[:8])
}

// stream is the configuration of the stream's source.
func (r *run) stream(k *recorded, destination *sink.Opened) jetstream.Config {
	// If the destination stores the position, the record here may lag.
	every := time.Duration(0)
	if destination.Checkpointer != nil {
		every = recordInterval
	}
	return jetstream.Config{
		Conn: r.Conn, Stream: streamName, Name: r.Consumer, Filters: r.Filters, MaxAckPending: r.Options.MaxAckPending, Silence: r.Silence,
		Logger: r.Logger, RecordEvery: every, Unverified: r.warnUnverified,
		Record: func(read continuity.Record) error {
			return r.State.RecordSettled(r.Consumer, k.at, state.Settled{
				Position: read.Settled, Scanned: read.Scanned, At: time.Now().UTC(), Exact: true, Filter: r.filter(),
			})
		},
	}
}

// checkpoint returns the position that the destination has stored; zero where
// it has none.
func (r *run) checkpoint(ctx context.Context, destination *sink.Opened) (cdc.Position, error) {
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

// storeCheckpoint makes the destination store a position that only the data directory
// has, as after a change of the filter. Else, until the next batch, the missing
// checkpoint would look like a loss.
func storeCheckpoint(ctx context.Context, destination *sink.Opened, at cdc.Position) error {
	if destination.Checkpointer == nil {
		return nil
	}
	if err := destination.Apply(ctx, &change.Batch{First: at, Last: at}); err != nil {
		return fmt.Errorf("store the checkpoint in the destination: %w", err)
	}
	return nil
}

// forget drops what the recorded positions say, after the source has been opened and
// has recorded where it begins. If the program ends before, the old positions lead to
// the same plan again.
func (r *run) forget(ctx context.Context, destination *sink.Opened, k *recorded) error {
	if err := r.State.RecordEnds(r.Consumer, k.at, nil); err != nil {
		return err
	}
	if destination.Checkpointer == nil || k.recorder != nil {
		return nil
	}
	if err := destination.Checkpointer.ResetCheckpoint(ctx); err != nil {
		return fmt.Errorf("reset the checkpoint of the destination: %w", err)
	}
	return nil
}
