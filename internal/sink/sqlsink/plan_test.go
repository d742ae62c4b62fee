package sqlsink

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// plain is a dialect that changes no names and cannot connect.
type plain struct{ folds bool }

func (d plain) Connect(context.Context) (Conn, error) { return nil, errors.New("no server") }
func (d plain) Name(name string) string               { return name }
func (d plain) FoldsCase() bool                       { return d.folds }
func (d plain) DDL(MigrationStep) []string            { return nil }
func (d plain) Classify(error) Verdict                { return Verdict{} }

func newTable(t *testing.T, keys int, columns ...schema.Column) *schema.Table {
	t.Helper()
	var key []string
	for _, c := range columns[:keys] {
		key = append(key, c.Name)
	}
	table, err := schema.New("order", "1", key, columns)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestPlan_ChangesOnlyWhatMustChange(t *testing.T) {
	id := schema.Column{Name: "id", Type: schema.String, Required: true}
	key := RealColumn{Name: "id", Type: "text", Holds: schema.String}
	for name, c := range map[string]struct {
		columns  []schema.Column // in addition to id
		real     []RealColumn    // in addition to id
		missing  bool
		options  Options
		after    bool
		folds    bool
		expected []string
	}{
		"missing table": {
			columns: []schema.Column{{Name: "n", Type: schema.Integer}}, missing: true,
			expected: []string{`created table "order" with 2 columns`},
		},
		"metadata": {
			missing: true, options: Options{Metadata: true, SoftDelete: true},
			expected: []string{`created table "order" with 5 columns`},
		},
		"version only": {
			missing: true, after: true,
			expected: []string{`created table "order" with 2 columns`},
		},
		"no difference": {
			columns: []schema.Column{{Name: "n", Type: schema.Integer}},
			real:    []RealColumn{{Name: "n", Type: "bigint", Holds: schema.Integer, Nullable: true}},
		},
		"missing columns": {
			columns: []schema.Column{{Name: "a", Type: schema.String}, {Name: "b", Type: schema.Object}},
			expected: []string{
				`added column "a" to table "order"`, `added column "b" to table "order"`,
			},
		},
		"types": {
			columns: []schema.Column{
				{Name: "up", Type: schema.Number},
				{Name: "text", Type: schema.String},
				{Name: "down", Type: schema.Integer},
				{Name: "truth", Type: schema.Boolean},
				{Name: "short", Type: schema.String},
				{Name: "own", Type: schema.Integer},
				{Name: "json", Type: schema.String},
			},
			real: []RealColumn{
				{Name: "up", Type: "bigint", Holds: schema.Integer, Nullable: true},
				{Name: "text", Type: "timestamptz", Holds: schema.DateTime, Nullable: true},
				{Name: "down", Type: "float8", Holds: schema.Number, Nullable: true},
				{Name: "truth", Type: "int2", Holds: schema.Integer, Narrow: true, Nullable: true},
				{Name: "short", Type: "varchar(9)", Holds: schema.String, Narrow: true, Nullable: true},
				{Name: "own", Type: "money", Nullable: true},
				{Name: "json", Type: "jsonb", Holds: schema.Object, Nullable: true},
			},
			expected: []string{
				`widened column "short" of table "order" from varchar(9) to hold any string`,
				`widened column "text" of table "order" from timestamptz to hold any string`,
				`widened column "up" of table "order" from bigint to hold any number`,
			},
		},
		"NOT NULL": {
			columns: []schema.Column{{Name: "may", Type: schema.String}, {Name: "must", Type: schema.String, Required: true}},
			real: []RealColumn{
				{Name: "may", Type: "text", Holds: schema.String},
				{Name: "must", Type: "text", Holds: schema.String},
				{Name: "left", Type: "text", Holds: schema.String},
				{Name: "filled", Type: "text", Holds: schema.String, Filled: true},
				{Name: "made", Type: "text", Holds: schema.String, Generated: true},
			},
			expected: []string{`allowed NULL in column "may" of table "order"`, `allowed NULL in column "left" of table "order"`},
		},
		"generated column": {
			columns: []schema.Column{{Name: "n", Type: schema.String}},
			real:    []RealColumn{{Name: "n", Type: "bigint", Holds: schema.Integer, Generated: true}},
		},
		"another case in a database that ignores case": {
			columns: []schema.Column{{Name: "createdDate", Type: schema.String}},
			real:    []RealColumn{{Name: "CREATEDDATE", Type: "text", Holds: schema.String, Nullable: true}},
			folds:   true,
		},
		"another case": {
			columns:  []schema.Column{{Name: "createdDate", Type: schema.String}},
			real:     []RealColumn{{Name: "CREATEDDATE", Type: "text", Holds: schema.String, Nullable: true}},
			expected: []string{`added column "createdDate" to table "order"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Sink{dialect: plain{c.folds}, options: c.options, env: sink.Env{After: c.after}}
			var real *RealTable
			if !c.missing {
				real = &RealTable{Name: "order", Columns: append([]RealColumn{key}, c.real...), Key: []string{"id"}}
			}
			steps, err := s.plan(newTable(t, 1, append([]schema.Column{id}, c.columns...)...), real)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, step := range steps {
				got = append(got, step.String())
			}
			if diff := cmp.Diff(c.expected, got); diff != "" {
				t.Errorf("steps (-want +got)\n%s", diff)
			}
		})
	}
}

func TestLayout_HasWritableColumns(t *testing.T) {
	table := newTable(t, 2,
		schema.Column{Name: "a", Type: schema.String}, schema.Column{Name: "b", Type: schema.Integer},
		schema.Column{Name: "made", Type: schema.String}, schema.Column{Name: "gone", Type: schema.String},
		schema.Column{Name: "z", Type: schema.Object},
	)
	real := &RealTable{Name: "order", Columns: []RealColumn{
		{Name: "z"},
		{Name: "_eds_deleted"},
		{Name: "b"},
		{Name: "made", Generated: true},
		{Name: "_eds_version"},
		{Name: "more"},
		{Name: "a"},
	}}
	s := &Sink{dialect: plain{}, options: Options{Metadata: true, SoftDelete: true}}
	l, err := s.newLayout(table, real)
	if err != nil {
		t.Fatal(err)
	}
	type column struct {
		Name string
		Slot int
		Meta Meta
		Key  bool
	}
	var got []column
	for _, c := range l.Columns {
		got = append(got, column{c.Real.Name, c.Slot, c.Meta, c.Key})
	}
	want := []column{
		{"a", 0, 0, true},
		{"b", 1, 0, true},
		{"z", 4, 0, false},
		{"_eds_version", -1, MetaVersion, false},
		{"_eds_deleted", -1, MetaDeleted, false},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("columns (-want +got)\n%s", diff)
	}
	if l.Keys != 2 || !l.Guard || !l.Soft {
		t.Errorf("keys %d, guard %v, soft %v", l.Keys, l.Guard, l.Soft)
	}
}

func TestLayout_RefusesTablesItCannotWrite(t *testing.T) {
	key := schema.Column{Name: "id", Type: schema.String}
	for want, c := range map[string]struct {
		table *schema.Table
		real  *RealTable
	}{
		`table "order": it has no writable column "id", which is part of the key: drop or rename the table, then import it`: {
			newTable(t, 1, key), &RealTable{Name: "order", Columns: []RealColumn{{Name: "id", Generated: true}}},
		},
		`table "order": columns "Name" and "name" would be one column, because the database ignores case`: {
			newTable(t, 1, key, schema.Column{Name: "name", Type: schema.String}, schema.Column{Name: "Name", Type: schema.String}),
			&RealTable{Name: "order", Columns: []RealColumn{{Name: "id"}, {Name: "name"}}},
		},
	} {
		s := &Sink{dialect: plain{folds: true}}
		if _, err := s.newLayout(c.table, c.real); fault.Of(err) != fault.Fatal || !isRefused(err) || err.Error() != want {
			t.Errorf("%v of class %v, want a fatal *sink.TableError: %s", err, fault.Of(err), want)
		}
	}
}
