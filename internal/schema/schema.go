// Package schema describes the source's tables, and provides their versions from HQ.
package schema

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
)

// Type is the type of a column.
type Type uint8

const (
	String   Type = iota + 1
	Enum          // one of a fixed set of strings
	DateTime      // an instant in RFC 3339 form on the wire
	Integer       // an integer of any size
	Number        // any JSON number
	Boolean
	Object // a JSON object, although some sources also send scalars
	Array  // a JSON array
)

var typeNames = map[Type]string{
	String: "string", Enum: "enum", DateTime: "date-time", Integer: "integer",
	Number: "number", Boolean: "boolean", Object: "object", Array: "array",
}

func (t Type) String() string { return typeNames[t] }

// IsJSON reports whether columns of the type contain JSON text.
func (t Type) IsJSON() bool { return t == Object || t == Array }

// Column is one column of a table.
type Column struct {
	Name       string
	Type       Type
	PrimaryKey bool
	Required   bool // the source always sends a value that is not null
	Comment    string
	Deprecated bool
}

// Table is one version of a table's definition. It is immutable.
type Table struct {
	Name    string
	Version string // modelVersion
	// Columns holds the columns of the primary key in the order of the key, followed by all other
	// columns in the order of their names.
	Columns []Column
	// Keys is the number of columns of the primary key. It is at least 1.
	Keys int

	slots map[string]int
}

// New returns a table with the given columns. It reorders them: the columns named in key come
// first, followed by all others in the order of their names.
func New(name, version string, key []string, columns []Column) (*Table, error) {
	if name == "" {
		return nil, errors.New("a table has no name")
	}
	if len(key) == 0 {
		return nil, fmt.Errorf("table %q has no primary key", name)
	}
	t := &Table{Name: name, Version: version, Columns: slices.Clone(columns), Keys: len(key), slots: make(map[string]int, len(columns))}
	rank := make(map[string]int, len(key))
	for i, k := range key {
		if _, twice := rank[k]; twice {
			return nil, fmt.Errorf("table %q names %q twice in its primary key", name, k)
		}
		rank[k] = i - len(key) // negative, so that key columns sort before all others, whose rank is 0
	}
	slices.SortStableFunc(t.Columns, func(a, b Column) int {
		return cmp.Or(cmp.Compare(rank[a.Name], rank[b.Name]), cmp.Compare(a.Name, b.Name))
	})
	for i := range t.Columns {
		c := &t.Columns[i]
		if _, twice := t.slots[c.Name]; twice {
			return nil, fmt.Errorf("table %q has two columns %q", name, c.Name)
		}
		t.slots[c.Name] = i
		c.PrimaryKey = i < t.Keys
	}
	for _, k := range key {
		if slot, ok := t.slots[k]; !ok || slot >= t.Keys {
			return nil, fmt.Errorf("table %q has no column %q, which its primary key names", name, k)
		}
	}
	return t, nil
}

// Slot returns the index in Columns of the column with the given name, or -1 if there is none.
func (t *Table) Slot(name []byte) int {
	if i, ok := t.slots[string(name)]; ok {
		return i
	}
	return -1
}

// Key returns the columns of the primary key.
func (t *Table) Key() []Column { return t.Columns[:t.Keys] }

// Column returns the column with the given name, or nil if there is none.
func (t *Table) Column(name string) *Column {
	if i, ok := t.slots[name]; ok {
		return &t.Columns[i]
	}
	return nil
}

// Names returns the names of the columns in the order of Columns.
func (t *Table) Names() []string {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	return names
}

// SameLayout reports whether t and u have the same name, and the same columns with the same types
// in the same slots. If they do, a row of t can be used as a row of u, and vice versa.
func (t *Table) SameLayout(u *Table) bool {
	return t == u || t.Name == u.Name && t.Keys == u.Keys && slices.EqualFunc(t.Columns, u.Columns, func(a, b Column) bool {
		return a.Name == b.Name && a.Type == b.Type && a.Required == b.Required
	})
}

// fingerprint returns a hash of everything that SameLayout compares.
func (t *Table) fingerprint(seed maphash.Seed) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	fmt.Fprintf(&h, "%q %d", t.Name, t.Keys)
	for _, c := range t.Columns {
		fmt.Fprintf(&h, " %q %d %t", c.Name, c.Type, c.Required)
	}
	return h.Sum64()
}

// hqSchema is a schema in HQ's JSON format.
type hqSchema struct {
	Table        string                `json:"table"`
	ModelVersion string                `json:"modelVersion"`
	PrimaryKeys  []string              `json:"primaryKeys"`
	Required     []string              `json:"required"`
	Properties   map[string]hqProperty `json:"properties"`
}

type hqProperty struct {
	Type                 string          `json:"type"`
	Format               string          `json:"format,omitempty"`
	Nullable             bool            `json:"nullable,omitempty"`
	Items                *hqItems        `json:"items,omitempty"`
	AdditionalProperties json.RawMessage `json:"additionalProperties,omitempty"`
	Comment              string          `json:"$comment,omitempty"`
	Deprecated           bool            `json:"deprecated,omitempty"`
}

type hqItems struct {
	Type   string   `json:"type,omitempty"`
	Enum   []string `json:"enum,omitempty"`
	Format string   `json:"format,omitempty"`
}

// Decode decodes one schema in HQ's JSON format. A column with an unknown type becomes a String
// column, which can hold any value. A name that is reserved for eds is an error.
func Decode(text []byte) (*Table, error) {
	var w hqSchema
	if err := json.Unmarshal(text, &w); err != nil {
		return nil, fmt.Errorf("decode a schema: %w", err)
	}
	key := w.PrimaryKeys
	if len(key) == 0 {
		if _, ok := w.Properties["id"]; !ok {
			return nil, fmt.Errorf("schema of table %q names no primary key and has no column id", w.Table)
		}
		key = []string{"id"}
	}
	columns := make([]Column, 0, len(w.Properties))
	for name, p := range w.Properties {
		columns = append(columns, Column{
			Name: name, Type: p.columnType(), Comment: p.Comment, Deprecated: p.Deprecated,
			Required: slices.Contains(w.Required, name) && !p.Nullable,
		})
	}
	t, err := New(w.Table, w.ModelVersion, key, columns)
	if err == nil {
		err = t.Check()
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (p hqProperty) columnType() Type {
	switch p.Type {
	case "integer":
		return Integer
	case "number":
		return Number
	case "boolean":
		return Boolean
	case "object":
		return Object
	case "array":
		if p.Items != nil && len(p.Items.Enum) > 0 {
			return Enum
		}
		return Array
	}
	if p.Type == "string" && p.Format == "date-time" {
		return DateTime
	}
	return String
}

// Encode encodes t in HQ's JSON format. If Decode is called with that text, it returns a table
// equal to t.
func Encode(t *Table) ([]byte, error) {
	w := hqSchema{Table: t.Name, ModelVersion: t.Version, Properties: make(map[string]hqProperty, len(t.Columns))}
	for _, c := range t.Columns {
		if c.PrimaryKey {
			w.PrimaryKeys = append(w.PrimaryKeys, c.Name)
		}
		if c.Required {
			w.Required = append(w.Required, c.Name)
		}
		p := hqProperty{Type: c.Type.String(), Nullable: !c.Required, Comment: c.Comment, Deprecated: c.Deprecated}
		switch c.Type {
		case DateTime:
			p.Type, p.Format = "string", "date-time"
		case Enum:
			p.Type, p.Items = "array", &hqItems{Type: "string", Enum: []string{"…"}}
		}
		w.Properties[c.Name] = p
	}
	return json.Marshal(w)
}
