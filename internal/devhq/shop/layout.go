package shop

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"

	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// column is one column of a layout: what the schema says of it, and how the
// model makes up values for it.
type column struct {
	name       string
	typ        schema.Type
	enum       []string
	nulls      int    // percent of made up values that are null; 0 makes the column required
	make       maker  // nil where the model gives every value
	start      string // raw value of a row that is given none; null where empty
	own        bool   // only the model changes it, never a random edit
	items      string // of an array: the type of its elements
	comment    string
	deprecated bool
}

// maker appends one raw JSON value.
type maker func(p *pen, dst []byte) []byte

func text(name string, m maker) column { return column{name: name, typ: schema.String, make: m} }
func date(name string, m maker) column { return column{name: name, typ: schema.DateTime, make: m} }

func integer(name string, m maker) column { return column{name: name, typ: schema.Integer, make: m} }
func number(name string, m maker) column  { return column{name: name, typ: schema.Number, make: m} }
func boolean(name string, percent int) column {
	return column{name: name, typ: schema.Boolean, make: chance(percent)}
}
func object(name string, m maker) column { return column{name: name, typ: schema.Object, make: m} }

func array(name, items string, m maker) column {
	return column{name: name, typ: schema.Array, items: items, make: m}
}

func enum(name string, values ...string) column {
	return column{name: name, typ: schema.Enum, enum: values, make: oneOf(values...)}
}

// null makes the column nullable and the given percentage of its values null.
func (c column) null(percent int) column {
	c.nulls = percent
	return c
}

// nullable makes the column nullable, but no made up value null.
func (c column) nullable() column {
	c.nulls = -1
	return c
}

// kept leaves the column's changes to the model.
func (c column) kept() column {
	c.own = true
	return c
}

// from is the raw value that the column has until the model gives it one.
func (c column) from(start string) column {
	c.start = start
	return c.kept()
}

func counter(name, start string) column { return integer(name, nil).from(start) }
func flagged(name string) column {
	return column{name: name, typ: schema.Boolean}.from("false")
}

// says gives the column a comment.
func (c column) says(comment string) column {
	c.comment = comment
	return c
}

// old marks the column deprecated.
func (c column) old() column {
	c.deprecated = true
	return c
}

func (c *column) required() bool { return c.nulls == 0 }

// editable reports whether made up values may take the place of a column's
// value without contradicting another row.
func (c *column) editable() bool { return c.make != nil && !c.own }

// layout is one version of a table's columns. It is immutable.
type layout struct {
	table, object, version string

	columns []column
	key     []int // slots of the primary key, in its order
	slots   map[string]int
	names   []string // `"name":` a column

	company, location, parent int // slots of the columns that place a row; -1 where there is none

	definition
	schema json.RawMessage
}

// definition is what a table's layouts have in common.
type definition struct {
	primaryKey []string
	parent     string // column by which rows are found from the row above them; "" for none
	omitNulls  bool   // null columns are left out of the row instead of written
	companyKey bool   // changes name the company before the row's id in their key
	standalone bool   // rows can be made up entirely, and come and go as they like
}

func newLayout(table, object string, d definition, columns []column) *layout {
	l := &layout{table: table, object: object, columns: columns, definition: d, slots: make(map[string]int, len(columns))}
	for i, c := range columns {
		l.slots[c.name] = i
		l.names = append(l.names, string(rawjson.AppendQuoted(nil, c.name))+":")
	}
	for _, k := range d.primaryKey {
		l.key = append(l.key, l.slots[k])
	}
	l.company, l.location, l.parent = l.slot("companyId"), l.slot("locationId"), l.slot(d.parent)
	l.version = l.fingerprint()
	l.schema = l.encode(l.version)
	return l
}

func (l *layout) slot(name string) int {
	if i, ok := l.slots[name]; ok {
		return i
	}
	return -1
}

// fingerprint names the version by what it holds, so that one history of a
// schema has the same version names everywhere.
func (l *layout) fingerprint() string {
	sum := sha256.Sum256(l.encode(""))
	return hex.EncodeToString(sum[:8])
}

// with returns the version of the table that follows l once column c is added,
// or put in the place of the one that has its name.
func (l *layout) with(c column) *layout {
	columns := slices.Clone(l.columns)
	if i := l.slot(c.name); i >= 0 {
		columns[i] = c
	} else {
		columns = append(columns, c)
	}
	return newLayout(l.table, l.object, l.definition, columns)
}

type wireSchema struct {
	Table        string                  `json:"table"`
	ModelVersion string                  `json:"modelVersion"`
	PrimaryKeys  []string                `json:"primaryKeys"`
	Required     []string                `json:"required"`
	Properties   map[string]wireProperty `json:"properties"`
}

type wireProperty struct {
	Type                 string     `json:"type"`
	Format               string     `json:"format,omitempty"`
	Nullable             bool       `json:"nullable,omitempty"`
	Items                *wireItems `json:"items,omitempty"`
	AdditionalProperties bool       `json:"additionalProperties,omitempty"`
	Comment              string     `json:"$comment,omitempty"`
	Deprecated           bool       `json:"deprecated,omitempty"`
}

type wireItems struct {
	Type string   `json:"type,omitempty"`
	Enum []string `json:"enum,omitempty"`
}

// encode writes the layout as HQ sends a Schema.
func (l *layout) encode(version string) json.RawMessage {
	w := wireSchema{
		Table: l.table, ModelVersion: version, PrimaryKeys: l.primaryKey, Required: []string{},
		Properties: make(map[string]wireProperty, len(l.columns)),
	}
	for i := range l.columns {
		c := &l.columns[i]
		if c.required() {
			w.Required = append(w.Required, c.name)
		}
		p := wireProperty{Type: c.typ.String(), Nullable: !c.required(), Comment: c.comment, Deprecated: c.deprecated}
		switch c.typ {
		case schema.DateTime:
			p.Type, p.Format = "string", "date-time"
		case schema.Enum:
			p.Type, p.Items = "array", &wireItems{Type: "string", Enum: c.enum}
		case schema.Array:
			p.Items = &wireItems{Type: c.items}
		case schema.Object:
			p.AdditionalProperties = true
		}
		w.Properties[c.name] = p
	}
	encoded, err := json.Marshal(w)
	if err != nil {
		panic("shop: a schema of plain strings does not encode: " + err.Error())
	}
	return encoded
}
