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
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/state"
)

// Destination is a configured destination: its identity, its driver and its parsed URL.
type Destination struct {
	state.DestinationKey // identifies the destination's records in the data directory
	Driver               sink.Driver
	Target               *url.URL
	after                bool // whether the update strategy is config.After
	expand               func() (*url.URL, error)
}

// ParseDestination parses a destination's URL. It does not connect to the destination.
func ParseDestination(raw config.Secret, strategy config.UpdateStrategy, lookup sink.Lookup) (*Destination, error) {
	driver, target, err := drivers.Parse(raw.Reveal(), lookup)
	if err != nil {
		return nil, err
	}
	return &Destination{
		DestinationKey: Named(raw.Reveal(), lookup), Driver: driver, Target: target, after: strategy == config.After,
		expand: drivers.Expander(raw.Reveal(), lookup, nil),
	}, nil
}

// RestoreDestination parses a destination's URL when the process starts. The URL can name files
// with secrets. If such a file cannot be read and the destination has worked before, eds assumes
// that the secret is being rotated: RestoreDestination succeeds, and opening the destination waits
// for the file.
func RestoreDestination(raw config.Secret, strategy config.UpdateStrategy, lookup sink.Lookup, dir *state.Dir) (*Destination, error) {
	d, err := ParseDestination(raw, strategy, lookup)
	if fault.Of(err) != fault.Refused {
		return d, err
	}
	named := Named(raw.Reveal(), lookup)
	if worked, e := dir.Worked(named.Identity); e != nil || !worked {
		return nil, fault.Mark(fault.Fatal, errors.Join(err, e))
	}
	d, e := ParseDestination(config.NewSecret(sink.WithoutFiles(raw.Reveal())), strategy, lookup)
	if e != nil {
		return nil, fault.Mark(fault.Fatal, err)
	}
	d.DestinationKey, d.expand = named, drivers.Expander(raw.Reveal(), lookup, nil)
	return d, nil
}

// ParseForeignDestination parses a URL that does not come from the operator. It does not expand
// placeholders in the URL. The URL must not use a secret of this machine, now or at a later
// connection. The parameter raw must be a result of sink.Literal.
func ParseForeignDestination(raw config.Secret, strategy config.UpdateStrategy, lookup sink.Lookup) (*Destination, error) {
	d, err := ParseDestination(raw, strategy, lookup)
	if err != nil {
		return nil, err
	}
	d.expand = drivers.Expander(raw.Reveal(), lookup, sink.CheckForeign)
	return d, sink.CheckForeign(d.Driver, d.Target)
}

// Named returns the key of a destination in the data directory, given the destination's URL. If the
// URL cannot be parsed, the key is the spelling of the URL.
func Named(raw string, lookup sink.Lookup) state.DestinationKey {
	masked := drivers.MaskURL(raw)
	at := state.DestinationKey{Identity: sink.Spelling(masked), Masked: masked, Spelled: sink.Spelling(masked)}
	if identity, err := drivers.Identity(raw, lookup); err == nil {
		at.Identity = identity
	}
	at.Same = func(recorded string) bool {
		identity, err := drivers.Identity(recorded, lookup)
		if err == nil && identity == at.Identity {
			return true
		}
		// The URLs of some destinations differ only in parts that a spelling lacks.
		return (err != nil || recorded == sink.Spelling(recorded)) && sink.Spelling(recorded) == at.Spelled
	}
	return at
}

// open opens d with the current values of the secrets in its URL.
func (d *Destination) open(ctx context.Context, env sink.Env) (*sink.Opened, error) {
	target, err := sink.Renew(env.Access, d.Target, func(target *url.URL) (*url.URL, error) { return target, nil })
	if err != nil {
		return nil, env.Access.Outcome(err)
	}
	s, err := d.Driver.Open(ctx, target, env)
	if err != nil {
		return nil, err
	}
	return sink.NewOpened(s), nil
}

// DestinationError is a failure to open the destination.
type DestinationError struct{ Err error }

func (e *DestinationError) Error() string { return e.Err.Error() }
func (e *DestinationError) Unwrap() error { return e.Err }

// closeTimeout is the maximum duration of each step of a graceful stop that depends on another
// program.
const closeTimeout = 10 * time.Second

