package verify

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Examples is how many rows of each kind a Report names.
const Examples = 10

// Report says how far two sets of rows of a table agree. It holds keys and
// names of columns, and no other value.
type Report struct {
	Table     string
	Want, Got int64 // rows there, rows here
	Missing   int64 // rows of Want that are not in Got
	Extra     int64 // rows of Got that are not in Want, second ones of a key included
	Different int64 // rows that are in both and differ

	// Columns counts the different rows by column.
	Columns map[string]int64
	// The first rows of each kind, at most Examples.
	MissingKeys, ExtraKeys []string
	Differences            []Difference

	// Error is why the rows could not be compared; "" if they were.
	Error string `json:",omitempty"`

	// Suspects are the rows that are not equal; nil where they are more than
	// MaxSuspects.
	Suspects *Suspects `json:"-"`
}

// Suspects are rows, by their keys' hashes, and how they were on both sides.
type Suspects struct {
	rows  map[uint64]sides
	moved int
}

// sides are a row's checksums; 0 where a side has none.
type sides struct{ want, got uint64 }

// MaxSuspects bounds how many rows are remembered as unequal, about 24 bytes each.
const MaxSuspects = 100_000

// Len returns their number.
func (s *Suspects) Len() int { return len(s.rows) }

// Moved returns how many of them have changed, on either side, since the comparison
// before, or were not in it: whether they differ for good is still to be seen.
func (s *Suspects) Moved() int { return s.moved }

// Difference is one row that both sides have and that differs.
type Difference struct {
	Key     string
	Columns []string
}

// Equal reports whether both sides hold the same rows.
func (r Report) Equal() bool {
	return r.Error == "" && r.Missing == 0 && r.Extra == 0 && r.Different == 0
}

