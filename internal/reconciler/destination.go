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

// Destination is a parsed URL.
type Destination struct {
	state.Destination // of which the data directory keeps records
	Driver            sink.Driver
	Target            *url.URL
	after             bool // update strategy
	expand            func() (*url.URL, error)
}

// ParseDestination parses a destination's URL. It does not connect.
func ParseDestination(raw config.Secret, strategy config.UpdateStrategy, lookup sink.Lookup) (*Destination, error) {
	driver, target, err := drivers.Parse(raw.Reveal(), lookup)
	if err != nil {
		return nil, err
	}
	return &Destination{
		Destination: Named(raw.Reveal(), lookup), Driver: driver, Target: target, after: strategy == config.After,
		expand: drivers.Expander(raw.Reveal(), lookup, nil),
	}, nil
}

// RestoreDestination parses a destination's URL when the process starts. If a file that the
// URL names cannot be read, and the destination has worked, the secret is being rotated: the
// file is waited for when the destination is opened.
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
	d.Destination, d.expand = named, drivers.Expander(raw.Reveal(), lookup, nil)
	return d, nil
}

// ParseForeignDestination parses a URL that does not come from the operator. It may take
// nothing from the environment or from files by placeholders, and may not ask for a secret
// of this machine, now or at a later connection. Raw is the URL as sink.Literal returns it.
func ParseForeignDestination(raw config.Secret, strategy config.UpdateStrategy, lookup sink.Lookup) (*Destination, error) {
	d, err := ParseDestination(raw, strategy, lookup)
	if err != nil {
		return nil, err
	}
	d.expand = drivers.Expander(raw.Reveal(), lookup, sink.CheckForeign)
	return d, sink.CheckForeign(d.Driver, d.Target)
}

// Named returns how the data directory knows the destination of a URL. A URL that cannot
// be parsed is known by its spelling.
func Named(raw string, lookup sink.Lookup) state.Destination {
	masked := drivers.MaskURL(raw)
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

// open opens d with the secrets that there are now.
func (d *Destination) open(ctx context.Context, env sink.Env) (*sink.Opened, error) {
	target, err := sink.Renew(env.Access, d.Target, func(target *url.URL) (*url.URL, error) { return target, nil })
	if err != nil {
		return nil, env.Access.Judge(err)
	}
	s, err := d.Driver.Open(ctx, target, env)
	if err != nil {
		return nil, err
	}
	return sink.NewOpened(s), nil
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
		Access: sink.NewAccess(d.expand, false, nil),
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
	err = destination.Probe(ctx)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return errors.Join(err, destination.Close(closing))
}

// openDestination opens d, and retries transient errors until ctx ends. If d is
// open already, it is used again, unless HQ has changed the filters since: each
// filter has a checkpoint of its own.
func (r *run) openDestination(ctx context.Context, d *Destination) (*sink.Opened, error) {
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

// conditionDestination is the condition of health that the open destination works.
const conditionDestination = "destination"

// access returns the access of a sink that is opened for d. A destination that has worked
// once, in this process or an earlier one, is waited for while it refuses access: the
// condition of health says why, at once.
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
			r.Logger.Warn("that the destination works is not recorded; if it refuses the next start, that will not wait", "error", err)
		}
	}), nil
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
func (r *run) awaitWriters(ctx context.Context, destination *sink.Opened) error {
	if recorder := destination.Recorder; recorder != nil && !r.watched {
		if err := r.retry(ctx, conditionDestination, func() error { return recorder.AwaitWriters(ctx, r.gaveWay) }); err != nil {
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
	r.Health.Set(conditionDestination, nil)
}

func (r *Reconciler) closeSink(ctx context.Context, destination sink.Sink) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := destination.Close(ctx); err != nil {
		r.Logger.Warn("the destination did not close cleanly", "error", err)
	}
}
