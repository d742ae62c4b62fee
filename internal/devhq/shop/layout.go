package shop

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"

	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// generatedColumn is one column of a layout. It holds the column's schema, and the way in which the
// model generates values.
type generatedColumn struct {
	name       string
	typ        schema.Type
	enum       []string
	nulls      int    // percentage of generated values that are null; 0 means required, and -1 nullable but never null
	make       maker  // nil if the model sets every value
	start      string // raw value of a new row if no value is given and make is nil; "" means null
	isManaged  bool   // only the model changes the column, never a random edit
	items      string // type of the elements of an array column
	comment    string
	deprecated bool
}

// maker generates a raw JSON value and appends it to dst.
type maker func(g *generator, dst []byte) []byte

func text(name string, m maker) generatedColumn {
	return generatedColumn{name: name, typ: schema.String, make: m}
}

func date(name string, m maker) generatedColumn {
	return generatedColumn{name: name, typ: schema.DateTime, make: m}
}

func integer(name string, m maker) generatedColumn {
	return generatedColumn{name: name, typ: schema.Integer, make: m}
}

func number(name string, m maker) generatedColumn {
	return generatedColumn{name: name, typ: schema.Number, make: m}
}

func boolean(name string, percent int) generatedColumn {
	return generatedColumn{name: name, typ: schema.Boolean, make: chance(percent)}
}

func object(name string, m maker) generatedColumn {
	return generatedColumn{name: name, typ: schema.Object, make: m}
}

func array(name, items string, m maker) generatedColumn {
	return generatedColumn{name: name, typ: schema.Array, items: items, make: m}
}

func enum(name string, values ...string) generatedColumn {
	return generatedColumn{name: name, typ: schema.Enum, enum: values, make: oneOf(values...)}
}

// null makes the column nullable. The given percentage of its generated values is null.
func (c generatedColumn) null(percent int) generatedColumn {
	c.nulls = percent
	return c
}

// nullable makes the column nullable, although generated values are never null.
func (c generatedColumn) nullable() generatedColumn {
	c.nulls = -1
	return c
}

// managed marks the column as one that only the model may change.
func (c generatedColumn) managed() generatedColumn {
	c.isManaged = true
	return c
}

// startingAt sets the raw value of the column in new rows, and marks the column as one that only
// the model may change.
func (c generatedColumn) startingAt(start string) generatedColumn {
	c.start = start
	return c.managed()
}

func counter(name, start string) generatedColumn { return integer(name, nil).startingAt(start) }
func flagged(name string) generatedColumn {
	return generatedColumn{name: name, typ: schema.Boolean}.startingAt("false")
}

// withComment sets the comment of the column.
func (c generatedColumn) withComment(comment string) generatedColumn {
	c.comment = comment
	return c
}

// asDeprecated marks the column as deprecated.
func (c generatedColumn) asDeprecated() generatedColumn {
	c.deprecated = true
	return c
}

func (c *generatedColumn) required() bool { return c.nulls == 0 }

// editable reports whether a random value may replace the column's value. This is not the case if a
// random value might contradict other rows.
func (c *generatedColumn) editable() bool { return c.make != nil && !c.isManaged }

// rowLayout is one version of a table's definition. It is immutable.
type rowLayout struct {
	table, object, version string

	columns []generatedColumn
	key     []int // slots of the primary key columns, in the order of the key
	slots   map[string]int
	names   []string // the JSON text `"name":` for each column

	company, location, parent int // slots of the columns that name a row's owners, or -1 if there is no such column

	definition
	schema json.RawMessage
}

// definition holds the properties that all layouts of a table share.
type definition struct {
	primaryKey []string
	parent     string // column that contains the key of the parent row, or "" if there is none
	omitNulls  bool   // rows omit null columns
	companyKey bool   // the keys of changes start with the company
	standalone bool   // rows consist of generated values only, and refer to no other row
}

func newRowLayout(table, object string, d definition, columns []generatedColumn) *rowLayout {
	l := &rowLayout{table: table, object: object, columns: columns, definition: d, slots: make(map[string]int, len(columns))}
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

func (l *rowLayout) slot(name string) int {
	if i, ok := l.slots[name]; ok {
		return i
	}
	return -1
}

// fingerprint returns a version name that depends only on the content of the layout, so that the
// same schema has the same version everywhere.
func (l *rowLayout) fingerprint() string {
	sum := sha256.Sum256(l.encode(""))
	return hex.EncodeToString(sum[:8])
}

// with returns the layout that follows l. The new layout has the column c and all columns of l,
// except a column with the same name as c.
func (l *rowLayout) with(c generatedColumn) *rowLayout {
	columns := slices.Clone(l.columns)
	if i := l.slot(c.name); i >= 0 {
		columns[i] = c
	} else {
		columns = append(columns, c)
	}
	return newRowLayout(l.table, l.object, l.definition, columns)
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

// encode returns the schema of the layout in HQ's JSON format.
func (l *rowLayout) encode(version string) json.RawMessage {
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
