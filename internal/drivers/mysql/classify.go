package mysql

import (
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Classify classifies an error by its number (MySQL 8.0 Error Message Reference; MariaDB Error
// Codes). If the error did not come from the server, it is a network error, and the session is
// lost.
func (d *dialect) Classify(err error) sqlsink.Verdict {
	return sqlsink.ClassifyError(err, func(e *serverError) sqlsink.Verdict { return classifyNumber(e.number, e.state) })
}

// classifyNumber returns the verdict on an error with the given number and SQLSTATE.
func classifyNumber(number uint16, state string) sqlsink.Verdict {
	switch number {
	case 1044, 1142, 1143, 1227, 1370, 1410: // a privilege is missing
		return sqlsink.Verdict{Class: fault.Fatal}
	case 1045, 1049, 1129, 1130, 1251, 1275, 1698, 1820, 1862: // credentials, the host, or the database
		return sqlsink.Verdict{Class: fault.Refused, Lost: true}
	case 1050, 1051, 1054, 1060, 1061, 1072, 1091, 1109, 1136, 1146, 1176, 1347, 1412: // the catalogue has changed
		return sqlsink.Verdict{Stale: true}
	case 1031, 1288, 1348, 1356, 1393, 1394, 1395, 1471: // a view or a sequence has the name of the table
		return sqlsink.Verdict{Stale: true}
	case 1290, 1792, 1836: // the server is a replica or read-only now
		return sqlsink.Verdict{Lost: true}
	case 1153: // a packet was too large, and the server closed the connection
		return sqlsink.Verdict{Class: fault.Poison, Lost: true}
	case 1205: // locked by another session
		return sqlsink.Verdict{Locked: true}
	case 1046: // the session's database was dropped
		return sqlsink.Verdict{Lost: true}
	case 1040, 1042, 1043, 1047, 1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1184, 1203, 1927, 4031:
		// The connection was refused or ended.
		return sqlsink.Verdict{Lost: true}
	}
	if isPoison(number, state) {
		return sqlsink.Verdict{Class: fault.Poison}
	}
	// A later attempt may succeed after a deadlock (1213), a lack of space (1021, 1030, 1114, 1206)
	// or of memory (1037, 1038, 1041), an administrator's action (1317, 1969, 3024), or an unknown
	// error.
	return sqlsink.Verdict{}
}

// isPoison reports whether the error means that the row is invalid: its values are invalid, or the
// row violates a constraint, exceeds a limit or was rejected by a trigger.
func isPoison(number uint16, state string) bool {
	switch number {
	case 1048, 1062, 1118, 1138, 1153, 1216, 1217, 1264, 1265, 1292, 1364, 1366, 1367, 1406, 1411, 1416, 1451, 1452, 1526, 1644, 1690,
		3140, 3141, 3144, 3156, 3157, 3819, 4025:
		return true
	}
	return state[:min(2, len(state))] == "22" || state[:min(2, len(state))] == "45"
}

// permanentDDLNumbers are the numbers of errors of DDL that can never succeed, because of a limit,
// a name, an index, a foreign key or existing values.
var permanentDDLNumbers = []uint16{
	1059, 1063, 1067, 1068, 1069, 1070, 1071, 1073, 1074, 1075, 1101, 1102, 1103, 1117, 1118, 1166, 1170, 1171, 1215, 1235, 1253,
	1267, 1478, 1506, 1564, 1659, 1674, 1800, 1832, 1833, 1834, 1845, 1846, 3105, 3106, 3108, 3750, 3780, 3959, 4025,
}

// permanentDDLError marks err as poison if the DDL can never succeed. It returns other errors
// unchanged.
func permanentDDLError(err error) error {
	if numbered(err, permanentDDLNumbers...) {
		return fault.Mark(fault.Poison, err)
	}
	return err
}
