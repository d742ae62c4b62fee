package sqlite

import (
	"errors"
	"fmt"

	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Classify classifies an error by its SQLite result code (https://sqlite.org/rescode.html).
func (d *dialect) Classify(err error) sqlsink.Verdict {
	if errors.Is(err, errMoved) {
		return sqlsink.Verdict{Lost: true}
	}
	e := new(capi.Error)
	if !errors.As(err, &e) {
		return sqlsink.Verdict{}
	}
	switch e.Primary() {
	case capi.CodeConstraint, capi.CodeMismatch, capi.CodeTooBig:
		return sqlsink.Verdict{Class: fault.Poison}
	case capi.CodeNotADB, capi.CodeCorrupt, capi.CodeFormat:
		return sqlsink.Verdict{Class: fault.Fatal, Lost: true}
	case capi.CodeReadOnly, capi.CodeCantOpen, capi.CodePerm, capi.CodeAuth:
		// A later attempt may succeed, for example after a disk was mounted or a file was restored.
		return sqlsink.Verdict{Class: fault.Refused, Lost: true}
	case capi.CodeIOErr, capi.CodeMisuse:
		return sqlsink.Verdict{Lost: true}
	case capi.CodeSchema, capi.CodeError:
		// A statement that does not match the schema fails with the general error.
		return sqlsink.Verdict{Stale: true}
	default: // busy, locked, full, out of memory, interrupted
		return sqlsink.Verdict{}
	}
}

// withHint adds the path of the database file and, if known, the cause to an error of SQLite. It
// returns other errors unchanged.
func (d *dialect) withHint(err error) error {
	e := new(capi.Error)
	if !errors.As(err, &e) {
		return err
	}
	hint := ""
	switch e.Primary() {
	case capi.CodeNotADB:
		hint = ": the file is not a SQLite database, or it is encrypted"
	case capi.CodeReadOnly:
		hint = ": eds must be allowed to write the file and its directory"
	case capi.CodeBusy:
		hint = ": another program holds its lock"
	case capi.CodeFull:
		hint = ": the disk is full"
	}
	return fmt.Errorf("database file %s%s: %w", d.path, hint, err)
}