// env returns the environment for a sink of d that stores no checkpoints.
func (r *Reconciler) env(d *Destination) sink.Env {
	return sink.Env{
		Access: sink.NewAccess(d.expand, false, nil),
		Logger: r.Logger.With("destination", d.Driver.Name), Stream: streamName, After: d.after,
		Lookup: r.Lookup, Tables: r.Tables.Version, Adjusted: r.Adjusted,
	}
}

// Test opens d, probes whether eds could write to d, and closes d.
func (r *Reconciler) Test(ctx context.Context, d *Destination) error {
	destination, err := d.Driver.Open(ctx, d.Target, r.env(d))
	if err != nil {
		return fmt.Errorf("open %s: %w", d.Driver.Title, err)
	}
	err = destination.Probe(ctx)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return errors.Join(err, destination.Close(closing))
}

// openDestination opens d, and retries transient errors until ctx ends. If d is already open,
// openDestination returns the open sink, unless HQ has changed the filters since: each set of
// filters has a separate checkpoint.
func (r *follower) openDestination(ctx context.Context, d *Destination) (*sink.Opened, error) {
	filter := joinFilters(r.Filters)
	if r.open == d && r.openFilter == filter {
		return r.destination, nil
	}
	r.closeDestination()
	if err := r.State.Adopt(d.DestinationKey); err != nil {
		return nil, err
	}
	env, err := r.envWithIdentity(d)
	if err != nil {
		return nil, err
	}
	env.Consumer, env.Filter = r.Consumer, filter
	if env.Access, err = r.access(d, conditionDestination); err != nil {
		return nil, err
	}
	err = r.retry(ctx, conditionDestination, func() (err error) {
		r.destination, err = d.open(ctx, env)
		return err
	})
	if err != nil {
		return nil, &DestinationError{fmt.Errorf("open the destination %s: %w", d.Masked, err)}
	}
	r.open, r.openFilter, r.watched = d, filter, false
	return r.destination, nil
}

// conditionDestination is the name of the open destination's health condition.
const conditionDestination = "destination"

// access returns the access for a sink of d. If the destination refuses access although it has
// worked before, in this process or an earlier one, eds waits and retries. The health condition
// shows the reason immediately.
func (r *Reconciler) access(d *Destination, condition string) (*sink.Access, error) {
	worked, err := r.State.Worked(d.Identity)
	if err != nil {
		return nil, err
	}
	return sink.NewAccess(d.expand, worked, func(refused error) {
		r.Health.Set(condition, refused)
		if refused != nil {
			return
		}
		if err := r.State.RecordWorked(d.Identity); err != nil {
			r.Logger.Warn(
				"eds cannot record that the destination works; if it refuses access at the next start, eds will not wait", "error",
				err,
			)
		}
	}), nil
}

// envWithIdentity returns the environment for a sink of d that keeps records.
func (r *Reconciler) envWithIdentity(d *Destination) (sink.Env, error) {
	return Identify(r.env(d), r.State, d.Identity, r.Version, r.started)
}

// Identify returns a copy of env with three more values: the destination's id, the epoch, and a
// description of this process as a writer. The id and the epoch come from the data directory, which
// finds them by the given identity. The description contains the given version and start time.
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

// awaitWriters returns a *sink.WriterError if another server writes to the open destination. If a
// server with the same consumer has taken over the destination, awaitWriters waits until that
// server ends.
func (r *follower) awaitWriters(ctx context.Context, destination *sink.Opened) error {
	if recorder := destination.Recorder; recorder != nil && !r.watched {
		if err := r.retry(ctx, conditionDestination, func() error { return recorder.AwaitWriters(ctx, r.gaveWay) }); err != nil {
			return err
		}
	}
	r.watched, r.gaveWay = true, false
	r.Health.Set("writer", nil)
	return nil
}

// closeDestination closes the open destination, if there is one.
func (r *Reconciler) closeDestination() {
	if r.open == nil {
		return
	}
	r.closeSink(context.Background(), r.destination)
	r.open, r.destination = nil, nil
	r.Health.Set(conditionDestination, nil)
}

func (r *Reconciler) closeSink(ctx context.Context, destination sink.Sink) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := destination.Close(ctx); err != nil {
		r.Logger.Warn("the destination did not close cleanly", "error", err)
	}
}
