package cli

import (
	"context"
	"errors"
	"io"
)

// reportedTablesError means that an import failed for some tables, or left rows out. The report of
// the import has already been printed.
type reportedTablesError struct{ error }

func (e reportedTablesError) Unwrap() error { return e.error }

// repair imports the tables that differ, and then compares them again. It prints the differences
// and the imports to log. A reportedTablesError means that some tables could not be imported,
// although all of them were compared again.
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
		delete(v.reports, r.Table) // any row of the table may differ now
	}
	failed := v.imports(ctx, log)
	if failed != nil && (ctx.Err() != nil || !errors.As(failed, new(reportedTablesError))) {
		return failed
	}
	v.repaired = true
	if err := v.run(ctx); err != nil {
		return err
	}
	return failed
}

// imports imports the selected tables. If a server runs with the data directory, the server imports
// the tables. Otherwise this process imports them.
func (v *verifier) imports(ctx context.Context, log io.Writer) error {
	im := v.im
	im.what, im.out = "import", log
	im.urlGiven = true // so that the server refuses if it has another destination
	running, err := im.findServer(ctx)
	switch {
	case err != nil:
		return err
	case running != nil:
		return running.run(ctx)
	}
	return im.run(ctx)
}