// String describes r in one line.
func (r Report) String() string {
	switch {
	case r.Error != "":
		return fmt.Sprintf("%s: it was not compared: %s", r.Table, r.Error)
	case r.Equal():
		return fmt.Sprintf("%s: %d rows are equal", r.Table, r.Got)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d rows there, %d here", r.Table, r.Want, r.Got)
	list := func(n int64, kind string, keys []string) {
		if n > 0 {
			fmt.Fprintf(&b, "; %d %s: %s", n, kind, strings.Join(keys, " "))
			if n > int64(len(keys)) {
				b.WriteString(" ...")
			}
		}
	}
	list(r.Missing, "missing", r.MissingKeys)
	list(r.Extra, "extra", r.ExtraKeys)
	differences := make([]string, len(r.Differences))
	for i, d := range r.Differences {
		differences[i] = d.Key + " (" + strings.Join(d.Columns, ", ") + ")"
	}
	list(r.Different, "different", differences)
	return b.String()
}

// Compare compares the rows of t that want and got yield, each by column slot
// of t. Where among is not nil, only its rows can be unequal: what an earlier
// comparison found equal has changed since then. Of rows of want that share a key
// the last one counts. Each side is walked once; what is kept of a row of want is
// its key and a checksum of each column, about 45 bytes and one a column. Rows
// count as equal where 64-bit hashes of them are.
func Compare(ctx context.Context, t *schema.Table, among *Suspects, want, got iter.Seq2[*change.Row, error]) (Report, error) {
	c := comparison{
		report: Report{Table: t.Name, Columns: make(map[string]int64), Suspects: &Suspects{rows: make(map[uint64]sides)}},
		among:  among,
		index:  newIndex(len(t.Columns)),
		digest: digest{table: t, checks: make([]byte, len(t.Columns))},
	}
	if err := c.walk(ctx, want, c.wanted); err != nil {
		return c.report, fmt.Errorf("read the rows of %q to compare with: %w", t.Name, err)
	}
	if err := c.walk(ctx, got, c.found); err != nil {
		return c.report, fmt.Errorf("read the rows of %q to be compared: %w", t.Name, err)
	}
	c.missing()
	return c.report, nil
}

type comparison struct {
	report Report
	among  *Suspects // nil: all rows
	index  *index
	digest digest
}

func (c *comparison) walk(ctx context.Context, rows iter.Seq2[*change.Row, error], visit func()) error {
	n := 0
	for row, err := range rows {
		if err != nil {
			return err
		}
		if n++; n&0xff == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		c.digest.of(row)
		visit()
	}
	return ctx.Err()
}

func (c *comparison) wanted() {
	if c.index.put(c.digest.key, c.digest.sum, c.digest.checks) {
		c.report.Want++
	}
}

func (c *comparison) found() {
	c.report.Got++
	r, known := c.index.get(c.digest.key)
	switch {
	case !known || r.met():
		if !c.suspect(c.digest.key, sides{got: c.digest.sum}) {
			return
		}
		c.report.Extra++
		if c.report.Extra <= Examples {
			c.report.ExtraKeys = append(c.report.ExtraKeys, c.digest.keyText())
		}
		return
	case r.sum() != c.digest.sum:
		c.different(r)
	}
	r.meet()
}

// suspect reports whether the row of a key, which is not equal, counts.
func (c *comparison) suspect(key []byte, now sides) bool {
	hash := xxhash.Sum64(key)
	var before sides
	if c.among != nil {
		var ok bool
		if before, ok = c.among.rows[hash]; !ok {
			return false
		}
	}
	if s := c.report.Suspects; s != nil {
		if before != now {
			s.moved++
		}
		if s.rows[hash] = now; len(s.rows) > MaxSuspects {
			c.report.Suspects = nil
		}
	}
	return true
}

func (c *comparison) different(r record) {
	if !c.suspect(c.digest.key, sides{r.sum(), c.digest.sum}) {
		return
	}
	var columns []string
	for slot, check := range r.checks() {
		if check != c.digest.checks[slot] {
			name := c.digest.table.Columns[slot].Name
			columns = append(columns, name)
			c.report.Columns[name]++
		}
	}
	c.report.Different++
	if c.report.Different <= Examples {
		c.report.Differences = append(c.report.Differences, Difference{Key: c.digest.keyText(), Columns: columns})
	}
}

func (c *comparison) missing() {
	for r := range c.index.records() {
		if r.met() || !c.suspect(r.key(), sides{want: r.sum()}) {
			continue
		}
		c.report.Missing++
		if c.report.Missing <= Examples {
			c.report.MissingKeys = append(c.report.MissingKeys, keyText(r.key()))
		}
	}
}

// digest is what is kept of a row.
type digest struct {
	table  *schema.Table
	key    []byte // the key columns' canonical texts, each after its length
	sum    uint64 // of the whole row
	checks []byte // of each column, the low byte of its hash
	text   []byte
	sums   []byte
}

func (d *digest) of(row *change.Row) {
	d.key, d.sums = d.key[:0], d.sums[:0]
	for slot, c := range d.table.Columns {
		// A value begins with a byte that NULL, the empty text, has not.
		d.text = d.text[:0]
		if !row.IsNull(slot) {
			d.text = appendCanonical(append(d.text, 1), c.Type, row.Value(slot))
		}
		sum := xxhash.Sum64(d.text)
		d.sums = binary.LittleEndian.AppendUint64(d.sums, sum)
		d.checks[slot] = byte(sum)
		if slot < d.table.Keys {
			text := d.text[min(1, len(d.text)):]
			d.key = append(binary.AppendUvarint(d.key, uint64(len(text))), text...)
		}
	}
	d.sum = xxhash.Sum64(d.sums)
}

func (d *digest) keyText() string { return keyText(d.key) }

// maxKeyText bounds how much of a key a report quotes, in bytes a column.
const maxKeyText = 80

// keyText writes a key for people.
func keyText(key []byte) string {
	var parts []string
	for len(key) > 0 {
		n, w := binary.Uvarint(key)
		text := key[w : w+int(n)]
		key = key[w+int(n):]
		part := fmt.Sprintf("%q", text[:min(len(text), maxKeyText)])
		if plain(text) {
			part = string(text)
		} else if len(text) > maxKeyText {
			part += "..."
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "/")
}

func plain(text []byte) bool {
	return len(text) > 0 && len(text) <= maxKeyText && !slices.ContainsFunc(text, func(c byte) bool {
		return c <= ' ' || c >= 0x7f || c == '"' || c == '/' || c == '\\' || c == '(' || c == ','
	})
}
