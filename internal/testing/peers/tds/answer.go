package tds

import (
	"context"
	"errors"
	"fmt"
)

// outColumn is the name and type of a column in a result.
type outColumn struct {
	name string
	wireType
}

// columnMetadata returns the token COLMETADATA, which describes the columns of a result.
func columnMetadata(columns []outColumn) []byte {
	b := le.AppendUint16([]byte{0x81}, uint16(len(columns)))
	for _, c := range columns {
		b = append(b, 0, 0, 0, 0, 9, 0) // user type; nullable and updatable
		b = c.appendType(b)
		b = append(b, shortText(c.name)...)
	}
	return b
}

// columnsOf answers a query of a whole table (SELECT * FROM ...) with the table's columns and no
// rows.
func (e *engine) columnsOf(ctx context.Context, text string) (result, error) {
	tokens, err := lex(text)
	if err != nil || !begins(tokens, "SELECT", "*", "FROM") {
		return result{}, syntaxError(text)
	}
	o, _, err := object(tokens[3:])
	if err != nil {
		return result{}, err
	}
	d, err := e.definition(ctx, o)
	if err != nil {
		return result{}, err
	}
	var columns []outColumn
	for _, c := range d.Columns {
		columns = append(columns, outColumn{c.Name, c.Type.wire()})
	}
	return result{tokens: append(columnMetadata(columns), done(doneMore, 0)...)}, nil
}

// selects executes a SELECT statement.
func (e *engine) selects(ctx context.Context, w *rewriter, statement []token, arguments map[string]any) (result, error) {
	text, err := w.expression(statement)
	if err != nil {
		return result{}, err
	}
	rows, err := e.conn.QueryContext(context.WithoutCancel(ctx), text, named(text, arguments)...)
	if err != nil {
		return result{}, fmt.Errorf("%w in %.600s", err, text)
	}
	types, err := rows.ColumnTypes()
	if err != nil {
		return result{}, errors.Join(err, rows.Close())
	}
	columns := make([]outColumn, len(types))
	known := make([]bool, len(types))
	for i, t := range types {
		columns[i] = outColumn{"", Type{Name: "NVARCHAR", Length: -1}.wire()} // unless declared: see guess
		if declared, err := parseType(t.DatabaseTypeName()); err == nil && t.DatabaseTypeName() != "" {
			columns[i], known[i] = outColumn{t.Name(), declared.wire()}, true
		}
	}
	var all [][]any
	for rows.Next() {
		row, pointers := make([]any, len(types)), make([]any, len(types))
		for i := range row {
			pointers[i] = &row[i]
		}
		if err := rows.Scan(pointers...); err != nil {
			return result{}, errors.Join(err, rows.Close())
		}
		all = append(all, row)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return result{}, err
	}
	guess(columns, known, all)
	return encodeRows(columns, all)
}

// guess sets the types of those columns that are expressions. It takes the type of the first value
// that is not NULL.
func guess(columns []outColumn, known []bool, rows [][]any) {
	for i := range columns {
		for _, row := range rows {
			if known[i] || row[i] == nil {
				continue
			}
			known[i] = true
			switch row[i].(type) {
			case int64:
				columns[i].wireType = Type{Name: "BIGINT"}.wire()
			case float64:
				columns[i].wireType = Type{Name: "FLOAT"}.wire()
			}
		}
	}
}

func encodeRows(columns []outColumn, rows [][]any) (result, error) {
	b := columnMetadata(columns)
	for _, row := range rows {
		b = append(b, 0xD1)
		for i, v := range row {
			var err error
			if b, err = columns[i].appendValue(b, v); err != nil {
				return result{}, fmt.Errorf("column %s: %w", columns[i].name, err)
			}
		}
	}
	return result{tokens: b, rows: int64(len(rows))}, nil
}
