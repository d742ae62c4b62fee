package reconciler

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/state"
)

// Destination is a parsed URL.
type Destination struct {
	state.Destination // of which the data directory keeps records
	Driver            sink.Driver
	Target            *url.URL
	after             bool // update strategy
}

// ParseDestination parses a destination's URL. It does not connect.
func ParseDestination(raw config.Secret, strategy config.UpdateStrategy, lookup sink.Lookup) (*Destination, error) {
	driver, target, err := drivers.Parse(raw.Reveal(), lookup)
	if err != nil {
		return nil, err
	}
	return &Destination{Destination: Named(raw.Reveal(), lookup), Driver: driver, Target: target, after: strategy == config.After}, nil
}

// Named returns how the data directory knows the destination of a URL. A URL that cannot
// be parsed is known by its spelling.
func Named(raw string, lookup sink.Lookup) state.Destination {
	masked := sink.MaskURL(raw)
	at := state.Destination{Identity: sink.Spelling(masked), Masked: masked, Spelled: sink.Spelling(masked)}
	if identity, err := drivers.Identity(raw, lookup); err == nil {
		at.Identity = identity
	}
	at.Same = func(recorded string) bool {
		identity, err := drivers.Identity(recorded, lookup)
		if err == nil && identity == at.Identity {
			return true
		}
		// A spelling lacks what tells some destinations apart.
		return (err != nil || recorded == sink.Spelling(recorded)) && sink.Spelling(recorded) == at.Spelled
	}
	return at
}

// DestinationError says that the destination did not work when it was opened.
type DestinationError struct{ Err error }

func (e *DestinationError) Error() string { return e.Err.Error() }
func (e *DestinationError) Unwrap() error { return e.Err }

// closeTimeout bounds each step of an orderly end that depends on another program.
const closeTimeout = 10 * time.Second

// env is what a sink gets for d. It stores no checkpoints.
func (r *Reconciler) env(d *Destination) sink.Env {
	return sink.Env{
		Logger: r.Logger.With("destination", d.Driver.Name), Stream: streamName, After: d.after, Lookup: r.Lookup, Tables: r.Tables.Version,
		Adjusted: r.Adjusted,
	}
}

// Test opens d, finds out whether it would work, and closes it.
func (r *Reconciler) Test(ctx context.Context, d *Destination) error {
	destination, err := d.Driver.Open(ctx, d.Target, r.env(d))
	if err != nil {
		return fmt.Errorf("open %s: %w", d.Driver.Title, err)
	}
	if prober, ok := destination.(sink.Prober); ok {
		err = prober.Probe(ctx)
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return errors.Join(err, destination.Close(closing))
}

// openDestination opens d, and retries transient errors until ctx ends. If d is
// open already, it is used again, unless HQ has changed the filters since: each
// filter has a checkpoint of its own.
func (r *run) openDestination(ctx context.Context, d *Destination) (sink.Sink, error) {
	filter := joined(r.Filters)
	if r.open == d && r.openFilter == filter {
		return r.destination, nil
	}
	r.closeDestination()
	if err := r.State.Adopt(d.Destination); err != nil {
		return nil, err
	}
	env, err := r.identified(d)
	if err != nil {
		return nil, err
	}
	env.Consumer, env.Filter = r.Consumer, filter
	err = r.retry(ctx, "destination", func() (err error) {
		r.destination, err = d.Driver.Open(ctx, d.Target, env)
		return err
	})
	if err != nil {
		return nil, &DestinationError{fmt.Errorf("open the destination %s: %w", d.Masked, err)}
	}
	r.open, r.openFilter, r.watched = d, filter, false
	return r.destination, nil
}

// identified returns an env under which d keeps records.
func (r *Reconciler) identified(d *Destination) (sink.Env, error) {
	return Identify(r.env(d), r.State, d.Identity, r.Version, r.started)
}

// Identify adds to env what the destination with the given identity records of this
// process: the id under which the data directory knows it, and the writer, of the given
// version and since when.
func Identify(env sink.Env, dir *state.Dir, identity, version string, since time.Time) (sink.Env, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	env.Writer = sink.Writer{Host: host, Version: version, Since: since.UTC()}
	if env.ID, err = dir.DestinationID(identity); err != nil {
		return env, err
	}
	env.Epoch, err = dir.Epoch(env.ID)
	return env, err
}

// awaitWriters returns a *sink.WriterError if another server writes to the open
// destination. After this server has given way to another one of the same consumer, it
// waits for the end of that one.
func (r *run) awaitWriters(ctx context.Context, destination sink.Sink) error {
	if recorder, ok := destination.(sink.Recorder); ok && !r.watched {
		if err := r.retry(ctx, "destination", func() error { return recorder.AwaitWriters(ctx, r.gaveWay) }); err != nil {
			return err
		}
	}
	r.watched, r.gaveWay = true, false
	r.Health.Set("writer", nil)
	return nil
}

// closeDestination closes the destination if one is open.
func (r *Reconciler) closeDestination() {
	if r.open == nil {
		return
	}
	r.closeSink(context.Background(), r.destination)
	r.open, r.destination = nil, nil
}

func (r *Reconciler) closeSink(ctx context.Context, destination sink.Sink) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := destination.Close(ctx); err != nil {
		r.Logger.Warn("the destination did not close cleanly", "error", err)
	}
}
