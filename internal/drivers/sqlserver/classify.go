package sqlserver

import (
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Classify classifies an error by its number (sys.messages). If the error did not come from the
// server, it is a network error, and the session is lost.
func (d *dialect) Classify(err error) sqlsink.Verdict {
	return sqlsink.ClassifyError(err, func(e *serverError) sqlsink.Verdict {
		v := classifyNumber(e.number)
		v.Lost = v.Lost || e.class >= 20
		return v
	})
}

// The constant throttled is the time that Azure SQL asks clients to wait after Azure SQL has ended
// their session.
const throttled = 10 * time.Second

// classifyNumber returns the verdict on an error with the given number.
func classifyNumber(number int32) sqlsink.Verdict {
	switch number {
	case 220, 232, 241, 242, 244, 245, 248, 257, 295, 296, 402, 529, 2628, 4815, 4863, 4864, 4879, 6354, 8023, 8114, 8115, 8134,
		8152, 8169, 9420, 13609: // the value does not fit its column
		return sqlsink.Verdict{Class: fault.Poison}
	case 334, 515, 530, 544, 547, 550, 1505, 1946, 2601, 2627, 3609, 3616, 5074, 4922, 4924, 4928, 511, 1701, 1702, 8672, 103, 131,
		1919, 1944, 2717: // a constraint, a trigger, a limit, or an object that depends on a column
		return sqlsink.Verdict{Class: fault.Poison}
	case 229, 230, 262, 297, 300, 1088, 2760, 15151, 15247, 15517: // a permission is missing
		return sqlsink.Verdict{Class: fault.Fatal}
	case 1222: // locked by another session
		return sqlsink.Verdict{Locked: true}
	case 4403, 4405, 4406, 4416: // a view has the name of the table
		return sqlsink.Verdict{Stale: true}
	case 207, 208, 213, 1779, 2705, 2714, 3701, 4902, 4911, 4917, 4925, 4929, 8101:
		// A catalogue object was dropped, or another session has just created the object.
		return sqlsink.Verdict{Stale: true}
	case 18456, 18452, 18470, 18486, 18487, 18488, 4060, 4064, 911, 916, 40615, 47073, 18461:
		// Credentials, or a database that does not exist.
		return sqlsink.Verdict{Class: fault.Refused, Lost: true}
	case 40501, 10928, 10929, 10936, 40552, 40551, 40550, 40549, 49918, 49919, 49920: // throttled
		return sqlsink.Verdict{RetryAfter: throttled, Lost: number == 40501 || number >= 40549 && number <= 40552}
	case 40197, 40143, 40613, 40540, 40544, 64, 233, 121, 10053, 10054, 10060, 921, 922, 923, 924, 926, 927, 942, 952, 976, 978, 983,
		3904, 3906, 17142, 18401, 4221, 6005: // failover, restart, restore, read-only, or a replica now
		return sqlsink.Verdict{Lost: true}
	}
	if number >= 50000 && number < 100000 { // a trigger rejected the row
		return sqlsink.Verdict{Class: fault.Poison}
	}
	// A later attempt may succeed after a lack of locks (1204), a deadlock (1205), a lack of memory
	// (701, 8645) or of space (1101, 1105, 9002), or an unknown error.
	return sqlsink.Verdict{}
}
