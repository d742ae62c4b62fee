package snapshot

import (
	"context"
	"errors"
	"fmt"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// refuseForeign adds the tables that eds must not replace to r.refused. Call it before the import
// changes anything.
func (r *importRun) refuseForeign(ctx context.Context) error {
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
		err := r.retry(ctx, "inspect the tables", func() error { return adopter.Adopt(ctx, r.tables[name]) })
		switch {
		case err == nil:
		case ctx.Err() != nil || fault.Of(err) == fault.Transient:
			return err
		case errors.Is(err, sink.ErrForeign):
			r.refused[name] = fmt.Errorf("%w; it is not changed; to replace its rows, stop this server and run: eds import --only %s",
				err, name)
		default:
			r.refused[name] = err
		}
	}
	return nil
}

// adopted returns the tables that already hold rows of an import, according to the records of the
// destination or of the data directory.
func (r *importRun) adopted() (map[string]bool, error) {
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
