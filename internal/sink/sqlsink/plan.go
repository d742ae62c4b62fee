package sqlsink

import (
	"fmt"

	"github.com/shopmonkeyus/eds/internal/schema"
)

// plan returns the migration steps after which real can hold rows of t. The parameter real is nil
// if the table does not exist.
func (s *Sink) plan(t *schema.Table, real *RealTable) ([]MigrationStep, error) {
	columns, slots, err := s.columns(t)
	if err != nil {
		return nil, err
	}
	name := s.dialect.Name(t.Name)
	if real == nil {
		return []MigrationStep{{Kind: CreateTable, Table: name, Columns: columns, Keys: t.Keys}}, nil
	}
	var steps []MigrationStep
	known := make(map[*RealColumn]bool, len(columns))
	for i, c := range columns {
		column := s.find(real, c.Name)
		if column == nil {
			steps = append(steps, MigrationStep{Kind: AddColumn, Table: real.Name, Columns: columns[i : i+1]})
			continue
		}
		known[column] = true
		if column.Generated {
			continue
		}
		before := len(steps)
		if required := c.Key || slots[i] >= 0 && t.Columns[slots[i]].Required; !required {
			steps = s.relax(steps, real, column)
		}
		if c.Meta != 0 && (column.Holds == schema.String || column.Holds == schema.Enum) {
			continue // the engine writes short texts only
		}
		if to, wider := column.widened(c.Type); wider {
			nullable := column.Nullable || len(steps) > before
			steps = append(steps, MigrationStep{Kind: WidenColumn, Table: real.Name, Real: column, To: to, Nullable: nullable})
		}
	}
	for i := range real.Columns {
		if column := &real.Columns[i]; !known[column] && !column.Filled && !column.Generated {
			steps = s.relax(steps, real, column)
		}
	}
	return steps, nil
}

// relax appends the step that makes the column nullable, unless it is already nullable or part of
// the table's key.
func (s *Sink) relax(steps []MigrationStep, real *RealTable, column *RealColumn) []MigrationStep {
	if column.Nullable {
		return steps
	}
	for _, k := range real.Key {
		if k == column.Name {
			return steps
		}
	}
	return append(steps, MigrationStep{Kind: RelaxColumn, Table: real.Name, Real: column})
}

// widened returns the type that the column needs to hold values of type want in addition to its
// current values, and reports whether the column must change. Numeric types hold booleans as 0
// and 1.
func (c *RealColumn) widened(want schema.Type) (schema.Type, bool) {
	if c.Holds == schema.Enum && c.Narrow { // long enough for every enumeration
		return schema.String, want != schema.Enum && want != schema.Boolean
	}
	to, wider := widened(c.Holds, want)
	return to, wider || c.Narrow && want != schema.Boolean
}

func widened(real, want schema.Type) (schema.Type, bool) {
	switch {
	case real == 0 || real == want || real == schema.String || real == schema.Enum || real.IsJSON():
		return real, false
	case real == schema.Number && (want == schema.Integer || want == schema.Boolean):
		return real, false
	case real == schema.Integer && want == schema.Boolean:
		return real, false
	case real == schema.Integer && want == schema.Number:
		return schema.Number, true
	default:
		return schema.String, true
	}
}

// String describes the step, in past tense, for logs.
func (s MigrationStep) String() string {
	switch s.Kind {
	case CreateTable:
		return fmt.Sprintf("created table %q with %d columns", s.Table, len(s.Columns))
	case AddColumn:
		return fmt.Sprintf("added column %q to table %q", s.Columns[0].Name, s.Table)
	case WidenColumn:
		return fmt.Sprintf("widened column %q of table %q from %s to hold any %s", s.Real.Name, s.Table, s.Real.Type, s.To)
	default:
		return fmt.Sprintf("allowed NULL in column %q of table %q", s.Real.Name, s.Table)
	}
}
