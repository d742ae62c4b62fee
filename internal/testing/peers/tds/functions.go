package tds

import (
	"database/sql/driver"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"modernc.org/sqlite"
)

// functions registers the conversions of T-SQL as functions of SQLite, once per process.
var functions = sync.OnceValue(func() error {
	for _, f := range []struct {
		name string
		of   int32
		do   func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error)
	}{
		{"tsql_convert", 3, convert},
		{"tsql_try_convert", 3, func(c *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
			v, err := convert(c, args)
			if err != nil {
				return nil, nil
			}
			return v, nil
		}},
		{"tsql_shortest", 1, func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
			f, ok := args[0].(float64)
			if !ok {
				return args[0], nil
			}
			return strconv.FormatFloat(f, 'G', -1, 64), nil
		}},
	} {
		if err := sqlite.RegisterDeterministicScalarFunction(f.name, f.of, f.do); err != nil {
			return err
		}
	}
	return nil
})

// convert implements CONVERT(type, value, style), and CAST if the style is 0.
func convert(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
	t, err := parseType(args[1].(string))
	if err != nil {
		return nil, encodeError(err)
	}
	if args[0] == nil {
		return nil, nil
	}
	style, _ := args[2].(int64)
	v := any(args[0])
	if t.Name == "TIME" {
		at, err := time.Parse(stored, fmt.Sprint(v))
		return at.Format("15:04:05.000000"), err
	}
	if t.text() {
		switch f, isFloat := v.(float64); {
		case style == 23:
			v = strings.SplitN(fmt.Sprint(v), " ", 2)[0]
		case isFloat && style == 3:
			v = strconv.FormatFloat(f, 'e', 16, 64)
		}
	}
	out, err := t.convert(v)
	return out, encodeError(err)
}

// encodeError encodes an *Error as text, because SQLite keeps only the text of a function's error;
// translate decodes it.
func encodeError(err error) error {
	if e, ok := err.(*Error); ok {
		return fmt.Errorf("tsql:%d:%s", e.Number, e.Message)
	}
	return err
}
