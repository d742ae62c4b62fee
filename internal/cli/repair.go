package cli

import (
	"context"
	"errors"
	"io"
)

// tablesError reports that an import failed for some tables, or left rows out. Its report
// was printed already.
type tablesError struct{ error }

func (e tablesError) Unwrap() error { return e.error }

// repair imports the tables that differ and compares them again. It prints differences and
// imports to log. A tablesError means that some tables were not imported; all of them are
// compared again.
func (v *verifier) repair(ctx context.Context, log io.Writer) error {
	all, bad := v.sorted()
	if len(bad) == 0 {
		return nil
	}
	if err := printReports(log, all, bad); err != nil {
		return err
	}
	v.im.o.Only = nil
	for _, r := range bad {
		v.im.o.Only = append(v.im.o.Only, r.Table)
		delete(v.reports, r.Table) // any of its rows can differ now
	}
	failed := v.imports(ctx, log)
	if failed != nil && (ctx.Err() != nil || !errors.As(failed, new(tablesError))) {
		return failed
	}
	v.repaired = true
	if err := v.run(ctx); err != nil {
		return err
	}
	return failed
}

// imports imports the selected tables: through the server of the data directory if one
// runs, else in this process.
func (v *verifier) imports(ctx context.Context, log io.Writer) error {
	im := v.im
	im.what, im.out = "import", log
	im.urlGiven = true // the server must repair the destination that was compared
	running, err := im.findServer(ctx)
	switch {
	case err != nil:
		return err
	case running != nil:
		return running.run(ctx)
	}
	return im.run(ctx)
}
