package tds

import (
	"fmt"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Type is a T-SQL type: its name in upper case, and the numbers in its parentheses.
type Type struct {
	Name      string
	Length    int // in characters or bytes; -1 means MAX
	Precision int
	Scale     int
}

var typePattern = regexp.MustCompile(`(?i)^\s*([a-z0-9_]+)\s*(?:\(\s*(-?\d+|max)\s*(?:,\s*(\d+)\s*)?\))?\s*$`)

// parseType parses a type in a statement, or in SQLite's declaration of a column.
func parseType(text string) (Type, error) {
	for _, affinity := range []string{"TEXT ", "REAL ", "INTEGER ", "BLOB "} {
		text = strings.TrimPrefix(text, affinity)
	}
	m := typePattern.FindStringSubmatch(text)
	if m == nil {
		return Type{}, syntaxError(text)
	}
	t := Type{Name: strings.ToUpper(m[1])}
	n, _ := strconv.Atoi(m[2])
	if strings.EqualFold(m[2], "max") {
		n = -1
	}
	scale, _ := strconv.Atoi(m[3])
	switch t.Name {
	case "NVARCHAR", "VARCHAR", "NCHAR", "CHAR", "VARBINARY", "BINARY":
		t.Length = n
		if m[2] == "" {
			t.Length = 1
		}
	case "DECIMAL", "NUMERIC":
		t.Name, t.Precision, t.Scale = "DECIMAL", n, scale
		if m[2] == "" {
			t.Precision = 18
		}
	case "DATETIMEOFFSET", "DATETIME2", "TIME":
		t.Scale = n
		if m[2] == "" {
			t.Scale = 7
		}
	case "FLOAT", "REAL", "BIT", "TINYINT", "SMALLINT", "INT", "BIGINT", "DATE", "DATETIME", "SMALLDATETIME":
	default:
		return Type{}, &Error{Number: 2715, Class: 16, State: 1, Message: "Cannot find data type " + m[1] + "."}
	}
	return t, nil
}

func (t Type) String() string {
	switch t.Name {
	case "NVARCHAR", "VARCHAR", "NCHAR", "CHAR", "VARBINARY", "BINARY":
		return fmt.Sprintf("%s(%d)", t.Name, t.Length)
	case "DECIMAL":
		return fmt.Sprintf("DECIMAL(%d,%d)", t.Precision, t.Scale)
	case "DATETIMEOFFSET", "DATETIME2", "TIME":
		return fmt.Sprintf("%s(%d)", t.Name, t.Scale)
	case "FLOAT":
		return "FLOAT(53)"
	}
	return t.Name
}

// text reports whether the type's values are text.
func (t Type) text() bool { return strings.HasSuffix(t.Name, "CHAR") }

// storage returns the type of the column as SQLite declares it. That type has two parts: an
// affinity that keeps values unchanged, and the T-SQL type.
func (t Type) storage() string {
	switch t.Name {
	case "TINYINT", "SMALLINT", "INT", "BIGINT":
		return t.Name
	case "BIT":
		return "INTEGER BIT"
	case "FLOAT", "REAL":
		return "REAL " + t.String()
	case "VARBINARY", "BINARY":
		return "BLOB " + t.String()
	}
	return "TEXT " + t.String()
}

// stored is the format in which instants are stored. As text, stored instants sort in chronological
// order.
const stored = "2006-01-02 15:04:05.000000"

// convert converts v to the type, as an implicit or explicit conversion does, and returns the value
// to store.
func (t Type) convert(v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	switch t.Name {
	case "NVARCHAR", "VARCHAR", "NCHAR", "CHAR":
		return t.toText(v)
	case "BIT":
		n, err := integer(v)
		return min(n*n, 1), err
	case "TINYINT", "SMALLINT", "INT", "BIGINT":
		n, err := integer(v)
		if low, high := t.bounds(); err == nil && (n < low || n > high) {
			err = &Error{Number: 8115, Class: 16, State: 2, Message: "Arithmetic overflow error converting expression to data type " +
				t.Name + "."}
		}
		return n, err
	case "FLOAT", "REAL":
		return float(v)
	case "DECIMAL":
		return t.toDecimal(v)
	case "VARBINARY", "BINARY":
		if b, ok := v.([]byte); ok {
			return b, nil
		}
		return nil, &Error{
			Number: 257, Class: 16, State: 3,
			Message: "Implicit conversion from data type nvarchar to varbinary is not allowed.",
		}
	}
	return t.toInstant(v)
}

func (t Type) bounds() (low, high int64) {
	switch t.Name {
	case "TINYINT":
		return 0, math.MaxUint8
	case "SMALLINT":
		return math.MinInt16, math.MaxInt16
	case "INT":
		return math.MinInt32, math.MaxInt32
	}
	return math.MinInt64, math.MaxInt64
}

func (t Type) toText(v any) (any, error) {
	var text string
	switch v := v.(type) {
	case string:
		text = v
	case int64:
		text = strconv.FormatInt(v, 10)
	case float64:
		text = strconv.FormatFloat(v, 'g', 6, 64) // SQL Server keeps six digits, too
	case []byte:
		text = string(v)
	case time.Time:
		text = v.UTC().Format(stored)
	}
	if t.Length > 0 && len(ucs2(text))/2 > t.Length {
		return nil, &Error{Number: 2628, Class: 16, State: 1, Message: "String or binary data would be truncated. Truncated value: '" +
			text[:min(len(text), 20)] + "'."}
	}
	return text, nil
}

func conversionError(v any, to string) error {
	return &Error{Number: 245, Class: 16, State: 1, Message: fmt.Sprintf("Conversion failed when converting the nvarchar value "+
		"'%.40v' to data type %s.", v, to)}
}

func integer(v any) (int64, error) {
	switch v := v.(type) {
	case int64:
		return v, nil
	case bool:
		if v {
			return 1, nil
		}
		return 0, nil
	case string:
		if n, err := strconv.ParseInt(v, 10, 64); err == nil {
			return n, nil
		}
	}
	return 0, conversionError(v, "bigint")
}

func float(v any) (any, error) {
	switch v := v.(type) {
	case float64:
		return v, nil
	case int64:
		return float64(v), nil
	case string:
		if f, err := strconv.ParseFloat(v, 64); err == nil {
			return f, nil
		}
	}
	return nil, &Error{Number: 8114, Class: 16, State: 5, Message: "Error converting data type nvarchar to float."}
}

// toDecimal returns the number as text, with exactly Scale decimal places. It rounds half away from
// zero.
func (t Type) toDecimal(v any) (any, error) {
	r, ok := new(big.Rat).SetString(fmt.Sprint(v))
	if !ok {
		return nil, &Error{Number: 8114, Class: 16, State: 5, Message: "Error converting data type nvarchar to numeric."}
	}
	text := r.FloatString(t.Scale)
	whole, _, _ := strings.Cut(strings.TrimPrefix(text, "-"), ".")
	if len(strings.TrimLeft(whole, "0")) > t.Precision-t.Scale {
		return nil, &Error{
			Number: 8115, Class: 16, State: 8,
			Message: "Arithmetic overflow error converting nvarchar to data type numeric.",
		}
	}
	return text, nil
}

func (t Type) toInstant(v any) (any, error) {
	at, ok := v.(time.Time)
	if text, isText := v.(string); isText {
		var err error
		at, err = time.Parse(stored, text)
		ok = err == nil
	}
	if !ok {
		return nil, &Error{
			Number: 241, Class: 16, State: 1,
			Message: "Conversion failed when converting date and/or time from character string.",
		}
	}
	at = at.UTC()
	switch t.Name {
	case "DATE":
		at = at.Truncate(24 * time.Hour)
	case "DATETIME":
		if at.Year() < 1753 {
			return nil, &Error{Number: 242, Class: 16, State: 3, Message: "The conversion resulted in an out-of-range value."}
		}
		at = at.Round(time.Millisecond)
	}
	return at.Format(stored), nil
}
