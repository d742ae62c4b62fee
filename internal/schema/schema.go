// Package schema describes tables as the source defines them.
package schema

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
)

// Type is the type of a column's values.
type Type uint8

const (
	String   Type = iota + 1
	Enum          // a string out of a fixed set
	DateTime      // an instant, RFC 3339 on the wire
	Integer       // of any size on the wire
	Number        // a JSON number
	Boolean
	Object // JSON: an object, though sources are known to send scalars
	Array  // JSON: an array
)

var typeNames = map[Type]string{
	String: "string", Enum: "enum", DateTime: "date-time", Integer: "integer",
	Number: "number", Boolean: "boolean", Object: "object", Array: "array",
}

func (t Type) String() string { return typeNames[t] }

// IsJSON reports whether the column has JSON text.
func (t Type) IsJSON() bool { return t == Object || t == Array }

// Column is one column of a table.
type Column struct {
	Name       string
	Type       Type
	PrimaryKey bool
	Required   bool // the source never omits it and never sets it to null
	Comment    string
	Deprecated bool
}

// Table is one version of a table's columns. It is immutable.
type Table struct {
	Name    string
	Version string // modelVersion
	// Columns has the primary key's columns, in the key's order, then the rest by name.
	Columns []Column
	// Keys is the number of columns of the primary key, at least 1.
	Keys int

	slots map[string]int
}

// New returns a table of the given columns, in another order: those named in key first, then the
// rest by name.
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
		rank[k] = i - len(key) // below every other column's 0
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

// Slot returns the index in Columns of the column called name, or -1.
func (t *Table) Slot(name []byte) int {
	if i, ok := t.slots[string(name)]; ok {
		return i
	}
	return -1
}

// Key returns the columns of the primary key.
func (t *Table) Key() []Column { return t.Columns[:t.Keys] }

// Column returns the column called name, or nil.
func (t *Table) Column(name string) *Column {
	if i, ok := t.slots[name]; ok {
		return &t.Columns[i]
	}
	return nil
}

// Names returns the names of the columns, in order.
func (t *Table) Names() []string {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	return names
}

// SameLayout reports whether rows of t and u have the same columns of the same types in the same
// slots, so that t and u are interchangeable.
func (t *Table) SameLayout(u *Table) bool {
	return t == u || t.Name == u.Name && t.Keys == u.Keys && slices.EqualFunc(t.Columns, u.Columns, func(a, b Column) bool {
		return a.Name == b.Name && a.Type == b.Type && a.Required == b.Required
	})
}

// fingerprint hashes everything that SameLayout compares.
func (t *Table) fingerprint(seed maphash.Seed) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	fmt.Fprintf(&h, "%q %d", t.Name, t.Keys)
	for _, c := range t.Columns {
		fmt.Fprintf(&h, " %q %d %t", c.Name, c.Type, c.Required)
	}
	return h.Sum64()
}

// hqSchema is HQ's form of a schema.
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

// Decode reads one schema in HQ's form. It reads an unknown type as a string, which can have any
// value. A name that is eds's own is an error.
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

// Encode writes t in HQ's form. Decode of the result equals t.
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
