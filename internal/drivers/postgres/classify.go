package postgres

import (
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Classify classifies an error by its SQLSTATE (PostgreSQL documentation, appendix A). If the error
// did not come from the server, it is a network error, and the session is lost.
func (d *dialect) Classify(err error) sqlsink.Verdict {
	return sqlsink.ClassifyError(err, func(e *serverError) sqlsink.Verdict {
		v := classifyState(e.code)
		if e.checkpoint && e.code == movedState {
			v = sqlsink.Verdict{Class: fault.Fatal}
		}
		v.Lost = v.Lost || e.severity == "FATAL" || e.severity == "PANIC"
		return v
	})
}

// classifyState returns the verdict on an error with the given SQLSTATE.
func classifyState(code string) sqlsink.Verdict {
	switch code {
	case "42501": // a privilege is missing
		return sqlsink.Verdict{Class: fault.Fatal}
	case "42P01", "42703", "42704", "42P10", "42804", "42846", "42883", "42P16", "42809", "55000":
		// A catalogue object was dropped, or replaced by one of another kind, such as a view.
		return sqlsink.Verdict{Stale: true}
	case "42701", "42P07", "42710", "42P06": // another session has just created it
		return sqlsink.Verdict{Stale: true}
	case "0A000", "2BP01": // a plan is out of date, or an object depends on the replaced one
		return sqlsink.Verdict{Stale: true}
	case "26000", "42P05", "25P03", "25006":
		// A pooler switched servers, the session idled too long, or the server is a replica now.
		return sqlsink.Verdict{Lost: true}
	case "55P03": // lock_timeout
		return sqlsink.Verdict{Locked: true}
	case "3F000": // the schema is gone; a new session creates the schema
		return sqlsink.Verdict{Lost: true}
	case "3D000": // the database does not exist
		return sqlsink.Verdict{Class: fault.Refused, Lost: true}
	}
	switch code[:min(2, len(code))] {
	case "22", "23", "21", "44", "54", "P0": // the row is invalid: its values, a constraint, a limit, a trigger
		return sqlsink.Verdict{Class: fault.Poison}
	case "28": // credentials
		return sqlsink.Verdict{Class: fault.Refused, Lost: true}
	case "08": // connection
		return sqlsink.Verdict{Lost: true}
	}
	// A later attempt may succeed after an error of another class: 40 (rollback), 53 (resources),
	// 55 (object not ready), 57 (operator intervention), 58 (system), XX (internal), or unknown.
	return sqlsink.Verdict{}
}

// movedState is the SQLSTATE of a division by zero. The statement that moves the checkpoint divides
// by zero if the stored position is not the expected one.
const movedState = "22012"
