package snowflake

import (
	"errors"
	"strings"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Classify classifies an error by its Snowflake error number and SQLSTATE. If the error did not
// come from the server, it is a network error, and the session is lost.
func (d *dialect) Classify(err error) sqlsink.Verdict {
	if busy := new(httpRefusal); errors.As(err, &busy) {
		return sqlsink.Verdict{Lost: true, RetryAfter: busy.after}
	}
	if errors.Is(err, errRowCount) {
		return sqlsink.Verdict{} // the session is intact
	}
	return sqlsink.ClassifyError(err, classify)
}

func classify(e *serverError) sqlsink.Verdict {
	switch n := e.number; {
	case n == numberDenied: // a privilege is missing
		return sqlsink.Verdict{Class: fault.Fatal}
	case n == numberMissing, n == numberAbsent, n == numberInvalid: // a catalogue object was dropped
		return sqlsink.Verdict{Stale: true}
	case n == 390111, n == 390112, n == 390114, n == 390115: // the session is gone, or its token has expired
		return sqlsink.Verdict{Lost: true}
	case n >= 390100 && n < 390500, n >= 394300 && n < 395000: // credentials, policies
		return sqlsink.Verdict{Class: fault.Refused, Lost: true}
	case n >= 260000 && n < 280000: // Snowflake's driver failed, or could not reach the server
		return sqlsink.Verdict{Lost: true}
	case n == 100132, n == 100143: // a function failed
		return sqlsink.Verdict{}
	case n >= 100000 && n < 110000: // execution: the row is invalid
		return sqlsink.Verdict{Class: fault.Poison}
	}
	switch e.state {
	case "42501":
		return sqlsink.Verdict{Class: fault.Fatal}
	case "42S02", "42703", "02000":
		return sqlsink.Verdict{Stale: true}
	}
	if len(e.state) >= 2 {
		switch e.state[:2] {
		case "22", "23":
			return sqlsink.Verdict{Class: fault.Poison}
		case "08":
			return sqlsink.Verdict{Lost: true}
		}
	}
	// A later attempt may succeed after another error, such as 57 (operator intervention), 53
	// (resources), a suspended warehouse, a lock, or an unknown error.
	return sqlsink.Verdict{}
}

// permanentDDLError marks err as poison if the DDL can never succeed. It returns other errors
// unchanged.
func permanentDDLError(err error) error {
	e := new(serverError)
	if !errors.As(err, &e) || e.denied() || e.number == numberInvalid {
		return err
	}
	if strings.HasPrefix(e.state, "42") || strings.HasPrefix(e.state, "0A") {
		return fault.Mark(fault.Poison, err)
	}
	return err
}
