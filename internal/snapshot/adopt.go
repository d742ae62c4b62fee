package snapshot

import (
	"context"
	"errors"
	"fmt"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// refuseForeign refuses tables that are not eds's to replace, before anything is
// changed.
func (r *run) refuseForeign(ctx context.Context) error {
	adopter := r.sink.Adopter
	if adopter == nil || !r.cfg.OwnTables {
		return nil
	}
	adopted, err := r.adopted()
	if err != nil {
		return err
	}
	for _, name := range r.unfinished() {
		if adopted[name] {
			continue
		}
		err := r.persist(ctx, "look at the tables", func() error { return adopter.Adopt(ctx, r.tables[name]) })
		switch {
		case err == nil:
		case ctx.Err() != nil || fault.Of(err) == fault.Transient:
			return err
		case errors.Is(err, sink.ErrForeign):
			r.refused[name] = fmt.Errorf("%w; it stays as it is; to have its rows replaced, stop this server and run: eds import --only %s", err, name)
		default:
			r.refused[name] = err
		}
	}
	return nil
}

// adopted returns the tables that hold an import already, according to the destination
// or to the data directory.
func (r *run) adopted() (map[string]bool, error) {
	tables := make(map[string]bool)
	for _, s := range r.snapshots {
		tables[s.Table] = tables[s.Table] || s.Job != ""
	}
	known, err := r.cfg.State.Snapshots(r.cfg.Destination)
	for name, s := range known {
		if s.Job != "" {
			tables[name] = true
		}
	}
	return tables, err
}
