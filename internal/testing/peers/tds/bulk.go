package tds

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// bulkTarget is the table and the columns of an INSERT BULK statement.
type bulkTarget struct {
	engine  *engine
	object  string
	columns []string
}

// bulk parses a statement of the form INSERT BULK table (column type, ...) WITH (...).
func (e *engine) bulk(ctx context.Context, text string) (*bulkTarget, error) {
	tokens, err := lex(text)
	if err != nil {
		return nil, err
	}
	o, n, err := object(tokens[2:])
	if err != nil {
		return nil, err
	}
	d, err := e.definition(ctx, o)
	if err != nil {
		return nil, err
	}
	open := 2 + n
	end := closing(tokens, open)
	if end < 0 || !tokens[open].is("(") {
		return nil, syntaxError(text)
	}
	b := &bulkTarget{engine: e, object: o}
	for _, part := range splitTop(tokens[open+1:end], ",") {
		c := d.column(part[0].text)
		if c == nil {
			return nil, &Error{Number: 4861, Class: 16, State: 1, Message: "Invalid column name in INSERT BULK."}
		}
		if _, err := parseType(plain(part[1:])); err != nil {
			return nil, err
		}
		b.columns = append(b.columns, c.Name)
	}
	return b, nil
}

// load inserts the rows in a bulk load message, and returns the number of inserted rows.
func (b *bulkTarget) load(ctx context.Context, body []byte) (int64, error) {
	d, err := b.engine.definition(ctx, b.object)
	if err != nil {
		return 0, err
	}
	r := &reader{b: body}
	if r.uint8() != 0x81 {
		return 0, errors.New("tds: bulk rows without their columns")
	}
	types := make([]wireType, r.uint16())
	for i := range types {
		r.uint32()
		r.uint16()
		if types[i], err = r.readType(); err != nil {
			return 0, err
		}
		if got := r.text(int(r.uint8())); i >= len(b.columns) || got != b.columns[i] {
			return 0, fmt.Errorf("tds: bulk column %d is %q", i, got)
		}
	}
	insert, next, err := b.statement(ctx, d)
	if err != nil {
		return 0, err
	}
	statement, err := b.engine.conn.PrepareContext(ctx, insert)
	if err != nil {
		return 0, err
	}
	defer func() { _ = statement.Close() }()
	var count int64
	for r.uint8() == 0xD1 && !r.bad {
		var values []any
		for i, t := range types {
			v, err := d.column(b.columns[i]).Type.convert(r.readValue(t))
			if err != nil {
				return count, err
			}
			values = append(values, v)
		}
		if next >= 0 {
			values = append(values, next)
			next++
		}
		if _, err := statement.ExecContext(context.WithoutCancel(ctx), values...); err != nil {
			return count, translate(err)
		}
		count++
	}
	if r.bad {
		return count, errors.New("tds: the bulk rows are cut short")
	}
	return count, nil
}

// statement returns two results: the SQLite statement that inserts a row, and the next number for
// the identity column. The number is -1 if the table has no identity column.
func (b *bulkTarget) statement(ctx context.Context, d *definition) (string, int64, error) {
	columns := make([]string, len(b.columns))
	for i, c := range b.columns {
		columns[i] = name(c)
	}
	next := int64(-1)
	if i := d.identity(); i >= 0 {
		found, err := b.engine.ask(ctx, fmt.Sprintf("SELECT COALESCE(MAX(%s), 0) + 1 FROM %s", name(d.Columns[i].Name), table(b.object)))
		if err != nil {
			return "", 0, err
		}
		next = found[0][0].(int64)
		columns = append(columns, name(d.Columns[i].Name))
	}
	marks := strings.TrimSuffix(strings.Repeat("?, ", len(columns)), ", ")
	return fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", table(b.object), strings.Join(columns, ", "), marks), next, nil
}
