package sqlsink

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Names of the engine's own tables.
const (
	checkpointTable  = "_eds_checkpoint"
	destinationTable = "_eds_destination"
	snapshotTable    = "_eds_snapshot"
	stateTable       = "_eds_table"
	loadTable        = "_eds_load"
)

// ownTables returns the engine's own tables, by name.
func ownTables() map[string]*schema.Table {
	return map[string]*schema.Table{
		checkpointTable: CheckpointTable(), destinationTable: destinationsTable(), snapshotTable: snapshotsTable(),
		stateTable: statesTable(), loadTable: loadsTable(),
	}
}

// isOwn reports whether t is one of the engine's tables. It returns false for a table of the
// source that has the same name.
func (s *Sink) isOwn(t *schema.Table) bool { return s.ownTables[t.Name] == t }

// ownTable returns a table of the engine. Its key columns have type String, and come before the
// other columns.
func ownTable(name string, key []string, others ...schema.Column) *schema.Table {
	var columns []schema.Column
	for _, k := range key {
		columns = append(columns, schema.Column{Name: k, Type: schema.String, Required: true})
	}
	t, err := schema.New(name, "", key, append(columns, others...))
	if err != nil {
		panic(err) // the arguments are constants
	}
	return t
}

func integer(name string) schema.Column {
	return schema.Column{Name: name, Type: schema.Integer, Required: true}
}
func optional(name string) schema.Column { return schema.Column{Name: name, Type: schema.Integer} }
func text(name string) schema.Column     { return schema.Column{Name: name, Type: schema.String} }

// layoutOfOwn returns the layout of one of the engine's tables, and creates the table if necessary.
// If the user lacks the privileges for that, layoutOfOwn sets s.unavailable, and returns the layout
// of the table as an earlier version created it, if there is one.
func (s *Sink) layoutOfOwn(ctx context.Context, conn Conn, name string) (*Layout, error) {
	t := s.ownTables[name]
	if l := s.layouts[t]; l != nil {
		return l, nil
	}
	_, err := s.migrate(ctx, conn, []*schema.Table{t})
	if err == nil {
		return s.layout(ctx, conn, t)
	}
	if !s.denied(err) {
		return nil, err
	}
	l, missing := s.layout(ctx, conn, t) // the table may exist from an earlier version
	if missing != nil && s.verdict(missing).Lost {
		return nil, missing
	}
	if name != loadTable && s.unavailable == nil { // the records of a load are needed only until the load ends
		s.unavailable = s.withGrant(ctx, conn, l, err)
	}
	if missing != nil {
		return nil, err
	}
	return l, nil
}

// withGrant adds to err the statements that grant the missing privileges. The parameter err is the
// database's refusal to create or change a table of records. The parameter l is the table's layout,
// or nil if the table does not exist.
func (s *Sink) withGrant(ctx context.Context, conn Conn, l *Layout, err error) error {
	if missing := conn.CanWrite(ctx); missing != nil && s.denied(missing) {
		err = missing
	}
	if owned, ok := conn.(Owned); ok && l != nil {
		err = fmt.Errorf("table %q belongs to another user; run as its owner: %s: %w", l.Real.Name, owned.Own(l.Real.Name), err)
	}
	return err
}

// denied reports whether the database permanently refuses the statement that caused err.
func (s *Sink) denied(err error) bool {
	v := s.verdict(err)
	return v.Class == fault.Fatal && !v.Lost
}

// recordValues maps the columns of a row to their values. Each value is a string or an int64.
type recordValues map[string]any

// recordRow returns a row of one of the engine's tables with the given values. A column without a
// value is NULL.
func recordRow(t *schema.Table, v recordValues) (change.Row, error) {
	image := []byte{'{'}
	for _, c := range t.Columns {
		value, ok := v[c.Name]
		if !ok {
			continue
		}
		if len(image) > 1 {
			image = append(image, ',')
		}
		image = append(rawjson.AppendQuoted(image, c.Name), ':')
		switch value := value.(type) {
		case string:
			image = rawjson.AppendQuoted(image, value)
		case int64:
			image = strconv.AppendInt(image, value, 10)
		default:
			return change.Row{}, fmt.Errorf("column %q of a record is of type %T", c.Name, value)
		}
	}
	image = append(image, '}')
	spans, err := change.NewSplitter(t).Split(image)
	return change.Row{Image: image, Spans: spans, Op: cdc.Insert}, err
}

// keysOf returns copies of the rows, reduced to their key columns, for deletes.
func keysOf(t *schema.Table, rows ...change.Row) []change.Row {
	keys := make([]change.Row, len(rows))
	for i, r := range rows {
		r.Spans = r.Spans[:t.Keys:t.Keys]
		r.Op = cdc.Delete
		keys[i] = r
	}
	return keys
}

// engineRow is a row of one of the engine's tables, with access to values by column name.
type engineRow struct {
	table *schema.Table
	row   *change.Row
}

// text returns the text of a column, or "" if the column is NULL.
func (r engineRow) text(column string) string {
	return string(rawjson.Text(r.row.Value(r.table.Slot([]byte(column)))))
}

// integer returns the number in a column, or 0 if the column is NULL.
func (r engineRow) integer(column string) int64 {
	n, _ := strconv.ParseInt(r.text(column), 10, 64)
	return n
}

// formatWriter returns the text of a writer in the checkpoint table.
func formatWriter(w sink.Writer) string {
	text, _ := json.Marshal(w) // strings and times always encode
	return string(text)
}

func parseWriter(text string) sink.Writer {
	var w sink.Writer
	_ = json.Unmarshal([]byte(text), &w) // an invalid text is an unknown writer
	return w
}
